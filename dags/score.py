"""Scores of one day, by the one version in charge.

Runs once per published day of `features`. The model is resolved once per run: to the version
recorded for that day if it was scored before, else to the champion. The day's partition of
`predictions` is replaced as a whole. Before the first training there is nothing to score by: the
run is skipped.
"""

from typing import Any

from airflow.sdk import PartitionedAssetTimetable, dag, task

from conventions import DAY, asset, before_task, dag_arguments, publisher
from deadlines import day_due
from evergreen import steps
from evergreen.contract import UseCase, load_use_cases
from links import CalendarDay, DataDocs, linked
from shards import score_customers


def score(use_case: UseCase) -> None:
    """Build `<use_case>_score`."""
    first_training = (
        f"{use_case.name} has no champion yet. Run {use_case.name}_train, then clear this run."
    )

    def has_no_champion(_context: Any) -> bool:
        return not steps.has_champion(use_case.name)

    @dag(
        **dag_arguments(use_case, "score", __doc__),
        schedule=PartitionedAssetTimetable(assets=asset(use_case, "features")),
        deadline=day_due(use_case),
        is_paused_upon_creation=False,
        max_active_runs=3,
    )
    def build() -> None:
        # A condition of its own replaces what a task has by default.
        resolve = task(pre_execute=before_task)(steps.resolve_model)
        resolved = task.skip_if(has_no_champion, first_training)(resolve)(use_case.name, DAY)
        staged = score_customers(use_case, resolved)
        validated = linked(task(steps.validate_predictions)(staged), DataDocs())
        publish = publisher(steps.publish_predictions, asset(use_case, "predictions"))
        linked(publish(validated), CalendarDay())

    build()


for use_case in load_use_cases():
    score(use_case)
