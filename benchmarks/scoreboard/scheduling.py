"""What Airflow's scheduler makes of a backfill: classic assets beside the DAGs of this project.

Nothing is started: the scheduler's own function that creates runs is called on a database of its
own, in a process of its own, after the events that tasks of a backfill would have recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from evergreen.settings import PROJECT_ROOT

DAYS = tuple(f"2026-01-{day:02}" for day in range(5, 9))
# The same chain twice. What is classic is as Airflow's documentation of assets shows it.
INGESTED = {"stock/orders": False, "churn/orders": True}
COMPUTED = {"stock/features": False, "churn/features": True}
CLASSIC = """
from airflow.sdk import Asset, dag, task
from stock_work import compute

for name, asset in (("stock_features", "stock/orders"), ("stock_train", "stock/features")):

    @dag(dag_id=name, schedule=[Asset(asset)])
    def build():
        @task
        def work():
            compute()

        work()

    build()
"""


@dataclass(frozen=True)
class Scheduled:
    """The runs that a scheduler made of a backfill of `DAYS`, and of one more day.

    Before the last, what the task of the classic chain calls was changed.
    """

    backfill: list[dict[str, Any]]
    changed: list[dict[str, Any]]


@cache
def backfill(folder: Path) -> Scheduled:
    """Let a scheduler see a backfill; kept, since several rows ask."""
    dags = folder / "dags"
    dags.mkdir(parents=True)
    (dags / "classic.py").write_text(CLASSIC)
    work = dags / "stock_work.py"
    work.write_text("def compute(): return 1\n")
    bundles = [
        {
            "name": path.parent.name + path.name,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(path)},
        }
        for path in (dags, PROJECT_ROOT / "dags")
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment = kept | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT_ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *command],
            cwd=PROJECT_ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed; expected it to end:\n{done.stdout}")
        return done.stdout

    run("airflow", "db", "migrate")
    run("airflow", "dags", "reserialize")
    made = _runs(run("benchmarks.scoreboard.scheduling", "backfill"))
    work.write_text("def compute(): return 2\n")
    run("airflow", "dags", "reserialize")
    return Scheduled(made, _runs(run("benchmarks.scoreboard.scheduling", "changed")))


def _runs(told: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(told.splitlines()[-1])
    return runs


def main() -> None:
    """Record events, let runs be created, print them."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    runner = SchedulerJobRunner(Job())

    def look() -> None:
        with create_session() as session:
            runner._create_dagruns_for_dags(_Guard(session.commit), session)

    if sys.argv[1] == "backfill":
        # All days are ingested before the scheduler looks again; features come one by one.
        for day in DAYS:
            _record(INGESTED, day)
        look()
        for day in DAYS:
            _record(COMPUTED, day)
            look()
    else:
        _record(COMPUTED, "2026-01-09")
        look()
    with create_session() as session:
        runs = [
            {
                "dag": run.dag_id,
                "key": run.partition_key,
                "date": run.logical_date and str(run.logical_date),
                "code": [str(run.created_dag_version_id), run.bundle_version],
                "days": [event.extra["day"] for event in run.consumed_asset_events],
            }
            for run in session.scalars(select(DagRun).order_by(DagRun.id))
        ]
    sys.stdout.write("\n" + json.dumps(runs) + "\n")


def _record(assets: dict[str, bool], day: str) -> None:
    """Record events as the end of a task does, each in a transaction of its own."""
    from airflow.assets.manager import asset_manager
    from airflow.models.asset import AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    for name, keyed in assets.items():
        with create_session() as session:
            asset = session.scalars(select(AssetModel).where(AssetModel.name == name)).one()
            asset_manager.register_asset_change(
                asset=asset,
                session=session,
                extra={"day": day},
                partition_key=day if keyed else None,
            )


class _Guard:
    """As much as the scheduler uses of what guards its commits."""

    def __init__(self, commit: Callable[[], None]) -> None:
        self.commit = commit


if __name__ == "__main__":
    main()
