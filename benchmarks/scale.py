"""What a day costs as the customers grow, and what five years of days leave behind.

    .venv/bin/python -m benchmarks.scale [stages] [shards] [metadata] [--customers 10000 ...]

1. `stages`: seconds and peak memory of each step of one day, each in a process of its own that
   imports what it needs, with 50 orders a customer in the year before; of the first 62 days loaded
   at once, whose copies are the rest of that year; of a small training; and how both grow.
2. `shards`: features and scores of that day as one task, in four shards one after the other, and in
   four shards over two worker processes; the tables must say the same.
3. `metadata`: five years of days, one commit each, with the weekly maintenance: bytes, receipts,
   and the time to plan a read and to commit one more day.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from benchmarks.bench import peak_mib, report, workspace
from evergreen import lake, steps
from evergreen.contract import Period, load_use_case
from evergreen.lake import upkeep
from evergreen.lake.content import ORIGINS, STAMPS, digest_by_day
from evergreen.lake.iceberg import load
from evergreen.ops import deploy
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.settings import PROJECT_ROOT, load_settings
from evergreen.training.split import plan_training

NAME = "shop"
FIRST = date(2024, 1, 1)
DAYS = 365
BULK_DAYS = 62
DAY = FIRST + timedelta(days=DAYS)
HORIZON = 28
ORDERS_PER_CUSTOMER = 50
SHARDS, WORKERS = 4, 2
YEARS, KEPT_DAYS = 5, 30
_ONE_DAY = timedelta(days=1)

Json = dict[str, Any]


def main() -> None:
    """Answer the questions named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", nargs="*", default=["stages", "shards", "metadata"])
    parser.add_argument("--customers", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FILE"))
    arguments = parser.parse_args()
    if arguments.step:
        _work(*arguments.step)
        return
    if {"stages", "shards"} & set(arguments.questions):
        _stages_and_shards(arguments.customers, with_shards="shards" in arguments.questions)
    if "metadata" in arguments.questions:
        with workspace("scale-metadata") as settings:
            os.environ["EVERGREEN_USE_CASES"] = str(settings.home / "use_cases")
            states = _metadata()
        _report_metadata(states)


# --- one step, in a process of its own -----------------------------------------------------------


def _work(name: str, file: str) -> None:
    path = Path(file)
    given = json.loads(path.read_text())
    before, started, cpu = peak_mib(), time.perf_counter(), time.process_time()
    result = getattr(steps, name)(*given)
    done = {
        "result": result,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "memory": peak_mib(),
        "imports": before,
    }
    path.write_text(json.dumps(done))


def _step(name: str, *given: Any, threads: int = 2) -> Json:
    """Run one step as a task does, in a process that ends with it."""
    folder = load_settings().home / "handed"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{time.monotonic_ns()}.json"
    path.write_text(json.dumps(given))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--step", name, str(path)]
    environment = os.environ | {"EVERGREEN_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
    found: Json = json.loads(path.read_text())
    path.unlink()
    _tell(f"  {name}: {found['seconds']:.1f} s, {found['memory']:,.0f} MiB")
    return found


# --- a day of more and more customers ------------------------------------------------------------


def _stages_and_shards(sizes: Sequence[int], *, with_shards: bool) -> None:
    measured: dict[int, dict[str, Json]] = {}
    shards: dict[int, Json] = {}
    stored: dict[int, dict[str, int]] = {}
    for customers in sizes:
        with workspace(f"scale-{customers}") as settings:
            os.environ["EVERGREEN_USE_CASES"] = str(settings.home / "use_cases")
            _tell(f"{customers:,} customers")
            _declare(settings.home)
            _write_orders(settings.home / "orders", customers)
            list(deploy.initialise(load_settings()))
            measured[customers] = _live()
            stored[customers] = _bytes_of_a_day()
            if with_shards:
                shards[customers] = _shard()
    names = list(measured[sizes[0]])

    def slope(name: str, figure: str) -> float:
        """Exponent between the two greatest sizes: 1 for twice as much of twice as many."""
        if len(sizes) < 2:
            return math.nan
        before, last = sizes[-2:]
        ratio = measured[last][name][figure] / measured[before][name][figure]
        return math.log(ratio) / math.log(last / before)

    report(
        "scale",
        f"One day, {ORDERS_PER_CUSTOMER} orders a customer in the {DAYS} days before it; growth: "
        "exponent of the seconds between the two greatest",
        ("step", *(f"{n:,}: s" for n in sizes), "growth", *(f"{n:,}: MiB" for n in sizes)),
        [
            (
                name,
                *(measured[n][name]["seconds"] for n in sizes),
                slope(name, "seconds"),
                *(round(measured[n][name]["memory"]) for n in sizes),
            )
            for name in names
        ],
        part="stages",
        steps={str(n): measured[n] for n in sizes},
        bytes_of_a_day={str(n): stored[n] for n in sizes},
    )
    if with_shards:
        ways = list(shards[sizes[0]])
        report(
            "scale",
            "Features and scores of one day: seconds with the start of every process, and MiB of "
            "the largest",
            ("way", *(f"{n:,}: s" for n in sizes), *(f"{n:,}: MiB" for n in sizes)),
            [
                (
                    way,
                    *(shards[n][way]["seconds"] for n in sizes),
                    *(round(shards[n][way]["memory"]) for n in sizes),
                )
                for way in ways
            ],
            part="shards",
            ways={str(n): shards[n] for n in sizes},
        )


def _live() -> dict[str, Json]:
    """Load the year, train, and run the day after it; return what each step took."""
    found: dict[str, Json] = {}

    def step(name: str, *given: Any, label: str = "") -> Any:
        done = _step(name, *given)
        result = done.pop("result")
        found[label or name] = done
        return result

    def ingest(period: str, label: str = "") -> None:
        staged = step("stage_rows", NAME, period, "orders", label=label and f"{label}: stage")
        judged = step("validate_rows", staged, label=label and f"{label}: validate")
        step("publish_rows", judged, label=label and f"{label}: publish")

    ingest(f"{FIRST}..{FIRST + timedelta(days=BULK_DAYS - 1)}", f"{BULK_DAYS} days at once")
    _copy_bulk()
    use_case = load_use_case(NAME)
    eve = DAY - _ONE_DAY
    for day in plan_training(use_case, eve).days:
        _features(str(day))
        steps.publish_labels({"use_case": NAME, "period": str(day + timedelta(days=HORIZON))})
    request = steps.accept_request(NAME, str(eve), "a benchmark")
    assembled = step("assemble_training_set", request)
    chosen = step("choose_recipe", assembled)
    trained = step("train_challenger", chosen)
    judged = steps.judge_challenger(trained)
    steps.release_version(NAME, "promote", str(judged["version"]), "a benchmark", "ann")
    for weeks in (1, 2):
        _features(str(DAY - timedelta(weeks=weeks)))

    ingest(str(DAY))
    staged = step("compute_features", NAME, str(DAY))
    published = step("publish_features", step("validate_features", staged))
    step("materialize_online", published)
    step("publish_labels", published)
    scored = step("score_customers", steps.resolve_model(NAME, str(DAY)))
    step("publish_predictions", step("validate_predictions", scored))
    for name in ("measure_drift", "measure_freshness", "measure_skew", "measure_staleness"):
        step(name, NAME, str(DAY))
    return found


def _copy_bulk() -> None:
    """Publish copies of the loaded days, moved to their dates, as those after them."""
    start = FIRST + timedelta(days=BULK_DAYS)
    for chunk in Period(start, DAY).chunks(BULK_DAYS // 2):
        rows, counts = [], {}
        for day in chunk.days:
            of = FIRST + (day - start) % timedelta(days=BULK_DAYS)
            rows.append(_moved(lake.read_day(NAME, "orders", of), of, day))
            counts[str(day)] = {"rows": rows[-1].num_rows, "rows_in": rows[-1].num_rows}
        staged = Staged(NAME, chunk.label, "", counts=counts)
        publish_chunk(staged, "publish_orders", "orders", pa.concat_tables(rows), chunk.days)


def _moved(orders: pa.Table, of: date, to: date) -> pa.Table:
    moved = {
        "day": pa.array([to] * orders.num_rows, pa.date32()),
        "ordered_at": pc.add(orders["ordered_at"], pa.scalar(to - of, pa.duration("us"))),
        "order_id": pc.replace_substring(orders["order_id"], f"{of:%Y%m%d}", f"{to:%Y%m%d}"),
    }
    for name, values in moved.items():
        orders = orders.set_column(orders.schema.get_field_index(name), name, values)
    return orders


def _features(period: str) -> None:
    staged = steps.compute_features(NAME, period)
    steps.publish_features(steps.validate_features(staged))


def _shard() -> dict[str, Json]:
    """Make features and scores of the day again, whole and in shards."""
    tables = ("features", "predictions")
    expected = [_content(table) for table in tables]
    started = time.perf_counter()
    features = _step("compute_features", NAME, str(DAY))
    scores = _step("score_customers", steps.resolve_model(NAME, str(DAY)))
    seconds = time.perf_counter() - started
    memory = max(features["memory"], scores["memory"])
    found = {"one task each, 2 threads": {"seconds": seconds, "memory": memory}}
    path = load_settings().use_cases / NAME / "use_case.yaml"
    path.write_text(path.read_text() + f"shards: {SHARDS}\n")
    for label, workers, threads in (
        (f"{SHARDS} shards, one worker of 2 threads", 1, 2),
        (f"{SHARDS} shards, {WORKERS} workers of 1 thread", WORKERS, 1),
    ):
        started = time.perf_counter()
        planned = steps.plan_features(NAME, str(DAY))
        parts = _by_workers("compute_features_of", planned, workers, threads)
        plan = steps.plan_scores(steps.resolve_model(NAME, str(DAY)))
        scored = _by_workers("score_customers_of", plan, workers, threads)
        seconds = time.perf_counter() - started
        memory = max(part["memory"] for part in (*parts, *scored))
        found[label] = {"seconds": seconds, "memory": memory}
        computed = steps.validate_features([part["result"] for part in parts])
        steps.publish_features(computed)
        steps.publish_predictions(steps.validate_predictions([s["result"] for s in scored]))
        if [_content(table) for table in tables] != expected:
            raise SystemExit(f"{label} gave other tables.")
    return found


def _by_workers(name: str, planned: Json, workers: int, threads: int) -> list[Json]:
    with ThreadPoolExecutor(workers) as pool:
        return list(
            pool.map(lambda shard: _step(name, planned, shard, threads=threads), range(SHARDS))
        )


def _content(table: str) -> str:
    return digest_by_day(lake.read_day(NAME, table, DAY), [DAY], STAMPS | ORIGINS)[DAY]


def _bytes_of_a_day() -> dict[str, int]:
    """Bytes of the day's files, by table."""
    return {
        table: sum(
            Path(path).stat().st_size for path in lake.scan(NAME, table, DAY, DAY + _ONE_DAY).paths
        )
        for table in lake.tables(NAME)
    }


def _declare(home: Path) -> None:
    churn = PROJECT_ROOT / "include" / "use_cases" / "churn"
    declared = yaml.safe_load((churn / "use_case.yaml").read_text())
    path = f"{home}/orders/{{day}}.parquet"
    declared["events"]["orders"]["source"] = {"kind": "files", "path": path, "format": "parquet"}
    declared |= {"name": NAME, "first_day": FIRST, "last_day": None}
    declared["target"] |= {"horizon_days": HORIZON, "description": "No order in 28 days."}
    # One kind of model, fitted on one day, tuned and calibrated on one each: what a training costs
    # beyond that is so many times more. (`make bench-train` is about trainings.)
    declared["training"] |= {"max_cutoffs": 1, "tuning_folds": 1, "models": ["trees"]}
    declared["training"] |= {"cutoff_every_days": 28, "min_history_days": 28}
    folder = home / "use_cases" / NAME
    folder.mkdir(parents=True)
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    for name in ("features.sql", "labels.sql"):
        shutil.copy(churn / name, folder)


def _write_orders(folder: Path, customers: int) -> None:
    """Write the orders of each day, of people who order more or less often."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(7)
    habit = np.cumsum(chance.gamma(1.5, 1.0, customers))
    daily = customers * ORDERS_PER_CUSTOMER // DAYS
    for n in (*range(BULK_DAYS), DAYS):
        day = FIRST + timedelta(days=n)
        who = np.searchsorted(habit, chance.random(daily) * habit[-1])
        seconds = np.sort(chance.integers(0, 86_400, daily))
        numbers = pc.cast(pa.array(np.arange(daily)), pa.string())
        cents = pc.cast(pa.array(np.round(chance.gamma(6, 8, daily) + 0.01, 2)), pa.string())
        moments = pc.strftime(
            pa.array(np.datetime64(day, "s") + seconds), format="%Y-%m-%dT%H:%M:%SZ"
        )
        rows = {
            "order_id": pc.binary_join_element_wise(f"O{day:%Y%m%d}", numbers, "-"),
            "customer_id": pc.binary_join_element_wise(
                "C", pc.utf8_lpad(pc.cast(pa.array(who), pa.string()), 8, "0"), ""
            ),
            "ordered_at": moments,
            "amount_eur": cents,
            "status": np.where(chance.random(daily) < 0.01, "cancelled", "completed"),
        }
        pq.write_table(pa.table(rows), folder / f"{day}.parquet")


# --- five years of days --------------------------------------------------------------------------


def _metadata() -> list[tuple[Any, ...]]:
    """Publish a small table day by day, and look at what that leaves after each year."""
    _declare(load_settings().home)
    list(deploy.initialise(load_settings()))
    rows, began = [], []
    for n, day in enumerate(Period(FIRST, FIRST + timedelta(days=365 * YEARS)).days, start=1):
        # Of the clock, when the day of the table began.
        began.append(datetime.now(UTC))
        _publish_small(day)
        if n % 7 == 0:
            upkeep.expire_snapshots(NAME, "small", began[max(n - KEPT_DAYS, 0)])
            steps.compact_tables()
            upkeep.remove_orphan_files(NAME, "small", began[-1])
        if n % 365 == 0:
            rows.append(_state_after(n, day))
            _tell(f"  {n} days: {rows[-1]}")
    return rows


def _report_metadata(rows: list[tuple[Any, ...]]) -> None:
    columns = (
        *("days", "metadata kB", "lists of files kB", "snapshots", "receipts", "receipts kB"),
        *("plan a day ms", "commit a day ms"),
    )
    report(
        "scale",
        "One table of one row a day, committed day by day, with the weekly maintenance",
        columns,
        rows,
        part="metadata",
        states=[dict(zip(columns, row, strict=True)) for row in rows],
    )


def _publish_small(day: date) -> None:
    rows = pa.table({"value": [day.toordinal()], "day": pa.array([day], pa.date32())})
    counts = {str(day): {"rows": 1}}
    publish_chunk(Staged(NAME, str(day), "", counts=counts), "publish_small", "small", rows, [day])


def _state_after(days: int, day: date) -> tuple[Any, ...]:
    table = load(NAME, "small")
    assert table is not None
    metadata = Path(table.metadata_location.removeprefix("file://"))
    lists = sum(path.stat().st_size for path in metadata.parent.glob("*.avro"))
    engine = _engine()
    with engine.connect() as connection:
        count, size = connection.exec_driver_sql(
            "SELECT count(*), pg_total_relation_size('receipts') FROM receipts"
        ).one()
    plan = _median_ms(lambda: lake.scan(NAME, "small", day, day + _ONE_DAY))
    later = iter(Period(day + _ONE_DAY, day + timedelta(days=8)).days)
    commit = _median_ms(lambda: _publish_small(next(later)))
    return (
        days,
        metadata.stat().st_size / 1024,
        lists / 1024,
        len(table.metadata.snapshots),
        count,
        size / 1024,
        plan,
        commit,
    )


def _engine() -> Any:
    from evergreen.databases import ledger_engine

    return ledger_engine()


def _median_ms(call: Callable[[], object], times: int = 7) -> float:
    def taken() -> Iterator[float]:
        for _ in range(times):
            started = time.perf_counter()
            call()
            yield (time.perf_counter() - started) * 1000

    return float(np.median(list(taken())))


def _tell(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}  {text}")


if __name__ == "__main__":
    main()
