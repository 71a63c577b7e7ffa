"""The contracts of the tables that are delivered: columns, rules, roll-up, whole batches.

A table is of one of three kinds. Events happened to an entity at an instant. Attributes say what an
entity is, from an instant on. References are about neither (products, prices, calendars).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from evergreen.contract.base import Bounds, Identifier, Model, Ratio, Zone, raise_if, some
from evergreen.contract.days import as_of
from evergreen.contract.dtypes import TIME_DTYPES, Dtype
from evergreen.contract.sources import FilesSource, Source, SqlSource

TableKind = Literal["events", "attributes", "references"]

# Stored totals end at least this long before they must, so that every run sees days on both
# sides: single where they are loaded, merged where they are computed with.
_OVERLAP = timedelta(days=28)
# What a key is called where rows have none.
_NO_KEY = "none"


class Column(Model):
    """One column of the contract: where it comes from and what it must look like."""

    source: str
    dtype: Dtype
    description: str = ""
    unit: str = ""
    nullable: bool = False
    # Inclusive bounds for numbers.
    range: Bounds = (None, None)
    values: tuple[str, ...] | None = None
    pattern: str | None = None
    # For numbers written as text.
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'"] | None = None
    # For timestamps and dates: strptime formats tried in order (ISO 8601 when empty), and the
    # zone of instants that carry none; by default the use case's.
    formats: tuple[str, ...] = ()
    zone: Zone | None = None
    # Identifiers that went through a spreadsheet or a float column come as `13090.0`.
    strip_float: bool = False
    # About a person: pages do not show its values.
    personal: bool = False

    @field_validator("formats")
    @classmethod
    def _dated(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        for text in formats:
            found = set(re.findall(r"%-?([A-Za-z])", text))
            day = (found & set("mbB") and "d" in found) or found & set("ju")
            if not (day and found & set("yYG")) and not found & set("cxs"):
                raise ValueError(
                    f"{text!r} gives no year, month and day; expected strptime's directives, such "
                    "as %Y-%m-%d"
                )
        return formats


class RowRule(Model):
    """A named condition every row must meet; a row that does not goes to quarantine.

    `sql` is a DuckDB boolean expression over the source's columns (as text) and the contract's
    columns (typed); NULL counts as broken.
    """

    name: Identifier
    sql: str
    because: str = ""


class RollUp(Model):
    """Line items to events: one row per `key`, further columns by aggregate.

    `aggregates` maps every contract column but the key to a DuckDB aggregate over contract
    columns, for example `{amount: sum(quantity * unit_price)}`.
    """

    key: Identifier
    aggregates: dict[Identifier, str]
    columns: dict[Identifier, Column] = Field(default={})


class BatchRules(Model):
    """What a whole batch must look like before any of it is published."""

    # A row count is refused when it is off by more than these factors from what is usual on that
    # weekday, and further than the counts scatter.
    row_count_ratio: tuple[float, float] = (0.6, 1.7)
    # How many weeks before a day say what is usual.
    row_count_weeks: Annotated[int, Field(ge=2)] = 8
    # With fewer days with rows among them the row count is not judged.
    row_count_min_days: Annotated[int, Field(ge=3)] = 7
    # Days whose row count is right although it is unusual; somebody has looked at them.
    unusual_days: tuple[date, ...] = ()
    max_quarantined_ratio: Ratio = 0.1
    # With fewer source rows than this a day's share is noise and is not judged.
    quarantined_min_rows: Annotated[int, Field(ge=1)] = 100
    # The newest accepted row may lie at most this many hours before the end of the day.
    max_age_hours: Annotated[float, Field(gt=0)] | None = None
    # A day with no source rows at all, or with none accepted; by default only events must come
    # every day.
    allow_empty: bool | None = None


class DailyColumn(Model):
    """What one column of `<table>_daily` says of an entity's day, and how days become one row.

    `sql` is one DuckDB aggregate over the published columns of the table.
    """

    sql: str
    merge: Literal["sum", "min", "max"]


class Daily(Model):
    """Events by entity and day: what the SQL reads where it must not read the whole history."""

    # Days further than this before an as-of may stand merged into one row per entity.
    lookback_days: Annotated[int, Field(ge=1)]
    columns: Annotated[dict[Identifier, DailyColumn], Field(min_length=1)]

    def merged_before(self, day: date) -> date:
        """Return the first day that the SQL may count on seeing by itself, for as-of day `day`."""
        return day + timedelta(days=1 - self.lookback_days)

    def stored_before(self, day: date) -> date:
        """Return the boundary of the stored totals that features of `day` start from.

        The first of a month, so that all days of a month share them.

        >>> daily = Daily(lookback_days=30, columns={"n": {"sql": "count(*)", "merge": "sum"}})
        >>> daily.stored_before(date(2026, 3, 31))
        datetime.date(2026, 2, 1)
        """
        return (self.merged_before(day) - _OVERLAP).replace(day=1)

    def first_reader(self, last: date) -> date:
        """Return the first day whose features start from the totals of all days up to `last`.

        >>> daily = Daily(lookback_days=30, columns={"n": {"sql": "count(*)", "merge": "sum"}})
        >>> daily.stored_before(daily.first_reader(date(2026, 1, 31)))
        datetime.date(2026, 2, 1)
        """
        return last + timedelta(days=self.lookback_days) + _OVERLAP


@dataclass(frozen=True)
class Setting:
    """What the use case says for all its tables."""

    use_case: str
    zone: str
    first_day: date
    last_day: date | None
    entity_key: str

    def as_of(self, day: date) -> datetime:
        """Return the instant that ends a day."""
        return as_of(day, self.zone)


class Table(Model):
    """What the three kinds of tables have in common."""

    source: Source
    # Unique per row within a day (of events, after the roll-up, if there is one); `none` where
    # rows have no name of their own.
    key: Identifier
    columns: dict[Identifier, Column]
    rules: tuple[RowRule, ...] = ()
    batch: BatchRules = BatchRules()
    # Whether rows that are equal in every column are one row delivered twice, or several.
    duplicates: Literal["drop", "keep"] = "drop"

    _name: str = PrivateAttr()
    _setting: Setting = PrivateAttr()

    @property
    def name(self) -> str:
        """Name of the table, in the lake and in SQL."""
        return self._name

    @property
    def setting(self) -> Setting:
        """What the use case says for all its tables."""
        return self._setting

    @property
    def kind(self) -> TableKind:
        """Section of the table."""
        raise NotImplementedError

    @property
    def where(self) -> str:
        """Where the table is declared, for messages."""
        return f"{self._setting.use_case}/use_case.yaml: {self.kind}.{self._name}"

    @property
    def published(self) -> dict[str, Column]:
        """Columns of the table in the lake, in order."""
        return dict(self.columns)

    @property
    def row_key(self) -> str | None:
        """The column that names a published row; None without one."""
        return None if self.key == _NO_KEY else self.key

    @property
    def time(self) -> str | None:
        """The column that says when; it decides the row's day where the source does not."""
        return None

    @property
    def entity_key(self) -> str | None:
        """The column that says about whom; None for references."""
        return self._setting.entity_key

    @property
    def allow_empty(self) -> bool:
        """Whether a day without accepted rows is right."""
        declared = self.batch.allow_empty
        return self.kind != "events" if declared is None else declared

    @property
    def required(self) -> set[str]:
        """Columns that may not be empty because of their role."""
        return {name for name in (self.row_key, self.time, self.entity_key) if name}

    def zone_of(self, column: Column) -> str:
        """Return the zone of a column's instants that carry none."""
        return column.zone or self._setting.zone

    def bind(self, name: str, setting: Setting) -> None:
        """Tell the table its name and what the use case says for all; once, while it is loaded."""
        self._name, self._setting = name, setting

    def problems(self) -> list[str]:
        """Return contradictions between the table's keys, each told with its key."""
        found = []
        if self.row_key is not None and self.key not in self.columns:
            found.append(
                f"key: found {self.key!r}, expected one of columns ({some(self.columns)}), or "
                "none where rows have no name of their own"
            )
        if self.time is not None:
            found += self._time_problems(self.time)
        rules = [rule.name for rule in self.rules]
        twice = sorted({name for name in rules if rules.count(name) > 1})
        found += [f"rules: found {name!r} twice, expected unique names" for name in twice]
        reserved = {"day", "row_id", "source", "rowid"} & {*self.columns}
        found += [
            f"columns.{name}: this name is reserved; rename the column" for name in sorted(reserved)
        ]
        return found

    def _time_problems(self, name: str) -> list[str]:
        role = "valid_from" if self.kind == "attributes" else "timestamp"
        if name not in self.columns:
            return [f"{role}: found {name!r}, expected one of columns ({some(self.columns)})"]
        if (dtype := self.columns[name].dtype) not in TIME_DTYPES:
            return [
                f"columns.{name}.dtype: found {dtype!r}, expected 'timestamp' or 'date' of the "
                f"column that {role} names"
            ]
        return []

    @model_validator(mode="after")
    def _roles(self) -> Self:
        raise_if(self.problems())
        return self


