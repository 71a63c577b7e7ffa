"""What the columns of a sample hold, and what they are for: who, when, which row, how much."""

# Expressions are made of identifiers and of what the contract's own expressions quote.
# ruff: noqa: S608

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import Column
from evergreen.contract.dtypes import NUMBER_DTYPES, TIME_DTYPES
from evergreen.errors import ConfigError
from evergreen.quality.parsing import parse, prepare, trimmed
from evergreen.sources import RAW_COLUMNS
from evergreen.sql.text import quote

# Distinct values that types are told by, and the share of them that must fit.
_VALUES, _ENOUGH = 2_000, 0.98
# Names that the contract or a draft uses for something else.
_TAKEN = {"day", "row_id", "source", "rowid", "as_of", "label", "score", "created_at"}
_TAKEN |= {"first_at", "last_at", "spent", "lines", "orders", "events"}
_DAYS = [
    f"{a}{sign}{b}{sign}{c}" for sign in "./-" for a, b, c in ("dmY", "mdY", "Ymd", "dmy", "mdy")
]
_DAYS += ["d-b-Y", "d-b-y", "d b Y", "b d, Y", "d B Y", "B d, Y"]
_CLOCKS = ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p")
_FORMATS = [re.sub("[a-zA-Z]", r"%\g<0>", day) + clock for day in _DAYS for clock in _CLOCKS]
# Ways to read a column, the plainest first, and the signs without which one is not worth a try.
_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("-", {"dtype": "timestamp"}),
    *((re.sub("%.", "", one), {"dtype": "timestamp", "formats": (one,)}) for one in _FORMATS),
    *((sign.strip("."), {"dtype": "float64", "decimal": sign}) for sign in ".,"),
    *((sign, {"dtype": "float64", "thousands": sign}) for sign in ",' "),
    *((sign, {"dtype": "float64", "decimal": ",", "thousands": sign}) for sign in ". "),
    ("", {"dtype": "bool"}),
)
# Parts of names, lower case, without anything between words.
_WHO = ("customer", "client", "user", "member", "account", "subscriber", "visitor", "kunde")
_WHAT = ("order", "invoice", "receipt", "transaction", "event", "purchase", "bestell", "rechnung")
_COUNT = ("quantity", "qty", "menge", "anzahl", "pieces")
# The sooner named, the more it says what an event is worth.
_WORTH = (
    "total",
    "amount",
    "revenue",
    "sales",
    "betrag",
    "umsatz",
    "value",
    "wert",
    "price",
    "preis",
)


@dataclass(eq=False)
class Found:
    """One column of a sample, by its name in the file and as an identifier."""

    source: str
    name: str
    # How the contract reads it: dtype, formats, range and so on.
    way: dict[str, Any] = field(default_factory=lambda: {"dtype": "string"})
    # Whether all values are whole, but written as `13090.0`.
    is_float_id: bool = False
    # Rows without and with a value, and how many values are distinct.
    nulls: int = 0
    filled: int = 0
    distinct: int = 0
    # What a person must confirm.
    checks: list[str] = field(default_factory=list)

    def says(self, words: Iterable[str]) -> bool:
        """Whether one of the words is part of its name."""
        return any(word in self.name.replace("_", "") for word in words)


class Roles(NamedTuple):
    """What the columns of one table are for."""

    entity: Found
    time: Found
    # None where no column names a row.
    key: Found | None
    # Whether several rows with one key are one event.
    is_rolled_up: bool
    # Their product is what a row is worth; none where nothing says so.
    worth: list[Found]


def find_columns(connection: duckdb.DuckDBPyConnection, raw: pa.Table, zone: str) -> list[Found]:
    """Tell the types of columns that are not empty, and make the table `typed` of the rows."""
    rows = raw.filter(pc.is_null(raw["_error"]))
    connection.register("sample", rows)
    keywords = connection.execute(
        "SELECT keyword_name FROM duckdb_keywords() "
        "WHERE keyword_category IN ('reserved', 'type_function')"
    ).fetchall()
    sources = [name for name in rows.schema.names if name not in RAW_COLUMNS]
    names = identifiers(sources, _TAKEN | {word for (word,) in keywords})
    found = [Found(*both) for both in zip(sources, names, strict=True) if both[0].strip()]
    found = [column for column in found if _tell_type(connection, column, zone)]
    values = [_value(trimmed(quote(c.source)), c.way, zone) + f" AS {c.name}" for c in found]
    connection.execute(f"CREATE TABLE typed AS SELECT {', '.join(values)} FROM sample")
    for column in found:
        column.filled, column.distinct = connection.execute(
            f"SELECT count({column.name}), count(DISTINCT {column.name}) FROM typed"
        ).fetchall()[0]
        column.nulls = rows.num_rows - column.filled
        if column.way["dtype"] == "string" and 2 <= column.distinct <= 5 <= column.filled / 100:
            listed = connection.execute(f"SELECT DISTINCT {column.name} FROM typed ORDER BY ALL")
            column.way["values"] = tuple(value for (value,) in listed.fetchall() if value)
            column.checks.append("may it have other values?")
    return found


