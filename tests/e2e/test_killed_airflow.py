"""A backfill under a real Airflow whose tasks and scheduler are killed, and a correction mended.

Afterwards every table is compared with the same days loaded step by step, undisturbed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import psutil
import pytest

from csv_shop import deliver, read_day, write_csv_shop, write_day
from evergreen import lake, steps
from evergreen.contract import Period, load_use_case
from evergreen.errors import ServiceDownError
from evergreen.features.store import read_online
from evergreen.lake.content import STAMPS, digest_by_day
from evergreen.ops import deploy
from evergreen.ops.local import airflow
from evergreen.ops.local.airflow_client import AirflowClient, Run, connect
from evergreen.ops.local.airflow_processes import owned
from evergreen.ops.local.runs import follow
from evergreen.provenance import commands
from evergreen.provenance.staleness import find_stale, mend_commands
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from small_shop import FIRST_DAY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

HISTORY_END = FIRST_DAY + timedelta(days=89)
NEW_DAYS = [HISTORY_END + timedelta(days=n) for n in range(1, 11)]
TASK_KILLS = 8
SECONDS = 900


@dataclass
class Shop:
    """The shop under Airflow, beside an undisturbed one that reads the same files."""

    settings: Settings
    data: Path
    client: AirflowClient


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    folder = tempfile.TemporaryDirectory(prefix="evergreen-e2e-")
    root, before = Path(folder.name), dict(os.environ)
    for name in [name for name in os.environ if name.startswith("EVERGREEN_")]:
        del os.environ[name]
    deliver(root / "simulated", root / "data", NEW_DAYS[-1])
    for name in ("shop", "reference"):
        write_csv_shop(root / "use_cases", root / "data", name, NEW_DAYS[-1])
    os.environ["EVERGREEN_HOME"] = str(root / "home")
    os.environ["EVERGREEN_USE_CASES"] = str(root / "use_cases")
    settings = load_settings()
    try:
        deploy.start_services(settings)
        client = connect(settings)
        client.wait_for_dags("shop_ingest", "reference_ingest")
        yield Shop(settings, root / "data", client)
    finally:
        deploy.stop_services(settings)
        os.environ.clear()
        os.environ.update(before)
        folder.cleanup()


@pytest.fixture(autouse=True)
def _environment(
    shop: Shop, _no_settings_from_outside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(shop.settings.home))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(shop.settings.use_cases))


def test_a_backfill_survives_kills_of_tasks_and_of_the_scheduler(shop: Shop) -> None:
    client = shop.client
    history = client.trigger("shop_history", conf={"from": str(FIRST_DAY), "to": str(HISTORY_END)})
    finish(client, history)
    training = client.trigger("shop_train", partition_key=str(HISTORY_END))
    finish(client, training)

    client.set_paused("shop_ingest", paused=False)
    period = Period(NEW_DAYS[0], NEW_DAYS[-1] + timedelta(days=1))
    client.backfill(commands.backfill_request("shop_ingest", period, "none", 3))
    chance, killed = random.Random(3), []
    while len(killed) <= TASK_KILLS and not done(client):
        time.sleep(chance.uniform(0.5, 3))
        running = task_processes(shop.settings)
        if running:
            victim = chance.choice(running)
            killed.append(" ".join(victim.cmdline()).strip())
            victim.send_signal(signal.SIGKILL)
        if len(killed) == TASK_KILLS // 2:
            killed.append("scheduler")
            instance = airflow.find(shop.settings)
            assert instance is not None
            os.kill(instance.pids["scheduler"], signal.SIGKILL)
    assert len(killed) == TASK_KILLS + 1, "the backfill ended before all the kills"
    wait_until(lambda: done(client), "the chain")
    tries = [
        (run.dag_id, run.partition_key, task.task_id, task.try_number)
        for stage in ("ingest", "features", "score")
        for run in client.runs(f"shop_{stage}")
        for task in client.tasks(run.dag_id, run.run_id)
        if task.try_number > 1
    ]
    assert tries
    sys.stdout.write("\n".join(["killed:", *killed, "tried again:", *map(str, tries), ""]))

    load_reference(FIRST_DAY, HISTORY_END)
    for day in NEW_DAYS:
        load_reference(day, day)
        score_reference(day)
    assert_equal_to_reference()
    assert find_stale(load_use_case("shop")) == []
    assert not list(shop.settings.staging.glob("shop/*")), "staging was left behind"


def test_a_correction_is_mended_by_the_commands_that_are_listed(shop: Shop) -> None:
    corrected = [NEW_DAYS[2], HISTORY_END - timedelta(days=40)]
    for day in corrected:
        write_day(shop.data, day, read_day(shop.data, day)[::2])
    use_case = load_use_case("shop")
    for day in corrected:
        steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", str(day), "orders")))
    stale = find_stale(use_case)
    assert {item.table for item in stale} == {"features", "labels", "predictions"}
    commands = mend_commands(use_case, stale)
    assert len(commands) == 2, commands
    for command in commands:
        run_command(command)
        wait_until(lambda: nothing_runs(shop.client), command)
    assert find_stale(use_case) == []
    assert mend_commands(use_case, []) == []

    for day in corrected:
        steps.publish_rows(steps.validate_rows(steps.stage_rows("reference", str(day), "orders")))
    features("reference", f"{min(corrected)}..{NEW_DAYS[-1]}")
    for day in NEW_DAYS:
        score_reference(day)
    assert_equal_to_reference()


def finish(client: AirflowClient, run: Run) -> None:
    (ended,) = follow(client, [run], lambda _: None, timeout_seconds=SECONDS)
    assert ended.state == "success"


def task_processes(settings: Settings) -> list[psutil.Process]:
    """Processes that run a task's code.

    The executor's workers, which start them, are left alone: Airflow's LocalExecutor forgets a task
    whose worker is killed before it started it, and the task stays queued until a restart.
    """
    found = []
    for process in owned(settings):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if title.startswith("airflow worker -- ") and "LocalExecutor" not in title:
                found.append(process)
    return found


def done(client: AirflowClient) -> bool:
    keys = {str(day) for day in NEW_DAYS}
    try:
        for stage in ("ingest", "features", "score"):
            runs = client.runs(f"shop_{stage}")
            failed = [run.run_id for run in runs if run.state == "failed"]
            assert not failed, f"failed: {failed}"
            if {run.partition_key for run in runs if run.state == "success"} < keys:
                return False
    except ServiceDownError:
        return False
    return True


def nothing_runs(client: AirflowClient) -> bool:
    time.sleep(3)
    return not any(
        run.state in ("queued", "running")
        for stage in ("ingest", "history", "features", "score")
        for run in client.runs(f"shop_{stage}")
    )


def wait_until(condition: object, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not end within {SECONDS} s"
        time.sleep(1)


def run_command(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "evergreen"
    code = "from evergreen.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=PROJECT_ROOT)


def features(name: str, period: str) -> None:
    computed = steps.validate_features(steps.compute_features(name, period))
    published = steps.publish_features(computed)
    steps.materialize_online(published)
    steps.publish_labels(published)


def load_reference(first: date, last: date) -> None:
    period = f"{first}..{last}"
    steps.publish_rows(steps.validate_rows(steps.stage_rows("reference", period, "orders")))
    features("reference", period)
    if last == HISTORY_END:
        request = steps.accept_request("reference", str(HISTORY_END), "by hand")
        judged = steps.judge_challenger(
            steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
        )
        steps.promote_challenger(judged)


def score_reference(day: date) -> None:
    scored = steps.score_customers(steps.resolve_model("reference", str(day)))
    steps.publish_predictions(steps.validate_predictions(scored))


def assert_equal_to_reference() -> None:
    for table in ("orders", "quarantine", "features", "labels", "predictions"):
        found, expected = (
            digest_by_day(rows := lake.read(name, table), set(rows["day"].to_pylist()), STAMPS)
            for name in ("shop", "reference")
        )
        assert found == expected, table
    keys = sorted(set(lake.read("shop", "features")["customer_id"].to_pylist()))
    assert read_online(load_use_case("shop"), keys).equals(
        read_online(load_use_case("reference"), keys)
    )
