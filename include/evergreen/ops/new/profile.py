"""What the columns of a sample hold: types, formats, bounds."""

# Expressions are made of names and formats that are quoted here.
# ruff: noqa: S608

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import duckdb

from evergreen.contract import Dtype
from evergreen.contract.dtypes import NUMBER_DTYPES, TIME_DTYPES
from evergreen.sql.text import literal, quote

# Distinct values that types are told by, and the share of them that must fit.
_VALUES = 5_000
_ENOUGH = 0.98

_WHOLE = re.compile(r"[+-]?\d{1,18}")
_PADDED = re.compile(r"[+-]?0\d+")
_FLOAT_ID = re.compile(r"\d+\.0+")
_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}(?P<clock>[T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?"
    r"\s*(?P<zone>Z|z|UTC|[+-]\d{2}(:?\d{2})?)?)?"
)
# Names that the contract or a draft uses for something else.
_TAKEN = {
    *("day", "row_id", "source", "rowid", "as_of"),
    *("first_at", "last_at", "active_days", "spent", "lines"),
}
_TRUTHS = ({"true", "false"}, {"t", "f"}, {"yes", "no"}, {"y", "n"})
_DAYS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y", "%Y.%m.%d"),
    *("%Y-%m-%d", "%Y%m%d", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%Y", "%d %b %Y"),
    *("%d-%b-%y", "%b %d %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
)
_CLOCKS = (
    *("", " %H:%M:%S", " %H:%M", "T%H:%M:%S", " %H:%M:%S.%f", " %I:%M:%S %p", " %I:%M %p"),
    *("%H%M%S", " %H:%M:%S%z", " %H:%M:%S %z", "T%H:%M:%S%z"),
)
_FORMATS = tuple(
    day + clock for day in _DAYS for clock in _CLOCKS if clock != "%H%M%S" or day == "%Y%m%d"
)
# Decimal sign and what may stand between thousands, the plainest first.
_SEPARATORS: tuple[tuple[Literal[".", ","], Literal[",", ".", " ", "'"] | None], ...] = (
    *((".", None), (",", None), (".", ","), (",", ".")),
    *((",", " "), (".", " "), (".", "'")),
)


@dataclass
class Profile:
    """One column of a sample.

    Parameters
    ----------
    source, name
        Its name in the file, and as an identifier.
    dtype
        As the contract calls it.
    rows, nulls, distinct
        How many there are; nulls are neither distinct values.
    formats, zoned
        Of timestamps and dates; whether the values carry a zone.
    decimal, thousands
        Of numbers.
    strip_float, padded
        Whether numbers are written as `13090.0`; or with zeros in front, as only identifiers are.
    low, high
        Bounds of numbers.
    values
        The distinct values of a column with few.
    doubts
        What a person must confirm.
    """

    source: str
    name: str
    dtype: Dtype = "string"
    rows: int = 0
    nulls: int = 0
    distinct: int = 0
    formats: tuple[str, ...] = ()
    zoned: bool = False
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'"] | None = None
    strip_float: bool = False
    padded: bool = False
    low: float = 0.0
    high: float = 0.0
    values: tuple[str, ...] = ()
    doubts: list[str] = field(default_factory=list)

    @property
    def words(self) -> set[str]:
        """Words of the name."""
        return {*self.name.split("_")}

    def become_text(self) -> None:
        """Be an identifier, whatever its values look like."""
        self.dtype, self.decimal, self.thousands, self.formats = "string", ".", None, ()

    def typed(self, zone: str) -> str:
        """Return SQL of the value; a time is the wall clock of `zone`."""
        text = trimmed(self.source)
        if self.dtype in TIME_DTYPES:
            found = [f"try_strptime({text}, {literal(form)})" for form in self.formats]
            if not found:
                kind = "TIMESTAMPTZ" if self.zoned else "TIMESTAMP"
                found = [f"TRY_CAST(replace({text}, ',', '.') AS {kind})"]
            moment = f"coalesce({', '.join(found)})"
            if self.zoned:
                moment = f"timezone({literal(zone)}, TRY_CAST({moment} AS TIMESTAMPTZ))"
            return f"CAST({moment} AS TIMESTAMP)"
        if self.dtype in NUMBER_DTYPES:
            plain = f"replace({text}, {literal(self.thousands)}, '')" if self.thousands else text
            return f"TRY_CAST(replace({plain}, {literal(self.decimal)}, '.') AS DOUBLE)"
        return text


def trimmed(source: str) -> str:
    """Return SQL of the text of a column; blank text is NULL."""
    return f"nullif(trim({quote(source)}, ' \t\r\n\u00a0'), '')"


def profile_columns(
    connection: duckdb.DuckDBPyConnection, relation: str, sources: Sequence[str]
) -> list[Profile]:
    """Look at the columns of a relation of text."""
    keywords = connection.execute(
        "SELECT keyword_name FROM duckdb_keywords() "
        "WHERE keyword_category IN ('reserved', 'type_function')"
    ).fetchall()
    names = identifiers(sources, {word for (word,) in keywords})
    return [
        _profile(connection, relation, source, name)
        for source, name in zip(sources, names, strict=True)
    ]


def identifiers(texts: Iterable[str], reserved: Collection[str] = ()) -> list[str]:
    """Turn names of any kind into identifiers, each once.

    >>> identifiers(["CustomerID", "Größe in cm", "2nd-Price", "名", "order"], {"order"})
    ['customer_id', 'grosse_in_cm', 'n_2nd_price', 'column_4', 'order_value']
    """
    found: list[str] = []
    for n, text in enumerate(texts, 1):
        plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
        plain = plain.encode("ascii", "ignore").decode()
        plain = re.sub(r"([a-z0-9])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3_\2", plain)
        name = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:50] or f"column_{n}"
        name = name if name[0].isalpha() else f"n_{name}"
        if name in reserved or name in _TAKEN:
            name += "_value"
        found.append(f"{name}_{n}" if name in found else name)
    return found


def _profile(
    connection: duckdb.DuckDBPyConnection, relation: str, source: str, name: str
) -> Profile:
    text = trimmed(source)
    counts = f"SELECT count(*), count(*) - count({text}), count(DISTINCT {text}) FROM {relation}"
    rows, nulls, distinct = connection.execute(counts).fetchall()[0]
    found = Profile(source, name, rows=rows, nulls=nulls, distinct=distinct)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE seen AS SELECT DISTINCT {text} AS text FROM {relation} "
        f"WHERE {text} IS NOT NULL ORDER BY hash(text), text LIMIT {_VALUES}"
    )
    values = [value for (value,) in connection.execute("SELECT text FROM seen").fetchall()]
    if not values:
        found.doubts.append("it is empty in the sample, so its type is not known")
        return found
    _tell_type(connection, found, values)
    if found.dtype in NUMBER_DTYPES:
        sql = f"SELECT min({found.typed('UTC')}), max({found.typed('UTC')}) FROM {relation}"
        found.low, found.high = connection.execute(sql).fetchall()[0]
    if found.dtype == "string" and 2 <= distinct <= 5 and rows - nulls >= 100 * distinct:
        found.values = tuple(sorted(values))
    return found


