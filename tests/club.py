"""A club in Berlin over a night in which clocks go forward: two tables of events, attributes,
references, a category among the features, and a second use case that predicts spend.

Members order now and then, and visit. Who is on the plan `trial` orders less and leaves sooner; who
is on `gold` spends more. Plans change, some changes become known late.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml

from evergreen import steps
from evergreen.ops import deploy
from evergreen.settings import load_settings

CLUB, SPEND = "club", "club_spend"
DAYS = [date(2024, 3, 20) + timedelta(days=n) for n in range(26)]
WHOLE = f"{DAYS[0]}..{DAYS[-1]}"
TABLES = ("orders", "visits", "plans", "tariffs")
HORIZON = 3
_PLANS = {"trial": (0.15, 0.30, 8.0), "silver": (0.35, 0.06, 20.0), "gold": (0.45, 0.02, 60.0)}

_FEATURES = """
SELECT
    o.customer_id,
    d.as_of,
    sum(o.orders) AS total_orders,
    coalesce(sum(o.orders) FILTER (o.day >= d.as_of - INTERVAL 7 DAY), 0) AS orders_7d,
    coalesce(sum(o.spent) FILTER (o.day >= d.as_of - INTERVAL 7 DAY), 0)::DOUBLE AS spent_7d,
    date_diff('day', max(o.day), d.as_of::DATE)::DOUBLE AS idle_days,
    coalesce(max(v.visits), 0) AS visits_7d,
    max(p.plan) AS plan,
    max(t.fee) AS fee
FROM as_of_days AS d
INNER JOIN orders_daily AS o ON o.day < d.as_of
LEFT JOIN (
    SELECT d.as_of, v.customer_id, count(*) AS visits
    FROM as_of_days AS d
    INNER JOIN visits AS v ON v.seen_at < d.as_of AND v.day >= d.as_of - INTERVAL 7 DAY
    GROUP BY d.as_of, v.customer_id
) AS v ON v.as_of = d.as_of AND v.customer_id = o.customer_id
LEFT JOIN plans AS p ON p.as_of = d.as_of AND p.customer_id = o.customer_id
LEFT JOIN tariffs AS t ON t.as_of = d.as_of AND t.plan = p.plan
GROUP BY o.customer_id, d.as_of
HAVING max(o.day) >= d.as_of - INTERVAL 10 DAY
"""
_LABELS = """
SELECT o.customer_id, d.as_of, {label} AS label
FROM as_of_days AS d INNER JOIN orders_daily AS o
    ON o.day >= d.as_of - INTERVAL 10 DAY AND o.day < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING min(o.day) < d.as_of
