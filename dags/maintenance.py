"""Weekly house-keeping.

Forgets what tables looked like long ago (snapshots that training runs used are kept), merges small
files, frees the disk of what nothing refers to any more, and backs up databases, warehouse and
artifacts into `EVERGREEN_BACKUPS`. Reads every day of every table and compares it with what was
published. Verifies the release ledgers, and puts right what MLflow shows otherwise. Sweeps staging
and runs of MLflow that crashes left behind.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import CronTriggerTimetable, Param, chain, dag, task

from conventions import task_defaults
from evergreen import steps


@dag(
    dag_id="maintenance",
    description="Small files, snapshots, orphan files, backup, staging",
    doc_md=__doc__,
    tags=["stage:maintenance"],
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    schedule=CronTriggerTimetable("0 4 * * 0", timezone="UTC"),
    catchup=False,
    is_paused_upon_creation=True,
    max_active_runs=1,
    params={
        "keep_days": Param(30, type="integer", minimum=1, title="Keep snapshots this long"),
        "keep_backups": Param(4, type="integer", minimum=1, title="Keep this many backups"),
    },
    default_args={**task_defaults(timedelta(hours=12)), "retries": 1},
)
def maintenance() -> None:
    """Build `maintenance`."""
    chain(
        task(steps.expire_snapshots)("{{ params.keep_days }}"),
        task(steps.compact_tables)(),
        task(steps.remove_orphan_files)(),
    )
    # Not behind the others: each must run, and be seen to fail, without the other. They take turns.
    task(steps.back_up)("{{ params.keep_backups }}")
    task(steps.sweep_staging)()
    task(steps.verify_tables)()
    task(steps.repair_registry)()
    task(steps.fail_dead_runs)()


maintenance()
