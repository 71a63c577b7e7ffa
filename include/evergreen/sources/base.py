"""The shape of raw rows, and how values become text without loss."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import AnyTable
from evergreen.errors import ConfigError, SourceError

# Upper bound on the rows of one chunk: what keeps a step's memory independent of the file size.
CHUNK_ROWS = 65_536

# A row of more is no order; DuckDB's plans and everybody's patience end soon after.
MAX_COLUMNS = 2_000

# What every raw table carries beside the source's own columns.
RAW_COLUMNS: dict[str, pa.DataType] = {
    "_text": pa.string(),
    "_day": pa.date32(),
    "_source": pa.string(),
    "_row": pa.int64(),
    "_error": pa.string(),
}

_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a pipe"}


class Source(Protocol):
    """Where raw rows come from."""

    def read(self, start: date, end: date) -> Iterator[pa.Table]:
        """Yield the raw rows of the local days in `[start, end)`, in a stable order.

        Local to the zone of the table: a day ends at the instant `contract.as_of` gives.

        Returns
        -------
        Iterator[pa.Table]
            At least one table, each of at most `CHUNK_ROWS` rows: one nullable `string` column
            per column of the source (text as delivered; missing is null), then

            * `_text` string, null unless `_error` is set: the row as delivered;
            * `_day` date32: the day the row was delivered for; null when a source without days
              (one file for many days) cannot tell. Such a source yields *all* its rows whatever
              the range, and the caller keeps those whose time lies in the range;
            * `_source` string: file, query digest and day, or generator seed and day;
            * `_row` int64: 1-based row within `_source`. (`_source`, `_row`) identifies a row and
              does not depend on the range asked for;
            * `_error` string: why the row could not be split into columns; null otherwise.

            Tables of different files may differ in columns the contract does not use.

        Raises
        ------
        SourceMissingError
            A day or file is not there and the policy is to fail (transient).
        ServiceDownError
            The system that holds the rows does not answer (transient).
        SourceError
            The source answered with something that cannot be read as declared.
        ConfigError
            The declaration itself cannot work: an unset variable, an unknown encoding.
        """
        ...


def required_columns(table: AnyTable) -> tuple[str, ...]:
    """Columns of the source that the contract maps from, each once, in the contract's order."""
    return tuple(dict.fromkeys(column.source for column in table.columns.values()))


def raw_table(
    columns: Mapping[str, pa.Array],
    *,
    source: str | pa.Array,
    rows: pa.Array,
    day: date | pa.Array | None = None,
    errors: pa.Array | None = None,
    texts: pa.Array | None = None,
) -> pa.Table:
    """Assemble one raw table; `columns` hold text, all arrays have the length of `rows`."""
    length = len(rows)
    nulls = pa.nulls(length, pa.string())
    days = day if isinstance(day, pa.Array) else pa.repeat(pa.scalar(day, pa.date32()), length)
    sources = source if isinstance(source, pa.Array) else pa.repeat(pa.scalar(source), length)
    notes = {
        "_text": nulls if texts is None else texts,
        "_day": days,
        "_source": sources,
        "_row": rows,
        "_error": nulls if errors is None else errors,
    }
    return pa.table({**columns, **notes}, schema=raw_schema(columns))


def raw_schema(columns: Iterable[str]) -> pa.Schema:
    """Return the schema of raw rows with these source columns."""
    fields = [pa.field(name, pa.string()) for name in columns]
    return pa.schema(fields + [pa.field(name, kind) for name, kind in RAW_COLUMNS.items()])


def empty_raw(columns: Iterable[str]) -> pa.Table:
    """Return a raw table without rows."""
    return raw_schema(columns).empty_table()


def chunked(tables: Iterable[pa.Table], columns: Iterable[str]) -> Iterator[pa.Table]:
    """Cut tables to `CHUNK_ROWS` rows; without any table yield one without rows."""
    empty = True
    for table in tables:
        empty = False
        for offset in range(0, max(table.num_rows, 1), CHUNK_ROWS):
            yield table.slice(offset, CHUNK_ROWS)
    if empty:
        yield empty_raw(columns)


def days_between(start: date, end: date) -> list[date]:
    """Days of `[start, end)`.

    Raises
    ------
    ConfigError
        `start` lies after `end`.
    """
    if start > end:
        raise ConfigError(f"The range of days is [{start}, {end}); expected start <= end.")
    return [start + timedelta(days=offset) for offset in range((end - start).days)]


