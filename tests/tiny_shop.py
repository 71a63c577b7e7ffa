"""A use case of ten days and two features that trains in a second, for what happens to its models.

Every day customers join and others leave for good. The amount of the last order says who leaves,
but not monotonically, so that trees beat the baselines.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen import steps
from evergreen.ops import deploy
from evergreen.settings import load_settings

NAME = "shop"
DAYS = [date(2025, 3, 10) + timedelta(days=n) for n in range(10)]
WHOLE = f"{DAYS[0]}..{DAYS[-1]}"
FEATURES = {
    "days_since_last_order": "date_diff('second', max(o.ordered_at), d.as_of) / 86400.0",
    "last_amount": "arg_max(o.amount, (o.ordered_at, o.order_id))",
}

_SQL = """
SELECT o.customer_id, d.as_of, {columns}
FROM as_of_days AS d INNER JOIN orders AS o ON {known}
GROUP BY o.customer_id, d.as_of
HAVING max(o.ordered_at) FILTER (o.ordered_at < d.as_of) >= d.as_of - INTERVAL 72 HOUR
"""


def write_shop(root: Path, days: Sequence[date] = DAYS) -> Path:
    """Write data of these days and the use case below `root`; return the use case's folder."""
    folder = root / "use_cases" / NAME
    folder.mkdir(parents=True)
    (root / "data").mkdir()
    chance = random.Random(7)
    active: list[str] = []
    for n, day in enumerate(days):
        active += [f"c{n}-{joined:02}" for joined in range(60 if n == 0 else 25)]
        leaving = {name for name in active if chance.random() < 0.3}
        lines = ["id,customer,at,value"]
        for name in active:
            amount = 25 + chance.randrange(5) if name in leaving else chance.choice((10, 40))
            lines.append(f"{name}/{n},{name},{day}T{chance.randrange(24):02}:00:00Z,{amount}")
        (root / "data" / f"{day}.csv").write_text("\n".join(lines) + "\n")
        active = [name for name in active if name not in leaving]
    declare(folder, FEATURES)
    label = "count(*) FILTER (o.ordered_at >= d.as_of) = 0 AS label"
    write_labels(folder, _SQL.format(columns=label, known="o.ordered_at < d.horizon_end"))
    return folder


def declare(
    folder: Path,
    features: Mapping[str, str],
    dtypes: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Declare these features (name to SQL), as float64 unless said otherwise, and apply them."""
    declared: dict[str, Any] = {
        "name": NAME,
        "title": "A shop of two features",
        "first_day": DAYS[0],
        "last_day": DAYS[-1],
        "entity": {"name": "customer", "key": "customer_id"},
        "events": {
            "orders": {
                "source": {"kind": "files", "path": str(folder.parents[1] / "data" / "{day}.csv")},
                "key": "order_id",
                "timestamp": "ordered_at",
                "columns": {
                    "order_id": {"source": "id", "dtype": "string"},
                    "customer_id": {"source": "customer", "dtype": "string"},
                    "ordered_at": {"source": "at", "dtype": "timestamp"},
                    "amount": {"source": "value", "dtype": "float64"},
                },
            }
        },
        "features": {
            "columns": {
                name: {"dtype": "float64", "description": "A number."}
                | (dtypes or {}).get(name, {})
                for name in features
            },
        },
        "target": {"name": "churned", "description": "No order follows.", "horizon_days": 2},
        "training": {
            "cutoff_every_days": 1,
            "min_history_days": 1,
            "booster": {
                "max_rounds": 20,
                "early_stopping_rounds": 5,
                "min_child_weight": 1.0,
                "learning_rate": 0.3,
            },
            **(training or {}),
        },
        "gate": {
            "min_auc": 0.5,
            "max_logloss": 5.0,
            "max_latency_ms_per_1k": 100_000.0,
            # Two dozen customers can make nothing sure.
            "min_baseline_margin": -1.0,
            "promote": ["better", "equivalent", "unclear"],
            "min_refit_correlation": -1.0,
            "max_refit_shift": 100.0,
            "min_holdout_rows": 10,
        },
    }
    columns = ", ".join(f"{sql} AS {name}" for name, sql in features.items())
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    sql = _SQL.format(columns=columns, known="o.ordered_at < d.as_of")
    (folder / "features.sql").write_text(sql)


def write_labels(folder: Path, sql: str) -> None:
    (folder / "labels.sql").write_text(sql)


def apply() -> None:
    """Do what `make up` does after a change of the declaration."""
    assert list(deploy.initialise(load_settings()))


def open_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the shop, let everybody know of it, and ingest its days; return its folder."""
    folder = write_shop(root)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    apply()
    ingest()
    return folder


def ingest(period: Any = WHOLE) -> None:
    steps.publish_rows(steps.validate_rows(steps.stage_rows(NAME, str(period), "orders")))


def compute(period: Any = WHOLE) -> dict[str, Any]:
    computed = steps.validate_features(steps.compute_features(NAME, str(period)))
    published = steps.publish_features(computed)
    steps.materialize_online(published)
    return published


def label(published: dict[str, Any]) -> None:
    steps.publish_labels(published)


def train(day: date = DAYS[-1], reason: str = "by hand") -> dict[str, Any]:
    """Everything up to the gate's verdict."""
    request = steps.accept_request(NAME, str(day), reason)
    return steps.judge_challenger(
        steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    )


def score(day: date) -> dict[str, Any]:
    scored = steps.score_customers(steps.resolve_model(NAME, str(day)))
    return steps.publish_predictions(steps.validate_predictions(scored))


def night(day: date) -> dict[str, Any]:
    measured = [
        steps.measure_drift(NAME, str(day)),
        steps.measure_performance(NAME, str(day)),
        steps.measure_freshness(NAME, str(day)),
        steps.measure_skew(NAME, str(day)),
    ]
    return steps.decide_retraining(NAME, str(day), measured)
