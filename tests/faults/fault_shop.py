"""A use case of five days and sixty customers that can be trained on, loaded and corrected.

Daily CSV files with rejected rows and exact duplicates; customers leave the population; the label
follows from the amount of the last order, but not monotonically, so that trees beat the baselines.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import sqlalchemy as sa
import yaml

from evergreen import lake, steps
from evergreen.contract import UseCase, load_use_case
from evergreen.errors import GapError, NotReadyError
from evergreen.lake import content
from evergreen.provenance import receipts
from evergreen.settings import load_settings

NAME = "shop"
FIRST = date(2025, 3, 10)
DAYS = [FIRST + timedelta(days=n) for n in range(5)]
TABLES = ("orders", "quarantine", "features", "labels", "predictions")

# What a run does, and its period.
Run = tuple[str, str]

_CUSTOMERS = 60
_FEATURES = """
SELECT
    o.customer_id,
    d.as_of,
    count(*) AS total_orders,
    sum(o.amount::DECIMAL(18, 4))::DOUBLE / count(*) AS avg_amount,
    date_diff('second', max(o.ordered_at), d.as_of) / 86400.0 AS days_since_last_order,
    arg_max(o.amount, (o.ordered_at, o.order_id)) AS last_amount
FROM as_of_days AS d
JOIN orders AS o ON o.ordered_at < d.as_of
GROUP BY o.customer_id, d.as_of
HAVING max(o.ordered_at) >= d.as_of - INTERVAL 72 HOUR
"""
_LABELS = """
SELECT o.customer_id, d.as_of, count(*) FILTER (o.ordered_at >= d.as_of) = 0 AS label
FROM as_of_days AS d JOIN orders AS o ON o.ordered_at < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING max(o.ordered_at) FILTER (o.ordered_at < d.as_of) >= d.as_of - INTERVAL 72 HOUR
"""


@dataclass(frozen=True)
class Shop:
    """Where the shop's files are."""

    data: Path
    use_cases: Path

    @property
    def use_case(self) -> UseCase:
        return load_use_case(NAME)


def write_shop(root: Path) -> Shop:
    """Declare the shop under `root` and deliver all its days."""
    folder = root / "use_cases" / NAME
    folder.mkdir(parents=True)
    data = root / "data"
    data.mkdir()
    (folder / "use_case.yaml").write_text(yaml.safe_dump(_declaration(data)))
    (folder / "features.sql").write_text(_FEATURES)
    (folder / "labels.sql").write_text(_LABELS)
    shop = Shop(data, folder.parent)
    for day in DAYS:
        deliver(shop, day)
    return shop


def deliver(shop: Shop, day: date, version: int = 0) -> None:
    """Put the file of a day in place; versions differ in amounts and in which orders there are."""
    n = DAYS.index(day)
    rows = []
    for customer in range(_CUSTOMERS):
        kind = customer % 3
        # A third leaves after the first day, a third after the third; the last order says so.
        if n > (0, 2, 9)[kind]:
            continue
        leaving = n == (0, 2, 9)[kind]
        amount = 25 + customer % 5 if leaving else (10 if (customer + n) % 2 else 40) + version
        rows.append(f"o{n}-{customer},c{customer:02},{day}T{8 + customer % 12:02}:00:00Z,{amount}")
    for late in range(version):
        rows.append(f"o{n}-late{late},c{30 + late:02},{day}T21:30:00Z,{11.25 + late}")
    rows += [rows[0], rows[1], f"o{n}-x,c01,{day}T10:00:00Z,-5", f"o{n}-y,,{day}T10:00:00Z,5"]
    whole = "\n".join(["id,customer,at,value", *rows]) + "\n"
    unfinished = shop.data / f"{day}.part"
    unfinished.write_text(whole)
    unfinished.replace(shop.data / f"{day}.csv")


