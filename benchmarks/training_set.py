"""Training sets: ours against Feast's own engines, on the same rows and machine.

    .venv/bin/python -m benchmarks.training_set

The stock side is Feast with its default file engine (dask) and with its DuckDB engine, both on one
plain Parquet file; ours is `store.training_set` on the Iceberg table of the same rows. Once the
labels ask at the as-of of their day, and once all features are older than what asks. Every join
runs in a process of its own, so that its peak memory is its own; the contenders take turns, and
all have to return the same values.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore, FeatureView, FileSource
from feast.repo_config import RepoConfig

from benchmarks.bench import peak_mib, report, workspace
from benchmarks.contracts import FEATURES, draw_features, entity_key, write_use_case
from evergreen import lake
from evergreen.contract import UseCase, as_of, load_use_case_file
from evergreen.features import store
from evergreen.features.compute.run import feature_schema
from evergreen.features.store.definitions import definitions

FIRST_DAY = date(2026, 1, 5)
SLOW = "dask"
CONTENDERS = (SLOW, "duckdb", "evergreen")
# How long after the as-of of its day a label asks.
CASES = {"of the label's day": timedelta(0), "older than the label": timedelta(hours=6)}
# Of the labelled entities, those without any features.
UNKNOWN_RATIO = 0.01

Runs = dict[str, list[dict[str, float]]]


def main() -> None:
    """Measure, print the table and write `training-set.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=500_000)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=27, help="with features")
    parser.add_argument("--label-days", type=int, default=5, help="of these, with labels")
    parser.add_argument("--repetitions", type=int, default=5, help="of all but the slow engine")
    parser.add_argument("--skip-slow", action="store_true", help=f"leave out {SLOW}")
    parser.add_argument("--worker", nargs=3, metavar=("CONTENDER", "CASE", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.worker:
        sys.stdout.write(json.dumps(_work(*arguments.worker)) + "\n")
        return
    with workspace("training-set") as settings:
        root = settings.home / "use_cases"
        declare(root / "small", entities=10, days=1, label_days=1, labels=11)
        full = root / "full"
        sizes = ("entities", "days", "label_days", "labels")
        declare(full, **{name: getattr(arguments, name) for name in sizes})
        found = {case: _compare(full, case, arguments) for case in CASES}
    report(
        "training-set",
        f"{arguments.labels:,} labels of {arguments.label_days} days x "
        f"{arguments.entities * arguments.days:,} rows of features of {arguments.days} days; best "
        f"of {arguments.repetitions}, {SLOW} once; memory: peak (and above the imports)",
        (
            "features are",
            "contender",
            "wall",
            "CPU",
            "memory",
            "wall / ours (medians)",
            "CPU / ours",
        ),
        [row for case, runs in found.items() for row in _rows(case, runs)],
        **{name: getattr(arguments, name) for name in sizes},
        features=len(FEATURES),
        measurements=found,
    )


def _compare(folder: Path, case: str, arguments: argparse.Namespace) -> Runs:
    """Let the contenders take turns, and require equal values of all."""
    runs: Runs = {contender: [] for contender in CONTENDERS[arguments.skip_slow :]}
    expected: pa.Table | None = None
    for repetition in range(arguments.repetitions):
        for contender in runs:
            if contender == SLOW and repetition:
                continue
            runs[contender].append(in_process(contender, case, folder))
            joined = pq.read_table(folder / f"{contender}.parquet")
            expected = joined if expected is None else expected
            if joined.num_rows != arguments.labels or not joined.equals(expected):
                raise SystemExit(f"{contender} returns other rows or values: features {case}")
    return runs


def _rows(case: str, runs: Runs) -> Iterator[Sequence[str]]:
    def column(contender: str, name: str) -> list[float]:
        return [run[name] for run in runs[contender]]

    ours, our_cpu = column("evergreen", "seconds"), min(column("evergreen", "cpu_seconds"))
    for contender, of_one in runs.items():
        wall, cpu = column(contender, "seconds"), min(column(contender, "cpu_seconds"))
        yield (
            case,
            contender,
            f"{min(wall):.2f} s",
            f"{cpu:.2f} s",
            f"{max(column(contender, 'peak_mib')):,.0f} MiB "
            f"(+{max(run['peak_mib'] - run['before_mib'] for run in of_one):,.0f})",
            f"{min(wall) / min(ours):.2f} ({median(wall) / median(ours):.2f})",
            f"{cpu / our_cpu:.2f}",
        )


# --- the work, in a process of its own -----------------------------------------------------------


def in_process(contender: str, case: str, folder: Path) -> dict[str, float]:
    """Join in a process of its own; return seconds and MiB."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.training_set"]
    command += ["--worker", contender, case, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _work(contender: str, case: str, folder: str) -> dict[str, float]:
    full = Path(folder)
    # What is imported on first use is no part of the work.
    _join(contender, full.with_name("small"), case)
    before, start, cpu = peak_mib(), time.perf_counter(), time.process_time()
    joined = _join(contender, full, case)
    measured = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "before_mib": before,
        "peak_mib": peak_mib(),
    }
    pq.write_table(_comparable(joined, full), full / f"{contender}.parquet")
    return measured


def _join(contender: str, folder: Path, case: str) -> pa.Table:
    labels = pq.read_table(folder / "labels.parquet")
    asked = pc.add(labels["as_of"], pa.scalar(CASES[case], pa.duration("us")))
    labels = labels.drop_columns("as_of").append_column("as_of", asked)
    if contender == "evergreen":
        return store.training_set(load_use_case_file(folder / "use_case.yaml"), labels)
    feast = _stock_store(folder, contender)
    with contextlib.redirect_stdout(io.StringIO()):
        return feast.get_historical_features(
            entity_df=labels.rename_columns({"as_of": "event_timestamp"}).to_pandas(),
            features=feast.get_feature_service("stock"),
        ).to_arrow()


def _comparable(joined: pa.Table, folder: Path) -> pa.Table:
    """Bring a result into the names, types and order of one."""
    schema = feature_schema(load_use_case_file(folder / "use_case.yaml"))
    schema = schema.remove(schema.get_field_index("day")).append(pa.field("label", pa.bool_()))
    names = ["as_of" if name == "event_timestamp" else name for name in joined.column_names]
    columns = joined.rename_columns(names).select(schema.names).cast(schema)
    return columns.sort_by([("as_of", "ascending"), ("customer_id", "ascending")])


# --- what is measured on -------------------------------------------------------------------------


def declare(folder: Path, *, entities: int, days: int, label_days: int, labels: int) -> None:
    """Write a use case, its features as a table and as a plain file, and labels."""
    use_case = write_use_case(folder, FEATURES)
    store.apply([use_case])
    wanted = [FIRST_DAY + timedelta(days=n) for n in range(days)]
    features = [draw_features(use_case, day, entities, n) for n, day in enumerate(wanted)]
    for day, rows in zip(wanted, features, strict=True):
        lake.publish(use_case.name, "features", rows, [day])
    pq.write_table(pa.concat_tables(features), folder / "features.parquet")
    _stock_store(folder, SLOW).apply(_stock_objects(use_case, folder))
    stacked = wanted[:: -(days // label_days)][label_days - 1 :: -1]
    pq.write_table(_labels(stacked, entities, labels), folder / "labels.parquet")


def _labels(days: Sequence[date], entities: int, count: int) -> pa.Table:
    """Draw distinct pairs of entity and as-of, by day and entity; some entities are unknown."""
    random = np.random.default_rng(len(days))
    known_and_not = entities + max(1, int(entities * UNKNOWN_RATIO))
    pairs = np.sort(random.choice(known_and_not * len(days), count, replace=False))
    keys = pa.array([entity_key(n) for n in range(known_and_not)])
    instants = pa.array([as_of(day) for day in days], pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "customer_id": keys.take(pairs % known_and_not),
            "as_of": instants.take(pairs // known_and_not),
            "label": random.random(count) < 0.2,
        }
    )


def _stock_store(folder: Path, engine: str) -> FeatureStore:
    return FeatureStore(
        config=RepoConfig(
            project="stock",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store={"type": engine},
            entity_key_serialization_version=3,
        )
    )


def _stock_objects(use_case: UseCase, folder: Path) -> list[object]:
    """Define the same as ours on the plain file."""
    entity, ours, _ = definitions(use_case)
    view = FeatureView(
        name=ours.name,
        entities=[entity],
        schema=ours.schema,
        ttl=ours.ttl,
        source=FileSource(
            path=str(folder / "features.parquet"),
            timestamp_field="as_of",
            created_timestamp_column="created_at",
        ),
    )
    return [entity, view, FeatureService(name="stock", features=[view])]


if __name__ == "__main__":
    main()
