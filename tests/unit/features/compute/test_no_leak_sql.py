"""Every shipped use case's SQL, against random orders and a spoilt future."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen.contract import UseCase, as_of, load_use_case_file
from evergreen.features.compute.result import ARROW_TYPES
from evergreen.features.compute.run import (
    compute_features,
    compute_labels,
    feature_schema,
    label_schema,
)
from evergreen.settings import PROJECT_ROOT

DAY = date(2025, 6, 30)
LIMITS = {"threads": 2, "memory_mb": 500}
SHIPPED = sorted((PROJECT_ROOT / "include" / "use_cases").glob("*/use_case.yaml"))


def random_orders(use_case: UseCase, chance: random.Random, rows: int) -> list[dict[str, Any]]:
    """Orders of forty entities over three years around `DAY`, some exactly at midnight."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    made = []
    for number in range(rows):
        instant = start + timedelta(minutes=chance.randrange(3 * 365 * 24 * 60))
        if chance.random() < 0.1:
            instant = instant.replace(hour=0, minute=0)
        if chance.random() < 0.02:
            instant = as_of(DAY) + timedelta(microseconds=chance.choice([-1, 0, 1]))
        order: dict[str, Any] = {}
        for name, column in use_case.orders.published.items():
            order[name] = {
                "string": f"s{chance.randrange(5)}",
                "int64": chance.randrange(1, 20),
                "float64": chance.randrange(1, 10_000) / 100,
                "bool": chance.random() < 0.5,
                "timestamp": instant,
                "date": instant.date(),
            }[column.dtype]
        order[use_case.orders.key] = f"o{number}"
        order[use_case.entity.key] = f"c{chance.randrange(40)}"
        made.append(order)
    return made


def written(folder: Path, use_case: UseCase, orders: list[dict[str, Any]]) -> list[str]:
    schema = pa.schema(
        [(name, ARROW_TYPES[c.dtype]) for name, c in use_case.orders.published.items()]
    )
    path = folder / f"{random.random()}.parquet"
    pq.write_table(pa.Table.from_pylist(orders, schema=schema), path)
    return [str(path)]


def spoilt(
    use_case: UseCase, orders: list[dict[str, Any]], from_: datetime, chance: random.Random
) -> list[list[dict[str, Any]]]:
    """Return the orders with everything at or after `from_` deleted, changed and multiplied."""
    time = use_case.orders.time
    past = [order for order in orders if order[time] < from_]
    future = [order for order in orders if order[time] >= from_]
    assert len(past) > 50
    assert len(future) > 50
    numbers = [n for n, c in use_case.orders.published.items() if c.dtype in ("int64", "float64")]
    changed = [
        order | {use_case.entity.key: f"c{chance.randrange(80)}"} | dict.fromkeys(numbers, 10**6)
        for order in future
    ]
    return [past, past + changed, past + future * 3, past[::-1] + future]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_features_and_labels_do_not_see_their_future(path: Path, seed: int, tmp_path: Path):
    use_case, chance = load_use_case_file(path), random.Random(seed)
    orders = random_orders(use_case, chance, 1_500)
    days = [DAY - timedelta(days=n) for n in (40, 3, 0)]
    horizon = timedelta(days=use_case.label.horizon_days)
    for compute, schema, end in (
        (compute_features, feature_schema(use_case), as_of(DAY)),
        (compute_labels, label_schema(use_case), as_of(DAY) + horizon),
    ):
        whole = compute(use_case, written(tmp_path, use_case, orders), days, **LIMITS)
        assert whole.num_rows > 20
        for other in spoilt(use_case, orders, end, chance):
            found = compute(use_case, written(tmp_path, use_case, other), days, **LIMITS)
            for name in schema.names:
                assert found[name].equals(whole[name]), name
