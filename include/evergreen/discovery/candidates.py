"""Candidates: features that could be computed of a table, from its contract alone.

What a column is declared as decides what is made of it; its name never does. A candidate looks back
at most as far as its table shows single days, so that it can be pasted as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evergreen.contract import Attributes, Column, DailyColumn, Events, Feature, UseCase
from evergreen.contract.dtypes import FeatureDtype
from evergreen.features.compute.daily import column_types
from evergreen.sql.connection import opened
from evergreen.sql.text import quote

MOST = 120
"""At most so many candidates are tried, shared evenly by the tables."""

# How far candidates look back where a table does not say for how long days stay single.
LOOKBACK_DAYS = 365
_WINDOWS, _TRENDS, _WEEKS = (7, 30, 90, 180, 365), (14, 30, 90), 8
# Weeks and trends are made of the first few numbers only.
_DETAILED = 3
_LONGEST_NAME = 63
_AS_FEATURE: Mapping[str, FeatureDtype] = {
    "string": "category",
    "float64": "float64",
    "int64": "int64",
    "bool": "bool",
}


@dataclass(frozen=True)
class Candidate:
    """One feature that could be declared.

    Parameters
    ----------
    table
        The table of events or attributes it is made of.
    part
        Which rows `sql` is an aggregate of; see `evergreen.discovery.sql`.
    sql
        One expression per entity and as-of.
    feature
        What it would be declared as. One that is not nullable is 0 where there are no events.
    daily
        Columns that `daily` of the table would need beside those it has.
    """

    name: str
    table: str
    part: str
    sql: str
    feature: Feature
    daily: Mapping[str, DailyColumn] = field(default_factory=dict)


@dataclass(frozen=True)
class _Number:
    """What can be summed up over a window."""

    name: str
    function: str
    value: str
    dtype: FeatureDtype
    what: str
    unit: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is a number of events or days."""
        return self.function == "count"

    @property
    def adds_up(self) -> bool:
        """Whether it is 0 of no events: there is no least and no greatest of nothing."""
        return self.function in ("count", "sum")

    @property
    def aggregate(self) -> str:
        """In SQL; a FILTER may follow."""
        return f"{self.function}({self.value})"

    @property
    def title(self) -> str:
        """For descriptions."""
        return f"{self.function.capitalize()} of {self.what}"


@dataclass(frozen=True)
class _Text:
    """A column of categories."""

    name: str
    column: str
    daily: Mapping[str, DailyColumn] = field(default_factory=dict)


def propose_candidates(use_case: UseCase) -> tuple[list[Candidate], int]:
    """Generate the candidates of all tables of attributes and events.

    Returns
    -------
    tuple
        At most `MOST` of them, and how many more there would be. Names that are declared already
        are left out.
    """
    tables: list[Attributes | Events] = [*use_case.attributes.values(), *use_case.events.values()]
    share = MOST // len(tables)
    kept: dict[str, Candidate] = {}
    beyond = 0
    for table in tables:
        found = [
            candidate
            for candidate in _of_table(table)
            if candidate.name not in use_case.features.columns
            and candidate.name not in kept
            and len(candidate.name) <= _LONGEST_NAME
        ]
        kept |= {candidate.name: candidate for candidate in found[:share]}
        beyond += len(found[share:])
    return list(kept.values()), beyond


def lookback_days(table: Events) -> int:
    """Return how many days before an as-of the candidates of a table look at."""
    return table.daily.lookback_days if table.daily else LOOKBACK_DAYS


def declare_daily(use_case: UseCase, candidates: Iterable[Candidate]) -> UseCase:
    """Return the use case with the columns of `daily` that candidates need."""
    events = dict(use_case.events)
    for candidate in candidates:
        table = events.get(candidate.table)
        if candidate.daily and table and table.daily:
            columns = {**table.daily.columns, **candidate.daily}
            daily = table.daily.model_copy(update={"columns": columns})
            events[candidate.table] = table.model_copy(update={"daily": daily})
    return use_case.model_copy(update={"events": events})


def declare_features(use_case: UseCase, candidates: Iterable[Candidate]) -> UseCase:
    """Return the use case as if the candidates were declared after its features."""
    more = {candidate.name: candidate.feature for candidate in candidates}
    features = use_case.features.model_copy(
        update={"columns": {**use_case.features.columns, **more}}
    )
    return use_case.model_copy(update={"features": features})


def _of_table(table: Attributes | Events) -> Iterator[Candidate]:
    """Generate what is made of one table; what is worth most comes first."""
    if isinstance(table, Attributes):
        yield from _valid(table)
        return
    numbers, texts = _by_day(table) if table.daily else _by_row(table)
    detailed = [number for number in numbers if number.adds_up][:_DETAILED]
    yield from _rhythm(table)
    yield from _trends(table, detailed)
    for text in texts:
        yield from _kinds(table, text)
    yield from _windows(table, numbers)
    yield from _weeks(table, detailed)
    yield from _ends(table, numbers)


