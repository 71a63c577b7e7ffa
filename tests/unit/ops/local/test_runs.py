"""Starting and following runs, against an Airflow that answers from a table of its own."""

from __future__ import annotations

from datetime import date

import pytest

from evergreen.contract import Period
from evergreen.errors import ConfigError, ServiceDownError, TransientError
from evergreen.ops.local import runs as module
from evergreen.ops.local.airflow_client import AssetEvent, ConflictError, Dag, Run, Task
from evergreen.ops.local.runs import find_failed, follow, start_backfill, start_run

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]
PERIOD = Period.parse(f"{DAYS[0]}..{DAYS[-1]}")


class Airflow:
    """Ingest starts features by an event; each look at a run moves it on by one state."""

    url = "http://airflow"

    def __init__(self) -> None:
        self.all: dict[tuple[str, str], Run] = {}
        self.fails: set[tuple[str, str]] = set()
        self.paused: set[str] = set()
        self.conflicts = 0
        self.silent = False
        self.errors = 0
        self.at_once = False
        self.limits: list[int] = []

    def dag_ids(self) -> list[str]:
        return ["shop_features", "shop_ingest", "shop_release"]

    def dag(self, dag_id: str) -> Dag:
        params = {
            "shop_ingest": {"without_data": {"type": ["null", "string"]}},
            "shop_release": {"version": {"type": "integer"}, "reason": {"type": "string"}},
        }
        return Dag(
            dag_id,
            dag_id in self.paused,
            dag_id != "shop_release",
            dag_id == "shop_ingest",
            3,
            params.get(dag_id, {}),
        )

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        (self.paused.add if paused else self.paused.discard)(dag_id)

    def consumers(self) -> dict[str, list[str]]:
        return {"shop/orders": ["shop_features"], "shop/features": []}

    def new(self, dag_id: str, key: str | None, state: str = "queued", kind: str = "backfill"):
        run = Run(dag_id, f"{kind}__{len(self.all)}", kind, state, key, None)
        self.all[dag_id, run.run_id] = run
        return run

    def trigger(self, dag_id: str, *, conf: dict, partition_key: str | None) -> Run:
        self.conf = conf
        return self.new(dag_id, partition_key, kind="manual")

    def backfill(self, request) -> int:
        if self.conflicts:
            self.conflicts -= 1
            raise ConflictError("There is already a running backfill")
        dag_id = request["dag_id"]
        first, last = (date.fromisoformat(request[end][:10]) for end in ("from_date", "to_date"))
        self.limits.append(request["max_active_runs"])
        again = {"none": (), "failed": ("failed",), "completed": ("failed", "success")}[
            request["reprocess_behavior"]
        ]
        newest = {run.partition_key: run.state for run in self.all.values()}
        for day in [*Period(first, last).days, last]:
            state = newest.get(str(day))
            if state is None or state in again:
                self.new(dag_id, str(day))
        return 1

    def runs(self, dag_id: str = "~", **query: str) -> list[Run]:
        return [
            run
            for run in self.all.values()
            if dag_id in ("~", run.dag_id) and query.get("state", run.state) == run.state
        ]

    def run(self, dag_id: str, run_id: str) -> Run:
        run = self.all[dag_id, run_id]
        end = "failed" if (dag_id, str(run.partition_key)) in self.fails else "success"
        state = {"queued": "running", "running": end}.get(run.state, run.state)
        now = Run(dag_id, run_id, run.run_type, state, run.partition_key, None)
        self.all[dag_id, run_id] = now
        return now

    def events(self, dag_id: str, run_id: str) -> list[AssetEvent]:
        if self.errors:
            self.errors -= 1
            raise ServiceDownError("GET /assets/events: Airflow answered 500")
        key = self.all[dag_id, run_id].partition_key
        if dag_id != "shop_ingest":
            return [AssetEvent("shop/features", ())]
        started = [r for r in self.all if r[1] == f"by {run_id}"]
        if not started and not self.silent and "shop_features" not in self.paused:
            state = "running" if self.at_once else "queued"
            run = Run("shop_features", f"by {run_id}", "asset", state, key, None)
            self.all["shop_features", run.run_id] = run
        return [AssetEvent("shop/orders", tuple(started))]

    def tasks(self, dag_id: str, run_id: str, *, state: str | None = None) -> list[Task]:
        ended = self.all[dag_id, run_id].state
        found = Task(dag_id, run_id, "stage_rows", -1, ended, 1, 1.0)
        return [found] if ended in ("success", "failed") and state in (None, ended) else []

    def log(self, task: Task) -> str:
        return (
            "2026-03-01T00:00:00Z info starting\nValidationError: 3 of 4 rows\n"
            "  - quarantined: 3\n2026-03-01T00:00:00Z info ended"
        )


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    return Airflow()


