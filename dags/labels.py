"""Labels of a use case that builds on another's features: those whose horizon a day completes.

Runs once per published day of the other's `features`.
"""

from airflow.sdk import PartitionedAssetTimetable, dag

from conventions import DAY, asset, dag_arguments
from deadlines import day_due
from evergreen.contract import UseCase, load_use_cases
from patience import UNTIL_NO_GAP
from shards import publish_labels


def labels(use_case: UseCase) -> None:
    """Build `<use_case>_labels`."""

    @dag(
        **dag_arguments(use_case, "labels", __doc__),
        schedule=PartitionedAssetTimetable(assets=asset(use_case, "features")),
        deadline=day_due(use_case),
        is_paused_upon_creation=False,
        max_active_runs=3,
    )
    def build() -> None:
        asked = {"use_case": use_case.name, "period": DAY}
        publish_labels(use_case, asked, **UNTIL_NO_GAP)

    build()


for use_case in load_use_cases():
    if use_case.base is not None:
        labels(use_case)