def _valid(table: Attributes) -> Iterator[Candidate]:
    """Say what is true of an entity at each as-of, and for how long it has been."""
    if table.valid_from is not None:
        since = f"CAST(max({quote(table.valid_from)}) AS DATE)"
        yield _made(
            table,
            "valid",
            f"{table.name}_since_days",
            f"date_diff('day', {since}, CAST(as_of AS DATE))",
            "int64",
            f"Days since what {table.name} says at as_of has been true.",
            unit="days",
            range=(0, None),
            nullable=True,
        )
    for name, column in _described(table).items():
        dtype = _AS_FEATURE.get(column.dtype)
        if dtype is not None:
            yield _made(
                table,
                "valid",
                f"{table.name}_{name}",
                # There is one row each; there has to be an aggregate.
                f"max({quote(name)})",
                dtype,
                f"{name.capitalize()} of {table.name} at as_of.",
                unit=column.unit,
                nullable=True,
            )


def _days(table: Events) -> _Number:
    name, what = f"{table.name}_days", f"days with {table.name}"
    return _Number(name, "count", "DISTINCT day", "int64", what, "days")


def _by_row(table: Events) -> tuple[list[_Number], list[_Text]]:
    """Return what there is of a table that is read event by event."""
    count = _Number(table.name, "count", "*", "int64", table.name, table.name)
    numbers, texts = [count, _days(table)], []
    for name, column in _described(table).items():
        called, what = f"{table.name}_{name}", f"{name} of {table.name}"
        # Sums of decimals do not depend on the order of rows.
        values: dict[str, tuple[str, FeatureDtype]] = {
            "float64": (f"CAST({quote(name)} AS DECIMAL(38, 6))", "float64"),
            "int64": (quote(name), "int64"),
            "bool": (f"CAST({quote(name)} AS BIGINT)", "int64"),
        }
        if column.dtype in values:
            numbers.append(_Number(called, "sum", *values[column.dtype], what, column.unit))
        elif column.dtype == "string":
            texts.append(_Text(called, name))
    return numbers, texts


def _by_day(table: Events) -> tuple[list[_Number], list[_Text]]:
    """Return what there is of a table that is read by days of entities."""
    assert table.daily is not None
    with opened("discovery") as connection:
        types = column_types(connection, table)
    numbers, texts, told = [_days(table)], [], ""
    for name, kind in types.items():
        called, column = f"{table.name}_{name}", table.daily.columns[name]
        dtype: FeatureDtype = "int64" if kind == "BIGINT" else "float64"
        if kind in ("BIGINT", "DOUBLE") or kind.startswith("DECIMAL"):
            what = f"{name} of {table.name}_daily"
            numbers.append(_Number(called, column.merge, quote(name), dtype, what))
        elif kind == "VARCHAR":
            texts.append(_Text(called, name))
            told += column.sql
    for name, declared in _described(table).items():
        # What the days say nothing of yet.
        if declared.dtype == "string" and not re.search(rf"\b{name}\b", told):
            extra = f"{name}_of_day"[:_LONGEST_NAME]
            needed = {extra: DailyColumn(sql=f"max({quote(name)})", merge="max")}
            texts.append(_Text(f"{table.name}_{name}", extra, needed))
    # What adds up comes first: weeks and trends are made of it.
    return sorted(numbers, key=lambda number: not number.adds_up), texts


def _described(table: Attributes | Events) -> dict[str, Column]:
    """Return the columns that say something of a row, and not which it is."""
    roles = {table.entity_key, table.row_key, table.key, table.time, "as_of"}
    return {name: column for name, column in table.published.items() if name not in roles}


def _made(
    table: Attributes | Events,
    part: str,
    name: str,
    sql: str,
    dtype: FeatureDtype,
    description: str,
    **declared: Any,
) -> Candidate:
    daily = declared.pop("daily", {})
    feature = Feature(dtype=dtype, description=description, **declared)
    return Candidate(name, table.name, part, sql, feature, daily)


def _since(days: int, until: int = 0) -> str:
    """Write the condition for the days `[as_of - days, as_of - until)`."""
    first = f"day >= as_of - INTERVAL {days} DAY"
    return (
        f"FILTER ({first} AND day < as_of - INTERVAL {until} DAY)" if until else f"FILTER ({first})"
    )


def _range(number: _Number) -> dict[str, Any]:
    return {"unit": number.unit, **({"range": (0, None)} if number.counts else {})}


def _windows(table: Events, numbers: Sequence[_Number]) -> Iterator[Candidate]:
    longest = lookback_days(table)
    for days in sorted({*(w for w in _WINDOWS if w < longest), longest}):
        for number in numbers:
            yield _made(
                table,
                "windows",
                f"{number.name}_{days}d",
                f"{number.aggregate} {_since(days)}",
                number.dtype,
                f"{number.title} in the {days} days before as_of.",
                nullable=not number.adds_up,
                **_range(number),
            )