def test_a_backfill_is_followed_through_what_it_sets_off(airflow: Airflow) -> None:
    told: list[str] = []
    started = start_backfill(airflow, "shop", PERIOD, tell=told.append)
    assert told == [f"shop_ingest: 3 runs for {PERIOD.label}, 3 at a time"]
    assert airflow.limits == [3]
    ended = follow(airflow, started.runs, told.append)
    assert told[-1] == "shop_ingest 3/3, shop_features 3/3"
    assert [(run.dag_id, run.partition_key) for run in ended] == [
        (dag, day) for dag in ("shop_ingest", "shop_features") for day in DAYS
    ]


def test_days_that_get_no_run_are_told_with_the_reason(airflow: Airflow) -> None:
    told: list[str] = []
    airflow.new("shop_ingest", DAYS[0], "failed")
    airflow.new("shop_ingest", DAYS[1], "success")
    airflow.new("shop_ingest", DAYS[2], "running")
    started = start_backfill(airflow, "shop", PERIOD, reprocess="none", tell=told.append)
    assert started.runs == []
    assert told == [
        "shop_ingest: 0 runs for no day, 3 at a time",
        f"  skipped: {DAYS[0]} has failed before; --reprocess failed runs it again"
        " (now: --reprocess none)",
        f"  skipped: {DAYS[2]} is running already (now: --reprocess none)",
        f"  skipped: {DAYS[1]} has succeeded before; --reprocess completed runs it again"
        " (now: --reprocess none)",
    ]
    # By default what failed runs again.
    started = start_backfill(airflow, "shop", PERIOD, tell=told.append)
    assert [run.partition_key for run in started.runs] == [DAYS[0]]


def test_an_earlier_backfill_is_waited_for(airflow: Airflow) -> None:
    told: list[str] = []
    airflow.conflicts = 2
    assert start_backfill(airflow, "shop", PERIOD, tell=told.append).runs
    assert told[0] == "Waiting for Airflow to close the earlier backfill of shop_ingest."
    assert len(told) == 2
    airflow.conflicts = 1
    with pytest.raises(ConfigError, match=f"being backfilled already.*{DAYS[0]}.*unfinished"):
        start_backfill(airflow, "shop", PERIOD, tell=told.append)


def test_a_failed_run_is_explained_by_its_error(airflow: Airflow) -> None:
    told: list[str] = []
    airflow.fails = {("shop_ingest", DAYS[1])}
    ended = follow(
        airflow, start_backfill(airflow, "shop", PERIOD, tell=told.append).runs, told.append
    )
    assert sorted(run.state for run in ended) == ["failed", *["success"] * 4]
    assert told[-1] == "shop_ingest 2/3 (1 failed), shop_features 2/2"
    at = told.index(f"  shop_ingest {DAYS[1]}: stage_rows failed")
    assert told[at + 1 :] == [
        "    ValidationError: 3 of 4 rows",
        "      - quarantined: 3",
        *told[at + 3 :],
    ]
    assert "ended" not in "".join(told)
    (failure,) = find_failed(airflow)
    assert (failure.dag_id, failure.what) == ("shop_ingest", DAYS[1])
    assert failure.mend == (f"evergreen backfill shop {DAYS[1]} {DAYS[1]}",)
    airflow.new("shop_ingest", DAYS[1], "running")
    assert find_failed(airflow) == []
    airflow.new("shop_features", DAYS[2], "failed")
    (failure,) = find_failed(airflow)
    assert failure.mend == (f"evergreen backfill shop {DAYS[2]} {DAYS[2]} --reprocess completed",)


def test_a_run_that_ended_before_it_was_seen_is_explained_too(airflow: Airflow) -> None:
    told: list[str] = []
    airflow.at_once = True
    airflow.fails = {("shop_features", DAYS[0])}
    started = start_run(airflow, "shop_ingest", day=DAYS[0], tell=told.append)
    follow(airflow, started.runs, told.append)
    assert f"  shop_features {DAYS[0]}: stage_rows failed" in told


def test_the_tasks_of_a_single_run_are_told_when_they_end(airflow: Airflow) -> None:
    told: list[str] = []
    started = start_run(airflow, "shop_ingest", day=DAYS[0], tell=told.append)
    follow(airflow, started.runs, told.append)
    assert [line.split() for line in told if "stage_rows" in line] == [
        ["stage_rows", "success", "1.0", "s"]
    ]