class Events(Table):
    """What happened, one row each: orders, visits, payments."""

    # When it happened; decides the row's day.
    timestamp: Identifier
    rollup: RollUp | None = None
    # With it the SQL reads `<table>_daily`; without it, the table.
    daily: Daily | None = None
    # The table may lie at most this far behind a night; by default as monitoring says.
    max_staleness_days: Annotated[int, Field(ge=0)] | None = None

    @property
    def kind(self) -> TableKind:
        """Section of the table."""
        return "events"

    @property
    def published(self) -> dict[str, Column]:
        """Columns of the table in the lake, in order: the contract's, after the roll-up if any."""
        if self.rollup is None:
            return dict(self.columns)
        declared = {**self.columns, **self.rollup.columns}
        return {name: declared[name] for name in (self.rollup.key, *self.rollup.aggregates)}

    @property
    def row_key(self) -> str | None:
        """The column that names a published row; None without one."""
        return self.rollup.key if self.rollup else super().row_key

    @property
    def time(self) -> str:
        """When it happened."""
        return self.timestamp

    @property
    def entity_key(self) -> str:
        """To whom it happened."""
        return self._setting.entity_key

    @property
    def required(self) -> set[str]:
        """Columns that may not be empty because of their role."""
        return super().required | ({self.key} - {_NO_KEY})

    def problems(self) -> list[str]:
        """Return contradictions between the table's keys."""
        found = super().problems()
        if self.rollup is None:
            if self.duplicates == "keep" and self.row_key is not None:
                found.append(
                    "duplicates: found 'keep', but rows with the same key would be rejected; "
                    "expected key: none with it"
                )
        else:
            found += self._rollup_problems(self.rollup)
        if self.daily is not None:
            found += [
                f"daily.columns.{name}: this name is reserved; rename the column"
                for name in sorted({"day", "last_day"} & {*self.daily.columns})
            ]
        return found

    def _rollup_problems(self, rollup: RollUp) -> list[str]:
        declared = {**self.columns, **rollup.columns}
        named = {"key": [rollup.key], "aggregates": [*rollup.aggregates]}
        found = [
            f"rollup.{key}: found {name!r}, expected a column declared in columns or "
            f"rollup.columns ({some(declared)})"
            for key, names in named.items()
            for name in names
            if name not in declared
        ]
        if self.timestamp not in rollup.aggregates:
            found.append(
                f"rollup.aggregates: {self.timestamp!r}, which timestamp names, is missing; add "
                f"for example {self.timestamp}: min({self.timestamp})"
            )
        reserved = {"day", "row_id", "source", "rowid"} & {*rollup.columns}
        return found + [
            f"rollup.columns.{name}: this name is reserved; rename the column"
            for name in sorted(reserved)
        ]


