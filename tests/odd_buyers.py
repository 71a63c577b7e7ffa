"""Buyers half of whom order by the clock, for labels that a test makes up."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from evergreen.contract import UseCase, load_use_case_file
from evergreen.features.compute.past import Given

FIRST_DAY = date(2025, 1, 1)
DAY = date(2025, 11, 26)
_DAYS = 360
SCHEMA = pa.schema(
    [
        ("order_id", pa.string()),
        ("customer_id", pa.string()),
        ("ordered_at", pa.timestamp("us", tz="UTC")),
        ("amount", pa.float64()),
        ("items", pa.int64()),
        ("gift", pa.bool_()),
        ("kind", pa.string()),
        ("day", pa.date32()),
    ]
)
_DTYPES = {"timestamp[us, tz=UTC]": "timestamp", "double": "float64"}
FEATURES = """
SELECT o.customer_id, d.as_of, count(*) AS total_orders,
    date_diff('second', max(o.ordered_at), d.as_of) / 86400.0 AS days_since_last_order
FROM as_of_days AS d INNER JOIN orders AS o ON o.day < d.as_of
GROUP BY o.customer_id, d.as_of
"""
LABELS = """
SELECT o.customer_id, d.as_of, count(*) FILTER (o.day >= d.as_of) = 0 AS label
FROM as_of_days AS d INNER JOIN orders AS o ON o.day < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING min(o.day) < d.as_of
"""
DAILY = {
    "lookback_days": 90,
    "columns": {
        "orders": {"sql": "count(*)", "merge": "sum"},
        "spent": {"sql": "sum(amount::DECIMAL(18, 2))", "merge": "sum"},
        "dearest": {"sql": "max(amount)", "merge": "max"},
    },
}
DAILY_FEATURES = """
SELECT o.customer_id, d.as_of, sum(o.orders) AS total_orders,
    date_diff('day', max(o.day), d.as_of::DATE)::DOUBLE AS days_since_last_order
FROM as_of_days AS d INNER JOIN orders_daily AS o ON o.day < d.as_of
GROUP BY o.customer_id, d.as_of
"""


def declare(root: Path, *, daily: bool = False, zone: str = "UTC") -> UseCase:
    """Write the folder `root/club`."""
    folder = root / "club"
    folder.mkdir(parents=True)
    orders: dict[str, Any] = {
        "source": {"kind": "files", "path": str(root / "data" / "{day}.csv")},
        "key": "order_id",
        "timestamp": "ordered_at",
        "columns": {
            field.name: {
                "source": field.name,
                "dtype": _DTYPES.get(str(field.type), str(field.type)),
                **({"range": [0, 1000]} if field.name in ("amount", "items") else {}),
            }
            for field in SCHEMA
            if field.name != "day"
        },
    }
    declared: dict[str, Any] = {
        "name": "club",
        "title": "A club of odd buyers",
        "first_day": FIRST_DAY,
        "zone": zone,
        "entity": {"name": "customer", "key": "customer_id"},
        "events": {"orders": {**orders, **({"daily": DAILY} if daily else {})}},
        "features": {
            "columns": {
                "total_orders": {"dtype": "int64", "description": "Orders so far."},
                "days_since_last_order": {"dtype": "float64", "description": "Recency."},
            }
        },
        "target": {"name": "churned", "description": "No order.", "horizon_days": 30},
        "training": {
            "cutoff_every_days": 30,
            "max_cutoffs": 4,
            "min_history_days": 90,
            "tuning_folds": 2,
            "booster": {
                "max_rounds": 120,
                "learning_rate": 0.1,
                "early_stopping_rounds": 10,
                "min_child_weight": 5.0,
            },
        },
    }
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    features, labels = FEATURES, LABELS
    if daily:
        features, labels = DAILY_FEATURES, LABELS.replace("orders AS o", "orders_daily AS o")
    (folder / "features.sql").write_text(features)
    (folder / "labels.sql").write_text(labels)
    return load_use_case_file(folder / "use_case.yaml")


def write(root: Path, rows: list[tuple[Any, ...]], zone: str = "UTC") -> dict[str, Given]:
    """Write (customer, instant, amount, items, gift, kind) as the lake has orders."""
    clock = ZoneInfo(zone)
    listed = [
        (f"O{number:06}", customer, instant, *values, instant.astimezone(clock).date())
        for number, (customer, instant, *values) in enumerate(rows)
    ]
    columns = zip(*listed, strict=True)
    path = root / f"orders-{len(list(root.glob('orders-*')))}.parquet"
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
    pq.write_table(table, path)
    return {"orders": Given([str(path)])}


def is_regular(customer: str) -> bool:
    """Whether a buyer of `history` orders by the clock."""
    return int(customer[1:]) % 2 == 0


def history(buyers: int, seed: int = 3) -> list[tuple[Any, ...]]:
    """A year of orders at the same mean rate; every other buyer's gaps are all alike."""
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(buyers):
        customer, gap = f"C{number:04}", chance.uniform(7, 14)
        at = chance.uniform(0, gap)
        while at < _DAYS:
            instant = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=float(at))
            kind = "abcdefgh"[min(int(chance.exponential(1.5)), 7)]
            amount = round(float(chance.gamma(3, 10)), 2)
            rows.append((customer, instant, amount, int(chance.integers(1, 9)), amount > 50, kind))
            at += gap * (chance.normal(1, 0.05) if is_regular(customer) else chance.exponential(1))
    return rows
