"""A backfill waits on few slots, and the newest day overtakes it: in a real Airflow.

The DAGs are as light as can be, so that nothing but the order takes time; schedules, assets and
limits are those of `dags/`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evergreen.contract import Period
from evergreen.ops.local import airflow, postgres
from evergreen.ops.local.airflow_client import AirflowClient, connect
from evergreen.ops.local.runs import follow, start_backfill, start_run
from evergreen.settings import PROJECT_ROOT, load_settings
from small_shop import write_small_shop

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

SECONDS = 400
DAYS, WAITING = 12, 6
NEWEST = datetime.now(UTC).date() - timedelta(days=1)
CHAIN = f"""
import sys
import time

sys.path.append({str(PROJECT_ROOT / "dags")!r})

from airflow.sdk import PartitionedAssetTimetable, dag, task
from conventions import asset, dag_arguments, daily
from evergreen.contract import load_use_case

shop = load_use_case("shop")
orders, features, predictions = (
    asset(shop, table) for table in ("orders", "features", "predictions")
)


def chain(stage, schedule, outlet, seconds):
    @dag(**dag_arguments(shop, stage, None), schedule=schedule, max_active_runs=3)
    def build():
        @task
        def compute():
            time.sleep(seconds)

        @task(outlets=[outlet])
        def publish(computed):
            pass

        publish(compute())

    build()


chain("ingest", daily(shop, hour=0), orders, 0)
chain("features", PartitionedAssetTimetable(assets=orders), features, 3)
chain("score", PartitionedAssetTimetable(assets=features), predictions, 0)
"""


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowClient]:
    with tempfile.TemporaryDirectory(prefix="evergreen-order-") as folder:
        root = Path(folder)
        # Airflow starts a day by itself; let it be one of the past.
        last = NEWEST - timedelta(days=10)
        write_small_shop(root / "use_cases", first_day=last - timedelta(days=90), last_day=last)
        (root / "dags").mkdir()
        (root / "dags" / "chain.py").write_text(CHAIN)
        for name, value in {
            "EVERGREEN_HOME": str(root / "home"),
            "EVERGREEN_USE_CASES": str(root / "use_cases"),
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__SCHEDULER__MP_FORKSERVER_PRELOAD": "airflow.sdk.execution_time.task_runner",
        }.items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        try:
            airflow.start(settings, dags=root / "dags", paused_at_creation=False)
            client = connect(settings)
            client.wait_for_dags("shop_ingest", "shop_features", "shop_score")
            yield client
        finally:
            airflow.stop(settings)
            postgres.stop(settings)


def test_the_newest_day_overtakes_a_backfill(client: AirflowClient) -> None:
    last = NEWEST - timedelta(days=11)
    period = Period(last - timedelta(days=DAYS - 1), last + timedelta(days=1))
    many = start_backfill(client, "shop", period, max_active_runs=DAYS, tell=lambda _: None)
    assert len(many.runs) == DAYS
    wait_for_a_queue(client)

    fresh = start_run(client, "shop_ingest", day=str(NEWEST), tell=lambda _: None)
    runs = follow(client, [*many.runs, *fresh.runs], lambda _: None, timeout_seconds=SECONDS)
    assert {run.state for run in runs} == {"success"}
    backfilled = {str(day) for day in period.days}
    for stage in ("features", "score"):
        ended = in_order_of_end(client, f"shop_{stage}")
        overtaken = backfilled & set(ended[ended.index(str(NEWEST)) + 1 :])
        # What is at work goes on, and so do those that begin before the newest day comes here.
        assert len(overtaken) >= WAITING // 2, (stage, ended)


def wait_for_a_queue(client: AirflowClient) -> None:
    """Wait until runs of the backfill wait for one another."""
    deadline = time.monotonic() + SECONDS
    while len(client.runs("shop_features", state="queued")) < WAITING:
        assert time.monotonic() < deadline, "runs never had to wait"
        time.sleep(0.5)


def in_order_of_end(client: AirflowClient, dag_id: str) -> list[str]:
    """Keys of a DAG's runs."""
    query = {"order_by": "end_date", "limit": 100}
    runs = client._call("GET", f"/dags/{dag_id}/dagRuns", params=query)["dag_runs"]
    return [run["partition_key"] for run in runs]
