"""The services of docker-compose.yaml, on machines that share no disk, killed while they work.

A history, a training, ten days of a backfill, a night and a release run through Airflow, two Celery
workers and mapped shards, while a worker, Postgres, Redis, MLflow and the object store end in turn.
Every table must be that of an undisturbed run on the embedded defaults.
"""

from __future__ import annotations

import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from deployment import BUCKET, SECRETS, WORKERS, Deployment
from evergreen import lake, steps
from evergreen.contract import Period, load_use_case
from evergreen.errors import ServiceDownError
from evergreen.lake.content import STAMPS, digest_by_day
from evergreen.ops import deploy
from evergreen.ops.local.postgres import embedded_postgres
from evergreen.ops.local.runs import follow, start_backfill, start_run
from evergreen.provenance.staleness import find_stale
from evergreen.release import ledger
from evergreen.settings import load_settings
from small_shop import FIRST_DAY, write_small_shop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(5400)]

HISTORY_END = FIRST_DAY + timedelta(days=89)
NEW_DAYS = [HISTORY_END + timedelta(days=n) for n in range(1, 11)]
NIGHT = NEW_DAYS[-1]
SHARDS = 2
SECONDS = 2400
VICTIMS = ("airflow-worker", "postgres", "redis", "mlflow", "store", "airflow-worker-2")
TABLES = (
    *("orders", "quarantine", "features", "labels", "predictions"),
    *("drift", "freshness", "skew", "estimates"),
)

Digests = dict[str, dict[date, str]]


@pytest.fixture(scope="module")
def stack() -> Iterator[Deployment]:
    folder = tempfile.TemporaryDirectory(prefix="evergreen-stack-")
    root, before = Path(folder.name), dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("EVERGREEN_", "AWS_"))]:
        del os.environ[name]
    write_small_shop(root / "use_cases", shards=SHARDS)
    made = Deployment(root, root / "use_cases")
    try:
        made.up()
        yield made
    finally:
        made.down()
        os.environ.clear()
        os.environ.update(before)
        folder.cleanup()


