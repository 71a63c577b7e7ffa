"""The demo: what happens when customers change their habits, from first alarm to recovery.

Nine months of orders, a first champion, and a change. Drift is alarmed, what can be learned is
waited for, performance has fallen, a challenger is asked for and judged, and its scores are held
against those the former champion would have given.

Everything goes through a real Airflow: this module only triggers runs, waits for them, and reads
the tables afterwards. It starts from nothing each time, and only ever removes what a demo made.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from evergreen import lake
from evergreen.cli import run_command
from evergreen.contract import GeneratorSource, Period, UseCase, load_use_case
from evergreen.errors import ConfigError, PermanentError
from evergreen.ops import deploy
from evergreen.ops.local import airflow, home, postgres
from evergreen.ops.local.airflow_client import AirflowClient, Run, connect
from evergreen.ops.local.runs import follow, start_backfill, start_run
from evergreen.provenance import commands, receipts
from evergreen.release import ledger
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from evergreen.sources.bounds import oracle_no_purchase, posterior_no_purchase

USE_CASE, ORDERS = "coffee", "orders"
# Days that are run one by one before habits change, and from then on: nights look at the first of
# them, and the scores of all are judged by their labels later.
CALM_DAYS, NIGHTS, CHANGED_DAYS = 2, 2, 6
RUN_SECONDS = 1_200

_OURS = ("airflow", "artifacts", "demo", "postgres", "quality", "reports", "staging", "warehouse")


@dataclass
class _Stopwatch:
    """Wall time per phase, in seconds."""

    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, title: str) -> Iterator[None]:
        click.echo(f"\n{self.total:5.0f} s  {title}")
        begun = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begun, 1)

    def tell(self, text: str) -> None:
        click.echo(f"{self.total:5.0f} s    {text}")

    @property
    def total(self) -> float:
        return time.monotonic() - self.started


def run_demo(settings: Settings) -> None:
    """Run the whole chain and write `EVERGREEN_HOME/demo/summary.json`.

    Raises
    ------
    BusyError
        Another command is at work on the data directory.
    ConfigError
        The data directory holds data that no demo made, or an Airflow that runs.
    PermanentError
        A run failed, and what was told before names the task and its error; or the nights said
        nothing of the change.
    """
    with home.claimed(settings):
        _run_demo(settings)


def _run_demo(settings: Settings) -> None:
    declared = load_use_case(USE_CASE)
    changed = _day_of_change(declared)
    watch = _Stopwatch()
    click.echo(f"Emptying {settings.home}")
    _start_over(settings)
    memory = _MemoryMeter(settings)
    with watch.phase("services", "Starting Postgres and Airflow"):
        postgres.start(settings)
        for line in deploy.initialise(settings):
            watch.tell(line)
        instance = airflow.start(settings, tell=watch.tell)
        client = connect(settings)
        client.wait_for_dags(f"{USE_CASE}_monitor", f"{USE_CASE}_history", f"{USE_CASE}_score")
        watch.tell(f"watch it: {instance.url}  ({instance.username} / {instance.password})")
    try:
        with memory:
            _Story(client, watch, declared, changed).run()
        summary = _summarise(declared, changed)
        summary["seconds"] = {
            "setup": _setup_seconds(),
            **watch.seconds,
            "total": round(watch.total, 1),
        }
        summary["peak_memory_mb"] = memory.peak_mb
        path = settings.home / "demo" / "summary.json"
        path.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")
        _show(summary, path)
    finally:
        deploy.stop_services(settings)


@dataclass(frozen=True)
class _Story:
    """Days and nights around a change of habits, through Airflow."""

    client: AirflowClient
    watch: _Stopwatch
    use_case: UseCase
    changed: date

    def run(self) -> None:
        """Run all of it.

        Days between come in one run each time (`coffee_history`), and are not scored.
        """
        change = self.changed
        known, seen = _after(change, -CALM_DAYS - 1), _after(change, NIGHTS - 1)
        scored = _after(change, CHANGED_DAYS - 1)
        with self.watch.phase(
            "history", f"Loading {self.use_case.first_day} .. {known} in one run"
        ):
            self._load(self.use_case.first_day, known)
        with self.watch.phase("training", f"Training the first model on what was known on {known}"):
            self._train(known)
        with self.watch.phase("days", f"Running days; on {change} habits change"):
            self._days(_after(known, 1), seen)
        with self.watch.phase("nights", f"Monitoring the nights up to {seen}"):
            self._nights(_after(change, -1), seen)
            alarm = _verdict_of(seen)
            if alarm["learnable_from"] is None:
                raise PermanentError(f"Nothing was alarmed by {seen}: {alarm['reasons']}")
        learnable = date.fromisoformat(alarm["learnable_from"])
        with self.watch.phase("retraining", f"Time passes, until {learnable}"):
            self._load(_after(seen, 1), learnable)
            # Labels of the first will be known by then, and tell what the change costs.
            self._score(*Period(_after(seen, 1), _after(scored, 1)).days, learnable)
            self._nights(learnable, learnable)
        with self.watch.phase("effect", "Time passes, until labels of the next day are known"):
            first = _after(learnable, 1)
            last = _after(first, self.use_case.target.horizon_days)
            self._load(first, last)
            self._score(first, last)
            self._nights(last, last)
        for stage in ("ingest", "monitor"):
            self.client.set_paused(f"{USE_CASE}_{stage}", paused=True)

    def _load(self, first: date, last: date) -> None:
        conf = {"from": str(first), "to": str(last)}
        started = start_run(self.client, f"{USE_CASE}_history", conf=conf, tell=self._tell)
        self._finish(started.runs)

    def _score(self, *days: date) -> None:
        started = [
            start_run(self.client, f"{USE_CASE}_score", day=str(day), tell=self._tell).runs
            for day in days
        ]
        self._finish([*chain.from_iterable(started)])

    def _days(self, first: date, last: date) -> None:
        """Run days through ingestion; features and scores follow by asset events."""
        self._backfill(USE_CASE, Period(first, _after(last, 1)))

    def _nights(self, first: date, last: date) -> None:
        """Run nights, and a training that the last one may ask for; tell what that one decided."""
        runs = self._backfill(f"{USE_CASE}_monitor", Period(first, _after(last, 1)))
        for reason in _verdict_of(last)["reasons"]:
            self._tell(f"night of {last}: {reason}")
        for run in runs:
            if run.dag_id == f"{USE_CASE}_train":
                self._tell_gate(run)

    def _backfill(self, what: str, period: Period) -> list[Run]:
        self._tell(f"$ {commands.backfill(what, period)}")
        started = start_backfill(self.client, what, period, unpause=True, tell=self._tell)
        return self._finish(started.runs)

    def _train(self, day: date) -> None:
        started = start_run(self.client, f"{USE_CASE}_train", day=str(day), tell=self._tell)
        (run,) = self._finish(started.runs)
        self._tell_gate(run)

    def _tell_gate(self, run: Run) -> None:
        judged = self.client.xcom(run.dag_id, run.run_id, "judge_challenger")
        self._tell(f"version {judged['version']}: {judged['decision']}")

    def _finish(self, started: list[Run]) -> list[Run]:
        """Follow runs to their end; all must succeed."""
        runs = follow(self.client, started, self._tell, timeout_seconds=RUN_SECONDS)
        if failed := [run for run in runs if run.state != "success"]:
            raise PermanentError(
                f"{len(failed)} of {len(runs)} runs failed, first {failed[0].dag_id} for "
                f"{failed[0].partition_key or failed[0].run_id}; the lines above name task and "
                "error."
            )
        return runs

    def _tell(self, text: str) -> None:
        self.watch.tell(text)


def _after(day: date, days: int) -> date:
    return day + timedelta(days=days)


def _day_of_change(use_case: UseCase) -> date:
    source = use_case.events[ORDERS].source
    if not isinstance(source, GeneratorSource) or source.regime_change is None:
        raise ConfigError(
            f"The demo needs {USE_CASE} to use the generator with a regime change; found source "
            f"kind {source.kind}. Restore include/use_cases/{USE_CASE}/use_case.yaml."
        )
    return source.regime_change.day


def _setup_seconds() -> float | None:
    """Seconds the last `make setup` took; it is not part of the total. None without make."""
    stamp = PROJECT_ROOT / ".venv" / ".ready"
    text = stamp.read_text().strip() if stamp.is_file() else ""
    return float(text) if text else None


def _start_over(settings: Settings) -> None:
    """Remove what an earlier demo left; refuse to touch anything else."""
    folder, marker = settings.home, settings.home / "demo" / "made-by-demo"
    found = sorted(path.name for path in folder.iterdir() if path.name in _OURS)
    warehouse = folder / "warehouse"
    foreign = (
        sorted(path.name for path in warehouse.iterdir() if path.name != USE_CASE)
        if warehouse.is_dir()
        else []
    )
    if (found and not marker.exists()) or foreign:
        raise ConfigError(
            f"{folder} holds data that no demo made ({', '.join(foreign or found)}), and the demo "
            "starts from nothing. Give it a directory of its own: "
            "EVERGREEN_HOME=/tmp/evergreen-demo make demo"
        )
    if running := airflow.find(settings):
        raise ConfigError(
            f"Airflow runs on {folder} ({running.url}), and the demo starts from nothing. Stop it "
            "with `make down`, or give the demo a directory of its own: "
            "EVERGREEN_HOME=/tmp/evergreen-demo make demo"
        )
    deploy.stop_services(settings)
    for name in _OURS:
        shutil.rmtree(folder / name, ignore_errors=True)
    marker.parent.mkdir(parents=True)
    marker.touch()


class _MemoryMeter:
    """Greatest sum of the memory of all processes of this data directory, in MB.

    Proportional set size: memory shared by several processes is counted once.
    """

    def __init__(self, settings: Settings) -> None:
        self._home = str(settings.home)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(2):
            self.peak_mb = max(self.peak_mb, round(sum(self._sizes()) / 2**20))

    def _sizes(self) -> Iterator[int]:
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("EVERGREEN_HOME") == self._home
                if ours or any(self._home in word for word in process.cmdline()):
                    yield process.memory_full_info().pss
            except psutil.Error:
                continue


# --- the summary ---------------------------------------------------------------------------------


def _summarise(use_case: UseCase, changed: date) -> dict[str, Any]:
    name = use_case.name
    rows: Counter[str] = Counter()
    for receipt in receipts.latest(name, f"publish_{ORDERS}").values():
        rows.update(receipt.counts)
    entries = ledger.entries(ledger.engine(), name)
    if not entries:
        raise PermanentError("No model was promoted; see the reasons of the gate in `decisions`.")
    decisions = lake.read(name, "decisions").to_pylist()
    nights = [_verdict_of(day) | {"day": day} for day in _days_of(decisions, "governor")]
    alarmed = next((night for night in nights if "drift" in night["triggers"]), None)
    asked = next((night for night in nights if night["decision"] == "retrain"), None)
    return {
        "use_case": name,
        "days": {
            "first": use_case.first_day.isoformat(),
            "last": max(_days_of(decisions, "governor")).isoformat(),
        },
        "rows": {
            "in": rows["rows_in"],
            "accepted": rows["accepted"],
            "quarantined": rows["quarantined"],
            "duplicates": rows["duplicates"],
        },
        "partitions": {
            table: len(lake.partitions(name, table))
            for table in (ORDERS, "features", "predictions")
        },
        "champions": [_champion(use_case, entry) for entry in entries],
        "regime_change": changed.isoformat(),
        "drift": _drift(lake.read(name, "drift").to_pylist()),
        "alarm": alarmed and {"night": str(alarmed["day"]), "reasons": _drifted(alarmed)},
        "learnable_from": next(
            (night["learnable_from"] for night in nights if night["learnable_from"]), None
        ),
        "degradation": _degradation(use_case, lake.read(name, "performance").to_pylist()),
        "retraining": asked and {"day": str(asked["day"]), "reasons": asked["reasons"]},
        "verdicts": _told(decisions, "gate"),
        "effects": _told(decisions, "effect"),
        "decisions": dict(Counter(f"{d['kind']}: {d['decision']}" for d in decisions)),
    }


def _days_of(decisions: list[dict[str, Any]], kind: str) -> list[date]:
    return sorted({row["day"] for row in decisions if row["kind"] == kind})


def _verdict_of(day: date) -> dict[str, Any]:
    """Return what the governor decided on a night."""
    rows = lake.read_day(USE_CASE, "decisions", day).to_pylist()
    verdict: dict[str, Any] = next(
        json.loads(row["verdict"]) for row in rows if row["kind"] == "governor"
    )
    return verdict


def _drifted(verdict: dict[str, Any]) -> list[str]:
    return [reason for reason in verdict["reasons"] if reason.startswith("drift: ")]


def _told(decisions: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    rows = sorted((row for row in decisions if row["kind"] == kind), key=lambda row: row["version"])
    return [{key: row[key] for key in ("version", "decision", "reasons")} for row in rows]


def _champion(use_case: UseCase, entry: ledger.Entry) -> dict[str, Any]:
    """AUC of a champion on its holdout, of its baselines, and the best that anyone could reach."""
    from evergreen.training.tracking import describe_version

    metrics = describe_version(use_case, entry.version).metrics
    baseline = use_case.training.baselines[0]
    return {
        "version": entry.version,
        "auc": round(metrics["holdout_auc"], 4),
        "baseline_auc": round(metrics["linear_auc"], 4),
        "recency_auc": round(metrics[f"{baseline}_auc"], 4),
        **{name: round(auc, 4) for name, auc in _best_aucs(use_case, entry).items()},
    }


def _degradation(use_case: UseCase, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return how far the main metric had fallen on the newest day that counts as degraded."""
    degraded = [row for row in rows if row["degraded"] and row["slice"] == "all"]
    if not degraded:
        return None
    row = max(degraded, key=lambda row: row["day"])
    keys = ("metric", "value", "lower", "upper", "holdout", "rows")
    return {"day": str(row["day"]), **{key: row[key] for key in keys}}


