"""The demo: two years of orders, a first champion, two weeks of daily runs, a change of habits.

Then a second model, of spend, on the same tables and features.

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
from evergreen.ops.local.runs import Started, Tell, follow, start_backfill, start_run
from evergreen.provenance import commands, receipts
from evergreen.release import ledger
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from evergreen.sources.bounds import oracle_no_purchase, posterior_no_purchase

USE_CASE, SECOND, ORDERS = "churn", "spend", "orders"
# Daily runs before habits change; the rest of the days show how the monitor takes it.
CALM_DAYS = 5
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


def run_demo(settings: Settings, *, days: int) -> None:
    """Run the whole chain and write `EVERGREEN_HOME/demo/summary.json`.

    Raises
    ------
    BusyError
        Another command is at work on the data directory.
    ConfigError
        The data directory holds data that no demo made, or an Airflow that runs.
    PermanentError
        A run failed; what was told before names the task and its error.
    """
    with home.claimed(settings):
        _run_demo(settings, days)


def _run_demo(settings: Settings, days: int) -> None:
    declared = load_use_case(USE_CASE)
    first, calm_until, last = _calendar(declared, days)
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
        client.wait_for_dags(f"{USE_CASE}_monitor", f"{USE_CASE}_history", f"{SECOND}_score")
        watch.tell(f"watch it: {instance.url}  ({instance.username} / {instance.password})")
    try:
        with memory:
            requested = _run_chain(client, watch, first, calm_until, last)
        summary = _summarise(declared, requested, calm_until, last)
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


def _run_chain(
    client: AirflowClient,
    watch: _Stopwatch,
    first: date,
    calm_until: date,
    last: date,
) -> dict[str, Any]:
    history_end = calm_until - timedelta(days=CALM_DAYS)
    period = Period(history_end + timedelta(days=1), last + timedelta(days=1))
    tell = watch.tell
    with watch.phase("history", f"Loading {first} .. {history_end} in one run"):
        conf = {"from": str(first), "to": str(history_end)}
        _finish(client, start_run(client, f"{USE_CASE}_history", conf=conf, tell=tell), tell)
    with watch.phase("training", f"Training the first model on what was known on {history_end}"):
        started = start_run(client, f"{USE_CASE}_train", day=str(history_end), tell=tell)
        (run,) = _finish(client, started, tell)
        _verdict(client, run, tell)
    with watch.phase(
        "daily", f"Backfilling {len(period.days)} days; features and scores follow by asset events"
    ):
        tell(f"$ {commands.backfill(USE_CASE, period)}")
        _finish(client, start_backfill(client, USE_CASE, period, unpause=True, tell=tell), tell)
    with watch.phase(
        "nights", f"Monitoring the {len(period.days)} nights; the governor may request retraining"
    ):
        nights = start_backfill(client, f"{USE_CASE}_monitor", period, unpause=True, tell=tell)
        runs = _finish(client, nights, tell)
    with watch.phase("second_model", "Training what customers will spend, on the same features"):
        conf = {"from": str(first), "to": str(last)}
        _finish(client, start_run(client, f"{SECOND}_history", conf=conf, tell=tell), tell)
        (run,) = _finish(
            client, start_run(client, f"{SECOND}_train", day=str(last), tell=tell), tell
        )
        _verdict(client, run, tell)
        _finish(client, start_run(client, f"{SECOND}_score", day=str(last), tell=tell), tell)
    for stage in ("ingest", "monitor"):
        client.set_paused(f"{USE_CASE}_{stage}", paused=True)
    requested = [run for run in runs if run.dag_id == f"{USE_CASE}_train"]
    if not requested:
        return {"requested": False, "reason": None, "verdict": None}
    run = requested[-1]
    request = client.xcom(run.dag_id, run.run_id, "accept_request")
    tell(request["reason"])
    judged = _verdict(client, run, tell)
    return {
        "requested": True,
        "day": run.partition_key,
        "reason": request["reason"],
        "verdict": judged["decision"],
        "verdict_reasons": judged["reasons"],
        "verdict_checks": len(judged["verdict"]["checks"]),
        "version": judged["version"],
    }


def _finish(client: AirflowClient, started: Started, tell: Tell) -> list[Run]:
    runs = follow(client, started.runs, tell, timeout_seconds=RUN_SECONDS)
    if failed := [run for run in runs if run.state != "success"]:
        raise PermanentError(
            f"{len(failed)} of {len(runs)} runs failed, first {failed[0].dag_id} for "
            f"{failed[0].partition_key or failed[0].run_id}; the lines above name task and error."
        )
    return runs


def _verdict(client: AirflowClient, run: Run, tell: Tell) -> dict[str, Any]:
    judged: dict[str, Any] = client.xcom(run.dag_id, run.run_id, "judge_challenger")
    tell(f"version {judged['version']}: {judged['decision']}")
    return judged


def _calendar(use_case: UseCase, days: int) -> tuple[date, date, date]:
    """Return the first day, the last calm day, and the last day of the demo."""
    source = use_case.events[ORDERS].source
    if not isinstance(source, GeneratorSource) or source.regime_change is None:
        raise ConfigError(
            f"The demo needs {USE_CASE} to use the generator with a regime change; found source "
            f"kind {source.kind}. Restore include/use_cases/{USE_CASE}/use_case.yaml."
        )
    calm_until = source.regime_change.day - timedelta(days=1)
    return use_case.first_day, calm_until, calm_until + timedelta(days=days - CALM_DAYS)


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
        sorted(path.name for path in warehouse.iterdir() if path.name not in (USE_CASE, SECOND))
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


def _summarise(
    use_case: UseCase, retraining: dict[str, Any], calm_until: date, last: date
) -> dict[str, Any]:
    from evergreen.training.tracking import describe_version

    name = use_case.name
    rows: Counter[str] = Counter()
    for receipt in receipts.latest(name, f"publish_{ORDERS}").values():
        rows.update(receipt.counts)
    entry = ledger.champion(ledger.engine(), name)
    if entry is None:
        raise PermanentError("No model was promoted; see the reasons of the gate in `decisions`.")
    metrics = describe_version(use_case, entry.version).metrics
    decisions = lake.read(name, "decisions").to_pylist()
    if not retraining["requested"]:
        (night,) = [d for d in decisions if (d["kind"], d["day"]) == ("governor", last)]
        retraining = retraining | {"reason": "; ".join(night["reasons"])}
    night_of_drift, features = _drift(lake.read(name, "drift").to_pylist())
    return {
        "use_case": name,
        "days": {"first": use_case.first_day.isoformat(), "last": last.isoformat()},
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
        "champion": {
            "version": entry.version,
            "auc": round(metrics["holdout_auc"], 4),
            "baseline_auc": round(metrics["linear_auc"], 4),
            "recency_auc": round(metrics[f"{use_case.training.baselines[0]}_auc"], 4),
            **{name: round(auc, 4) for name, auc in _best_aucs(use_case, entry).items()},
        },
        "second": _second_model(),
        "regime_change": (calm_until + timedelta(days=1)).isoformat(),
        "drift": {"first_night": night_of_drift, "features": features},
        "retraining": retraining,
        "decisions": dict(Counter(f"{d['kind']}: {d['decision']}" for d in decisions)),
    }


def _second_model() -> dict[str, Any]:
    """Return the mean absolute error of the model of spend, and of its baselines."""
    from evergreen.training.tracking import describe_version

    use_case = load_use_case(SECOND)
    entry = ledger.champion(ledger.engine(), SECOND)
    if entry is None:
        return {"use_case": SECOND, "version": None}
    metrics = describe_version(use_case, entry.version).metrics
    errors = {of: round(metrics[f"{of}_mae"], 2) for of in ("holdout", "linear", "naive")}
    scored = lake.partitions(SECOND, "predictions")
    return {"use_case": SECOND, "version": entry.version, "mae": errors, "scored": len(scored)}


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


def _drift(rows: list[dict[str, Any]]) -> tuple[str | None, list[str]]:
    """Return the first night with drift and every feature that drifted on any night."""
    drifted = [row for row in rows if row["drifted"] and row["slice"] == "all"]
    nights = sorted({row["day"].isoformat() for row in drifted})
    return (nights[0] if nights else None), sorted({row["feature"] for row in drifted})


def _show(summary: dict[str, Any], path: Path) -> None:
    rows, champion, drift = summary["rows"], summary["champion"], summary["drift"]
    retraining, seconds = summary["retraining"], summary["seconds"]
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
    line(
        "Champion",
        f"version {champion['version']}: AUC {champion['auc']:.3f} on the holdout; a linear model "
        f"{champion['baseline_auc']:.3f}, recency alone {champion['recency_auc']:.3f}, "
        f"the best from the orders {champion['posterior_auc']:.3f}, the truth behind them "
        f"{champion['oracle_auc']:.3f}",
    )
    second = summary["second"]
    line(
        "Second model",
        f"{second['use_case']}, version {second['version']}: mean error "
        f"{second['mae']['holdout']:.2f}; linear {second['mae']['linear']:.2f}, the mean "
        f"{second['mae']['naive']:.2f}"
        if second["version"]
        else f"{second['use_case']}: the gate refused it",
    )
    line("Habits change", summary["regime_change"])
    line(
        "Drift",
        f"first on {drift['first_night']}: {', '.join(drift['features'])}"
        if drift["first_night"]
        else "none",
    )
    line(
        "Retraining",
        f"requested for {retraining['day']}: {retraining['reason']}"
        if retraining["requested"]
        else f"not requested on {summary['days']['last']}: {retraining['reason']}",
    )
    if retraining["requested"]:
        why = (
            f"all {retraining['verdict_checks']} checks passed"
            if retraining["verdict"] == "promote"
            else "; ".join(retraining["verdict_reasons"])
        )
        line("Gate", f"version {retraining['version']}: {retraining['verdict']}; {why}")
    told = {name: value for name, value in seconds.items() if value is not None}
    line("Time", ", ".join(f"{name} {value:.0f} s" for name, value in told.items()))
    line("Peak memory", f"{summary['peak_memory_mb']:,} MB")
    console = Console()
    console.print()
    console.print(table)
    console.print(f"Summary: {path}")
    console.print("Open the UI on these runs with `make up`; `make status` shows the tables.")


@click.command()
@click.option("--days", type=click.IntRange(min=14), default=14, help="Days to backfill.")
def demo(days: int) -> None:
    """Run the whole chain under a real Airflow, and end with a summary."""
    run_demo(load_settings(), days=days)


if __name__ == "__main__":
    run_command(demo)
