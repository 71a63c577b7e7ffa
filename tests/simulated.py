"""Worlds of the simulation that show much on few customers: dirt, season and change are strong."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa

from evergreen.contract import Events, FilesSource, GeneratorSource, load_use_case
from evergreen.contract.tables import Setting
from evergreen.sources.generator import COLUMNS, GeneratorReader
from evergreen.sources.simulation import World

FIRST = date(2024, 1, 1)
CLEAN = dict.fromkeys(
    ("duplicates", "missing_customer", "non_positive_amount", "cancelled", "unparsable_date"), 0.0
)
DIRTY = {
    "duplicates": 0.2,
    "missing_customer": 0.1,
    "non_positive_amount": 0.1,
    "cancelled": 0.1,
    "unparsable_date": 0.1,
}
SEGMENTS = [
    {"name": "often", "share": 0.5, "r": 2.0, "alpha": 40.0, "a": 1.0, "b": 6.0},
    {"name": "seldom", "share": 0.5, "r": 2.0, "alpha": 160.0, "a": 1.0, "b": 4.0},
]
CHANGE = {"day": "2025-02-15", "purchase_rate": 0.3, "drop_out": 3.0, "spend": 0.5}


def declare(**keys: Any) -> GeneratorSource:
    defaults: dict[str, Any] = {
        "kind": "generator",
        "customers": 300,
        "acquisition_days": 300,
        "season": 0.4,
        "segments": SEGMENTS,
        "regime_change": CHANGE,
        "dirt": DIRTY,
    }
    return GeneratorSource.model_validate({**defaults, **keys})


def read(source: GeneratorSource, start: date, end: date, zone: str = "UTC") -> pa.Table:
    world = World(source, FIRST, zone)
    return pa.concat_tables(GeneratorReader(world, COLUMNS[:4]).read(start, end))


def orders_from(source: GeneratorSource | FilesSource, zone: str = "UTC") -> Events:
    orders = load_use_case("churn").events["orders"].model_copy(update={"source": source})
    orders.bind("orders", Setting("churn", zone, FIRST, None, "customer_id"))
    return orders
