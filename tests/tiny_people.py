"""A use case of which only the rows exist: people whose true probabilities are known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from evergreen.contract import UseCase, as_of

FIRST_DAY = date(2024, 1, 1)
DAY = date(2025, 1, 1)
ZONE = "Europe/Berlin"
FEATURES = {
    "orders": {"dtype": "int64"},
    "idle_days": {"dtype": "float64", "monotone": "increasing"},
    "gap_days": {"dtype": "float64", "nullable": True},
    "vip": {"dtype": "bool"},
}


def declare(target: dict[str, Any], features: dict[str, dict[str, Any]]) -> UseCase:
    """A use case with these features and this target."""
    columns = {
        name: {"source": name, "dtype": dtype, "description": name}
        for name, dtype in (
            ("order_id", "string"),
            ("customer_id", "string"),
            ("ordered_at", "timestamp"),
        )
    }
    return UseCase.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "first_day": FIRST_DAY,
            "zone": ZONE,
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
                "columns": {
                    name: {"description": name, **feature} for name, feature in features.items()
                }
            },
            "target": {"description": "What follows.", "horizon_days": 60, **target},
            "training": {
                "cutoff_every_days": 30,
                "max_cutoffs": 3,
                "min_history_days": 30,
                "booster": {"max_rounds": 120, "learning_rate": 0.1, "early_stopping_rounds": 10},
            },
        }
    )


def population(days: Sequence[date], entities: int = 500, seed: int = 5) -> pa.Table:
    """Rows of `days` with the label and its true `probability`."""
    tables = []
    for index, day in enumerate(days):
        rng = np.random.default_rng([seed, index])
        orders = rng.poisson(4.0, entities) + 1
        idle = rng.exponential(40.0, entities)
        gap = rng.exponential(20.0, entities)
        vip = rng.random(entities) < 0.3
        logit = 1.2 * (np.log1p(idle) - 3.2) - 0.25 * (orders - 5) - 0.8 * vip
        probability = 1 / (1 + np.exp(-logit))
        tables.append(
            pa.table(
                {
                    "customer_id": [f"C{number:05d}" for number in range(entities)],
                    "as_of": pa.array([as_of(day, ZONE)] * entities, pa.timestamp("us", "UTC")),
                    "orders": orders,
                    "idle_days": idle,
                    "gap_days": pa.array(gap, mask=orders < 3),
                    "vip": vip,
                    "label": rng.random(entities) < probability,
                    "probability": probability,
                }
            )
        )
    return pa.concat_tables(tables)
