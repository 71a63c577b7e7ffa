"""Load a range of days in one run: a first load of two years in minutes, not 730 runs.

The same steps as the daily DAGs, over all days at once; the tables come out identical. It announces
no asset events (one per day would start hundreds of runs), trains nothing and scores nothing.
"""

from datetime import timedelta

from airflow.sdk import Param, chain, dag, task, task_group

from conventions import RUN, dag_arguments
from evergreen import steps
from evergreen.contract import UseCase, load_use_cases
from links import CalendarDay, DataDocs, linked
from shards import compute_features, publish_labels

PERIOD = "{{ params['from'] }}..{{ params['to'] }}"


def history(use_case: UseCase) -> None:
    """Build `<use_case>_history`."""

    @dag(
        **dag_arguments(use_case, "history", __doc__, timeout=timedelta(hours=24)),
        schedule=None,
        params={
            "from": Param(use_case.first_day.isoformat(), type="string", format="date"),
            # No default: the form insists on a day.
            "to": Param(type="string", format="date", title="To (included)"),
        },
        is_paused_upon_creation=False,
        max_active_runs=1,
    )
    def build() -> None:
        if use_case.base is not None:
            publish_labels(use_case, {"use_case": use_case.name, "period": PERIOD})
            return

        @task_group
        def ingest(name: str) -> None:
            staged = task(steps.stage_rows)(use_case.name, PERIOD, name, RUN)
            validated = linked(task(steps.validate_rows)(staged), DataDocs())
            linked(task(steps.publish_rows)(validated), CalendarDay())

        @task_group
        def features() -> None:
            staged = compute_features(use_case, PERIOD)
            validated = linked(task(steps.validate_features)(staged), DataDocs())
            published = linked(task(steps.publish_features)(validated), CalendarDay())
            task(steps.materialize_online)(published)
            publish_labels(use_case, published)

        groups = [ingest.override(group_id=name)(name) for name in use_case.tables]
        chain(groups, features())

    build()


for use_case in load_use_cases():
    history(use_case)
