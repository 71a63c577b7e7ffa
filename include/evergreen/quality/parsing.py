"""DuckDB expressions that turn delivered text into the contract's types, and judge the result.

Everything here is text in, SQL text out. Names are quoted and values are written as literals;
both come from the validated use case, never from data.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from evergreen.contract import AnyTable, Column
from evergreen.contract.dtypes import NUMBER_DTYPES, TIME_DTYPES
from evergreen.errors import ConfigError
from evergreen.sql.text import literal

# White space that survives spreadsheets and web forms: blank, tab, line ends, no-break spaces, BOM.
_BLANKS = "||".join(f"chr({code})" for code in (32, 9, 10, 11, 12, 13, 160, 8239, 65279))

# date, time, zone; the zone counts only after a time, or the day of a date would look like one.
_ISO = (
    r"^(\d{4}-\d{2}-\d{2})"
    r"(?:[T ](\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?)"
    r"\s*(Z|z|UTC|[+-](?:0\d|1[0-8])(?::?[0-5]\d)?)?)?$"
)
_NOT_FINITE = r"[+-]?(nan|inf|infinity)"
_TRUE = ("true", "t", "yes", "y", "1")
_FALSE = ("false", "f", "no", "n", "0")


def stripped(text: str) -> str:
    """Text without surrounding blanks."""
    return f"trim({text}, {_BLANKS})"


def trimmed(text: str) -> str:
    """Text without surrounding blanks; empty text is NULL."""
    return f"nullif({stripped(text)}, '')"


@dataclass(frozen=True)
class Parsed:
    """Two expressions over one column of prepared text.

    Parameters
    ----------
    value
        The typed value, NULL where the text is absent or cannot be read.
    not_finite
        True where the text is a number that no finite number can hold (NaN, infinity, 1e400).
    """

    value: str
    not_finite: str


def prepare(text: str, column: Column, zone: str) -> str:
    """Return the costly part of reading `text`, to be evaluated once and then given to `parse`.

    Parameters
    ----------
    text
        A DuckDB expression of trimmed text (`trimmed`).
    zone
        Of instants that carry none.
    """
    if column.dtype in NUMBER_DTYPES:
        return _digits(text, column)
    if column.dtype in TIME_DTYPES:
        return _instant(text, column, zone)
    if column.dtype == "bool":
        return f"lower({text})"
    if column.strip_float:
        return rf"regexp_replace({text}, '^([+-]?\d+)\.0+$', '\1')"
    return text


def parse(text: str, prepared: str, column: Column, zone: str) -> Parsed:
    """Return how to read a column as the contract says.

    Parameters
    ----------
    text, prepared
        Names of columns that hold the trimmed text and `prepare` of it.
    zone
        As for `prepare`.

    Notes
    -----
    Thousands separators must stand where thousands are: `12,5` is not 125. A local time that
    occurs twice when clocks go back is the later instant; one that is skipped when they go
    forward is read as if they had not.
    """
    if column.dtype == "string":
        return Parsed(prepared, "false")
    if column.dtype == "bool":
        true, false = (", ".join(map(literal, words)) for words in (_TRUE, _FALSE))
        value = (
            f"CASE WHEN {prepared} IN ({true}) THEN true WHEN {prepared} IN ({false}) "
            "THEN false END"
        )
        return Parsed(value, "false")
    if column.dtype in NUMBER_DTYPES:
        return _number(text, prepared, column)
    # The years that every consumer can hold.
    bounded = (
        f"CASE WHEN {prepared} BETWEEN TIMESTAMPTZ '0001-01-02 00:00:00+00' "
        f"AND TIMESTAMPTZ '9999-12-30 23:59:59.999999+00' THEN {prepared} END"
    )
    if column.dtype == "timestamp":
        return Parsed(bounded, "false")
    return Parsed(f"CAST(timezone({literal(zone)}, {bounded}) AS DATE)", "false")


def _digits(text: str, column: Column) -> str:
    """Return the text of a number with a decimal point and nothing between its digits, or NULL."""
    point = "," if column.decimal == "," else r"\."
    plain = text
    if column.thousands is not None:
        mark = {",": ",", ".": r"\.", " ": r"[ \x{00A0}\x{202F}]", "'": "'"}[column.thousands]
        grouped = literal(rf"[+-]?\d{{1,3}}({mark}\d{{3}})+({point}\d*)?")
        without = f"regexp_replace({text}, {literal(mark)}, '', 'g')"
        plain = f"CASE WHEN regexp_full_match({text}, {grouped}) THEN {without} ELSE {text} END"
    shape = literal(rf"^[+-]?(?:\d+(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?$")
    digits = f"nullif(regexp_extract({plain}, {shape}), '')"
    return f"replace({digits}, ',', '.')" if column.decimal == "," else digits


def _number(text: str, digits: str, column: Column) -> Parsed:
    number = f"TRY_CAST({digits} AS DOUBLE)"
    finite = f"CASE WHEN isfinite({number}) THEN {number} END"
    not_finite = (
        f"CASE WHEN {digits} IS NOT NULL THEN coalesce(NOT isfinite({number}), true) "
        f"ELSE coalesce(regexp_full_match(lower({text}), {literal(_NOT_FINITE)}), false) END"
    )
    if column.dtype == "float64":
        return Parsed(finite, not_finite)
    # Whole numbers written plainly keep every digit; a detour over DOUBLE would round long ones.
    whole = rf"regexp_extract({digits}, '^([+-]?\d+)(?:\.0*)?$', 1)"
    value = (
        f"CASE WHEN {digits} IS NULL THEN NULL WHEN {whole} <> '' THEN TRY_CAST({whole} AS BIGINT) "
        f"WHEN {finite} = trunc({finite}) AND abs({finite}) <= 9007199254740992 "
        f"THEN TRY_CAST({finite} AS BIGINT) END"
    )
    return Parsed(value, not_finite)


def _instant(text: str, column: Column, zone: str) -> str:
    if column.formats:
        readings = [strptime(text, pattern, zone) for pattern in column.formats]
        return f"coalesce({', '.join(readings)})"
    iso = f"regexp_extract({text}, {literal(_ISO)}, ['day', 'clock', 'zone'])"
    day, clock, given = (f"({iso}).{part}" for part in ("day", "clock", "zone"))
    written = f"{day} || ' ' || replace(coalesce(nullif({clock}, ''), '00:00:00'), ',', '.')"
    offset = f"CASE WHEN {given} IN ('Z', 'z', 'UTC') THEN '+00' ELSE {given} END"
    return (
        f"CASE WHEN {given} <> '' THEN TRY_CAST({written} || {offset} AS TIMESTAMPTZ) "
        f"ELSE {_localized(f'TRY_CAST({written} AS TIMESTAMP)', zone)} END"
    )


def strptime(text: str, pattern: str, zone: str) -> str:
    """Return `text` read by one strptime format, as an instant."""
    reading = f"try_strptime({text}, {literal(pattern)})"
    # DuckDB gives an instant when the format carries a zone, a local time otherwise.
    if "%z" in pattern or "%Z" in pattern:
        return f"TRY_CAST({reading} AS TIMESTAMPTZ)"
    return _localized(reading, zone)


def _localized(local: str, zone: str) -> str:
    return f"TRY(timezone({literal(zone)}, {local}))"


def checks(
    name: str, column: Column, *, value: str, given: str, not_finite: str, required: bool
) -> list[tuple[str, str]]:
    """Return (rule name, condition under which it is broken) for one typed column.

    Parameters
    ----------
    value, given, not_finite
        DuckDB expressions: the typed value; whether anything was delivered; whether that was a
        number without a finite value.
    required
        The column may not be NULL: it is declared so, or has a role that needs it.
    """
    found = [(f"{name}_unparsable", f"{given} AND {value} IS NULL AND NOT {not_finite}")]
    if column.dtype in NUMBER_DTYPES:
        found.append((f"{name}_not_finite", not_finite))
        low, high = column.range
        bounds = [f"{value} < {low!r}"] if low is not None else []
        bounds += [f"{value} > {high!r}"] if high is not None else []
        if bounds:
            found.append((f"{name}_out_of_range", " OR ".join(bounds)))
    if required:
        found.append((f"{name}_missing", f"NOT {given}"))
    text = f"CAST({value} AS VARCHAR)"
    if column.values is not None:
        allowed = ", ".join(map(literal, column.values))
        found.append((f"{name}_not_allowed", f"{text} NOT IN ({allowed})"))
    if column.pattern is not None:
        found.append(
            (f"{name}_bad_pattern", f"NOT regexp_full_match({text}, {literal(column.pattern)})")
        )
    return found


def check_columns(connection: duckdb.DuckDBPyConnection, table: AnyTable) -> None:
    """Fail on zones, formats and patterns that DuckDB cannot read, whatever the data.

    Raises
    ------
    ConfigError
        Naming the column and what DuckDB said.
    """
    for name, column in {**table.columns, **table.published}.items():
        where = f"{table.where}.columns.{name}"
        if column.thousands == column.decimal:
            raise ConfigError(
                f"{where}: thousands and decimal are both {column.decimal!r}; they must differ."
            )
        probes = []
        if column.dtype in TIME_DTYPES:
            stamp, zone = "TIMESTAMP '2000-01-01 00:00:00'", table.zone_of(column)
            probes.append(("zone", zone, f"timezone({literal(zone)}, {stamp})"))
            probes += [("formats", f, strptime("''", f, "UTC")) for f in column.formats]
        if column.pattern is not None:
            probe = f"regexp_full_match('', {literal(column.pattern)})"
            probes.append(("pattern", column.pattern, probe))
        for key, found, probe in probes:
            try:
                connection.execute(f"SELECT {probe}").fetchall()
            except duckdb.Error as error:
                raise ConfigError(
                    f"{where}.{key}: found {found!r}, which DuckDB cannot use: {error}"
                ) from error
