from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa

from evergreen.contract import Events, UseCase

DAY = date(2024, 3, 10)


def declared(**changes: Any) -> dict[str, Any]:
    """A small use case: orders with a key, a customer, a time and an amount."""
    orders: dict[str, Any] = {
        "source": changes.pop("source", {"kind": "files", "path": "/nowhere/{day}.csv"}),
        "key": "order_id",
        "timestamp": "ordered_at",
        "columns": {
            "order_id": {"source": "id", "dtype": "string"},
            "customer_id": {"source": "customer", "dtype": "string", "strip_float": True},
            "ordered_at": {"source": "at", "dtype": "timestamp"},
            "amount": {"source": "amount", "dtype": "float64", "range": [0.01, 1000]},
        },
        "batch": {"max_quarantined_ratio": 0.5},
    }
    orders |= changes.pop("orders", {})
    orders["columns"] = {**orders["columns"], **changes.pop("columns", {})}
    return {
        "name": "shop",
        "title": "Shop",
        "first_day": "2024-01-01",
        "entity": {"name": "customer", "key": "customer_id"},
        "events": {"orders": orders},
        "features": {
            "columns": {
                "days_since": {"dtype": "float64", "description": "d", "range": [0, None]},
                "orders": {"dtype": "int64", "description": "n", "range": [1, None]},
                "gap": {"dtype": "int64", "description": "g", "nullable": True},
            },
        },
        "target": {"name": "churned", "description": "No order.", "horizon_days": 90},
        **changes,
    }


def shop(**changes: Any) -> UseCase:
    return UseCase.model_validate(declared(**changes))


def orders(**changes: Any) -> Events:
    """The table of the small use case."""
    return shop(**changes).events["orders"]


def raw_rows(
    rows: list[dict[str, str | None]], *, day: date | None = DAY, columns: tuple[str, ...] = ()
) -> pa.Table:
    """Rows as a source delivers them; `_error` and `_text` may be among their keys."""
    names = columns or tuple(dict.fromkeys(k for row in rows for k in row if k[:1] != "_"))
    delivered = {n: pa.array([row.get(n) for row in rows], pa.string()) for n in names}
    return pa.table(
        {
            **delivered,
            "_text": pa.array([row.get("_text") for row in rows], pa.string()),
            "_day": pa.array([day] * len(rows), pa.date32()),
            "_source": pa.array(["orders.csv"] * len(rows), pa.string()),
            "_row": pa.array(range(1, len(rows) + 1), pa.int64()),
            "_error": pa.array([row.get("_error") for row in rows], pa.string()),
        }
    )


def order(n: int = 1, **changes: str | None) -> dict[str, str | None]:
    good: dict[str, str | None] = {
        "id": f"O{n}",
        "customer": f"C{n}",
        "at": f"{DAY} 10:00:00",
        "amount": "12.50",
    }
    return good | changes
