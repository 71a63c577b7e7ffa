"""Scores of one day, by the one version in charge.

Runs once per published day of `features`. The model is resolved once per run: to the version
recorded for that day if it was scored before, else to the champion. The day's partition of
`predictions` is replaced as a whole.
"""

from airflow.sdk import PartitionedAssetTimetable, dag, task

from conventions import DAY, RUN, asset, dag_arguments, publisher
from evergreen import steps
from evergreen.contract import UseCase, load_use_cases


def score(use_case: UseCase) -> None:
    """Build `<use_case>_score`."""

    @dag(
        **dag_arguments(use_case, "score", __doc__),
        schedule=PartitionedAssetTimetable(assets=asset(use_case, "features")),
        is_paused_upon_creation=False,
        max_active_runs=3,
    )
    def build() -> None:
        resolved = task(steps.resolve_model)(use_case.name, DAY)
        staged = task(steps.score_customers)(resolved, RUN)
        validated = task(steps.validate_predictions)(staged)
        publisher(steps.publish_predictions, asset(use_case, "predictions"))(validated)

    build()


for use_case in load_use_cases():
    score(use_case)
