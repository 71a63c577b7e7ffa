"""What history costs: many days at once against one by one, one more day, and peak memory.

Three questions, each on tables of its own:

1. Two years in one run (the steps of `<use_case>_history`) against day by day: time and content.
2. The cost of one more day as history grows tenfold, with `daily` declared and without.
3. Peak memory of loading 1, 3 and 10 times as many rows in one run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.bench import report, workspace
from evergreen import lake, steps
from evergreen.contract import Period, load_use_case
from evergreen.lake import content
from evergreen.provenance import receipts
from evergreen.settings import PROJECT_ROOT, load_settings

CHURN = PROJECT_ROOT / "include" / "use_cases" / "churn"
_ONE_DAY = timedelta(days=1)
FIRST = date(2018, 1, 1)

# Title, columns, rows and further figures of a report.
Answer = tuple[str, Sequence[str], list[tuple[Any, ...]], dict[str, Any]]

TWO_YEARS = 730
# All 730 would take a quarter of an hour; a day costs the same wherever it lies.
ONE_BY_ONE = 60
CUSTOMERS = 600
HISTORY_DAYS = (200, 630, 2000)
ORDERS_PER_DAY = 200
POOL = 800
MEMORY_DAYS = 73

# The same features as churn's, from single orders: the SQL of a use case without `daily`.
CUSTOMER_DAYS = """
WITH orders_daily AS (
    SELECT
        customer_id,
        ordered_at::DATE AS day,
        count(*) AS orders,
        sum(amount::DECIMAL(18, 6)) AS spent,
        min(ordered_at) AS first_at,
        max(ordered_at) AS last_at,
        1 AS active_days
    FROM orders
    GROUP BY ALL
)
"""


def main() -> None:
    """Answer the questions named on the command line, or all; one report each."""
    if sys.argv[1:2] == ["load"]:
        load(sys.argv[2], Period.parse(sys.argv[3]))
        sys.stdout.write(f"{_peak_mb()}\n")
        return
    asked = sys.argv[1:] or list(QUESTIONS)
    for name in asked:
        with workspace(f"backfill-{name}") as settings:
            os.environ["EVERGREEN_USE_CASES"] = str(settings.home / "use_cases")
            lake.catalog(load_settings()).create_tables()
            receipts.create_tables()
            title, columns, rows, figures = QUESTIONS[name]()
        report("backfill", title, columns, rows, part=name, **figures)
        if figures.get("tables_that_differ"):
            raise SystemExit(f"Tables differ between the two ways: {figures}")


# --- many days at once against one by one --------------------------------------------------------


def many_or_one_by_one() -> Answer:
    """Load two years of the churn simulation both ways, and compare every table."""
    for name in ("at_once", "one_by_one"):
        declare(name, source={"customers": CUSTOMERS})
    first = load_use_case("at_once").first_day
    last_days = Period(first, first + timedelta(days=TWO_YEARS)).days[-ONE_BY_ONE:]
    period = Period(first, last_days[-1] + _ONE_DAY)
    # The simulation is drawn once per process; neither way should pay for it.
    load("one_by_one", Period(first, last_days[0]))
    started = time.perf_counter()
    load("at_once", period)
    at_once = (time.perf_counter() - started) / TWO_YEARS
    started = time.perf_counter()
    for day in last_days:
        load("one_by_one", Period(day, day + _ONE_DAY))
    one_by_one = (time.perf_counter() - started) / ONE_BY_ONE
    tables = {*lake.tables("at_once"), *lake.tables("one_by_one")}
    differing = [t for t in sorted(tables) if digests("at_once", t) != digests("one_by_one", t)]
    rows = {table: lake.read("at_once", table).num_rows for table in sorted(tables)}
    return (
        f"{TWO_YEARS} days of {CUSTOMERS} customers, all steps but the online store; one by one: "
        f"the last {ONE_BY_ONE} days",
        ("way", "days", "seconds per day", "seconds for two years"),
        [
            ("one run", TWO_YEARS, at_once, at_once * TWO_YEARS),
            ("day by day", ONE_BY_ONE, one_by_one, one_by_one * TWO_YEARS),
        ],
        {"ratio": one_by_one / at_once, "table_rows": rows, "tables_that_differ": differing},
    )


def digests(use_case: str, table: str) -> dict[date, str]:
    """Digest of every day of a table, without stamps and origins."""
    rows = lake.read(use_case, table)
    without = content.STAMPS | content.ORIGINS
    return content.digest_by_day(rows, set(rows["day"].unique().to_pylist()), without)


# --- one more day --------------------------------------------------------------------------------


def one_more_day() -> Answer:
    """Grow one history, and at each length measure the next days with `daily` and without."""
    data = load_settings().home / "orders"
    declare_grown("grown", data, with_daily=True)
    daily = load_use_case("grown").events["orders"].daily
    assert daily is not None
    end = FIRST
    costs: dict[str, dict[str, float]] = {}
    for length in HISTORY_DAYS:
        target = FIRST + timedelta(days=length)
        # The next day is the first that needs totals of another month, where it needs any.
        while daily.stored_before(target) == daily.stored_before(target - _ONE_DAY):
            target += _ONE_DAY
        write_orders(data, Period(end, target + timedelta(days=11)), ORDERS_PER_DAY)
        declare_grown("grown", data, with_daily=True)
        load("grown", Period(end, target))
        end = target
        for kind, days in (("new month", 1), ("daily", 5), ("orders", 5)):
            declare_grown("grown", data, with_daily=kind != "orders")
            runs = []
            for _ in range(days):
                runs.append(timed_day("grown", end))
                end += _ONE_DAY
            costs[f"{kind}, {length} days"] = {
                name: statistics.median(run[name] for run in runs) for name in runs[0]
            }
    names = list(next(iter(costs.values())))
    slopes = {
        kind: {name: _slope(costs, kind, name) for name in names} for kind in ("daily", "orders")
    }
    ordered = sorted(costs, key=lambda name: name.split(",")[0])
    return (
        f"One more day, {ORDERS_PER_DAY} orders of {POOL} customers: CPU seconds (median of 5) by "
        "what the SQL reads and the days before",
        ("", *ordered, *(f"{kind}, {HISTORY_DAYS[-1] // HISTORY_DAYS[0]}x" for kind in slopes)),
        [
            (name, *(costs[c][name] for c in ordered), *(slopes[k][name] for k in slopes))
            for name in names
        ],
        {"costs": costs, "slopes": slopes},
    )


def _slope(costs: dict[str, dict[str, float]], kind: str, name: str) -> float:
    """How many times as much the longest history costs as the shortest."""
    shortest, longest = (
        costs[f"{kind}, {n} days"][name] for n in HISTORY_DAYS[:: len(HISTORY_DAYS) - 1]
    )
    return longest / shortest if shortest else 1.0


def timed_day(use_case: str, day: date) -> dict[str, float]:
    """Run one day; wall time, and CPU time in all, by step, and in the lake and the receipts."""
    seconds: dict[str, float] = {}
    questions = ("latest", "missing_days", "newest_sequence")
    with (
        _clocked(lake, ("files", "scan"), "plan files", seconds),
        _clocked(lake, ("publish",), "commits", seconds),
        _clocked(receipts, questions, "ask receipts", seconds),
    ):
        started, cpu = time.perf_counter(), time.process_time()
        by_step = load(use_case, Period(day, day + _ONE_DAY), time.process_time)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"wall": wall, "CPU": cpu, **by_step, **seconds}


@contextmanager
def _clocked(
    module: Any, names: Sequence[str], label: str, seconds: dict[str, float]
) -> Iterator[None]:
    """Add the CPU time spent in some functions of a module to `seconds[label]`."""
    seconds[label] = 0.0
    originals = {name: getattr(module, name) for name in names}

    def clocked(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[label] += time.process_time() - started

        return call

    for name, function in originals.items():
        setattr(module, name, clocked(function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(module, name, function)


# --- peak memory ---------------------------------------------------------------------------------


def peak_memory() -> Answer:
    """Load more days, and more rows a day, each in a process of its own."""
    table, figures = [], {}
    for growth in ("days", "rows a day"):
        for factor in (1, 3, 10):
            name = f"{growth.replace(' ', '_')}_{factor}"
            data = load_settings().home / name
            days = MEMORY_DAYS * factor if growth == "days" else MEMORY_DAYS
            per_day = ORDERS_PER_DAY * factor if growth != "days" else ORDERS_PER_DAY
            period = Period(FIRST, FIRST + timedelta(days=days))
            rows = write_orders(data, period, per_day)
            declare_grown(name, data, with_daily=True)
            command = [sys.executable, "-m", "benchmarks.backfill", "load", name, period.label]
            ran = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
            if ran.returncode:
                raise SystemExit(ran.stderr)
            peak = float(ran.stdout.split()[-1])
            table.append((growth, days, rows, peak))
            figures[name] = {"rows": rows, "peak_mb": peak}
    return (
        "Peak memory (VmHWM) of a process that loads a history in one run",
        ("what grows", "days", "orders", "MB"),
        table,
        figures,
    )


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(x.split()[1] for x in lines if x.startswith("VmHWM"))) / 1024


# --- what all of them do -------------------------------------------------------------------------


def load(
    use_case: str, period: Period, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Run the steps from source to labels over a period; seconds by step."""
    seconds = {}
    value: Any = None
    for step in (
        steps.stage_rows,
        steps.validate_rows,
        steps.publish_rows,
        steps.compute_features,
        steps.validate_features,
        steps.publish_features,
        steps.publish_labels,
    ):
        started = clock()
        asked = {
            steps.stage_rows: (use_case, period.label, "orders"),
            steps.compute_features: (use_case, period.label),
        }
        value = step(*asked.get(step, (value,)))
        seconds[step.__name__.replace("_", " ")] = clock() - started
    return seconds


