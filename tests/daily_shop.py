"""A use case over daily CSV files of a handful of rows, each written by the test that needs it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen import lake, steps
from evergreen.provenance import receipts
from evergreen.release import ledger, ledger_table
from evergreen.settings import Settings

HEADER = "id,customer,at,value"
DAY = date(2025, 3, 10)


def write_daily_shop(settings: Settings, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """Declare the shop below `root`; returns the folder that tests put the files into."""
    folder = root / "use_cases" / "shop"
    folder.mkdir(parents=True)
    (folder / "use_case.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "shop",
                "title": "A small shop",
                "first_day": DAY,
                "entity": {"name": "customer", "key": "customer_id"},
                "events": {
                    "orders": {
                        "source": {"kind": "files", "path": str(root / "data" / "{day}.csv")},
                        "key": "order_id",
                        "timestamp": "ordered_at",
                        "columns": {
                            "order_id": {"source": "id", "dtype": "string"},
                            "customer_id": {"source": "customer", "dtype": "string"},
                            "ordered_at": {"source": "at", "dtype": "timestamp"},
                            "amount": {
                                "source": "value",
                                "dtype": "float64",
                                "range": [0.01, 1000],
                                "thousands": ",",
                            },
                        },
                        "batch": {"max_quarantined_ratio": 0.5, "quarantined_min_rows": 4},
                    }
                },
                "features": {
                    "columns": {
                        "total_orders": {"dtype": "int64", "description": "Orders so far."},
                        "days_since_last_order": {"dtype": "float64", "description": "Recency."},
                    },
                },
                "target": {"name": "churned", "description": "No order.", "horizon_days": 2},
            }
        )
    )
    (folder / "features.sql").write_text(
        "SELECT o.customer_id, d.as_of, count(*) AS total_orders, "
        "date_diff('second', max(o.ordered_at), d.as_of) / 86400.0 AS days_since_last_order "
        "FROM as_of_days AS d JOIN orders AS o ON o.ordered_at < d.as_of "
        "GROUP BY o.customer_id, d.as_of"
    )
    (folder / "labels.sql").write_text(
        "SELECT o.customer_id, d.as_of, count(*) FILTER (o.ordered_at >= d.as_of) = 0 AS label "
        "FROM as_of_days AS d JOIN orders AS o ON o.ordered_at < d.horizon_end "
        "GROUP BY o.customer_id, d.as_of HAVING min(o.ordered_at) < d.as_of"
    )
    (root / "data").mkdir()
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    lake.prepare(settings)
    receipts.create_tables()
    ledger_table.create_tables(ledger.engine(settings))
    return root / "data"


def deliver(data: Path, day: date, *rows: str) -> None:
    (data / f"{day}.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def order(number: int, day: date, customer: str = "a", value: str = "10") -> str:
    return f"o{number},{customer},{day}T12:00:00Z,{value}"


def ingest(period: str) -> dict[str, Any]:
    staged = steps.stage_rows("shop", period, "orders")
    return steps.publish_rows(steps.validate_rows(staged))


def features(period: str) -> dict[str, Any]:
    staged = steps.compute_features("shop", period)
    return steps.publish_features(steps.validate_features(staged))
