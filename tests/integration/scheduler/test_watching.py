"""A real Prometheus asks a real Airflow; its logs, and who did what, say the same as the tables."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import watched_shop
from evergreen import lake
from evergreen.contract import Period
from evergreen.ops import deploy
from evergreen.ops.local import postgres
from evergreen.ops.local.airflow_client import AirflowClient, Run, connect
from evergreen.ops.local.runs import follow, start_run
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.release import ledger
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from watched_shop import LAST, NAME, NEXT, NIGHTS, TRAINED

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

COLLECTD = shutil.which("collectd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
SAYS = COLLECTD is not None and importlib.util.find_spec("statsd") is not None
OBSERVABILITY = PROJECT_ROOT / "observability"
SECONDS = 240


@dataclass
class House:
    """An Airflow over a lived shop."""

    settings: Settings
    client: AirflowClient
    collectd: int


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(*command: Any, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    root, before = Path(tempfile.mkdtemp(prefix="evergreen-watching-")), dict(os.environ)
    statsd, metrics = free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(root / "home"))
        settings = load_settings()
        try:
            postgres.start(settings)
            watched_shop.build_watched_shop(root, patch)
            settings = load_settings()
            if SAYS:
                patch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
                patch.setenv("AIRFLOW__METRICS__STATSD_HOST", "127.0.0.1")
                patch.setenv("AIRFLOW__METRICS__STATSD_PORT", str(statsd))
            conf = (OBSERVABILITY / "collectd.conf").read_text()
            conf = conf.replace('"8125"', f'"{statsd}"').replace('"9103"', f'"{metrics}"')
            here = f'BaseDir "{root}"\nPIDFile "{root}/collectd.pid"\n'
            (root / "collectd.conf").write_text(here + conf.replace("Interval 10", "Interval 1"))
            daemon = [COLLECTD, "-f", "-C", root / "collectd.conf"] if SAYS else ["sleep", "inf"]
            with running(*daemon, log=root / "collectd.log"):
                deploy.start_services(settings)
                client = connect(settings)
                client.wait_for_dags(f"{NAME}_ingest", f"{NAME}_score")
                yield House(settings, client, metrics)
        finally:
            deploy.stop_services(settings)
            os.environ.clear()
            os.environ.update(before)
            shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(autouse=True)
def _environment(
    house: House, _no_settings_from_outside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(house.settings.home))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(house.settings.use_cases))


def evergreen(*arguments: str) -> str:
    code = "import sys; from evergreen.cli import main; sys.argv[0] = 'evergreen'; main()"
    program = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_day(client: AirflowClient, day: Any, **conf: str) -> Run:
    started = start_run(
        client, f"{NAME}_ingest", day=str(day), conf=conf, unpause=True, tell=lambda _: None
    )
    told: list[str] = []
    runs = follow(client, started.runs, told.append, timeout_seconds=600)
    assert {run.state for run in runs} == {"success"}, told
    return started.runs[0]


@pytest.fixture(scope="module")
def new_day(house: House) -> Run:
    """A day through ingestion, features and scores, by Airflow."""
    return run_day(house.client, NEXT)


def log_of(house: House, run: Run, task: str) -> list[dict[str, Any]]:
    folder = house.settings.home / "airflow" / "logs" / f"dag_id={run.dag_id}"
    path = folder / f"run_id={run.run_id}" / f"task_id={task}" / "attempt=1.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_of_a_task_say_for_what_they_are_and_what_was_published(
    house: House, new_day: Run
) -> None:
    lines = log_of(house, new_day, "orders.publish_rows")

    ours = [line for line in lines if line["logger"].startswith("evergreen")]
    assert ours
    for line in ours:
        assert (line["use_case"], line["day"]) == (NAME, str(NEXT))
        assert (line["run_id"], line["dag_id"]) == (new_day.run_id, f"{NAME}_ingest")
    receipted = {line["event"].split()[1]: line["receipt"] for line in ours if "receipt" in line}
    for table in ("orders", "quarantine"):
        step = {"orders": "publish_orders", "quarantine": "publish_orders_quarantine"}[table]
        assert receipted[f"{NAME}.{table}"] == receipts.latest(NAME, step)[NEXT].sequence

    lines += log_of(house, new_day, "orders.validate_rows")
    libraries = ("great_expectations", "pyiceberg", "botocore", "aiobotocore")
    said = [line["event"] for line in lines if line["logger"].startswith(libraries)]
    assert not said, f"{len(said)} of {len(lines)} lines"


def test_a_token_may_read_what_is_watched_and_nothing_else(house: House) -> None:
    token, url = evergreen("token").strip(), house.client.url
    # The first request imports the lake.
    stranger = httpx.Client(base_url=url, timeout=SECONDS)
    watcher = httpx.Client(
        base_url=url, timeout=SECONDS, headers={"Authorization": f"Bearer {token}"}
    )

    assert stranger.get("/evergreen/metrics").status_code == 401
    answer = watcher.get("/evergreen/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.text == evergreen("metrics")
    body = {"logical_date": None, "conf": {}, "partition_key": str(LAST)}
    refused = watcher.post(f"/api/v2/dags/{NAME}_ingest/dagRuns", json=body)
    assert refused.status_code == 403


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=query).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def ask(self, query: str) -> dict[str, float]:
        """Return values by the label values that follow `use_case` and `job`, joined."""
        found = {}
        for one in self.get("query", query=query)["result"]:
            plain = ("__name__", "instance", "job", "use_case")
            labels = [v for k, v in sorted(one["metric"].items()) if k not in plain]
            found["/".join(labels)] = float(one["value"][1])
        return found

    def wait_for(self, query: str) -> dict[str, float]:
        deadline = time.monotonic() + SECONDS
        while not (found := self.ask(query)):
            assert time.monotonic() < deadline, (query, self.get("targets"))
            time.sleep(1)
        return found


@pytest.fixture(scope="module")
def prometheus(house: House, new_day: Run) -> Iterator[Prometheus]:
    if (program := shutil.which("prometheus")) is None:
        pytest.skip("no prometheus on the PATH; Debian has it: apt-get install prometheus")
    folder = Path(tempfile.mkdtemp(prefix="evergreen-prometheus-"))
    shutil.copytree(OBSERVABILITY, folder / "config")
    config = yaml.safe_load((folder / "config" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0] |= {"scrape_interval": "20s", "scrape_timeout": "20s"}
    (folder / "config" / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "config" / "airflow.token").write_text(evergreen("token"))
    for name, address in (
        ("evergreen", house.client.url.removeprefix("http://")),
        ("airflow", f"127.0.0.1:{house.collectd}"),
    ):
        target = folder / "config" / "targets" / f"{name}.yml"
        target.write_text(yaml.safe_dump([{"targets": [address]}]))
    address = f"127.0.0.1:{free_port()}"
    command = [
        *(program, f"--config.file={folder}/config/prometheus.yml"),
        *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"),
    ]
    with running(*command, log=folder / "log"):
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                if httpx.get(f"http://{address}/-/ready").status_code == 200:
                    break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        found = Prometheus(f"http://{address}")
        found.wait_for('up{job="evergreen"} == 1')
        yield found
    shutil.rmtree(folder)


def test_prometheus_answers_what_the_tables_say(prometheus: Prometheus) -> None:
    tables = ("orders", "features", "labels", "predictions", "drift", "performance")
    held = {table: lake.partitions(NAME, table) for table in tables}
    assert prometheus.ask("evergreen_rows") == {t: sum(of.values()) for t, of in held.items()}
    counts = receipts.latest(NAME, "publish_orders")[NEXT].counts
    assert prometheus.ask("evergreen_quarantined_ratio") == {
        "orders": counts["quarantined"] / counts["rows_in"]
    }
    drift = lake.read_day(NAME, "drift", NIGHTS[-1]).to_pylist()
    effects = {
        row["feature"]: row["statistic"]
        for row in drift
        if (row["slice"], row["reference"], row["test"]) == ("all", "expected", "ks")
    }
    told = prometheus.ask("evergreen_drift_effect_ratio")
    assert len(effects) > 1
    assert {feature: told[feature] for feature in effects} == effects
    realised = {
        row["day"]: row["value"]
        for row in lake.read(NAME, "performance").to_pylist()
        if (row["slice"], row["metric"]) == ("all", "auc")
    }
    newest = realised[max(realised)]
    assert prometheus.ask('evergreen_realised_performance{metric="auc"}') == {"auc": newest}
    decisions: dict[str, float] = {}
    for row in lake.read(NAME, "decisions").to_pylist():
        key = f"{row['decision']}/{row['kind']}"
        decisions[key] = decisions.get(key, 0) + 1
    assert prometheus.ask("evergreen_decisions") == decisions
    seconds = receipts.work(NAME)["publish_predictions"][1]
    assert prometheus.ask('evergreen_step_seconds_total{step="publish_predictions"}') == {
        "publish_predictions": pytest.approx(seconds)
    }


def test_rules_are_evaluated_and_dashboards_are_answered(prometheus: Prometheus) -> None:
    time.sleep(3)
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")} == {}
    assert {rule["health"] for rule in rules} == {"ok"}
    for path in (OBSERVABILITY / "grafana" / "dashboards").glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                text = target["expr"].replace("$use_case", NAME).replace("$metric", "auc")
                found = prometheus.ask(text)
                if "airflow_" not in text and "[1d]" not in text:
                    assert found or "backup" in text, (panel["title"], text)


@pytest.mark.skipif(not SAYS, reason="needs Debian's collectd-core and the package statsd")
def test_airflow_says_of_itself_that_it_beats_and_what_has_ended(prometheus: Prometheus) -> None:
    ends = prometheus.wait_for(f'airflow_task_ends_total{{dag_id="{NAME}_ingest"}}')
    assert ends[f"{NAME}_ingest/success/orders__publish_rows"] >= 1
    for component in ("scheduler", "dag_processor", "triggerer"):
        assert prometheus.wait_for(f"rate(airflow_{component}_heartbeat_total[1m]) > 0")
    assert prometheus.ask("airflow_dag_import_errors") == {"": 0}
    assert prometheus.ask("airflow_executor_open_slots")
    names = {one for one in prometheus.get("label/__name__/values") if one.startswith("airflow")}
    assert "airflow_task_ends_total" in names
    assert [name for name in names if "collectd" in name or NAME in name] == []


def test_an_audit_names_who_did_what(house: House, new_day: Run) -> None:
    client = house.client
    (house.settings.use_cases.parent / "data" / f"{LAST}.csv").unlink()
    empty = run_day(client, LAST, without_data="The shop was closed.")
    client.set_paused(f"{NAME}_ingest", paused=True)
    staged = Staged(NAME, str(TRAINED), "", inputs={"actor": "eve", "reason": "asked for"}, basis=1)
    rows = lake.read_day(NAME, "orders", TRAINED).slice(1)
    publish_chunk(staged, "erase_orders", "orders", rows, Period.parse(str(TRAINED)).days)

    acts = json.loads(evergreen("audit", "--format", "json"))

    def found(act: str, **equal: str) -> list[dict[str, str]]:
        wanted = {"act": act, **equal}
        return [one for one in acts if all(one[key] == value for key, value in wanted.items())]

    assert [one["at"] for one in acts] == sorted(one["at"] for one in acts)
    assert {datetime.fromisoformat(one["at"]).utcoffset().total_seconds() for one in acts} == {0}
    (started,) = found("run", record=new_day.run_id, subject=f"{NAME}_ingest")
    assert (started["actor"], started["day"], started["use_case"]) == ("admin", str(NEXT), NAME)
    followed = found("run", subject=f"{NAME}_score", day=str(NEXT))
    assert [one["actor"] for one in followed] == ["asset"]
    entry = ledger.champion(ledger.engine(), NAME)
    (promoted,) = found("promote")
    assert (promoted["actor"], promoted["because"]) == ("ann", "a test")
    assert promoted["record"] == f"ledger 1 {entry.hash}"
    (decided,) = found("without_data")
    assert (decided["actor"], decided["day"]) == ("admin", str(LAST))
    assert decided["because"] == "The shop was closed."
    assert found("run", record=empty.run_id)[0]["because"] == (
        '{"without_data": "The shop was closed."}'
    )
    paused = found("patch_dag", subject=f"{NAME}_ingest", actor="admin")
    assert len(paused) >= 2
    (erased,) = found("erase_orders")
    assert (erased["actor"], erased["because"]) == ("eve", "asked for")
    newest = receipts.latest(NAME, "erase_orders")[TRAINED].sequence
    assert erased["record"] == f"receipt {newest}"

    # The same, in the other form, again, and in part. Whoever asks leaves no trace.
    assert [*csv.DictReader(io.StringIO(evergreen("audit")))] == acts
    assert json.loads(evergreen("audit", "--format", "json")) == acts
    assert json.loads(evergreen("audit", "--format", "json", "--since", "2999-01-01")) == []
    of_shop = json.loads(evergreen("audit", "--format", "json", "--use-case", NAME))
    assert of_shop == [one for one in acts if one["use_case"] == NAME]
