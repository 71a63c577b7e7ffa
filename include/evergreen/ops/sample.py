"""Rows that obey a contract, made up so that mistakes in SQL show on them.

Days and entities are chosen for what SQL gets wrong: events at the very instant of an as-of and a
microsecond before it, several at one instant, further back than any day stays single, on the last
day of a horizon and right after it; entities with one event, with one every day, gone for long,
and new between two as-ofs; attributes that change at an as-of or become known late; references
that are delivered again. Nothing is drawn: the same contract always gives the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa

from evergreen.contract import AnyTable, Column, UseCase, arrow

_DAY = timedelta(days=1)
_NOON = timedelta(hours=12)
_INSTANT = timedelta(microseconds=1)
# Days of history where the SQL does not say how far it looks back.
_HISTORY_DAYS = 120
_RAW_ROWS = 24
_ENTITIES = 12


def sample_days(use_case: UseCase) -> list[date]:
    """Return as-of days far enough from the first day; neighbours and distant ones."""
    dailies = [table.daily for table in use_case.events.values() if table.daily]
    back = max((daily.lookback_days for daily in dailies), default=_HISTORY_DAYS)
    first = use_case.first_day + timedelta(days=2 * back + 30)
    return [first + timedelta(days=n) for n in (0, 1, 2, 9, 40)]


def sample_rows(use_case: UseCase, table: AnyTable) -> pa.Table:
    """Return rows of a table as the lake has them: the published columns and `day`."""
    happenings = {
        "events": _happenings,
        "attributes": _changes,
        "references": _deliveries,
    }[table.kind]
    columns, rows = table.published, []
    for n, (entity, instant, delivered) in enumerate(happenings(use_case)):
        row = {name: _value(name, column, n, instant) for name, column in columns.items()}
        if table.row_key is not None:
            # The keys of references are what other tables name.
            number = n % 3 if table.kind == "references" else n
            row[table.row_key] = _key(table, table.row_key, "row", number)
        if table.entity_key is not None:
            row[table.entity_key] = _key(table, table.entity_key, "entity", entity)
        rows.append({**row, "day": delivered or use_case.day_of(instant + _INSTANT)})
    fields = [(name, arrow(column.dtype)) for name, column in columns.items()]
    return pa.Table.from_pylist(rows, schema=pa.schema([*fields, ("day", pa.date32())]))


def sample_raw(table: AnyTable) -> pa.Table:
    """Return rows of the first day as a source delivers them; see `split_rows`."""
    first = table.setting.first_day
    noon = datetime(first.year, first.month, first.day, 12)  # noqa: DTZ001 - the clock on the wall
    rows: list[dict[str, Any]] = []
    for n in range(_RAW_ROWS):
        row = {
            column.source: _text(column, _value(name, column, n, noon + n * timedelta(minutes=1)))
            for name, column in table.columns.items()
        }
        rows.append(row)
    names = list(dict.fromkeys(column.source for column in table.columns.values()))
    given = {name: pa.array([row[name] for row in rows], pa.string()) for name in names}
    nothing = pa.nulls(_RAW_ROWS, pa.string())
    return pa.table(
        {
            **given,
            "_day": pa.array([first] * _RAW_ROWS, pa.date32()),
            "_source": pa.array(["sample"] * _RAW_ROWS),
            "_row": pa.array(range(_RAW_ROWS), pa.int64()),
            "_error": nothing,
            "_text": nothing,
        }
    )


_Happening = tuple[int, datetime, date | None]


def _happenings(use_case: UseCase) -> Iterator[_Happening]:
    """Yield (entity, instant of an event, day it is delivered for if that is another)."""
    days = sample_days(use_case)
    horizon = timedelta(days=use_case.target.horizon_days)
    end, first = days[-1] + horizon + 3 * _DAY, days[0]
    found: list[tuple[int, datetime]] = []
    for n in range((end - use_case.first_day).days):
        day = use_case.first_day + n * _DAY
        midnight, next_midnight = use_case.as_of(day - _DAY), use_case.as_of(day)
        # Two at one instant, every day.
        found += [(0, midnight + _NOON), (0, midnight + _NOON)]
        if n % 2:
            found.append((1, midnight))
        if n % 7 == 0:
            found.append((2, next_midnight - _INSTANT))
        if n % 30 == 0:
            found.append((3, midnight + 2 * _NOON / 3))
        if day <= first - 40 * _DAY and n % 5 == 0:
            found.append((4, midnight + _NOON))
        if day > first + _DAY and n % 3 == 0:
            found.append((5, midnight + _NOON))
    single = use_case.as_of(first - 10 * _DAY) + _NOON
    as_of, after = use_case.as_of(first), use_case.as_of(first + horizon)
    # A first and only time, and that one twice: what takes the first of an entity meets a tie.
    found += [(6, use_case.as_of(use_case.first_day + 4 * _DAY)), (7, single), (7, single)]
    # What they do next, if anything: at as_of, on the last day of the horizon, right after it.
    found += [(8, single), (8, as_of), (9, single), (9, after - _NOON), (10, single), (10, after)]
    found.append((11, use_case.as_of(end - 2 * _DAY)))
    yield from ((entity, instant, None) for entity, instant in found)


def _changes(use_case: UseCase) -> Iterator[_Happening]:
    days = sample_days(use_case)
    begin = use_case.as_of(use_case.first_day - _DAY)
    for entity in range(_ENTITIES - 1):
        yield entity, begin + entity * _INSTANT, use_case.first_day
        if entity % 2:
            yield entity, use_case.as_of(days[0]) - _INSTANT, days[0]
        if entity % 3 == 0:
            # Known a day late, true from an as-of on.
            yield entity, use_case.as_of(days[1]), days[2] + _DAY
        if entity % 5 == 0:
            yield entity, use_case.as_of(days[3]) + _NOON, days[3]


def _deliveries(use_case: UseCase) -> Iterator[_Happening]:
    days = sample_days(use_case)
    for day in (use_case.first_day, days[1], days[3] + _DAY):
        yield from ((0, use_case.as_of(day), day) for _ in range(3))


def _key(table: AnyTable, column: str, word: str, number: int) -> str | int:
    declared = table.published[column]
    if declared.dtype == "int64":
        return number
    # What other tables call it, too, so that joins find partners.
    return f"{column} {number}" if table.kind == "references" else f"{word} {number}"


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
