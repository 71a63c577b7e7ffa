"""A use case small enough to check by hand, its orders, and features of it in the lake."""

import itertools
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from evergreen.contract import load_use_case_file
from evergreen.features.compute.past import Given

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
INSTANT = pa.timestamp("us", tz="UTC")
ORDERS = pa.schema(
    [
        ("order_id", pa.string()),
        ("buyer", pa.string()),
        ("ordered_at", INSTANT),
        ("amount", pa.float64()),
        ("day", pa.date32()),
    ]
)


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


@pytest.fixture(scope="session")
def write_orders(tmp_path_factory):
    """Write (buyer, instant, amount) rows as one Parquet file per day, as the lake does."""

    def write(rows):
        folder = Path(tmp_path_factory.mktemp("orders"))
        by_day = {}
        for number, (buyer, instant, amount) in enumerate(rows):
            row = (f"O{number}", buyer, instant, amount, instant.date())
            by_day.setdefault(instant.date(), []).append(row)
        paths = []
        for day, day_rows in sorted(by_day.items()):
            partition = folder / f"day={day}"
            partition.mkdir()
            columns = zip(*day_rows, strict=True)
            table = pa.table(
                [pa.array(c, f.type) for c, f in zip(columns, ORDERS, strict=True)], schema=ORDERS
            )
            pq.write_table(table, partition / "part.parquet")
            paths.append(str(partition / "part.parquet"))
        return {"orders": Given(paths)}

    return write


@pytest.fixture
def applied(home, make_use_case):
    """Provide a use case that Feast knows, without features yet."""
    from evergreen.features import store

    use_case = make_use_case()
    store.apply([use_case])
    return use_case


@pytest.fixture
def publish():
    """Publish features of one day: {buyer: total_orders}, created at an instant."""
    from evergreen import lake
    from evergreen.features.compute.run import feature_schema

    def publish(use_case, day, totals, created_at=datetime(2026, 2, 1, tzinfo=UTC)):
        schema = feature_schema(use_case).append(pa.field("created_at", INSTANT))
        rows = [
            {
                "buyer": buyer,
                "as_of": use_case.as_of(day),
                "total_orders": total,
                "total_spent": None if total is None else total * 10.5,
                "recency_days": 0.25,
                "day": day,
                "created_at": created_at,
            }
            for buyer, total in sorted(totals.items())
        ]
        table = pa.Table.from_pylist(rows, schema=schema)
        return lake.publish(use_case.name, "features", table, [day]).snapshot_id

    return publish
