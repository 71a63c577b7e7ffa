"""The contract of the rows: columns, rules, roll-up, and what a whole batch must look like."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from evergreen.contract.base import Bounds, Dtype, Identifier, Model, Ratio, ordered, raise_if, some

_TIMES = ("timestamp", "date")


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
    # zone of instants that carry none.
    formats: tuple[str, ...] = ()
    zone: str = "UTC"
    # Identifiers that went through a spreadsheet or a float column come as `13090.0`.
    strip_float: bool = False

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, ZoneInfoNotFoundError) as error:
            raise ValueError("expected the name of a time zone, such as Europe/Berlin") from error
        return zone

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

    @field_validator("range")
    @classmethod
    def _ascending(cls, bounds: Bounds) -> Bounds:
        return ordered(bounds)


class RowRule(Model):
    """A named condition every row must meet; a row that does not goes to quarantine.

    `sql` is a DuckDB boolean expression over the source's columns (as text) and the contract's
    columns (typed); NULL counts as broken.
    """

    name: Identifier
    sql: str
    because: str = ""


class RollUp(Model):
    """Line items to orders: one row per `key`, further columns by aggregate.

    `aggregates` maps every contract column but the key to a DuckDB aggregate over contract
    columns, for example `{amount: sum(quantity * unit_price)}`.
    """

    key: Identifier
    aggregates: dict[Identifier, str]
    columns: dict[Identifier, Column] = Field(default={})


class BatchRules(Model):
    """What a whole batch must look like before any of it is published."""

    # A row count is refused when it is off by more than these factors from what is usual on that
    # weekday, and further than the shop's counts scatter.
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
    # A day with no source rows at all, or with none accepted.
    allow_empty: bool = False


class Orders(Model):
    """The contract of the accepted rows."""

    # Unique per row within a day (after the roll-up, if there is one).
    key: Identifier
    # Event time; decides the row's day.
    time: Identifier
    columns: dict[Identifier, Column]
    rules: tuple[RowRule, ...] = ()
    rollup: RollUp | None = None
    batch: BatchRules = BatchRules()

    @model_validator(mode="after")
    def _roles(self) -> Self:
        problems = []
        for role in ("key", "time"):
            name = getattr(self, role)
            if name not in self.columns:
                problems.append(
                    f"{role}: found {name!r}, expected one of columns ({some(self.columns)})"
                )
            elif role == "time" and (kind := self.columns[name].dtype) not in _TIMES:
                problems.append(
                    f"columns.{name}.dtype: found {kind!r}, expected 'timestamp' or 'date' of the "
                    "column that orders.time names"
                )
        if self.rollup is not None:
            declared = {**self.columns, **self.rollup.columns}
            named = {"key": [self.rollup.key], "aggregates": [*self.rollup.aggregates]}
            problems += [
                f"rollup.{key}: found {name!r}, expected a column declared in orders.columns or "
                f"orders.rollup.columns ({some(declared)})"
                for key, names in named.items()
                for name in names
                if name not in declared
            ]
            if self.time not in self.rollup.aggregates:
                problems.append(
                    f"rollup.aggregates: {self.time!r}, which orders.time names, is missing; add "
                    f"for example {self.time}: min({self.time})"
                )
        rules = [rule.name for rule in self.rules]
        twice = sorted({name for name in rules if rules.count(name) > 1})
        problems += [f"rules: found {name!r} twice, expected unique names" for name in twice]
        raise_if(problems)
        return self

    @property
    def published(self) -> dict[str, Column]:
        """Columns of the `orders` table, in order: the contract's, after the roll-up if any."""
        if self.rollup is None:
            return dict(self.columns)
        declared = {**self.columns, **self.rollup.columns}
        return {name: declared[name] for name in (self.rollup.key, *self.rollup.aggregates)}
