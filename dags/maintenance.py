"""Weekly house-keeping: forget snapshots nobody needs, sweep staging that crashes left behind."""

from datetime import UTC, datetime

from airflow.sdk import CronTriggerTimetable, Param, dag, task

from conventions import RETRY_POLICY
from evergreen import steps


@dag(
    dag_id="maintenance",
    description="Snapshots, staging",
    doc_md=__doc__,
    tags=["stage:maintenance"],
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    schedule=CronTriggerTimetable("0 4 * * 0", timezone="UTC"),
    catchup=False,
    is_paused_upon_creation=True,
    max_active_runs=1,
    params={"keep_days": Param(30, type="integer", minimum=1, title="Keep snapshots this long")},
    default_args={"retries": 1, "retry_policy": RETRY_POLICY},
)
def maintenance() -> None:
    """Build `maintenance`."""
    task(steps.expire_snapshots)("{{ params.keep_days }}")
    task(steps.sweep_staging)()


maintenance()
