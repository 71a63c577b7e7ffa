"""A small chain through a real scheduler: keys, asset-triggered runs, tables, ledger."""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from evergreen import deploy, lake, receipts
from evergreen.local import airflow, postgres
from evergreen.local.airflow_client import AirflowClient, Run
from evergreen.local.airflow_processes import component, owned
from evergreen.settings import Settings, load_settings
from small_shop import FIRST_DAY, write_small_shop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

HISTORY_END = FIRST_DAY + timedelta(days=89)
NEW_DAYS = [HISTORY_END + timedelta(days=n) for n in (1, 2, 3)]
SECONDS = 300
# Those that beat.
COMPONENTS = ("scheduler", "triggerer", "dag_processor")


@pytest.fixture(scope="module")
def chain() -> Iterator[tuple[Settings, AirflowClient]]:
    folder = tempfile.TemporaryDirectory(prefix="evergreen-chain-")
    before = dict(os.environ)
    use_cases = Path(folder.name) / "use_cases"
    write_small_shop(use_cases)
    os.environ["EVERGREEN_HOME"] = str(Path(folder.name) / "home")
    os.environ["EVERGREEN_USE_CASES"] = str(use_cases)
    settings = load_settings()
    try:
        instance = deploy.start_services(settings, port=None)
        client = AirflowClient(instance)
        client.wait_for_dags("shop_ingest", "shop_monitor")
        yield settings, client
    finally:
        deploy.stop_services(settings)
        os.environ.clear()
        os.environ.update(before)
        folder.cleanup()


@pytest.fixture(autouse=True)
def _environment(
    chain: tuple[Settings, AirflowClient],
    _no_settings_from_outside: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, _ = chain
    monkeypatch.setenv("EVERGREEN_HOME", str(settings.home))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(settings.use_cases))


def finish(client: AirflowClient, run: Run) -> Run:
    done = client.wait(run.dag_id, run.run_id, timeout_seconds=SECONDS)
    if done.state != "success":
        failed = [t for t in client.tasks(run.dag_id, run.run_id) if t.state == "failed"]
        logs = [
            client.log(run.dag_id, run.run_id, t.task_id, try_number=t.try_number) for t in failed
        ]
        pytest.fail(f"{run.dag_id} {done.state}: {[t.task_id for t in failed]}\n" + "\n".join(logs))
    return done


def runs_by_key(client: AirflowClient, stage: str) -> dict[str | None, list[Run]]:
    found: dict[str | None, list[Run]] = {}
    for run in client.runs(f"shop_{stage}"):
        found.setdefault(run.partition_key, []).append(run)
    return found


