"""Orders that obey a contract, made up so that mistakes in SQL show on them.

Days and entities are chosen for what SQL gets wrong: orders at the very instant of an as-of and a
microsecond before it, several at one instant, further back than any day stays single, on the last
day of a horizon and right after it; entities with one order, with one every day, gone for long,
and new between two as-ofs. Nothing is drawn: the same contract always gives the same orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa

from evergreen.contract import Column, UseCase, as_of
from evergreen.features.compute.result import ARROW_TYPES

_DAY = timedelta(days=1)
_NOON = timedelta(hours=12)
_INSTANT = timedelta(microseconds=1)
# Days of history where the SQL does not say how far it looks back.
_HISTORY_DAYS = 120
_RAW_ROWS = 24


def sample_days(use_case: UseCase) -> list[date]:
    """Return as-of days far enough from the first day; neighbours and distant ones."""
    back = use_case.daily.lookback_days if use_case.daily else _HISTORY_DAYS
    first = use_case.first_day + timedelta(days=2 * back + 30)
    return [first + timedelta(days=n) for n in (0, 1, 2, 9, 40)]


def sample_orders(use_case: UseCase) -> pa.Table:
    """Return orders as the lake has them: the published columns."""
    orders = use_case.orders
    columns = orders.published
    key = orders.rollup.key if orders.rollup else orders.key
    rows = []
    for n, (entity, instant) in enumerate(_happenings(use_case)):
        row = {name: _value(name, column, n, instant) for name, column in columns.items()}
        row[key] = n if columns[key].dtype == "int64" else f"order {n}"
        numbered = columns[use_case.entity.key].dtype == "int64"
        row[use_case.entity.key] = entity if numbered else f"entity {entity}"
        rows.append(row)
    schema = pa.schema([(name, ARROW_TYPES[column.dtype]) for name, column in columns.items()])
    return pa.Table.from_pylist(rows, schema=schema)


def sample_raw(use_case: UseCase) -> pa.Table:
    """Return rows of the first day as a source delivers them; see `split_rows`."""
    noon = datetime.combine(use_case.first_day, time(12), UTC)
    rows: list[dict[str, Any]] = []
    for n in range(_RAW_ROWS):
        row = {
            column.source: _text(column, _value(name, column, n, noon + n * timedelta(minutes=1)))
            for name, column in use_case.orders.columns.items()
        }
        rows.append(row)
    names = list(dict.fromkeys(column.source for column in use_case.orders.columns.values()))
    given = {name: pa.array([row[name] for row in rows], pa.string()) for name in names}
    nothing = pa.nulls(_RAW_ROWS, pa.string())
    return pa.table(
        {
            **given,
            "_day": pa.array([use_case.first_day] * _RAW_ROWS, pa.date32()),
            "_source": pa.array(["sample"] * _RAW_ROWS),
            "_row": pa.array(range(_RAW_ROWS), pa.int64()),
            "_error": nothing,
            "_text": nothing,
        }
    )


def _happenings(use_case: UseCase) -> Iterator[tuple[int, datetime]]:
    """Yield (entity, instant of an order)."""
    start = datetime.combine(use_case.first_day, time(), UTC)
    days = sample_days(use_case)
    first, horizon = as_of(days[0]), timedelta(days=use_case.label.horizon_days)
    end = as_of(days[-1]) + horizon + 3 * _DAY
    for n in range((end - start).days):
        midnight = start + n * _DAY
        # Two at one instant, every day.
        yield from ((0, midnight + _NOON), (0, midnight + _NOON))
        if n % 2:
            yield 1, midnight
        if n % 7 == 0:
            yield 2, midnight + _DAY - _INSTANT
        if n % 30 == 0:
            yield 3, midnight + 2 * _NOON / 3
        if midnight < first - 40 * _DAY and n % 5 == 0:
            yield 4, midnight + _NOON
        if midnight > first and n % 3 == 0:
            yield 5, midnight + _NOON
    single = first - 10 * _DAY + _NOON
    # A first and only time, and that one twice: what takes the first of an entity meets a tie.
    yield from ((6, start + 5 * _DAY), (7, single), (7, single))
    # What they do next, if anything: at as_of, on the last day of the horizon, right after it.
    yield from ((8, single), (8, first))
    yield from ((9, single), (9, first + horizon - _NOON))
    yield from ((10, single), (10, first + horizon))
    yield 11, end - _DAY


def _value(name: str, column: Column, n: int, instant: datetime) -> Any:
    if column.nullable and n % 7 == 3:
        return None
    if column.dtype == "timestamp":
        return instant
    if column.dtype == "date":
        return instant.date()
    if column.dtype == "bool":
        return n % 2 == 0
    if column.dtype == "string":
        return column.values[n % len(column.values)] if column.values else f"{name} {n % 3}"
    if column.values:
        return {"int64": int, "float64": float}[column.dtype](column.values[n % len(column.values)])
    low, high = column.range
    step = n * 37 % 101 + (0.25 * (n % 4) if column.dtype == "float64" else 0)
    if low is not None and high is not None:
        step = step * min(high - low, 1000) / 102
    found = high - step if low is None and high is not None else (1 if low is None else low) + step
    return int(found) if column.dtype == "int64" else found


def _text(column: Column, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, date):
        return value.strftime(column.formats[0]) if column.formats else value.isoformat()
    if isinstance(value, float):
        return str(value).replace(".", column.decimal)
    return str(value).lower() if isinstance(value, bool) else str(value)
