"""One day of orders: stage the source's rows, validate the batch, publish `orders`.

Every row ends in `orders`, in `quarantine` with the rules it broke, or is counted as an exact
duplicate. A day that breaks a batch rule is refused: its rejected rows go to `refused`. Backfill
this DAG to re-ingest days: features and scores of the same days follow by asset events.

A source that is late is waited for, for hours. Where it will never deliver, trigger the day with a
reason in `without_data`: it is published empty, and the decision is kept in `decisions`.
"""

from airflow.sdk import CronPartitionTimetable, Param, dag, task

from conventions import ASKED_BY, DAY, RUN, asset, dag_arguments, publisher
from evergreen import steps
from evergreen.contract import UseCase, load_use_cases
from patience import DEADLINE, UNTIL_DELIVERED


def ingest(use_case: UseCase) -> None:
    """Build `<use_case>_ingest`."""

    @dag(
        **dag_arguments(use_case, "ingest", __doc__),
        schedule=CronPartitionTimetable(
            "0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"
        ),
        params={
            "without_data": Param(
                None,
                type=["null", "string"],
                minLength=5,
                title="The day has no data and never will: the reason",
            )
        },
        deadline=DEADLINE,
        is_paused_upon_creation=True,
        max_active_runs=3,
    )
    def build() -> None:
        staged = task(steps.one_day(steps.stage_orders), **UNTIL_DELIVERED)(
            use_case.name,
            DAY,
            RUN,
            "{{ params.without_data or '' }}",
            ASKED_BY,
            "{{ dag_run.start_date }}",
        )
        validated = task(steps.validate_orders)(staged)
        publisher(steps.publish_orders, asset(use_case, "orders"))(validated)

    build()


for use_case in load_use_cases():
    ingest(use_case)