def identifiers(texts: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """Turn names of any kind into identifiers, each once.

    >>> identifiers(["CustomerID", "Größe in cm", "2nd-Price", "名", "order"], {"order"})
    ['customer_id', 'grosse_in_cm', 'n_2nd_price', 'column_4', 'order_value']
    """
    found: list[str] = []
    for n, text in enumerate(texts, 1):
        plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
        plain = re.sub(r"([a-z0-9])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3_\2", plain)
        plain = plain.encode("ascii", "ignore").decode().lower()
        name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:50] or f"column_{n}"
        name = name if name[0].isalpha() else f"n_{name}"
        name = f"{name}_value" if name in taken else name
        found.append(f"{name}_{n}" if name in found else name)
    return found


def _value(text: str, way: dict[str, Any], zone: str) -> str:
    """Return the expression by which the contract reads a text."""
    column = Column(source="", **way)
    return parse(text, f"({prepare(text, column, zone)})", column, zone).value


def _tell_type(connection: duckdb.DuckDBPyConnection, column: Found, zone: str) -> bool:
    """Take the first of the ways that read the most values; False where there are no values."""
    text = trimmed(quote(column.source))
    # All shapes of values first: rare ones tell what sets thousands apart.
    shape = "PARTITION BY regexp_replace(text, '[0-9]', '9', 'g') ORDER BY hash(text), text"
    connection.execute(
        f"CREATE OR REPLACE TABLE seen AS FROM (SELECT DISTINCT {text} AS text FROM sample) WHERE "
        f"text <> '' ORDER BY row_number() OVER ({shape}), hash(text), text LIMIT {_VALUES}"
    )
    values = [value for (value,) in connection.execute("FROM seen").fetchall()]
    column.is_float_id = all(re.fullmatch(r"\d+\.0+", value) for value in values)
    # Only identifiers have zeros in front.
    if not values or any(re.fullmatch(r"[+-]?0\d+", value) for value in values):
        return bool(values)
    ways = [way for signs, way in _WAYS if {*signs} <= {*"".join(values)}]
    if {*map(len, values)} == {8}:
        ways.insert(0, {"dtype": "timestamp", "formats": ("%Y%m%d",)})
    tried = []
    for way in ways:
        # Beyond these years, it is a number that happens to look like a time.
        fits = "year(v) BETWEEN 1900 AND 2100" if way["dtype"] == "timestamp" else "v IS NOT NULL"
        result = connection.execute(
            f"SELECT count(*), sum(hash(v, text)) FROM (SELECT text, {_value('text', way, zone)} "
            f"AS v FROM seen) WHERE {fits}"
        ).fetchall()[0]
        tried.append((*result, way))
    most, _, best = max(tried, key=lambda one: one[0])
    if most < _ENOUGH * len(values):
        return True
    alike = {read for count, read, way in tried if (count, way["dtype"]) == (most, best["dtype"])}
    column.way, signs = dict(best), "".join(best.get("formats", values))
    if best["dtype"] == "timestamp" and not re.search("%[HI]|:", signs):
        column.way["dtype"] = "date"
    if best["dtype"] == "float64" and best.get("decimal", ".") not in signs:
        column.way["dtype"] = "int64"
    if len(alike) > 1:
        what = (
            "the signs of decimals and thousands" if best["dtype"] == "float64" else "day and month"
        )
        column.checks.append(f"{what} could also be the other way round")
    return True