def declare(name: str, source: dict[str, Any], *, daily: bool = True, **changes: Any) -> None:
    """Write the churn use case under another name, with changes."""
    folder = load_settings().use_cases / name
    folder.mkdir(parents=True, exist_ok=True)
    declared = yaml.safe_load((CHURN / "use_case.yaml").read_text())
    orders = declared["events"]["orders"]
    orders["source"] = source if "kind" in source else orders["source"] | source
    # Few customers leave days without orders.
    orders["batch"] = {"allow_empty": True, "row_count_ratio": [0, 1000]}
    if not daily:
        del orders["daily"]
    declared |= {"name": name, **changes}
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    prefix = "" if daily else CUSTOMER_DAYS
    for sql in ("features.sql", "labels.sql"):
        (folder / sql).write_text(prefix + (CHURN / sql).read_text())


def declare_grown(name: str, data: Path, *, with_daily: bool) -> None:
    """Declare churn over files of orders."""
    source = {"kind": "files", "path": f"{data}/{{day}}.parquet", "format": "parquet"}
    declare(name, source, daily=with_daily, first_day=FIRST, last_day=None)


def write_orders(folder: Path, period: Period, per_day: int) -> int:
    """Write a file of orders per day, drawn from a pool of customers that does not grow."""
    folder.mkdir(parents=True, exist_ok=True)
    for day in period.days:
        chance = np.random.default_rng([per_day, day.toordinal()])
        midnight = np.datetime64(day, "s")
        seconds = np.sort(chance.integers(0, 86_400, per_day))
        table = pa.table(
            {
                "order_id": [f"O{day:%Y%m%d}-{n}" for n in range(per_day)],
                "customer_id": [f"C{n:05}" for n in chance.integers(0, POOL, per_day)],
                "ordered_at": [f"{at}Z" for at in midnight + seconds],
                "amount_eur": [f"{x:.2f}" for x in chance.gamma(6, 8, per_day) + 0.01],
                "status": ["completed"] * per_day,
            }
        )
        pq.write_table(table, folder / f"{day}.parquet")
    return per_day * len(period.days)


QUESTIONS: dict[str, Callable[[], Answer]] = {
    "ways": many_or_one_by_one,
    "one-more-day": one_more_day,
    "memory": peak_memory,
}

if __name__ == "__main__":
    main()
