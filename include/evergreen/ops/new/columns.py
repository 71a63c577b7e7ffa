"""What the columns of a sample hold, and what they are for: who, when, which row, how much."""

# Expressions are made of identifiers and of what the contract's own expressions quote.
# ruff: noqa: S608

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection

from evergreen.contract import Column
from evergreen.contract.dtypes import NUMBER_DTYPES, TIME_DTYPES
from evergreen.errors import ConfigError
from evergreen.quality.parsing import parse, prepare, trimmed
from evergreen.sources import RAW_COLUMNS
from evergreen.sql.text import quote

# Distinct values that types are told by, and the share of them that must fit.
_VALUES, _ENOUGH = 2_000, 0.98
# Names that the contract, a draft or YAML uses for something else.
_TAKEN = {"day", "row_id", "source", "rowid", "first_at", "last_at", "spent", "orders", "events"}
_TAKEN |= {"yes", "no", "off"}
_DAYS = [f"{a}{sign}{b}{sign}{c}" for sign in "./-" for a, b, c in ("dmY", "mdY", "Ymd")]
_DAYS += ["d.m.y", "d/m/y", "m/d/y", "d-b-Y", "d-b-y", "d b Y", "b d, Y", "d B Y", "B d, Y"]
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
_WHO = "customer|client|user|member|account|subscriber|visitor|kunde"
_WHAT = "order|invoice|receipt|transaction|event|purchase|bestell|rechnung"
_COUNT = "quantity|qty|menge|anzahl|pieces"
_PRICE = "price|preis"
# The sooner named, the more it says what an event is worth.
_WORTH = f"total|amount|revenue|sales|betrag|umsatz|value|wert|{_PRICE}"
_MUCH = f"{_WORTH}|{_COUNT}"


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
    nulls, filled, distinct = 0, 0, 0
    # What a person must confirm.
    checks: list[str] = field(default_factory=list)

    def declared(self, roles: Mapping[str, Found]) -> Column:
        """Return what the contract says of it; what has a role may not be absent."""
        nullable = self.nulls > 0 and self not in roles.values()
        return Column(source=self.source, nullable=nullable, **self.way)

    def says(self, words: str) -> bool:
        """Whether one of the words is part of its name."""
        return re.search(words, self.name.replace("_", "")) is not None


def find_columns(connection: DuckDBPyConnection, raw: pa.Table, zone: str) -> list[Found]:
    """Tell the types of columns that are not empty, and make the table `typed` of the rows."""
    connection.register("sample", rows := raw.filter(pc.is_null(raw["_error"])))
    keywords = connection.execute(
        "SELECT keyword_name FROM duckdb_keywords() "
        "WHERE keyword_category IN ('reserved', 'type_function')"
    ).fetchall()
    sources = [name for name in rows.schema.names if name not in RAW_COLUMNS]
    names = _identifiers(sources, _TAKEN | {word for (word,) in keywords})
    found = [Found(*both) for both in zip(sources, names, strict=True) if both[0].strip()]
    found = [column for column in found if _tell_type(connection, column, zone)]
    values = [_value(trimmed(quote(c.source)), c.way, zone) + f" AS {c.name}" for c in found]
    connection.execute(f"CREATE TABLE typed AS SELECT {', '.join(values)} FROM sample")
    for column in found:
        column.filled, column.distinct = connection.execute(
            f"SELECT count({trimmed(quote(column.source))}), (SELECT count(DISTINCT {column.name}) "
            "FROM typed) FROM sample"
        ).fetchall()[0]
        column.nulls = rows.num_rows - column.filled
        if column.way["dtype"] == "string" and 2 <= column.distinct <= 5 <= column.filled / 100:
            listed = connection.execute(f"SELECT DISTINCT {column.name} FROM typed ORDER BY ALL")
            column.way["values"] = tuple(value for (value,) in listed.fetchall() if value)
            column.checks.append("may it have other values?")
    return found


def _identifiers(texts: Iterable[str], taken: Collection[str]) -> list[str]:
    """Turn names of any kind into identifiers, each once: CustomerID into customer_id."""
    found: list[str] = []
    for n, text in enumerate(texts, 1):
        plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
        plain = re.sub(r"([a-z0-9])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3_\2", plain)
        plain = plain.encode("ascii", "ignore").decode().lower()
        name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:50] or f"column_{n}"
        name = name if name[0].isalpha() else f"n_{name}"
        name = f"{name}_column" if name in taken else name
        found.append(f"{name}_{n}" if name in found else name)
    return found


def _value(text: str, way: dict[str, Any], zone: str) -> str:
    """Return the expression by which the contract reads a text."""
    column = Column(source="", **way)
    return parse(text, f"({prepare(text, column, zone)})", column, zone).value


def _tell_type(connection: DuckDBPyConnection, column: Found, zone: str) -> bool:
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
        what = "day and month" if best["dtype"] == "timestamp" else "decimals and thousands"
        column.checks.append(f"{what} could also be the other way round")
    return True


