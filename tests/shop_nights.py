"""Nights of a use case `shop`, and what people do to it between them."""

from __future__ import annotations

from datetime import date
from typing import Any

from evergreen import lake, steps
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk


def release(judged: dict[str, Any]) -> None:
    steps.release_version("shop", "promote", str(judged["version"]), "a test", "ann")


def night(day: date) -> dict[str, Any]:
    steps.measure_staleness("shop", str(day))
    return steps.decide_retraining("shop", str(day), measure(day))


def measure(day: date) -> list[dict[str, Any] | None]:
    return [
        steps.measure_drift("shop", str(day)),
        steps.measure_performance("shop", str(day)),
        steps.measure_freshness("shop", str(day)),
        steps.measure_skew("shop", str(day)),
    ]


def cut(table: str, day: date) -> None:
    """Publish a day again without half of its rows."""
    rows = lake.read_day("shop", table, day)
    half = rows.slice(rows.num_rows // 2)
    batch = Staged("shop", str(day), "", basis=receipts.newest_sequence())
    publish_chunk(batch, f"publish_{table}", table, half, [day])
