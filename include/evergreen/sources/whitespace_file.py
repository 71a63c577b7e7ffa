"""One file whose columns runs of blanks and tabs separate, as raw rows.

No reader of ours has this format: to Arrow and DuckDB each blank is a delimiter, and pandas drops
the text of malformed lines. So lines are split here, one by one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from datetime import date
from typing import BinaryIO, NamedTuple, TextIO

import pyarrow as pa

from evergreen.contract import CsvFormat
from evergreen.errors import SourceError
from evergreen.sources.base import CHUNK_ROWS, check_columns, empty_raw, raw_table

# Characters of the longest row that can be read, and of the rows of one table.
_BLOCK = 4 << 20


class _Row(NamedTuple):
    """One row: as delivered, and split; `fields` is None where a quote is never closed."""

    text: str
    fields: list[str] | None


def read_whitespace(
    handle: BinaryIO,
    csv_format: CsvFormat,
    codec: str,
    required: Sequence[str],
    *,
    source: str,
    day: date | None,
) -> Iterator[pa.Table]:
    """Yield the rows of an open file as raw tables, by the rules of `csv_file.read_csv`.

    A field that begins with the quote may hold blanks and line breaks; two quotes in it stand for
    one. Blanks at the ends of a line say nothing.

    Parameters
    ----------
    codec
        Python's name of the encoding.

    Raises
    ------
    SourceError
        The file is empty, lacks a column, or has a row of more than 4 Mi characters.

    Notes
    -----
    Takes 4 seconds for a million rows of four fields.
    """
    # Line ends are not translated: they may stand inside quotes.
    rows = _rows(io.TextIOWrapper(handle, codec, newline=""), csv_format.quote, source)
    names = csv_format.names or tuple(next(rows, _Row("", [])).fields or ())
    if not names:
        raise SourceError(
            f"{source} is empty; expected at least a header line. A day without rows is a file "
            "with only the header."
        )
    check_columns(names, required, source)
    part: list[_Row] = []
    first, size = 1, 0
    for row in rows:
        part.append(row)
        size += len(row.text)
        if len(part) == CHUNK_ROWS or size >= _BLOCK:
            yield _table(names, part, first, source=source, day=day)
            first, size, part = first + len(part), 0, []
    yield _table(names, part, first, source=source, day=day) if part else empty_raw(names)


def _rows(lines: TextIO, quote: str, source: str) -> Iterator[_Row]:
    """Yield the rows that are not blank."""
    sign = re.escape(quote)
    # Possessive, so that no line is tried twice.
    inside = rf"(?:[^{sign}]|{sign}{sign})*+"
    closing = re.compile(rf"{inside}{sign}[^ \t\r\n]*")
    plain = re.compile(r"[^ \t\r\n]+")
    field = re.compile(
        rf"{sign}(?P<quoted>{inside})(?P<closed>{sign}?)(?P<more>[^ \t\r\n]*)|{plain.pattern}"
    )

    def ends_open(line: str, *, begun: bool) -> bool:
        """Whether a line ends inside quotes, which it may have `begun` in."""
        if quote not in line:
            return begun
        start = closing.match(line) if begun else None
        if begun and start is None:
            return True
        found = [*field.finditer(line, start.end() if start else 0)]
        return bool(found) and found[-1]["closed"] == ""

    def split(text: str) -> list[str]:
        if quote not in text:
            return plain.findall(text)
        return [
            found[0]
            if found["quoted"] is None
            else found["quoted"].replace(quote * 2, quote) + found["more"]
            for found in field.finditer(text)
        ]

    pending: list[str] = []
    size, is_open = 0, False
    while line := lines.readline(_BLOCK + 1):
        size += len(line)
        if size > _BLOCK:
            raise SourceError(
                f"{source} has a row of more than {_BLOCK:,} characters. Is a {quote!r} never "
                "closed? Mend the file, or csv.quote of the table's source in use_case.yaml."
            )
        pending.append(line)
        is_open = ends_open(line, begun=is_open)
        if is_open:
            continue
        text = "".join(pending).rstrip("\r\n")
        pending, size = [], 0
        if fields := split(text):
            yield _Row(text, fields)
    if pending:
        yield _Row("".join(pending), None)


def _table(
    names: Sequence[str], rows: Sequence[_Row], first: int, *, source: str, day: date | None
) -> pa.Table:
    expected = [*names]
    errors = [_error(row.fields, expected) for row in rows]
    absent = [""] * len(names)
    split = [absent if error else row.fields or [] for row, error in zip(rows, errors, strict=True)]
    texts = [row.text if error else None for row, error in zip(rows, errors, strict=True)]
    columns = {
        name: pa.array([fields[position] or None for fields in split], pa.string())
        for position, name in enumerate(names)
    }
    return raw_table(
        columns,
        source=source,
        rows=pa.array(range(first, first + len(rows)), pa.int64()),
        day=day,
        errors=pa.array(errors, pa.string()),
        texts=pa.array(texts, pa.string()),
    )


def _error(fields: list[str] | None, names: list[str]) -> str | None:
    if fields is None:
        return "a quote is never closed"
    if len(fields) != len(names):
        return f"expected {len(names)} fields, found {len(fields)}"
    # A file that begins with a mark brings it along when it is glued to another.
    is_header = fields[-1] == names[-1] and [fields[0].lstrip("\ufeff"), *fields[1:]] == names
    return "repeated header" if is_header else None