def tell_roles(
    connection: DuckDBPyConnection, columns: Sequence[Found], wishes: Mapping[str, str]
) -> tuple[dict[str, Found], bool]:
    """Guess columns by role (wishes are taken), and whether rows with one key are one event."""
    listed, roles = ", ".join(column.source for column in columns), dict[str, Found]()

    def pick(role: str, candidates: Iterable[Found], rank: Callable[[Found], Any]) -> None:
        if (given := wishes.get(role, "none")) != "none":
            candidates = [c for c in columns if given in (c.source, c.name)]
            if not candidates:
                raise ConfigError(f"--{role} is {given!r}, but the columns are {listed}.")
        free = [column for column in candidates if column not in roles.values()]
        roles.update({role: max(free, key=rank)} if free else {})

    times = [c for c in columns if c.way["dtype"] in TIME_DTYPES and c.nulls < c.filled]
    names = [c for c in columns if c.way["dtype"] in ("string", "int64") or c.is_float_id]
    back = [c for c in names if c.says(_WHO) or 2 <= c.distinct < c.filled]
    pick("time", times, lambda c: (c.says(_WHAT), c.way["dtype"]))
    pick("key", [], lambda c: c.distinct)
    pick("entity", back, lambda c: (c.says(_WHO) - c.says(f"{_WHAT}|{_MUCH}"), c.distinct))
    is_timed = roles.get("time") in times
    if not is_timed or "entity" not in roles:
        what = "somebody who comes back (--entity)" if is_timed else "a time (--time)"
        raise ConfigError(
            f"No column looks like {what}: {listed}. Expected events: rows that say who did "
            "something when, as dates or timestamps (have numbers of seconds delivered as such). A "
            "table of one row for each customer, without a time, is none."
        )
    named = [roles["key"]] if "key" in roles else [c for c in names if c.says(_WHAT)]
    parts = [column for column in named if _has_parts(connection, column.name, roles)]
    if "key" not in wishes:
        rows = connection.execute("SELECT count(*) FROM (SELECT DISTINCT * FROM typed)").fetchall()
        unique = [c for c in names if (c.distinct,) in rows and not (c.nulls or c.says(_MUCH))]
        pick("key", parts or unique, lambda c: c.says(_WHAT))
    for role, doubt, words in (
        ("time", "is it when it happened? There are other times", _WHAT if times[1:] else ""),
        ("entity", "whom to predict for? Nothing in the name says so", _WHO),
        ("key", "different in every row of the sample; does it name a row?", _WHAT),
    ):
        if role in roles and role not in wishes and not roles[role].says(words):
            roles[role].checks.append(doubt)
    for role in {"entity", "key"} & {*roles}:
        roles[role].way = {"dtype": "string", "strip_float": roles[role].is_float_id}
    return roles, bool(parts)


def _has_parts(connection: DuckDBPyConnection, key: str, roles: Mapping[str, Found]) -> bool:
    """Whether rows with one key are parts of one event: of one entity, at nearly one time."""
    entity, time = roles["entity"].name, roles["time"].name
    (found,) = connection.execute(
        "SELECT sum(n) >= 1.05 * count(*) AND avg((who <= 1 AND span <= 3600)::INT) >= 0.98 FROM "
        f"(SELECT count(*) AS n, count(DISTINCT {entity}) AS who, date_diff('second', "
        f"min({time}), max({time})) AS span FROM typed GROUP BY {key})"
    ).fetchall()[0]
    return bool(found)


def tell_worth(connection: DuckDBPyConnection, columns: Iterable[Found]) -> list[Found]:
    """Return an amount, or how many and a price, and keep them within bounds; empty if neither."""
    numbers = [column for column in columns if column.way["dtype"] in NUMBER_DTYPES]
    counts = [column for column in numbers if column.says(_COUNT)][:1]
    named = [c for word in _WORTH.split("|") for c in numbers if c.says(word) and c not in counts]
    fractions = [column for column in numbers if column.way["dtype"] == "float64"]
    found = (named or fractions[-1:])[:1]
    found = counts + found if found and found[0].says(_PRICE) else found
    for column in found:
        low, high = connection.execute(
            f"SELECT min({column.name}), max({column.name}) FROM typed"
        ).fetchall()[0]
        # Ten times what the sample holds; beyond, it is a mistake.
        bound = 10.0 ** (len(str(int(max(-low, high)))) + 1)
        column.way["range"] = (-bound if low < 0 else 0, bound)
        if low < 0:
            column.checks.append("are values below 0 returns? `rules` can leave them out")
    for column in found[-1:]:
        times = f"times {found[0].name} " if found[1:] else ""
        column.checks.append(f"is it {times}what an event is worth?")
    return found


def tell_days(
    connection: DuckDBPyConnection, roles: Mapping[str, Found]
) -> tuple[date, date, int | None]:
    """Return the first and last day of `typed`, and within how many days nine of ten return.

    Days a year away from nearly all others are mistakes.
    """
    who, at = roles["entity"].name, roles["time"].name
    found: tuple[date, date, int | None] = connection.execute(
        f"WITH active AS (SELECT DISTINCT {who} AS who, CAST({at} AS DATE) AS day FROM typed), "
        "ends AS (SELECT quantile_disc(day, [0.005, 0.995]) AS e FROM active) "
        "SELECT min(day), max(day), quantile_disc(gap, 0.9) FILTER (who IS NOT NULL) FROM "
        "(SELECT *, day - lag(day) OVER (PARTITION BY who ORDER BY day) AS gap FROM active, ends "
        "WHERE day BETWEEN e[1] - 365 AND e[2] + 365)"
    ).fetchall()[0]
    return found