def clear(shop: Shop) -> None:
    """Forget all tables, receipts, online values, staging; the model registry stays."""
    settings = load_settings()
    with _connect("catalog") as connection:
        connection.execute("DELETE FROM iceberg_tables")
        connection.execute("DELETE FROM iceberg_namespace_properties")
    with _connect("ledger") as connection:
        connection.execute("TRUNCATE receipts")
    with _connect("feast") as connection:
        connection.execute(f"TRUNCATE {_online_table()}")
    for folder in (settings.staging, Path(settings.warehouse), settings.quality):
        shutil.rmtree(folder, ignore_errors=True)
    for day in DAYS:
        deliver(shop, day)


# --- what a run does -----------------------------------------------------------------------------

# The tasks of a run, in order. Each takes what the one before returned; the first the use case,
# the period and the run; `publish_labels` the period and what it was computed from.
RUNS: dict[str, tuple[str, ...]] = {
    "ingest": ("stage_rows", "validate_rows", "publish_rows"),
    "features": (
        "compute_features",
        "validate_features",
        "publish_features",
        "materialize_online",
        "publish_labels",
    ),
    "score": ("resolve_model", "score_customers", "validate_predictions", "publish_predictions"),
}


def run(kind: str, period: str, identity: str, *, validate: bool = True) -> None:
    """Do what one DAG run does, here and now."""
    result: Any = None
    published: Any = None
    for task in RUNS[kind]:
        if task.startswith("validate_") and not validate:
            continue
        if task == "stage_rows":
            result = steps.stage_rows(NAME, period, "orders", identity)
        elif task == "compute_features":
            result = steps.compute_features(NAME, period, identity)
        elif task == "resolve_model":
            result = steps.resolve_model(NAME, period)
        elif task == "score_customers":
            result = steps.score_customers(result, identity)
        elif published is not None:
            getattr(steps, task)(published)
        else:
            result = getattr(steps, task)(result)
            published = result if task == "publish_features" else None


def run_once(runs: Sequence[Run], validate: bool = True) -> list[Run]:
    """Do several runs; return those that have to wait for earlier days."""
    refused: list[Run] = []
    for kind, period in runs:
        try:
            # Each is a run of its own: two backfills may do the same at the same time.
            run(kind, period, uuid4().hex, validate=validate)
        except GapError:
            refused.append((kind, period))
        except NotReadyError:
            # In Airflow a day is scored when its features are published, not before.
            if kind != "score":
                raise
            refused.append((kind, period))
    return refused


def run_all(runs: Sequence[Run], *, validate: bool = True) -> None:
    """Do several runs; those that wait for earlier days are tried again after the others."""
    waiting = list(runs)
    while waiting:
        refused = run_once(waiting, validate)
        assert len(refused) < len(waiting), f"{refused} wait for ever"
        waiting = refused


# --- what is there -------------------------------------------------------------------------------


def digests(table: str, days: list[date] | None = None) -> dict[date, str]:
    """Digest every partition of a table, all columns but `created_at`."""
    days = days or DAYS
    if not lake.exists(NAME, table):
        return dict.fromkeys(days, "")
    rows = lake.read(NAME, table, min(days), max(days) + timedelta(days=1))
    return content.digest_by_day(rows, days)


def tables() -> dict[str, dict[date, str]]:
    """Digest all tables."""
    return {table: digests(table) for table in TABLES}


def online() -> dict[tuple[bytes, str], tuple[Any, bytes, Any]]:
    """Return event time, value, created time of every key and feature in the online store."""
    with _connect("feast") as connection:
        rows = connection.execute(
            f"SELECT entity_key, feature_name, event_ts, value, created_ts FROM {_online_table()}"
        ).fetchall()
    return {
        (bytes(key), name): (event, bytes(value), made) for key, name, event, value, made in rows
    }


def online_values() -> dict[tuple[bytes, str], tuple[Any, bytes]]:
    """Return what readers of the online store see."""
    return {key: (event, value) for key, (event, value, _) in online().items()}


def staged_leftovers() -> list[str]:
    """Folders in staging."""
    return sorted(str(path) for path in load_settings().staging.glob("*/*"))


