"""A small chain through a real scheduler: keys, asset-triggered runs, tables, ledger."""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

import club
from evergreen import lake
from evergreen.contract import Period, load_use_case
from evergreen.errors import ConfigError
from evergreen.ops import deploy
from evergreen.ops.audit import list_acts
from evergreen.ops.local import airflow, postgres
from evergreen.ops.local.airflow_client import AirflowClient, Json, Run, connect
from evergreen.ops.local.airflow_environment import USERNAME
from evergreen.ops.local.airflow_processes import component, owned
from evergreen.ops.local.runs import find_failed, follow, start_backfill, start_run
from evergreen.provenance import receipts
from evergreen.provenance.staleness import find_stale
from evergreen.release import ledger
from evergreen.settings import Settings, load_settings
from small_shop import FIRST_DAY, GATE, write_small_shop

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

HISTORY_END = FIRST_DAY + timedelta(days=89)
NEW_DAYS = [HISTORY_END + timedelta(days=n) for n in (1, 2, 3)]
SECONDS = 300
READING_SECONDS = 10
# Those that beat.
COMPONENTS = ("scheduler", "triggerer", "dag_processor")


@pytest.fixture(scope="module")
def chain() -> Iterator[tuple[Settings, AirflowClient]]:
    folder = tempfile.TemporaryDirectory(prefix="evergreen-chain-")
    before = dict(os.environ)
    use_cases = Path(folder.name) / "use_cases"
    monitoring = {"max_recomputed_days": 2}
    write_small_shop(use_cases, gate={**GATE, "mode": "approve"}, monitoring=monitoring)
    club.write_club(Path(folder.name), shards=2)
    os.environ["EVERGREEN_HOME"] = str(Path(folder.name) / "home")
    os.environ["EVERGREEN_USE_CASES"] = str(use_cases)
    settings = load_settings()
    try:
        deploy.start_services(settings, port=None)
        client = connect(settings)
        client.wait_for_dags("shop_ingest", "shop_monitor", f"{club.SPEND}_labels")
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


def finish(client: AirflowClient, started: list[Run]) -> list[str]:
    """Follow runs to their end; all must succeed. Returns what was told."""
    told: list[str] = []
    runs = follow(client, started, told.append, timeout_seconds=SECONDS)
    assert {run.state for run in runs} == {"success"}, told
    return told


def runs_by_key(client: AirflowClient, stage: str) -> dict[str | None, list[Run]]:
    found: dict[str | None, list[Run]] = {}
    for run in client.runs(f"shop_{stage}"):
        found.setdefault(run.partition_key, []).append(run)
    return found


def links_of(client: AirflowClient, run: Run, task_id: str) -> Json:
    """Buttons of a task that has ended, by their labels."""
    task = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}"
    links: Json = client._call("GET", f"{task}/links")["extra_links"]
    return links


def question_of(run: Run) -> str:
    """Path of what a training asks of a person."""
    task = "taskInstances/approve_promotion/-1/hitlDetails"
    return f"/dags/{run.dag_id}/dagRuns/{run.run_id}/{task}"


def wait_for_question(client: AirflowClient, run: Run) -> Json:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if client.tasks(run.dag_id, run.run_id, state="awaiting_input"):
            return client._call("GET", question_of(run))
        assert client.run(run.dag_id, run.run_id).state != "failed"
        time.sleep(0.5)
    pytest.fail("nobody was asked")


def answer(client: AirflowClient, run: Run, option: str) -> None:
    """Answer as a person does, who reads first.

    Airflow 3.3 takes a task for killed when it is answered before the scheduler has heard that the
    process that asked has ended; it then asks again.
    """
    time.sleep(READING_SECONDS)
    client._call("PATCH", question_of(run), json={"chosen_options": [option]})