def _weeks(table: Events, numbers: Sequence[_Number]) -> Iterator[Candidate]:
    # The first week is the window of seven days.
    for week in range(1, min(_WEEKS, lookback_days(table) // 7)):
        for number in numbers:
            yield _made(
                table,
                "windows",
                f"{number.name}_week_{week}",
                f"{number.aggregate} {_since(7 * week + 7, 7 * week)}",
                number.dtype,
                f"{number.title} in the seven days that end {7 * week} days before as_of.",
                **_range(number),
            )


def _trends(table: Events, numbers: Sequence[_Number]) -> Iterator[Candidate]:
    for days in [days for days in _TRENDS if 2 * days <= lookback_days(table)]:
        for number in numbers:
            recent, before = (
                f"coalesce({number.aggregate} {window}, 0)"
                for window in (_since(days), _since(2 * days, days))
            )
            yield _made(
                table,
                "windows",
                f"{number.name}_trend_{days}d",
                f"({recent} - {before})\n        / nullif(abs({recent}) + abs({before}), 0)",
                "float64",
                f"{number.title} in the last {days} days less that of the {days} before, by both "
                "together: from -1 (no more) to 1 (new).",
                range=(-1, 1),
                nullable=True,
            )


def _ends(table: Events, numbers: Sequence[_Number]) -> Iterator[Candidate]:
    """Newest and oldest values within the lookback."""
    at = "day" if table.daily else quote(table.timestamp)
    for number in [number for number in numbers if not number.counts]:
        for word, end in (("newest", "max"), ("oldest", "min")):
            yield _made(
                table,
                "windows",
                f"{number.name}_{word}",
                # Ties are settled by the value itself.
                f"arg_{end}({number.value}, ({at}, {number.value}))",
                number.dtype,
                f"{word.capitalize()} {number.what} in the {lookback_days(table)} days before "
                "as_of.",
                unit=number.unit,
                nullable=True,
            )


def _rhythm(table: Events) -> Iterator[Candidate]:
    """How regularly days with events follow one another, and how long the present gap is."""
    name, days = table.name, lookback_days(table)
    count, total, squares = "count(gap)", "sum(gap)", "sum(gap * gap)"
    mean = f"{total} / nullif({count}, 0)"
    # From whole numbers, so that it does not depend on the order of rows.
    spread = (
        f"sqrt(({count} * {squares} - {total} * {total})\n        "
        f"/ nullif({count} * ({count} - 1), 0))"
    )
    since = "date_diff('day', max(day), CAST(as_of AS DATE))"
    within = f"of days with {name}, in the {days} days before as_of."
    found: tuple[tuple[str, str, FeatureDtype, str, str], ...] = (
        (
            "gap_spread_ratio",
            f"{spread}\n        / nullif({mean}, 0)",
            "float64",
            "Standard deviation of the gaps, by their mean,",
            "",
        ),
        (
            "since_by_gap_ratio",
            f"{since} / nullif({mean}, 0)",
            "float64",
            "Days since the newest, by the mean gap,",
            "",
        ),
        (
            "overdue_ratio",
            f"({since} - {mean})\n        / (1 + {spread})",
            "float64",
            "Days since the newest less the mean gap, by one more than the standard deviation of "
            "the gaps,",
            "",
        ),
        ("gap_mean_days", mean, "float64", "Mean gap", "days"),
        ("gap_spread_days", spread, "float64", "Standard deviation of the gaps", "days"),
        ("gap_newest_days", "arg_max(gap, (day, gap))", "int64", "Newest gap", "days"),
        ("since_days", since, "int64", "Days since the newest", "days"),
    )
    for suffix, sql, dtype, what, unit in found:
        bounds = (None, None) if suffix == "overdue_ratio" else (0, None)
        yield _made(
            table,
            "gaps",
            f"{name}_{suffix}",
            sql,
            dtype,
            f"{what} {within}",
            unit=unit,
            range=bounds,
            nullable=True,
        )


def _kinds(table: Events, text: _Text) -> Iterator[Candidate]:
    """Say how many categories an entity has, how mixed they are, and how common the newest is."""
    of = f"of {text.column} of {table.name} in the {lookback_days(table)} days before as_of."
    ratio: dict[str, Any] = {"range": (0, 1), "nullable": True}
    found: tuple[tuple[str, str, FeatureDtype, str, dict[str, Any]], ...] = (
        ("kinds", "count(*)", "int64", "Number of different values", {"range": (0, None)}),
        ("top_ratio", "max(times) / sum(times)", "float64", "Share of the commonest value", ratio),
        (
            "popularity_ratio",
            "arg_max(popularity, (newest, kind))",
            "float64",
            "Share of all entities that have the newest value",
            ratio,
        ),
        ("newest", "arg_max(kind, (newest, kind))", "category", "Newest value", {"nullable": True}),
        ("oldest", "arg_min(kind, (oldest, kind))", "category", "Oldest value", {"nullable": True}),
    )
    for suffix, sql, dtype, said, declared in found:
        yield _made(
            table,
            text.column,
            f"{text.name}_{suffix}",
            sql,
            dtype,
            f"{said} {of}",
            daily=text.daily,
            **declared,
        )