class Attributes(Table):
    """What entities are: one row per change, or one per entity and delivery.

    The SQL sees, for each as-of, the row of an entity that was valid then, of what had been
    delivered by then.
    """

    key: Identifier = _NO_KEY
    # From when on the row is true; without it, from the day it was delivered for.
    valid_from: Identifier | None = None

    @property
    def kind(self) -> TableKind:
        """Section of the table."""
        return "attributes"

    @property
    def time(self) -> str | None:
        """From when on the row is true."""
        return self.valid_from

    @property
    def entity_key(self) -> str:
        """Of whom it is true."""
        return self._setting.entity_key

    def problems(self) -> list[str]:
        """Return contradictions between the table's keys."""
        found = super().problems()
        if self.valid_from is None and _is_whole_file(self.source):
            found.append(
                "valid_from: missing; one file for all days does not say when its rows were "
                "delivered. Name the column that says from when on a row is true"
            )
        return found


class References(Table):
    """What is about no entity and no instant, such as products: each delivery is the whole table.

    The SQL sees, for each as-of, the newest delivery up to then. One file without `{day}` belongs
    to the first day: it is true at all times.
    """

    key: Identifier = _NO_KEY

    @property
    def kind(self) -> TableKind:
        """Section of the table."""
        return "references"

    @property
    def entity_key(self) -> None:
        """References are about nobody."""
        return


AnyTable = Events | Attributes | References


def _is_whole_file(source: Source) -> bool:
    return isinstance(source, FilesSource) and "{day" not in source.path


def unbound(table: AnyTable) -> list[str]:
    """Say which bounds of the day a query does not use; references may do without."""
    if not isinstance(table.source, SqlSource) or isinstance(table, References):
        return []
    query = table.source.query
    return [
        f"source.query: the query does not use {name}; bind both :start and :end"
        for name in (":start", ":end")
        if not re.search(rf"{name}\b", query)
    ]
