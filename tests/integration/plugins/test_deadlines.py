"""When a day is due: by the plugin's reference alone, and as Airflow stores it for its runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from evergreen.settings import PROJECT_ROOT
from small_shop import write_small_shop


@pytest.mark.parametrize(
    ("key", "due"),
    [
        # Local midnight and six hours later; once with summer time begun, once on the day after.
        ("2026-03-28", datetime(2026, 3, 29, 5, tzinfo=UTC)),
        ("2026-03-29", datetime(2026, 3, 30, 4, tzinfo=UTC)),
        ("2025-12-31", datetime(2026, 1, 1, 5, tzinfo=UTC)),
    ],
)
def test_a_day_is_due_some_hours_after_its_last_midnight(
    plugin: ModuleType, key: str, due: datetime
) -> None:
    reference = plugin.DayDue("Europe/Berlin", 6)
    assert reference.of(key, due - timedelta(seconds=1)) == due
    # A run that begins later is of an old day, or was kept waiting by another that told so.
    assert reference.of(key, due) is None
    stored = reference.serialize_reference()
    assert plugin.DayDue.deserialize_reference(stored) == reference


@pytest.mark.parametrize("key", [None, "", "2026-03-01..2026-03-02", "x"])
def test_a_run_without_a_day_has_no_deadline_and_disturbs_nobody(
    plugin: ModuleType, key: str | None
) -> None:
    assert plugin.DayDue("UTC", 6).of(key, datetime(2000, 1, 1, tzinfo=UTC)) is None


# As the scheduler creates runs, from what the DAG processor has stored.
_RUNS = """
import json
from datetime import UTC, datetime
from airflow.models.deadline import Deadline
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select

found = {}
with create_session() as session:
    for dag_id in ("shop_ingest", "shop_features", "shop_score", "shop_monitor"):
        dag = SerializedDagModel.get(dag_id, session=session).dag
        for key, kind in (
            ("2999-01-01", DagRunType.ASSET_TRIGGERED),
            ("2999-01-02", DagRunType.BACKFILL_JOB),
            ("2025-01-01", DagRunType.ASSET_TRIGGERED),
            ("nonsense", DagRunType.MANUAL),
            (None, DagRunType.MANUAL),
        ):
            run = dag.create_dagrun(
                run_id=f"{kind.value}__{key}",
                run_type=kind,
                run_after=datetime.now(UTC),
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.QUEUED,
                partition_key=key,
                session=session,
            )
            session.flush()
            times = session.scalars(select(Deadline).where(Deadline.dagrun_id == run.id))
            found[f"{dag_id} {key}"] = [time.deadline_time.isoformat() for time in times]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_airflow_keeps_the_deadline_of_a_run_by_its_partition_key(tmp_path: Path) -> None:
    write_small_shop(tmp_path / "use_cases", monitoring={"max_delay_hours": 6})
    environment = {
        **os.environ,
        "EVERGREEN_USE_CASES": str(tmp_path / "use_cases"),
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT_ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
    }
    airflow = [sys.executable, "-m", "airflow"]
    commands = [*airflow, "db", "migrate"], [*airflow, "dags", "reserialize"]
    for command in (*commands, [sys.executable, "-c", _RUNS]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    due = "2999-01-02T06:00:00+00:00"
    stages = ("ingest", "features", "score")
    with_deadline = {run: times for run, times in found.items() if times}
    assert with_deadline == {f"shop_{stage} 2999-01-01": [due] for stage in stages}
    assert len(found) == 20
