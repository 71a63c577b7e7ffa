"""What stock Feast does with late, repeated and corrected data, beside what Evergreen does.

    .venv/bin/python -m benchmarks.pains

Every scenario runs twice on the same few rows: through Feast with its own stores, and through
Evergreen's functions. What is shown is what was read back; docs/stock_behaviour.md explains it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from benchmarks import stock_feast
from benchmarks.bench import report, workspace
from benchmarks.contracts import write_use_case
from benchmarks.stock_feast import Row
from evergreen import lake
from evergreen.contract import UseCase, as_of
from evergreen.features import store
from evergreen.features.compute.run import feature_schema
from evergreen.lake.content import digest_by_day
from evergreen.provenance import receipts
from evergreen.provenance.as_known import pins_of
from evergreen.provenance.receipts import Receipt

MONDAY, TUESDAY, WEDNESDAY = date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7)
SOON, LATER = timedelta(hours=1), timedelta(days=18)
OFFLINE = ("dask", "duckdb")
_INSTANT = pa.timestamp("us", tz="UTC")
_FEATURES = {"total_orders": "int64", "recency_days": "float64"}
_numbers = itertools.count()


@dataclass(frozen=True)
class Finding:
    """One scenario: what was read back, per way of doing it.

    Parameters
    ----------
    expected
        What is right to read back.
    on_request
        The same of ways that are not the default.
    """

    number: int
    pain: str
    stock: dict[str, Any]
    ours: dict[str, Any]
    expected: Any
    on_request: dict[str, Any] = field(default_factory=dict)


def backfill_of_an_older_day(folder: Path) -> Finding:
    """50 is the value of Tuesday; then Monday, whose value is 10, is backfilled."""
    rows = [("a", TUESDAY, 50, SOON), ("a", MONDAY, 10, SOON)]
    stock = {}
    for online in ("sqlite", "postgres"):
        with stock_feast.opened(folder, rows, online=online) as feast:
            for day in (TUESDAY, MONDAY):
                stock_feast.materialize(feast, day)
            stock[online] = stock_feast.read(feast, "a")
    use_case = published(folder, rows)
    for day in (TUESDAY, MONDAY):
        store.materialize(use_case, day)
    ours = {"online": online_value(use_case, "a")}
    return Finding(1, "a backfill overwrites newer online values (expected 50)", stock, ours, 50)


def correction_of_the_same_day(folder: Path) -> Finding:
    """10 was wrong and is corrected to 11 for the same as_of; then the first run is repeated."""
    first, corrected = ("a", MONDAY, 10, SOON), ("a", MONDAY, 11, LATER)
    stock = {"redis": stock_feast.through_redis([first, corrected, first])}
    for online in ("sqlite", "postgres"):
        with stock_feast.opened(folder, [first], online=online) as feast:
            seen = []
            # Each run sees what was known when it ran.
            for known in ([first], [first, corrected], [first]):
                stock_feast.write_source(feast, known)
                stock_feast.materialize(feast, MONDAY)
                seen.append(stock_feast.read(feast, "a"))
            stock[online] = seen
    use_case = published(folder, [first])
    original = lake.snapshot_id(use_case.name, "features")
    seen = []
    for known, snapshot in ((None, original), (corrected, None), (None, original)):
        if known:
            publish(use_case, [known])
        store.materialize(use_case, MONDAY, snapshot)
        seen.append(online_value(use_case, "a"))
    pain = "corrections of the same as-of are dropped, or do not stay (expected 10, 11, 11)"
    return Finding(2, pain, stock, {"online": seen}, [10, 11, 11])


def late_row(folder: Path) -> Finding:
    """Materialize Monday and Tuesday; only then does one row of Monday arrive."""
    on_time, late = [("a", MONDAY, 1, SOON), ("a", TUESDAY, 2, SOON)], ("b", MONDAY, 7, LATER)
    stock = {}
    for online in ("sqlite", "postgres"):
        with stock_feast.opened(folder, on_time, online=online) as feast:
            stock_feast.materialize(feast, MONDAY)
            with stock_feast.silent():
                feast.materialize_incremental(as_of(TUESDAY))
            stock_feast.write_source(feast, [*on_time, late, ("a", WEDNESDAY, 3, SOON)])
            with stock_feast.silent():
                feast.materialize_incremental(as_of(WEDNESDAY))
            stock[online] = {"a": stock_feast.read(feast, "a"), "b": stock_feast.read(feast, "b")}
    use_case = published(folder, on_time)
    for day in (MONDAY, TUESDAY):
        store.materialize(use_case, day)
    publish(use_case, [on_time[0], late])
    publish(use_case, [("a", WEDNESDAY, 3, SOON)])
    for day in (WEDNESDAY, MONDAY):
        store.materialize(use_case, day)
    ours = {"online": {name: online_value(use_case, name) for name in ("a", "b")}}
    return Finding(
        3, "incremental runs lose a late row (expected b 7)", stock, ours, {"a": 3, "b": 7}
    )


def correction_known_later(folder: Path) -> Finding:
    """At as_of the value was 1; eighteen days later it was corrected to 99."""
    known, corrected = ("a", MONDAY, 1, timedelta(0)), ("a", MONDAY, 99, LATER)
    stock = {}
    for offline in OFFLINE:
        with stock_feast.opened(folder, [known, corrected], offline=offline) as feast:
            frame = pd.DataFrame(
                {"customer_id": ["a"], "event_timestamp": [pd.Timestamp(as_of(MONDAY))]}
            )
            for name, on_request in ((offline, False), (f"{offline}, cut off on request", True)):
                joined = stock_feast.history(feast, frame, filter_by_created_timestamp=on_request)
                stock[name] = [int(value) for value in joined["total_orders"]]
    use_case = published(folder, [known])
    publish(use_case, [corrected])
    frame = pa.table({"customer_id": ["a"], "as_of": pa.array([as_of(MONDAY)], _INSTANT)})

    def joined_value(**options: Any) -> list[int | None]:
        values: list[int | None] = store.training_set(use_case, frame, **options)[
            "total_orders"
        ].to_pylist()
        return values

    as_known = pins_of(use_case, MONDAY, [MONDAY])["features"]
    ours = {
        "as training reads it": joined_value(pins=as_known),
        "as corrected, on request": joined_value(),
    }
    on_request = {f"{offline}, cut off on request": [1] for offline in OFFLINE}
    pain = "a point-in-time join leaks a later correction (1 was known)"
    return Finding(4, pain, stock, ours, [1], on_request | {"as corrected, on request": [99]})


def repeated_entity_rows(folder: Path) -> Finding:
    """Ask for two rows: equal ones; one without features; one whose features came only later."""
    rows = [("a", MONDAY, 1, SOON), ("later", WEDNESDAY, 3, SOON)]
    pairs = {name: ["a", name] for name in ("a", "nobody", "later")}
    instants = [as_of(MONDAY)] * 2
    stock = {}
    for offline in OFFLINE:
        with stock_feast.opened(folder, rows, offline=offline) as feast:
            stock[offline] = {
                second: len(
                    stock_feast.history(
                        feast,
                        pd.DataFrame(
                            {
                                "customer_id": customers,
                                "event_timestamp": pd.to_datetime(instants, utc=True),
                            }
                        ),
                    )
                )
                for second, customers in pairs.items()
            }
    use_case = published(folder, rows)
    ours = {
        second: store.training_set(
            use_case, pa.table({"customer_id": customers, "as_of": pa.array(instants, _INSTANT)})
        ).num_rows
        for second, customers in pairs.items()
    }
    pain = "rows of the entity frame vanish (expected 2 each: a and a, nobody, later)"
    return Finding(5, pain, stock, {"training_set": ours}, dict.fromkeys(pairs, 2))


SCENARIOS: tuple[Callable[[Path], Finding], ...] = (
    backfill_of_an_older_day,
    correction_of_the_same_day,
    late_row,
    correction_known_later,
    repeated_entity_rows,
)


def main() -> None:
    """Run every scenario, print the table and write `pains.json`."""
    with workspace("pains") as settings:
        findings = [scenario(settings.home / scenario.__name__) for scenario in SCENARIOS]
    report(
        "pains",
        "The same few rows through stock Feast and through Evergreen",
        ("pain", "stock", "evergreen"),
        [(f"{f.number} {f.pain}", _text(f.stock), _text(f.ours)) for f in findings],
        findings={f.number: {"pain": f.pain, "stock": f.stock, "ours": f.ours} for f in findings},
    )


def _text(found: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in found.items())


# --- Evergreen -----------------------------------------------------------------------------------


def published(folder: Path, rows: Sequence[Row]) -> UseCase:
    """Declare a use case of its own, apply it and publish its rows, one partition per day."""
    name = f"pain{next(_numbers)}"
    use_case = write_use_case(folder / name, _FEATURES)
    store.apply([use_case])
    receipts.create_tables()
    publish(use_case, rows)
    return use_case


def publish(use_case: UseCase, rows: Sequence[Row]) -> None:
    """Publish rows with receipts, one partition per day."""
    schema = feature_schema(use_case).append(pa.field("created_at", _INSTANT))
    for wanted in sorted({day for _, day, _, _ in rows}):
        table = pa.Table.from_pylist(
            [
                {
                    "customer_id": customer,
                    "as_of": as_of(day),
                    "total_orders": value,
                    "recency_days": None,
                    "day": day,
                    "created_at": as_of(day) + after,
                }
                for customer, day, value, after in rows
                if day == wanted
            ],
            schema=schema,
        )
        published = lake.publish(use_case.name, "features", table, [wanted])
        receipt = Receipt(
            use_case=use_case.name,
            step="publish_features",
            day=wanted,
            run=str(wanted),
            inputs={},
            output_table=published.table,
            output_snapshot=published.snapshot_id,
            counts={"rows": table.num_rows},
            basis=0,
            content=digest_by_day(table, [wanted])[wanted],
            contract_digest=use_case.contract_digest("features"),
            code_digest=receipts.code_digest(use_case),
            lock_digest="",
            seconds=0.0,
        )
        with receipts.recording(published.table) as record:
            record([receipt])


def online_value(use_case: UseCase, customer: str) -> int | None:
    """Read the online value of a customer."""
    (value,) = store.read_online(use_case, [customer])["total_orders"].to_pylist()
    return None if value is None else int(value)


if __name__ == "__main__":
    main()