def orphans() -> int:
    """Data files that no snapshot names: what killed commits have written."""
    named = set()
    for table in lake.tables(NAME):
        found = lake.catalog().load_table((NAME, table))
        for snapshot in found.snapshots():
            named |= {
                task.file.file_path.removeprefix("file://")
                for task in found.scan(snapshot_id=snapshot.snapshot_id).plan_files()
            }
    return sum(str(p) not in named for p in Path(load_settings().warehouse).rglob("*.parquet"))


def require_sound() -> None:
    """Every receipt that counts tells the truth, and no row is lost or there twice."""
    for table in ("orders", "quarantine", "features", "labels", "predictions"):
        of = "orders_quarantine" if table == "quarantine" else table
        latest = receipts.latest(NAME, f"publish_{of}")
        found = lake.read(NAME, table) if lake.exists(NAME, table) else None
        if found is None:
            assert not any(receipt.content for receipt in latest.values())
            continue
        days = sorted({*latest, *found["day"].unique().to_pylist()})
        said = content.digest_by_day(found, days, content.STAMPS | content.ORIGINS)
        assert {day: receipt.content for day, receipt in latest.items()} == said, table
        if table in ("orders", "quarantine"):
            identities = found["row_id"].to_pylist()
            assert len(identities) == len(set(identities)), f"{table}: rows are there twice"
        if table == "orders":
            for day, receipt in latest.items():
                counts = receipt.counts
                assert counts["rows_in"] == (
                    counts["accepted"] + counts["quarantined"] + counts["duplicates"]
                )
                assert lake.partitions(NAME, "orders")[day] == counts["published"]
                assert lake.partitions(NAME, "quarantine")[day] == counts["quarantined"]


def _declaration(data: Path) -> dict[str, Any]:
    feature = {"dtype": "float64", "description": "A number."}
    return {
        "name": NAME,
        "title": "A shop that is killed often",
        "first_day": FIRST,
        "last_day": DAYS[-1],
        "entity": {"name": "customer", "key": "customer_id"},
        "events": {
            "orders": {
                "source": {"kind": "files", "path": str(data / "{day}.csv")},
                "key": "order_id",
                "timestamp": "ordered_at",
                "columns": {
                    "order_id": {"source": "id", "dtype": "string"},
                    "customer_id": {"source": "customer", "dtype": "string"},
                    "ordered_at": {"source": "at", "dtype": "timestamp"},
                    "amount": {"source": "value", "dtype": "float64", "range": [0.01, 1000]},
                },
            }
        },
        "features": {
            "columns": {
                "total_orders": {"dtype": "int64", "description": "Orders so far."},
                "avg_amount": feature,
                "days_since_last_order": feature,
                "last_amount": feature,
            },
        },
        "target": {"name": "churned", "description": "No order follows.", "horizon_days": 2},
        "training": {
            "cutoff_every_days": 1,
            "min_history_days": 1,
            "booster": {
                "max_rounds": 20,
                "default_rounds": 10,
                "early_stopping_rounds": 5,
                "min_child_weight": 1.0,
                "subsample": 1.0,
                "learning_rate": 0.3,
            },
        },
        "gate": {
            "min_auc": 0.5,
            "max_logloss": 5.0,
            "max_latency_ms_per_1k": 100_000.0,
            # Five dozen customers can make nothing sure.
            "min_baseline_margin": -1.0,
            "promote": ["better", "equivalent", "unclear"],
            "min_refit_correlation": -1.0,
            "max_refit_shift": 100.0,
            "min_holdout_rows": 10,
            "min_holdout_minority_rows": 5,
        },
    }


def _connect(database: Any) -> psycopg.Connection[Any]:
    url = sa.make_url(load_settings().database_url(database)).set(drivername="postgresql")
    return psycopg.connect(url.render_as_string(hide_password=False))


def _online_table() -> str:
    return f"evergreen_{NAME}_features"