def _best_aucs(use_case: UseCase, entry: ledger.Entry) -> dict[str, float]:
    """AUC of what the orders tell, and of the truth behind them, on the champion's holdout."""
    as_of = datetime.fromisoformat(json.loads(entry.evidence)["evidence"]["holdout_as_of"])
    labels = lake.read_day(use_case.name, "labels", use_case.day_of(as_of))
    measured = {}
    for name, bound in (("posterior", posterior_no_purchase), ("oracle", oracle_no_purchase)):
        best = bound(use_case.events[ORDERS], as_of, use_case.target.horizon_days)
        known = labels.join(best, use_case.entity.key, join_type="inner")
        scores = known["probability"].to_numpy()
        measured[f"{name}_auc"] = use_case.target.measure(known["label"].to_numpy(), scores)["auc"]
    return measured


def _drift(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the first night with drift and every feature that drifted on any night."""
    drifted = [row for row in rows if row["drifted"] and row["slice"] == "all"]
    return {
        "first_night": min((row["day"].isoformat() for row in drifted), default=None),
        "features": sorted({row["feature"] for row in drifted}),
    }


def _show(summary: dict[str, Any], path: Path) -> None:
    rows, drift, seconds = summary["rows"], summary["drift"], summary["seconds"]
    table = Table(title="Evergreen, from orders to decisions", show_header=False, min_width=84)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    line: Callable[[str, str], None] = table.add_row
    line("Days", f"{summary['days']['first']} .. {summary['days']['last']}")
    line(
        "Source rows",
        f"{rows['in']:,} = {rows['accepted']:,} accepted + {rows['quarantined']:,} quarantined "
        f"+ {rows['duplicates']:,} duplicates",
    )
    line("Partitions", ", ".join(f"{n} {t}" for t, n in summary["partitions"].items()))
    for champion in summary["champions"]:
        line(
            "Champion",
            f"version {champion['version']}: AUC {champion['auc']:.3f} on its holdout; a linear "
            f"model {champion['baseline_auc']:.3f}, recency alone {champion['recency_auc']:.3f}, "
            f"the best from the orders {champion['posterior_auc']:.3f}, the truth behind them "
            f"{champion['oracle_auc']:.3f}",
        )
    line("Habits change", summary["regime_change"])
    line(
        "Drift",
        f"first on {drift['first_night']}: {', '.join(drift['features'])}"
        if drift["first_night"]
        else "none",
    )
    alarm = summary["alarm"]
    line("Alarm", f"on {alarm['night']}; {alarm['reasons'][0]}" if alarm else "none")
    line("Learnable from", summary["learnable_from"] or "no change is known")
    fallen = summary["degradation"]
    line(
        "Performance",
        f"{fallen['metric']} {fallen['value']:.3f} ({fallen['lower']:.3f} to {fallen['upper']:.3f})"
        f" on {fallen['day']}, against {fallen['holdout']:.3f} on the holdout"
        if fallen
        else "no day has degraded",
    )
    asked = summary["retraining"]
    line("Retraining", f"on {asked['day']}; {asked['reasons'][0]}" if asked else "none")
    for verdict in summary["verdicts"][1:]:
        beside = [reason for reason in verdict["reasons"] if "champion" in reason]
        reasons = beside if verdict["decision"] == "promote" else verdict["reasons"]
        line("Gate", f"version {verdict['version']}: {verdict['decision']}; {'; '.join(reasons)}")
    for effect in summary["effects"]:
        line("Effect", f"{effect['decision']}: {'; '.join(effect['reasons'])}")
    told = {name: value for name, value in seconds.items() if value is not None}
    line("Time", ", ".join(f"{name} {value:.0f} s" for name, value in told.items()))
    line("Peak memory", f"{summary['peak_memory_mb']:,} MB")
    console = Console()
    console.print()
    console.print(table)
    console.print(f"Summary: {path}")
    console.print("Open the UI on these runs with `make up`; `make status` shows the tables.")


@click.command()
def demo() -> None:
    """Run the whole chain under a real Airflow, and end with a summary."""
    run_demo(load_settings())


if __name__ == "__main__":
    run_command(demo)
