"""A population whose true probabilities are known, for one small use case."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from evergreen.contract import UseCase, as_of
from evergreen.training.fit import fit_booster
from evergreen.training.frame import label_split
from evergreen.training.split import plan_split

FIRST_DAY = date(2024, 1, 1)
DAY = date(2025, 1, 1)


@pytest.fixture(scope="session")
def use_case():
    return UseCase.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "first_day": FIRST_DAY,
            "entity": {"name": "customer", "key": "customer_id"},
            "source": {"kind": "files", "path": "orders.csv"},
            "orders": {
                "key": "order_id",
                "time": "ordered_at",
                "columns": {
                    name: {"source": name, "dtype": dtype}
                    for name, dtype in (
                        ("order_id", "string"),
                        ("customer_id", "string"),
                        ("ordered_at", "timestamp"),
                    )
                },
            },
            "features": {
                "recency": "idle_days",
                "columns": {
                    "orders": {"dtype": "int64", "description": "Count."},
                    "idle_days": {
                        "dtype": "float64",
                        "description": "Recency.",
                        "monotone": "increasing",
                    },
                    "gap_days": {"dtype": "float64", "description": "Gap.", "nullable": True},
                    "vip": {"dtype": "bool", "description": "Flag."},
                },
            },
            "label": {"name": "gone", "description": "No order.", "horizon_days": 60},
            "training": {
                "cutoff_every_days": 30,
                "max_cutoffs": 3,
                "min_history_days": 30,
                "booster": {"max_rounds": 120, "learning_rate": 0.1, "early_stopping_rounds": 10},
            },
        }
    )


@pytest.fixture(scope="session")
def plan(use_case):
    return plan_split(use_case.training, use_case.label.horizon_days, FIRST_DAY, DAY)


def population(days, entities=500, seed=5):
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
                    "as_of": pa.array([as_of(day)] * entities, pa.timestamp("us", "UTC")),
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


@pytest.fixture(scope="session")
def rows(plan):
    return population(plan.days)


@pytest.fixture(scope="session")
def split(rows, plan, use_case):
    return label_split(rows, plan, use_case)


@pytest.fixture(scope="session")
def fitted(split, use_case):
    return fit_booster(split, use_case, threads=2, seed=3)
