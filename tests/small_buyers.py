"""A use case small enough to check by hand: `make_use_case` is a fixture."""

import itertools
from datetime import date

import pytest
import yaml

from evergreen.contract import load_use_case_file

FEATURES_SQL = """
SELECT o.buyer, d.as_of, count(*) AS total_orders, sum(o.amount) AS total_spent,
    date_diff('second', max(o.ordered_at), d.as_of) / 86400.0 AS recency_days
FROM as_of_days d JOIN orders o ON o.ordered_at < d.as_of
GROUP BY o.buyer, d.as_of
"""
LABELS_SQL = """
SELECT o.buyer, d.as_of, count(*) FILTER (o.ordered_at >= d.as_of) = 0 AS label
FROM as_of_days d JOIN orders o ON o.ordered_at < d.horizon_end
GROUP BY o.buyer, d.as_of
HAVING min(o.ordered_at) < d.as_of
"""


def declaration(name):
    column = {"dtype": "string", "description": ""}
    return {
        "name": name,
        "title": "Small",
        "first_day": date(2026, 1, 1),
        "entity": {"name": "buyer", "key": "buyer"},
        "events": {
            "orders": {
                "source": {"kind": "files", "path": "x.csv"},
                "key": "order_id",
                "timestamp": "ordered_at",
                "columns": {
                    "order_id": {**column, "source": "order_id"},
                    "buyer": {**column, "source": "buyer"},
                    "ordered_at": {"source": "ordered_at", "dtype": "timestamp"},
                    "amount": {"source": "amount", "dtype": "float64"},
                },
            }
        },
        "features": {
            "ttl_days": 2,
            "columns": {
                "total_orders": {"dtype": "int64", "description": "Orders.", "unit": "orders"},
                "total_spent": {"dtype": "float64", "description": "Money.", "nullable": True},
                "recency_days": {"dtype": "float64", "description": "Recency.", "unit": "days"},
            },
        },
        "target": {"name": "left", "description": "Gone.", "horizon_days": 3},
    }


@pytest.fixture(scope="session")
def make_use_case(tmp_path_factory):
    """Build a use case; every call makes a new one with a name of its own."""
    numbers = itertools.count()

    def make(features_sql=FEATURES_SQL, labels_sql=LABELS_SQL):
        folder = tmp_path_factory.mktemp("use_cases") / f"small{next(numbers)}"
        folder.mkdir()
        (folder / "use_case.yaml").write_text(
            yaml.safe_dump(declaration(folder.name), sort_keys=False)
        )
        (folder / "features.sql").write_text(features_sql)
        (folder / "labels.sql").write_text(labels_sql)
        return load_use_case_file(folder / "use_case.yaml")

    return make