def test_a_paused_consumer_is_named_and_not_waited_for(airflow: Airflow) -> None:
    told: list[str] = []
    airflow.paused = {"shop_features"}
    started = start_run(airflow, "shop_ingest", day=DAYS[0], tell=told.append)
    assert [run.dag_id for run in follow(airflow, started.runs, told.append)] == ["shop_ingest"]
    assert "shop_features is paused and takes no events: it does not follow." in told


def test_an_event_that_starts_nothing_is_an_error(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow.silent = True
    monkeypatch.setattr(module, "_START_SECONDS", -1)
    started = start_run(airflow, "shop_ingest", day=DAYS[0], tell=lambda _: None)
    with pytest.raises(TransientError, match="shop_features was not started by shop_ingest"):
        follow(airflow, started.runs, lambda _: None)


def test_an_airflow_that_errs_for_a_while_is_followed_on(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    airflow.errors = 5
    started = start_run(airflow, "shop_ingest", day=DAYS[0], tell=told.append)
    ended = follow(airflow, started.runs, told.append)
    assert [run.state for run in ended] == ["success", "success"]
    # Only what lasts is told.
    assert told.count("GET /assets/events: Airflow answered 500") == 0
    assert told[-1] == "shop_ingest 1/1, shop_features 1/1"

    airflow.errors = 5
    monkeypatch.setattr(module, "_HICCUP_SECONDS", -1)
    started = start_run(airflow, "shop_ingest", day=DAYS[1], tell=told.append)
    follow(airflow, started.runs, told.append)
    assert told.count("GET /assets/events: Airflow answered 500") == 1

    airflow.errors = 5
    monkeypatch.setattr(module, "_OUTAGE_SECONDS", -1)
    started = start_run(airflow, "shop_ingest", day=DAYS[2], tell=told.append)
    with pytest.raises(ServiceDownError, match="answered 500"):
        follow(airflow, started.runs, told.append)


def test_runs_that_wait_in_a_queue_are_waited_for(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an event one of whose runs is queued, Airflow answers 500."""
    told: list[str] = []
    events, refused = airflow.events, []

    def last_features_done() -> bool:
        features = [r for r in airflow.all.values() if r.dag_id == "shop_features"]
        return any(run.partition_key == DAYS[2] and run.state == "success" for run in features)

    def events_of_started(dag_id: str, run_id: str) -> list[AssetEvent]:
        first = airflow.all[dag_id, run_id].partition_key == DAYS[0]
        if first and not last_features_done():
            refused.append(run_id)
            raise ServiceDownError("GET /assets/events: Airflow answered 500")
        return events(dag_id, run_id)

    airflow.events = events_of_started
    monkeypatch.setattr(module, "_OUTAGE_SECONDS", -1)
    started = start_backfill(airflow, "shop", PERIOD, tell=told.append)
    assert len(follow(airflow, started.runs, told.append)) == 6
    assert len(refused) > 1 and "500" not in "".join(told)


def test_a_paused_dag_is_said_to_be(airflow: Airflow) -> None:
    airflow.paused = {"shop_ingest"}
    assert start_run(airflow, "shop_ingest", day=DAYS[0], tell=lambda _: None).paused
    assert not start_run(
        airflow, "shop_ingest", day=DAYS[0], unpause=True, tell=lambda _: None
    ).paused
    assert airflow.paused == set()


def test_parameters_are_typed_and_unknown_ones_refused(airflow: Airflow) -> None:
    conf = {"version": "3", "reason": "12345"}
    start_run(airflow, "shop_release", conf=conf, tell=lambda _: None)
    assert airflow.conf == {"version": 3, "reason": "12345"}
    with pytest.raises(ConfigError, match=r"no parameter versoin; it knows reason, version"):
        start_run(airflow, "shop_release", conf={"versoin": "3"}, tell=lambda _: None)
    with pytest.raises(ConfigError, match="no parameter day"):
        start_run(airflow, "shop_release", day=DAYS[0], tell=lambda _: None)
    with pytest.raises(ConfigError, match="YYYY-MM-DD"):
        start_run(airflow, "shop_ingest", day="20260301", tell=lambda _: None)
    with pytest.raises(ConfigError, match="no parameter x; it knows without_data"):
        start_backfill(airflow, "shop", PERIOD, conf={"x": "1"}, tell=lambda _: None)
    with pytest.raises(ConfigError, match="Backfill what it follows"):
        start_backfill(airflow, "shop_features", PERIOD, tell=lambda _: None)
    assert all(run.dag_id == "shop_release" for run in airflow.all.values())