def test_the_chain_runs_by_assets_with_one_key_per_day(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    history = client.trigger("shop_history", conf={"from": str(FIRST_DAY), "to": str(HISTORY_END)})
    finish(client, history)
    assert list(lake.partitions("shop", "orders")) == lake.days_between(FIRST_DAY, NEW_DAYS[0])
    # A bulk load announces nothing: no run per day is started.
    assert runs_by_key(client, "features") == {}

    training = client.trigger("shop_train", partition_key=str(HISTORY_END))
    finish(client, training)
    judged = client.xcom("shop_train", training.run_id, "judge_challenger")
    assert judged["decision"] == "promote", judged["reasons"]

    client.unpause("shop_ingest")
    backfill = client.backfill("shop_ingest", NEW_DAYS[0], NEW_DAYS[-1], max_active_runs=2)
    client.wait_for_backfill(backfill, timeout_seconds=SECONDS)
    keys = {str(day) for day in NEW_DAYS}
    for stage in ("ingest", "features", "score"):
        wait_for_keys(client, stage, keys)
        found = runs_by_key(client, stage)
        # Exactly one run per day, each with its own key, and none for other days.
        assert {key: len(runs) for key, runs in found.items()} == dict.fromkeys(keys, 1)
    assert list(lake.partitions("shop", "predictions")) == NEW_DAYS
    population = lake.partitions("shop", "features")
    assert {day: population[day] for day in NEW_DAYS} == lake.partitions("shop", "predictions")
    for day, receipt in receipts.latest("shop", "publish_predictions").items():
        assert receipt.inputs["model_version"] == judged["version"]
        assert day in NEW_DAYS


def test_a_night_is_judged_and_recorded(chain: tuple[Settings, AirflowClient]) -> None:
    _, client = chain
    night = NEW_DAYS[-1]
    client.unpause("shop_monitor")
    finish(client, client.trigger("shop_monitor", partition_key=str(night)))
    decisions = lake.read("shop", "decisions").to_pylist()
    governor = [row for row in decisions if row["kind"] == "governor"]
    assert [row["day"] for row in governor] == [night]
    assert governor[0]["decision"] in ("retrain", "wait")
    assert governor[0]["reasons"]
    assert {row["feature"] for row in lake.read_day("shop", "drift", night).to_pylist()} > {
        "days_since_last_order",
        "score",
    }


def test_bad_data_fails_at_once_and_publishes_nothing(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    before = lake.snapshot_id("shop", "orders")
    run = client.trigger("shop_ingest", partition_key=str(date(2024, 12, 31)))
    done = client.wait("shop_ingest", run.run_id, timeout_seconds=SECONDS)
    assert done.state == "failed"
    (failed,) = [t for t in client.tasks("shop_ingest", run.run_id) if t.state == "failed"]
    assert (failed.task_id, failed.try_number) == ("stage_orders", 1)
    log = client.log("shop_ingest", run.run_id, failed.task_id)
    assert "has data from 2025-01-01 on" in log
    assert lake.snapshot_id("shop", "orders") == before


def test_a_failed_training_is_recorded_and_stays_failed(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    run = client.trigger("shop_train", partition_key=str(FIRST_DAY))
    assert client.wait("shop_train", run.run_id, timeout_seconds=SECONDS).state == "failed"
    states = {t.task_id: t.state for t in client.tasks("shop_train", run.run_id)}
    assert (states["assemble_training_set"], states["fail_request"]) == ("failed", "success")
    rows = lake.read_day("shop", "decisions", FIRST_DAY).to_pylist()
    assert {(row["kind"], row["decision"]) for row in rows} == {
        ("request", "started"),
        ("request", "failed"),
    }
    (failed,) = [row for row in rows if row["decision"] == "failed"]
    assert run.run_id in failed["reasons"][0]


def test_an_outage_of_postgres_and_killed_components_end_nothing_for_good(
    chain: tuple[Settings, AirflowClient],
) -> None:
    settings, client = chain
    instance = airflow.find(settings)
    assert instance is not None
    # Who would start Postgres again within seconds has to look away.
    [keeper] = [process for process in owned(settings) if component(process) == "postgres"]
    keeper.suspend()
    postgres.stop(settings)
    time.sleep(30)
    over = datetime.now(UTC)
    keeper.resume()
    wait_for_health(instance.url, over)
    assert postgres.running(settings)

    for name in ("scheduler", "api-server"):
        survivor = airflow.find(settings)
        assert survivor is not None
        killed_at = datetime.now(UTC)
        psutil.Process(survivor.pids[name]).kill()
        wait_for_health(instance.url, killed_at)
        again = airflow.find(settings)
        assert again is not None
        assert again.pids[name] != survivor.pids[name]
        assert set(again.pids) == {"scheduler", "dag-processor", "triggerer", "api-server"}
    client.unpause("shop_ingest")
    finish(client, client.trigger("shop_ingest", partition_key=str(FIRST_DAY)))


def wait_for_health(url: str, since: datetime) -> None:
    """Wait until every component has given a sign of life since an instant."""
    deadline = time.monotonic() + SECONDS
    health: dict[str, dict[str, str]] = {}
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{url}/api/v2/monitor/health") as answer:
            health = json.load(answer)
            beats = [health[name][f"latest_{name}_heartbeat"] for name in COMPONENTS]
            healthy = all(part["status"] == "healthy" for part in health.values())
            if healthy and all(datetime.fromisoformat(beat) > since for beat in beats):
                return
        time.sleep(0.5)
    pytest.fail(f"not healthy since {since}: {health}")


def wait_for_keys(client: AirflowClient, stage: str, keys: set[str]) -> None:
    """Wait for the runs that asset events start; each must succeed."""
    deadline = time.monotonic() + SECONDS
    while set(runs_by_key(client, stage)) < keys:
        if time.monotonic() > deadline:
            pytest.fail(f"no {stage} runs for {keys - set(runs_by_key(client, stage))}")
        time.sleep(0.5)
    for runs in runs_by_key(client, stage).values():
        for run in runs:
            finish(client, run)
