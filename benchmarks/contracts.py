"""Use cases whose features are published straight into the lake; no order is ever read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from evergreen.contract import UseCase, as_of, load_use_case_file
from evergreen.features.compute.run import feature_schema

# Dtype per feature.
FEATURES = {
    "total_orders": "int64",
    "orders_30d": "int64",
    "active_days": "int64",
    "total_spent": "float64",
    "avg_order_value": "float64",
    "days_since_last_order": "float64",
    "mean_gap_days": "float64",
    "is_repeat": "bool",
}


def write_use_case(folder: Path, features: Mapping[str, str]) -> UseCase:
    """Write a use case named as its folder, keyed by `customer_id`.

    Parameters
    ----------
    folder
        Made, and must not exist.
    features
        Dtype per feature; all may be null.
    """
    folder.mkdir(parents=True)
    names = {"order_id": "string", "customer_id": "string", "ordered_at": "timestamp"}
    columns = {
        name: {"source": name, "dtype": dtype, "description": ""}
        for name, dtype in (names | {"amount": "float64"}).items()
    }
    contract = {
        "name": folder.name,
        "title": folder.name,
        "first_day": date(2026, 1, 1),
        "entity": {"name": "customer", "key": "customer_id"},
        "events": {
            "orders": {
                "source": {"kind": "files", "path": "orders.csv"},
                "key": "order_id",
                "timestamp": "ordered_at",
                "columns": columns,
            }
        },
        "features": {
            "ttl_days": 10,
            "columns": {
                name: {"dtype": dtype, "description": "", "nullable": True}
                for name, dtype in features.items()
            },
        },
        "target": {"name": "left", "description": "Gone.", "horizon_days": 30},
    }
    path = folder / "use_case.yaml"
    path.write_text(yaml.safe_dump(contract, sort_keys=False))
    # The contract asks for them; they are not run.
    for file in ("features.sql", "labels.sql"):
        (folder / file).write_text("SELECT 1\n")
    return load_use_case_file(path)


def draw_features(use_case: UseCase, day: date, entities: int, seed: int) -> pa.Table:
    """Draw one day as it is published: sorted by key; every tenth entity has no mean gap."""
    random = np.random.default_rng(seed)
    schema = feature_schema(use_case).append(pa.field("created_at", pa.timestamp("us", tz="UTC")))
    columns: dict[str, Any] = {
        "customer_id": [entity_key(n) for n in range(entities)],
        "as_of": [as_of(day)] * entities,
        "day": [day] * entities,
        "created_at": [datetime(2026, 2, 1, tzinfo=UTC)] * entities,
    }
    for name, dtype in FEATURES.items():
        match dtype:
            case "int64":
                columns[name] = random.geometric(0.1, entities)
            case "bool":
                columns[name] = random.random(entities) < 0.5
            case _:
                columns[name] = random.gamma(2.0, 50.0, entities)
    mask = np.arange(entities) % 10 == 0
    columns["mean_gap_days"] = pa.array(columns["mean_gap_days"], mask=mask)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def entity_key(number: int) -> str:
    """Name the n-th entity."""
    return f"C{number:07}"