"""
_TRAINING = {
    "cutoff_every_days": 1,
    "min_history_days": 3,
    "booster": {
        "learning_rate": 0.1,
        "max_rounds": 150,
        "early_stopping_rounds": 15,
        "min_child_weight": 2.0,
    },
}


def write_club(root: Path, shards: int = 1) -> Path:
    """Write data and both use cases below `root`; return the folder of the data."""
    data = root / "data"
    for name in ("orders", "visits", "plans"):
        (data / name).mkdir(parents=True)
    _deliver(data)
    for name, declared, label in (
        (CLUB, _club(data), "count(*) FILTER (o.day >= d.as_of) = 0"),
        (SPEND, _spend(), "coalesce(sum(o.spent) FILTER (o.day >= d.as_of), 0)::DOUBLE"),
    ):
        folder = root / "use_cases" / name
        folder.mkdir(parents=True)
        declared["shards"] = shards
        (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
        (folder / "labels.sql").write_text(_LABELS.format(label=label))
    (root / "use_cases" / CLUB / "features.sql").write_text(_FEATURES)
    return data


def _deliver(data: Path) -> None:
    chance = random.Random(11)
    members: dict[str, str] = {}
    for n, day in enumerate(DAYS):
        plans = ["customer,since,plan"]
        for joined in range(60 if n == 0 else 14):
            name = f"m{n:02}-{joined:02}"
            members[name] = chance.choice(sorted(_PLANS))
            plans.append(f"{name},{day} 00:00,{members[name]}")
        orders, visits = ["id,customer,when,value"], ["customer,when"]
        for name, plan in list(members.items()):
            often, leaves, value = _PLANS[plan]
            if n and chance.random() < leaves:
                del members[name]
                continue
            for k in range(1 if f"m{n:02}" in name else sum(chance.random() < often for _ in "ab")):
                at = f"{day} {chance.choice((0, 1, 3, 12, 23)):02}:{chance.randrange(60):02}"
                amount = f"{value * chance.uniform(0.5, 1.5):.2f}"
                orders.append(f"{name}/{n}/{k},{name},{at},{amount}")
            for _ in range(chance.randrange(3)):
                visits.append(f"{name},{day} 12:00")
            if chance.random() < 0.01:
                members[name] = "gold"
                plans.append(f"{name},{day} 15:00,gold")
        (data / "orders" / f"{day}.csv").write_text("\n".join(orders) + "\n")
        (data / "visits" / f"{day}.csv").write_text("\n".join(visits) + "\n")
        (data / "plans" / f"{day}.csv").write_text("\n".join(plans) + "\n")
    (data / "tariffs.csv").write_text("plan,fee\ntrial,0\nsilver,9.5\ngold,30\n")


def _columns(**columns: tuple[str, str]) -> dict[str, Any]:
    return {name: {"source": source, "dtype": dtype} for name, (source, dtype) in columns.items()}


def _club(data: Path) -> dict[str, Any]:
    customer = ("customer", "string")
    loose = {"row_count_ratio": [0.01, 100.0]}
    return {
        "name": CLUB,
        "title": "Who leaves the club",
        "zone": "Europe/Berlin",
        "first_day": DAYS[0],
        "last_day": DAYS[-1],
        "entity": {"name": "member", "key": "customer_id"},
        "events": {
            "orders": {
                "source": {"kind": "files", "path": str(data / "orders" / "{day}.csv")},
                "key": "order_id",
                "timestamp": "ordered_at",
                "columns": _columns(
                    order_id=("id", "string"),
                    customer_id=customer,
                    ordered_at=("when", "timestamp"),
                    amount=("value", "float64"),
                ),
                "batch": loose,
                "daily": {
                    "lookback_days": 10,
                    "columns": {
                        "orders": {"sql": "count(*)", "merge": "sum"},
                        "spent": {"sql": "sum(amount::DECIMAL(18, 2))", "merge": "sum"},
                    },
                },
            },
            "visits": {
                "source": {"kind": "files", "path": str(data / "visits" / "{day}.csv")},
                "key": "none",
                "duplicates": "keep",
                "timestamp": "seen_at",
                "columns": _columns(customer_id=customer, seen_at=("when", "timestamp")),
                "batch": loose,
            },
        },
        "attributes": {
            "plans": {
                "source": {"kind": "files", "path": str(data / "plans" / "{day}.csv")},
                "valid_from": "since",
                "columns": _columns(
                    customer_id=customer, since=("since", "timestamp"), plan=("plan", "string")
                ),
            }
        },
        "references": {
            "tariffs": {
                "source": {"kind": "files", "path": str(data / "tariffs.csv")},
                "key": "plan",
                "columns": _columns(plan=("plan", "string"), fee=("fee", "float64")),
            }
        },
        "features": {
            "columns": {
                "total_orders": {"dtype": "int64", "description": "Orders so far."},
                "orders_7d": {"dtype": "int64", "description": "Orders of a week."},
                "spent_7d": {"dtype": "float64", "description": "Spend of a week.", "unit": "eur"},
                "idle_days": {"dtype": "float64", "description": "Days since the last order."},
                "visits_7d": {"dtype": "int64", "description": "Visits of a week."},
                "plan": {
                    "dtype": "category",
                    "description": "The member's plan.",
                    "values": sorted(_PLANS),
                    "nullable": True,
                },
                "fee": {"dtype": "float64", "description": "Fee of the plan.", "nullable": True},
            }
        },
        "target": {
            "name": "left",
            "description": "No order in three days.",
            "horizon_days": HORIZON,
        },
        "training": {**_TRAINING, "baselines": ["idle_days"]},
        "gate": {
            "min_auc": 0.5,
            "max_logloss": 1.0,
            "min_holdout_rows": 30,
            "max_latency_ms_per_1k": 1e5,
            "min_baseline_margin": 0.0,
        },
        "monitoring": {"max_model_age_days": None},
    }


def _spend() -> dict[str, Any]:
    return {
        "name": SPEND,
        "title": "What members will spend",
        "features": {"of": CLUB},
        "target": {
            "kind": "number",
            "name": "spend",
            "description": "Value of the orders of three days.",
            "unit": "eur",
            "horizon_days": HORIZON,
            "distribution": "tweedie",
        },
        "training": _TRAINING,
        "gate": {"min_holdout_rows": 30, "max_latency_ms_per_1k": 1e5},
        "scoring": {"bands": {"high": 40, "low": 0}},
        "monitoring": {"max_model_age_days": None},
    }


# --- what DAGs do --------------------------------------------------------------------------------


def apply() -> None:
    """Do what `make up` does."""
    assert list(deploy.initialise(load_settings()))


def ingest(period: object = WHOLE, tables: tuple[str, ...] = TABLES) -> None:
    for table in tables:
        staged = steps.stage_rows(CLUB, str(period), table)
        steps.publish_rows(steps.validate_rows(staged))


def compute(period: object = WHOLE) -> None:
    """Features, the online store, and the labels of both use cases."""
    computed = steps.validate_features(steps.compute_features(CLUB, str(period)))
    published = steps.publish_features(computed)
    steps.materialize_online(published)
    steps.publish_labels(published)
    steps.publish_labels({"use_case": SPEND, "period": str(period)})


def train(use_case: str, day: date = DAYS[-1]) -> dict[str, Any]:
    """Train, and put the challenger in charge if the gate says so."""
    request = steps.accept_request(use_case, str(day), "by hand")
    judged = steps.judge_challenger(
        steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    )
    if steps.is_promotable(judged):
        steps.promote_challenger(judged)
    return judged


def put_in_charge(use_case: str, day: date) -> None:
    """Train, and put the challenger in charge whatever the gate says."""
    judged = train(use_case, day)
    if not steps.is_promotable(judged):
        steps.release_version(use_case, "promote", str(judged["version"]), "a test", "ann")


def score(use_case: str, days: Iterator[date] | list[date]) -> None:
    for day in days:
        scored = steps.score_customers(steps.resolve_model(use_case, str(day)))
        steps.publish_predictions(steps.validate_predictions(scored))


def night(use_case: str, day: date) -> dict[str, Any]:
    measured = [
        steps.measure_drift(use_case, str(day)),
        steps.measure_performance(use_case, str(day)),
        steps.measure_freshness(use_case, str(day)),
        steps.measure_skew(use_case, str(day)),
    ]
    return steps.decide_retraining(use_case, str(day), measured)
