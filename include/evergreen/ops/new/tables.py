"""Which tables there are in samples, and which of them the features are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from evergreen.contract.tables import TableKind
from evergreen.errors import ConfigError
from evergreen.ops.new.profile import Profile, identifiers, profile_columns
from evergreen.ops.new.roles import Past, Roles, tell_roles
from evergreen.ops.new.sniff import Sample, delivered_days

# Words of file names that say nothing of what is in them.
_IDLE_WORDS = {
    *("daily", "totals", "export", "dump", "sample", "data", "master", "part", "full", "all"),
    *("day", "days", "week", "month", "year", "by", "of"),
}
_TELLING_DAYS = 30


@dataclass(frozen=True)
class Wishes:
    """What is not to be guessed: a zone, and columns by their name in the file or as identifier.

    `key` may be `none`: no column names a row.
    """

    zone: str | None = None
    entity: str | None = None
    time: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class DraftTable:
    """A table to be declared."""

    name: str
    kind: TableKind
    sample: Sample
    columns: list[Profile]
    roles: Roles

    @property
    def relation(self) -> str:
        """What the SQL of the use case calls it."""
        return f"{self.name}_daily" if self.kind == "events" else self.name

    @property
    def summed_up(self) -> list[Profile]:
        """Columns that amounts are made of."""
        names = re.findall(r"\w+", self.roles.amount or "")
        return [column for column in self.columns if column.name in names]

    @property
    def below_zero(self) -> Profile | None:
        """The column that makes amounts negative, if one does."""
        return next((column for column in self.summed_up if column.low < 0), None)


def main_table(
    connection: duckdb.DuckDBPyConnection, samples: Sequence[Sample], wishes: Wishes, zone: str
) -> DraftTable:
    """Return the first table with an entity, who comes back, and a time; `typed` shows its rows.

    Raises
    ------
    ConfigError
        There is none.
    """
    lacking, once = [], []
    for sample in samples:
        columns, roles = _told(connection, sample, wishes, zone)
        if roles.entity is not None and roles.time is not None:
            if not _is_once(roles.entity, roles):
                return _events(sample, columns, roles)
            once.append(sample)
            continue
        none = "a time (--time)" if roles.time is None else "somebody who comes back (--entity)"
        sources = ", ".join(column.source for column in columns)
        lacking.append(f"{sample.paths[0].name} has no column that looks like {none}: {sources}")
    if once:
        # Small samples may be so.
        return _events(once[0], *_told(connection, once[0], wishes, zone))
    raise ConfigError(
        f"{'; '.join(lacking)}. Name the column. A time is a date or a timestamp; numbers of "
        "seconds must be delivered as one."
    )


def _events(sample: Sample, columns: list[Profile], roles: Roles) -> DraftTable:
    name = _name(sample, "")
    # Sentences are made of it, in which only a plural will do.
    names = [name] if name.endswith(("s", "en")) else []
    names += ["orders", "events"] if roles.amount else ["events", "orders"]
    taken = roles.entity.name if roles.entity else ""
    return DraftTable(next(n for n in names if n != taken), "events", sample, columns, roles)


def _is_once(entity: Profile, roles: Roles) -> bool:
    """Whether nobody comes twice, as in a table of what entities are."""
    return entity.distinct == entity.rows - entity.nulls - roles.exact_duplicates


def as_delivered(main: DraftTable, past: Past) -> tuple[DraftTable, Past]:
    """Return the main table and its past after a look at the files of all days, if there are any.

    A file that is named after a day may still be of many, such as an export of that day.
    """
    sample = main.sample
    if sample.template is None:
        return main, past
    if past.in_named_days < 0.5:
        main.roles.doubts["path"] = "it is named after a day, but its rows are of others"
        return replace(main, sample=replace(sample, template=None)), past
    days = delivered_days(sample.template)
    first, last = days[0], days[-1]
    return main, replace(
        past,
        first=first,
        last=last,
        quiet_days=(last - first).days + 1 - len(days),
        # A few days between others do not show when somebody returns.
        usual_gap_days=past.usual_gap_days if len(sample.paths) >= _TELLING_DAYS else None,
    )


def further_tables(
    connection: duckdb.DuckDBPyConnection, samples: Sequence[Sample], main: DraftTable, zone: str
) -> list[DraftTable]:
    """Return the tables of other samples: more events, attributes of entities, references."""
    found = []
    for n, sample in enumerate(samples, 2):
        names = identifiers(sample.rows.schema.names)
        key = main.roles.entity.name if main.roles.entity else ""
        source = dict(zip(names, sample.rows.schema.names, strict=True)).get(key)
        columns, roles = _told(connection, sample, Wishes(entity=source), zone)
        kind: TableKind = "references"
        entity = next((column for column in columns if column.name == key), None)
        # Without a time or a file for each day, nothing says since when a row is true.
        if entity is not None and (roles.time or sample.template):
            again = roles.time and not _is_once(entity, roles)
            kind = "events" if again else "attributes"
        found.append(DraftTable(_name(sample, f"table_{n}"), kind, sample, columns, roles))
    return found


def _told(
    connection: duckdb.DuckDBPyConnection, sample: Sample, wishes: Wishes, zone: str
) -> tuple[list[Profile], Roles]:
    connection.register("sample", sample.rows)
    columns = profile_columns(connection, "sample", sample.rows.schema.names)
    roles = tell_roles(
        connection,
        "sample",
        columns,
        entity=wishes.entity,
        time=wishes.time,
        key=wishes.key,
        zone=zone,
    )
    return columns, roles


def _name(sample: Sample, otherwise: str) -> str:
    stem = Path(re.sub(r"\{[^}]*\}", "", sample.template or "") or sample.paths[0]).name
    words = re.split(r"[^A-Za-z]+", stem.partition(".")[0])
    (name,) = identifiers([" ".join(word for word in words if word.lower() not in _IDLE_WORDS)])
    return otherwise if name == "column_1" or len(name) < 3 else name[:40].strip("_")


def name_by_role(table: DraftTable) -> None:
    """Give the columns of a file without header names that say what they are for."""
    roles = table.roles
    when = "happened_on" if roles.time and roles.time.dtype == "date" else "happened_at"
    named = ((roles.entity, "customer_id"), (roles.time, when), (roles.key, "event_id"))
    for column, name in named:
        if column is not None:
            column.source = column.name = name
    for column in table.columns:
        if column.name == roles.amount:
            column.source = column.name = roles.amount = "amount"