def test_the_chain_runs_by_assets_with_one_key_per_day(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    told: list[str] = []
    conf = {"from": str(FIRST_DAY), "to": str(HISTORY_END)}
    finish(client, start_run(client, "shop_history", conf=conf, tell=told.append).runs)
    assert list(lake.partitions("shop", "orders")) == lake.days_between(FIRST_DAY, NEW_DAYS[0])
    # A bulk load announces nothing: no run per day is started.
    assert runs_by_key(client, "features") == {}

    training = start_run(client, "shop_train", day=str(HISTORY_END), tell=told.append).runs
    asked = wait_for_question(client, training[0])
    assert "Promote the challenger of shop?" in asked["subject"]
    assert "beats_naive" in asked["body"]
    assert ledger.champion(ledger.engine(), "shop") is None
    answer(client, training[0], "Approve")
    finish(client, training)
    judged = client.xcom("shop_train", training[0].run_id, "judge_challenger")
    assert judged["decision"] == "promote", judged["reasons"]
    entry = ledger.champion(ledger.engine(), "shop")
    assert entry is not None
    assert (entry.version, entry.actor) == (judged["version"], USERNAME)
    for task in ("train_challenger", "judge_challenger", "promote_challenger"):
        links = links_of(client, training[0], task)
        # Nobody serves MLflow's pages.
        assert links == {"MLflow": None, "Releases": "/evergreen/use-cases/shop/releases"}

    period = Period(NEW_DAYS[0], NEW_DAYS[-1] + timedelta(days=1))
    started = start_backfill(client, "shop", period, unpause=True, tell=told.append)
    assert told[-1] == f"shop_ingest: 3 runs for {period.label}, 3 at a time"
    progress = finish(client, started.runs)
    assert progress[-1] == "shop_ingest 3/3, shop_features 3/3, shop_score 3/3"
    keys = {str(day) for day in NEW_DAYS}
    for stage in ("ingest", "features", "score"):
        found = runs_by_key(client, stage)
        # Exactly one run per day, each with its own key, and none for other days.
        assert {key: len(runs) for key, runs in found.items()} == dict.fromkeys(keys, 1)
    assert list(lake.partitions("shop", "predictions")) == NEW_DAYS
    links = links_of(client, started.runs[0], "orders.validate_rows")
    assert f"{NEW_DAYS[0]}" in client._http.get(links["Data Docs"]).text
    (link,) = links_of(client, started.runs[0], "orders.publish_rows").values()
    assert link.endswith(f"/calendar?first={NEW_DAYS[0]}&last={NEW_DAYS[0]}")
    population = lake.partitions("shop", "features")
    assert {day: population[day] for day in NEW_DAYS} == lake.partitions("shop", "predictions")
    for day, receipt in receipts.latest("shop", "publish_predictions").items():
        assert receipt.inputs["model_version"] == judged["version"]
        assert day in NEW_DAYS


def test_an_audit_names_who_approved_and_who_promoted(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    acts = {act.act: act for act in list_acts(client, ["shop"], only="shop")}
    approved, promoted = acts["approve_promotion"], acts["promote"]
    assert (approved.actor, approved.subject) == (USERNAME, "shop_train")
    assert approved.because == "Approve"
    assert promoted.actor == USERNAME
    assert approved.at < promoted.at


def test_a_night_is_judged_and_recorded(chain: tuple[Settings, AirflowClient]) -> None:
    _, client = chain
    night = NEW_DAYS[-1]
    nights = Period(night, night + timedelta(days=1))
    started = start_backfill(client, "shop_monitor", nights, unpause=True, tell=lambda _: None)
    assert [run.partition_key for run in started.runs] == [str(night)]
    finish(client, started.runs)
    decisions = lake.read("shop", "decisions").to_pylist()
    governor = [row for row in decisions if row["kind"] == "governor"]
    assert [row["day"] for row in governor] == [night]
    assert governor[0]["decision"] in ("retrain", "wait")
    assert governor[0]["reasons"]
    assert {row["feature"] for row in lake.read_day("shop", "drift", night).to_pylist()} > {
        "days_since_last_order",
        "score",
    }
    # Its task leads to the report, for whoever may open the UI.
    (run,) = started.runs
    link = links_of(client, run, "report_night")["Report of the night"]
    assert link.endswith(f"/evergreen/nights/shop/{night}")
    page = client._http.get(f"/evergreen/nights/shop/{night}")
    assert page.text == load_settings().night_report("shop", night).read_text()
    assert f"shop, night of {night}" in page.text


def test_bad_data_fails_at_once_and_is_listed(chain: tuple[Settings, AirflowClient]) -> None:
    _, client = chain
    before = lake.snapshot_id("shop", "orders")
    early = "2024-12-31"
    told: list[str] = []
    runs = follow(
        client, start_run(client, "shop_ingest", day=early, tell=told.append).runs, told.append
    )
    assert [run.state for run in runs] == ["failed"]
    (failed,) = client.tasks("shop_ingest", runs[0].run_id, state="failed")
    assert (failed.task_id, failed.try_number) == ("orders.stage_rows", 1)
    assert "has data from 2025-01-01 on" in "\n".join(told)
    assert lake.snapshot_id("shop", "orders") == before
    (failure,) = find_failed(client)
    assert (failure.dag_id, failure.what) == ("shop_ingest", early)
    assert failure.mend == (f"evergreen backfill shop {early} {early}",)


def test_days_that_had_a_run_are_skipped_and_said_to_be(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    day = NEW_DAYS[0]
    told: list[str] = []
    period = Period(day, day + timedelta(days=1))
    assert start_backfill(client, "shop", period, tell=told.append).runs == []
    assert f"skipped: {day} has succeeded before; --reprocess completed runs it again" in told[-1]
    # The earlier one has not been seen to end; it is waited for.
    started = start_backfill(client, "shop", period, reprocess="completed", tell=told.append)
    assert finish(client, started.runs)[-1] == "shop_ingest 1/1, shop_features 1/1, shop_score 1/1"
    with pytest.raises(ConfigError, match=r"Backfill what it follows \(evergreen backfill shop"):
        start_backfill(client, "shop_features", period, tell=told.append)


def test_a_failed_training_is_recorded_and_stays_failed(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    started = [client.trigger("shop_train", partition_key=str(FIRST_DAY))]
    (run,) = follow(client, started, lambda _: None, timeout_seconds=SECONDS)
    assert run.state == "failed"
    states = {t.task_id: t.state for t in client.tasks("shop_train", run.run_id)}
    assert (states["assemble_training_set"], states["fail_request"]) == ("failed", "success")
    rows = lake.read_day("shop", "decisions", FIRST_DAY).to_pylist()
    assert {(row["kind"], row["decision"]) for row in rows} == {
        ("request", "started"),
        ("request", "failed"),
    }
    (failed,) = [row for row in rows if row["decision"] == "failed"]
    assert run.run_id in failed["reasons"][0]


def test_features_start_once_when_all_tables_of_a_local_day_are_there_and_two_models_follow(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    *loaded, new, _ = club.DAYS
    tell: Callable[[str], None] = lambda _: None  # noqa: E731
    known = f"{loaded[0]}..{loaded[-1]}"
    club.ingest(known)
    club.compute(known)
    club.put_in_charge(club.CLUB, loaded[-1])

    period = Period.parse(str(new))
    finish(client, start_backfill(client, club.CLUB, period, unpause=True, tell=tell).runs)
    for dag_id in (
        *(f"{club.CLUB}_{stage}" for stage in ("ingest", "features", "score")),
        *(f"{club.SPEND}_{stage}" for stage in ("labels", "score")),
    ):
        assert [run.partition_key for run in client.runs(dag_id)] == [str(new)], dag_id
    # There is nothing to score by yet.
    (skipped,) = client.runs(f"{club.SPEND}_score")
    assert skipped.state == "success"
    assert len(client.tasks(f"{club.SPEND}_score", skipped.run_id, state="skipped")) == 6
    assert not lake.exists(club.SPEND, "predictions")
    club.put_in_charge(club.SPEND, loaded[-1])
    finish(client, start_run(client, f"{club.SPEND}_score", day=str(new), tell=tell).runs)
    for use_case in (club.CLUB, club.SPEND):
        assert list(lake.partitions(use_case, "predictions")) == [new]
        assert new - timedelta(days=club.HORIZON) in lake.partitions(use_case, "labels")
        club.night(use_case, new)
        assert find_stale(load_use_case(use_case)) == []


@pytest.mark.e2e
def test_a_history_of_several_tables_trains_both_models_through_airflow(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    tell: Callable[[str], None] = lambda _: None  # noqa: E731
    *loaded, _, last = club.DAYS
    conf = {"from": str(loaded[0]), "to": str(last)}
    for use_case in (club.CLUB, club.SPEND):
        finish(client, start_run(client, f"{use_case}_history", conf=conf, tell=tell).runs)
        started = start_run(client, f"{use_case}_train", day=str(last), tell=tell)
        finish(client, started.runs)
        judged = client.xcom(f"{use_case}_train", started.runs[0].run_id, "judge_challenger")
        assert judged["evidence"]["counts"]["rows"] >= 30
    assert lake.partitions(club.CLUB, "features").keys() == {*club.DAYS}
    assert find_stale(load_use_case(club.CLUB)) == []


@pytest.mark.e2e
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
    started = start_run(
        client, "shop_ingest", day=str(FIRST_DAY), unpause=True, tell=lambda _: None
    )
    runs = follow(client, started.runs, lambda _: None, timeout_seconds=SECONDS)
    ended = {run.dag_id: run.state for run in runs}
    # Alone, this test has no champion that could score.
    assert (ended["shop_ingest"], ended["shop_features"]) == ("success", "success")


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


def test_a_misspelt_parameter_is_refused_here_and_there(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    conf = {"form": "2025-01-02", "to": "2025-01-03"}
    with pytest.raises(ConfigError, match=r"no parameter form; it knows from, to\. Nothing was"):
        start_run(client, "shop_history", conf=conf, tell=lambda _: None)
    with pytest.raises(ConfigError, match="no DAG 'shop_histroy'"):
        start_run(client, "shop_histroy", tell=lambda _: None)
    told: list[str] = []
    (run,) = follow(client, [client.trigger("shop_history", conf=conf)], told.append)
    assert run.state == "failed"
    assert {
        (task.task_id, task.try_number)
        for task in client.tasks("shop_history", run.run_id)
        if task.state == "failed"
    } == {("orders.stage_rows", 1)}
    assert "The run was given form, which its DAG does not know; it knows from, to." in "\n".join(
        told
    )


def test_a_day_without_data_through_airflow(chain: tuple[Settings, AirflowClient]) -> None:
    _, client = chain
    told: list[str] = []
    started = start_run(
        client,
        "shop_ingest",
        day=str(NEW_DAYS[0]),
        conf={"without_data": "stocktaking"},
        tell=told.append,
    )
    (run,) = follow(client, started.runs, told.append)
    assert run.state == "failed"
    assert "cannot be declared a day without data" in "\n".join(told)


def test_a_night_starts_the_features_that_are_owed(
    chain: tuple[Settings, AirflowClient],
) -> None:
    _, client = chain
    tell: Callable[[str], None] = lambda _: None  # noqa: E731
    owed = [NEW_DAYS[-1] + timedelta(days=n) for n in (1, 2)]
    # While it is paused, it receives no event.
    client.set_paused("shop_features", paused=True)
    period = Period(owed[0], owed[-1] + timedelta(days=1))
    finish(client, start_backfill(client, "shop", period, unpause=True, tell=tell).runs)
    client.set_paused("shop_features", paused=False)
    assert not {str(day) for day in owed} & runs_by_key(client, "features").keys()

    night = Period(owed[-1], owed[-1] + timedelta(days=1))
    (run,) = follow(
        client,
        start_backfill(client, "shop_monitor", night, unpause=True, tell=tell).runs,
        tell,
        timeout_seconds=SECONDS,
    )
    # The night tells its incident, and goes on beside it.
    assert run.state == "failed"
    keys = [str(day) for day in owed]
    assert client.xcom("shop_monitor", run.run_id, "choose_owed_features") == keys
    deadline = time.monotonic() + SECONDS
    while not {*owed} <= lake.partitions("shop", "predictions").keys():
        assert time.monotonic() < deadline, "the owed days never came"
        time.sleep(1)
    started = runs_by_key(client, "features")
    assert {key: len(started[key]) for key in keys} == dict.fromkeys(keys, 1)
    assert runs_by_key(client, "score").keys() >= {*keys}
