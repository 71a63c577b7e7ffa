"""One day of orders: stage the source's rows, validate the batch, publish `orders`.

Every row ends in `orders`, in `quarantine` with the rules it broke, or is counted as an exact
duplicate. A batch that breaks a batch rule publishes nothing. Backfill this DAG to re-ingest days:
features and scores of the same days follow by asset events.
"""

from airflow.sdk import CronPartitionTimetable, dag, task

from conventions import DAY, RUN, asset, dag_arguments, publisher
from evergreen import steps
from evergreen.use_case import UseCase, load_use_cases


def ingest(use_case: UseCase) -> None:
    """Build `<use_case>_ingest`."""

    @dag(
        **dag_arguments(use_case, "ingest", __doc__),
        schedule=CronPartitionTimetable(
            "0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"
        ),
        is_paused_upon_creation=True,
        max_active_runs=3,
    )
    def build() -> None:
        staged = task(steps.one_day(steps.stage_orders))(use_case.name, DAY, RUN)
        validated = task(steps.validate_orders)(staged)
        publisher(steps.publish_orders, asset(use_case, "orders"))(validated)

    build()


for use_case in load_use_cases():
    ingest(use_case)