def _tell_type(
    connection: duckdb.DuckDBPyConnection, found: Profile, values: Sequence[str]
) -> None:
    if {value.lower() for value in values} in [{*words} for words in _TRUTHS]:
        found.dtype = "bool"
        return
    found.padded = any(_PADDED.fullmatch(value) for value in values)
    iso = [match for value in values if (match := _ISO.fullmatch(value))]
    if len(iso) >= _ENOUGH * len(values):
        found.dtype = "timestamp" if any(match["clock"] for match in iso) else "date"
        found.zoned = any(match["zone"] for match in iso)
        if found.zoned and not all(match["zone"] for match in iso):
            found.doubts.append("only some of the values carry a zone")
        return
    if any(":" in value or len(value) >= 6 for value in values) and _tell_formats(
        connection, found, values
    ):
        return
    if not found.padded:
        _tell_number(found, values)


def _tell_formats(
    connection: duckdb.DuckDBPyConnection, found: Profile, values: Sequence[str]
) -> bool:
    """Try all formats of times; columns may mix a few."""
    # Without signs between them, days of one digit would be read, too.
    listed = ", ".join(
        f"list(try_strptime(text, {literal(form)}) BETWEEN TIMESTAMP '1950-01-01' "
        f"AND TIMESTAMP '2100-01-01' AND (text LIKE '________%' OR {form[:4] != '%Y%m'}) "
        "ORDER BY text)"
        for form in _FORMATS
    )
    row = connection.execute(f"SELECT {listed} FROM (FROM seen LIMIT 1000)").fetchall()[0]
    fits = dict(zip(_FORMATS, row, strict=True))
    count = len(row[0])
    left, formats = {*range(count)}, list[str]()
    while left and len(formats) < 3:
        best = max(_FORMATS, key=lambda form: sum(fits[form][n] is True for n in left))
        fitting = {n for n in left if fits[best][n] is True}
        if not fitting:
            break
        formats.append(best)
        left -= fitting
    if not formats or count - len(left) < _ENOUGH * count:
        return False
    first = formats[0]
    swapped = first.replace("%d", "%-").replace("%m", "%d").replace("%-", "%m")
    if fits.get(swapped) == fits[first] and swapped != first:
        found.doubts.append("day and month could also be the other way round")
    if left:
        found.doubts.append(
            f"some values are no times of these formats, of {count} tried {len(left)}"
        )
    found.formats, found.zoned = tuple(formats), "%z" in first
    found.dtype = "timestamp" if any("%H" in form or "%I" in form for form in formats) else "date"
    return True


def _tell_number(found: Profile, values: Sequence[str]) -> None:
    def fitting(decimal: str, thousands: str | None) -> int:
        point, between = re.escape(decimal), re.escape(thousands or "")
        grouped = rf"|\d{{1,3}}({between}\d{{3}})+" if thousands else ""
        number = re.compile(rf"[+-]?((\d+{grouped})({point}\d*)?|{point}\d+)([eE][+-]?\d+)?")
        return sum(number.fullmatch(value) is not None for value in values)

    fits = {pair: fitting(*pair) for pair in _SEPARATORS}
    decimal, thousands = max(_SEPARATORS, key=lambda pair: fits[pair])
    if fits[decimal, thousands] < _ENOUGH * len(values):
        return
    if (decimal, thousands) == (",", None) and fits[".", ","] == fits[",", None]:
        decimal, thousands = ".", ","
        found.doubts.append("its commas may also be decimal ones")
    if fits[decimal, thousands] < len(values):
        found.doubts.append("some values are no numbers")
    found.decimal, found.thousands = decimal, thousands
    without = [value.replace(thousands or "", "") for value in values]
    whole = sum(_WHOLE.fullmatch(value) is not None for value in without)
    found.dtype = "int64" if whole >= _ENOUGH * len(values) else "float64"
    found.strip_float = all(_FLOAT_ID.fullmatch(value) for value in values)