def check_columns(found: Sequence[str], required: Sequence[str], where: str) -> None:
    """Fail unless every required column is there exactly once, and no more than `MAX_COLUMNS`.

    Raises
    ------
    SourceError
        With the place, what is missing, what was found, and the likely cause.
    """
    if len(found) > MAX_COLUMNS:
        raise SourceError(
            f"{where} has {len(found):,} columns; at most {MAX_COLUMNS:,} can be read. "
            f"{_hint(found)}Check whether its first line is the header, or have fewer columns "
            f"delivered: the contract needs {list(required)}."
        )
    doubled = sorted(name for name, times in Counter(found).items() if times > 1)
    if doubled:
        raise SourceError(
            f"{where} has columns that occur more than once: {some(doubled)}. Rename them at the "
            "source, so that each name means one thing."
        )
    if reserved := sorted(set(found) & set(RAW_COLUMNS)):
        raise SourceError(
            f"{where} has columns with reserved names: {reserved}. Rename them at the source."
        )
    missing = [name for name in required if name not in found]
    if not missing:
        return
    raise SourceError(
        f"{where} lacks columns {missing}; it has {some(found)}. "
        f"{_hint(found, missing)}The contract maps from them: mend the file, or columns.*.source "
        "of the table in use_case.yaml."
    )


def some(names: Sequence[str]) -> str:
    """Quote names; of very many, the first."""
    return f"{names[:40]} and {len(names) - 40:,} more" if len(names) > 40 else str(list(names))


def _hint(found: Sequence[str], missing: Sequence[str] = ()) -> str:
    if len(found) == 1:
        for delimiter, name in _DELIMITERS.items():
            if delimiter in found[0]:
                return (
                    f"There is a single column whose name holds {name}: csv.delimiter is probably "
                    f"{delimiter!r}. "
                )
        if re.search(r"\S[ \t]+\S", found[0]):
            return (
                "There is a single column whose name holds blanks: csv.delimiter is probably "
                "whitespace. "
            )
    if found and found[0].startswith("\u00ef\u00bb\u00bf"):
        return "The first name starts with a UTF-8 mark: csv.encoding is probably utf-8. "
    folded = {name.strip().casefold() for name in found}
    if any(name.strip().casefold() in folded for name in missing):
        return "Some differ only in case or in spaces around the name. "
    return ""


def as_text(array: pa.Array) -> pa.Array:
    """Turn values of any Arrow type into text, without loss.

    Timestamps become ISO 8601, with `Z` when the type has a zone and without an offset when it
    has none; floats the shortest digits that read back as the same number; NaN `nan`; nested
    values JSON. Nulls stay null.

    >>> as_text(pa.array([0.1, float("nan"), None])).to_pylist()
    ['0.1', 'nan', None]
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        return as_text(array.dictionary_decode())
    if pa.types.is_timestamp(kind):
        return _timestamps_as_text(array)
    if pa.types.is_date64(kind):
        array = array.cast(pa.date32())
    if pa.types.is_float16(kind):
        array = array.cast(pa.float32())
    try:
        return array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([value_as_text(value) for value in array.to_pylist()], pa.string())


def _timestamps_as_text(array: pa.Array) -> pa.Array:
    zoned = array.type.tz is not None
    # Of UTC the clock is the instant's own.
    array = array.cast(pa.timestamp(array.type.unit))
    try:
        # Whole seconds are many, and this is eight times as fast.
        text = pc.replace_substring(array.cast(pa.timestamp("s")).cast(pa.string()), " ", "T")
    except pa.ArrowInvalid:
        text = pc.strftime(array, format="%Y-%m-%dT%H:%M:%S")
        # strftime prints the digits of the unit; the zeros at the end say nothing.
        text = pc.replace_substring_regex(text, r"\.0+$", "")
        text = pc.replace_substring_regex(text, r"(\.\d*?[1-9])0+$", r"\1")
    return pc.binary_join_element_wise(text, "Z", "") if zoned else text


def value_as_text(value: object) -> str | None:
    """Turn one value of a database driver into text, by the rules of `as_text`.

    >>> value_as_text(datetime(2026, 3, 1, 12, 30))
    '2026-03-01T12:30:00'
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return repr(float(value))
    if isinstance(value, datetime) and value.utcoffset() is not None:
        text = value.isoformat()
        return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value).lower()
    if isinstance(value, bytes | bytearray | memoryview):
        content = bytes(value)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            return content.hex()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=value_as_text, sort_keys=True)
    return str(value)