@pytest.fixture
def inside(
    stack: Deployment, _no_settings_from_outside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """See what the services see."""
    for name, value in stack.environment("airflow-init").items():
        if name.startswith(("EVERGREEN_", "AWS_", "MLFLOW_TRACKING_")):
            monkeypatch.setenv(name, value)


def finish(stack: Deployment, stage: str, **asked: object) -> None:
    told: list[str] = []
    client = stack.client()
    started = start_run(
        client,
        f"shop_{stage}",
        unpause=True,
        tell=told.append,
        **asked,  # type: ignore[arg-type]
    )
    runs = follow(client, started.runs, told.append, timeout_seconds=SECONDS)
    assert {run.state for run in runs} == {"success"}, told


def test_ten_days_survive_what_ends_beside_them(stack: Deployment) -> None:
    client = stack.client()
    client.wait_for_dags("shop_ingest", "shop_monitor", "shop_release")
    finish(stack, "history", conf={"from": str(FIRST_DAY), "to": str(HISTORY_END)})
    finish(stack, "train", day=str(HISTORY_END))

    period = Period(NEW_DAYS[0], NEW_DAYS[-1] + timedelta(days=1))
    started = start_backfill(client, "shop", period, unpause=True, tell=lambda _: None)
    assert len(started.runs) == len(NEW_DAYS)
    chance, ended = random.Random(5), []
    for victim in VICTIMS:
        time.sleep(chance.uniform(5, 15))
        stack.kill(victim)
        time.sleep(chance.uniform(1, 5))
        ended += stack.restart_ended()
    assert {*ended} >= {*VICTIMS}
    wait_until(lambda: done(stack), stack)
    sys.stdout.write(f"ended and started again: {', '.join(ended)}\n")

    finish(stack, "monitor", day=str(NIGHT))
    finish(stack, "train", day=str(NIGHT))
    finish(
        stack,
        "release",
        conf={"action": "promote", "version": "2", "reason": "as a rehearsal", "day": str(NIGHT)},
    )


def test_workers_shared_the_work_and_no_disk(stack: Deployment) -> None:
    for worker in WORKERS:
        found = stack.log(worker).read_text()
        assert len(re.findall(r"execute_workload\[[0-9a-f-]+\] received", found)) > 20, worker
    for name in ("airflow-apiserver", "mlflow", *WORKERS):
        data = stack.data(name)
        kept = {path.name for path in data.iterdir()} if data.exists() else set()
        assert kept <= {"scratch", "logs", "location"}, (name, kept)
    stored = {path.name for path in (stack.root / "store" / BUCKET).iterdir()}
    assert stored >= {"warehouse", "artifacts", "quality", "reports", "logs"}
    logs = [p.read_text() for p in (stack.root / "store" / BUCKET / "logs").rglob("*.log")]
    assert any("days" in text for text in logs)
    for name, secret in SECRETS.items():
        assert not any(secret in text for text in logs), name


def test_every_table_is_that_of_an_undisturbed_embedded_run(
    stack: Deployment, inside: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = digests()
    entries = [(e.action, e.version, e.reason) for e in ledger.entries(ledger.engine(), "shop")]
    assert [entry[:2] for entry in entries] == [("promote", 1), ("promote", 2)]
    assert find_stale(load_use_case("shop")) == []
    assert not list(load_settings().staging.glob("shop/*")), "staging was left behind"

    for name in [*os.environ]:
        if name.startswith(("EVERGREEN_", "AWS_", "MLFLOW_TRACKING_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path / "use_cases"))
    write_small_shop(tmp_path / "use_cases")
    with embedded_postgres(load_settings()):
        monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", load_settings().database_url("ledger"))
        list(deploy.initialise(load_settings()))
        live_embedded()
        expected = digests()
    for table in TABLES:
        assert found[table] == expected[table], table


def live_embedded() -> None:
    load(f"{FIRST_DAY}..{HISTORY_END}")
    judged = train(HISTORY_END)
    steps.promote_challenger(judged)
    for day in NEW_DAYS:
        load(str(day))
        score(steps.resolve_model("shop", str(day)))
    for measure in (
        *(steps.measure_drift, steps.measure_freshness),
        *(steps.measure_skew, steps.measure_estimates),
    ):
        measure("shop", str(NIGHT))
    # The gate sees no reason for it; somebody does.
    assert train(NIGHT)["decision"] == "refuse"
    released = steps.release_version("shop", "promote", "2", "as a rehearsal", "ann")
    score(steps.resolve_release(released, str(NIGHT)))


def train(day: date) -> dict[str, Any]:
    request = steps.accept_request("shop", str(day), "by hand")
    return steps.judge_challenger(
        steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    )


def score(resolved: dict[str, Any]) -> None:
    scored = steps.score_customers(resolved)
    steps.publish_predictions(steps.validate_predictions(scored))


def load(period: str) -> None:
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", period, "orders")))
    computed = steps.validate_features(steps.compute_features("shop", period))
    published = steps.publish_features(computed)
    steps.materialize_online(published)
    steps.publish_labels(published)


def digests() -> Digests:
    return {table: _digests_of(lake.read("shop", table)) for table in TABLES}


def _digests_of(rows: pa.Table) -> dict[date, str]:
    assert rows.num_rows
    return digest_by_day(rows, set(rows["day"].to_pylist()), STAMPS)


def done(stack: Deployment) -> bool:
    stack.restart_ended()
    keys = {str(day) for day in NEW_DAYS}
    try:
        client = stack.client()
        for stage in ("ingest", "features", "score"):
            runs = client.runs(f"shop_{stage}")
            failed = [(run.dag_id, run.partition_key) for run in runs if run.state == "failed"]
            assert not failed, f"failed: {failed}: {[*logged_errors(stack)]}"
            if {run.partition_key for run in runs if run.state == "success"} < keys:
                return False
    except ServiceDownError:
        return False
    return True


def logged_errors(stack: Deployment) -> Iterator[str]:
    """Read the errors of tasks in the logs that workers have put into the store."""
    for path in (stack.root / "store" / BUCKET / "logs").rglob("*.log"):
        for found in re.findall(r'"exc_type":"\w+","exc_value":"[^"]{0,300}', path.read_text()):
            yield f"{path.parent.name}: {found}"


def wait_until(condition: Callable[[], bool], stack: Deployment) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            logs = {n: stack.log(n).read_text()[-2_000:] for n in stack.processes}
            pytest.fail(f"it did not end within {SECONDS} s: {logs}")
        time.sleep(2)