def tell_roles(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[Found], wishes: Mapping[str, str]
) -> Roles:
    """Guess what the columns of the table `typed` are for; what is wished is taken.

    Raises
    ------
    ConfigError
        A wish names no column, or no column can be the time or the entity.
    """
    listed = ", ".join(column.source for column in columns)
    wished: dict[str, Found] = {}
    for role in ("time", "key", "entity"):
        given = wishes.get(role, "none")
        wished |= {role: column for column in columns if given in (column.source, column.name)}
        if given != "none" and role not in wished:
            raise ConfigError(f"--{role} is {given!r}, but the columns are {listed}.")
    times = [c for c in columns if c.way["dtype"] in TIME_DTYPES and c.nulls < c.filled]
    others = [c for c in columns if c not in (*times, wished.get("key"))]
    names = [c for c in others if c.way["dtype"] in ("string", "int64") or c.is_float_id]
    time = wished.get("time") or max(
        times, key=lambda c: (c.says(_WHAT), c.way["dtype"]), default=None
    )
    entity = wished.get("entity") or max(
        (c for c in names if c.says(_WHO) or 2 <= c.distinct < c.filled),
        key=lambda c: (c.says(_WHO) - c.says((*_WHAT, *_WORTH, *_COUNT)), c.distinct),
        default=None,
    )
    if time is None or time not in times or entity is None:
        what = "somebody who comes back (--entity)" if time in times else "a time (--time)"
        raise ConfigError(
            f"No column looks like {what}: {listed}. Expected events: rows that say who did "
            "something when, as dates or timestamps (have numbers of seconds delivered as such). A "
            "table of one row for each customer, without a time, is none."
        )
    if "time" not in wished and len(times) > 1:
        more = ", ".join(column.name for column in times if column is not time)
        time.checks.append(f"is it when it happened? There is {more}, too")
    if "entity" not in wished and not entity.says(_WHO):
        entity.checks.append("whom to predict for? Nothing in the name says so")
    names = [c for c in names if c is not entity and not c.nulls and not c.says(_COUNT)]
    key = wished.get("key")
    if "key" not in wishes:
        parts = (c for c in names if c.says(_WHAT) and _has_parts(connection, c, entity, time))
        rows = connection.execute("SELECT count(*) FROM (SELECT DISTINCT * FROM typed)").fetchall()
        unique = [column for column in names if (column.distinct,) in rows]
        key = next(parts, None) or max(unique, key=lambda c: c.says(_WHAT), default=None)
        if key is not None and not key.says(_WHAT):
            key.checks.append("it is different in every row of the sample; does it name a row?")
    is_rolled_up = key is not None and _has_parts(connection, key, entity, time)
    worth = _worth(connection, [column for column in others if column not in (entity, key)])
    for column in (entity, key):
        if column is not None:
            column.way = {"dtype": "string", "strip_float": column.is_float_id}
    return Roles(entity, time, key, is_rolled_up, worth)


def _has_parts(
    connection: duckdb.DuckDBPyConnection, key: Found, entity: Found, time: Found
) -> bool:
    """Whether rows with one key are parts of one event: of one entity, at nearly one time."""
    (found,) = connection.execute(
        "SELECT sum(n) >= 1.05 * count(*) AND avg((who <= 1 AND span <= 3600)::INT) >= 0.98 FROM "
        f"(SELECT count(*) AS n, count(DISTINCT {entity.name}) AS who, "
        f"date_diff('second', min({time.name}), max({time.name})) AS span "
        f"FROM typed GROUP BY {key.name})"
    ).fetchall()[0]
    return bool(found)


def _worth(connection: duckdb.DuckDBPyConnection, columns: Sequence[Found]) -> list[Found]:
    """Return an amount, or how many and a price; both are kept within bounds."""
    numbers = [column for column in columns if column.way["dtype"] in NUMBER_DTYPES]
    count = next((column for column in numbers if column.says(_COUNT)), None)
    others = [column for column in numbers if column is not count]
    fractions = [column for column in others if column.way["dtype"] == "float64"]
    named = [column for word in _WORTH for column in others if column.says((word,))]
    found = (named or fractions[-1:])[:1]
    for column in found:
        column.checks.append("is it what an event is worth?")
        if count is not None and column.says(("price", "preis")):
            column.checks[-1] = f"is it the price of one of {count.name}?"
            found = [count, column]
    for column in found:
        low, high = connection.execute(
            f"SELECT min({column.name}), max({column.name}) FROM typed"
        ).fetchall()[0]
        # Ten times what the sample holds; beyond, it is a mistake.
        bound = 10.0 ** len(str(int(max(-low, high, 1)))) * 10
        column.way["range"] = (0 if low >= 0 else -bound, bound)
    return found


def tell_days(connection: duckdb.DuckDBPyConnection, roles: Roles) -> tuple[date, date, int | None]:
    """Return the first and last day of `typed`, and within how many days nine of ten return.

    Days a year away from nearly all others are mistakes.
    """
    found: tuple[date, date, int | None] = connection.execute(
        f"WITH active AS (SELECT DISTINCT {roles.entity.name} AS who, "
        f"CAST({roles.time.name} AS DATE) AS day FROM typed), "
        "usual AS (SELECT quantile_disc(day, 0.001) AS low, quantile_disc(day, 0.999) AS high FROM "
        "active) SELECT min(day), max(day), quantile_disc(gap, 0.9) FILTER (who IS NOT NULL) FROM "
        "(SELECT *, day - lag(day) OVER (PARTITION BY who ORDER BY day) AS gap FROM active, usual "
        "WHERE day BETWEEN low - 365 AND high + 365)"
    ).fetchall()[0]
    return found
