"""A small use case, and features of it in the lake."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from small_buyers import make_use_case


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
        schema = feature_schema(use_case).append(
            pa.field("created_at", pa.timestamp("us", tz="UTC"))
        )
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
