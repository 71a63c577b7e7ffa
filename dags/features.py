"""Features of one day, for every customer, from what happened before the end of that day.

Runs once per day that is published of all tables, and for a day that the monitor finds owed and may
start. Publishes `features`, moves the online store forward (an older day never replaces newer
values), and publishes the labels whose horizon this day completes. Features wait, by retrying,
until no earlier day is missing.
"""

from airflow.sdk import PartitionedAssetTimetable, dag, task

from conventions import DAY, asset, dag_arguments, publisher
from deadlines import day_due
from evergreen import steps
from evergreen.contract import UseCase, load_use_cases
from links import CalendarDay, DataDocs, linked
from patience import UNTIL_NO_GAP
from shards import compute_features, publish_labels


def features(use_case: UseCase) -> None:
    """Build `<use_case>_features`."""
    days = asset(use_case, use_case.day_asset) | asset(use_case, "recomputation")

    @dag(
        **dag_arguments(use_case, "features", __doc__),
        schedule=PartitionedAssetTimetable(assets=days),
        deadline=day_due(use_case),
        is_paused_upon_creation=False,
        max_active_runs=3,
    )
    def build() -> None:
        staged = compute_features(use_case, DAY, steps.one_day, **UNTIL_NO_GAP)
        validated = linked(task(steps.validate_features)(staged), DataDocs())
        published = publisher(steps.publish_features, asset(use_case, "features"))(validated)
        linked(published, CalendarDay())
        task(steps.materialize_online)(published)
        publish_labels(use_case, published)

    build()


for use_case in load_use_cases():
    if use_case.base is None:
        features(use_case)
