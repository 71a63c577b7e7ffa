"""One CSV file as raw rows, in bounded memory and without losing a malformed line."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from evergreen.contract import CsvFormat
from evergreen.errors import ConfigError, SourceError
from evergreen.sources.base import check_columns, empty_raw, raw_table
from evergreen.sources.whitespace_file import read_whitespace

# Also the longest row that can be read; a longer one is an unbalanced quote.
_BLOCK_BYTES = 4 << 20


def read_csv(
    handle: BinaryIO,
    csv_format: CsvFormat,
    required: Sequence[str],
    *,
    source: str,
    day: date | None,
) -> Iterator[pa.Table]:
    """Yield the rows of an open CSV file as raw tables (see `Source.read`).

    Blank lines are not rows. A row with too few or too many fields comes with `_error` and
    `_text`; so does a repetition of the header (files glued together).

    Raises
    ------
    SourceError
        The file is empty, is not in the declared encoding, lacks a column, or holds a quote that
        is never closed.
    ConfigError
        The encoding does not exist.
    """
    codec = _codec(csv_format.encoding)
    invalid: list[Any] = []

    def keep(row: Any) -> str:
        invalid.append(row)
        return "skip"

    try:
        if csv_format.delimiter == "whitespace":
            yield from read_whitespace(handle, csv_format, codec, required, source=source, day=day)
            return
        try:
            reader = pacsv.open_csv(
                handle,
                read_options=pacsv.ReadOptions(
                    # One thread: the reader then knows the number of every row.
                    use_threads=False,
                    block_size=_BLOCK_BYTES,
                    column_names=csv_format.names,
                    encoding=codec,
                ),
                parse_options=pacsv.ParseOptions(
                    delimiter=csv_format.delimiter,
                    quote_char=csv_format.quote,
                    newlines_in_values=True,
                    invalid_row_handler=keep,
                ),
                convert_options=pacsv.ConvertOptions(
                    default_column_type=pa.string(), null_values=[""], strings_can_be_null=True
                ),
            )
        except pa.ArrowInvalid as error:
            if "Empty CSV" not in str(error):
                raise
            yield _header_only(handle, csv_format, required, source)
            return
        names = reader.schema.names
        check_columns(names, required, source)
        yield from _tables(reader, invalid, csv_format, source=source, day=day)
    except UnicodeError as error:
        raise SourceError(
            f"{source} is not {csv_format.encoding}: {error}. "
            "Set source.csv.encoding to what the file is written in, for example latin-1 or cp1252."
        ) from error
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"{source} cannot be read as CSV: {error}. Expected rows of at most {_BLOCK_BYTES} "
            f"bytes, fields separated by {csv_format.delimiter!r} and every {csv_format.quote!r} "
            "closed; mend the file, or source.csv in use_case.yaml."
        ) from error


def _tables(
    reader: Any, invalid: list[Any], csv_format: CsvFormat, *, source: str, day: date | None
) -> Iterator[pa.Table]:
    names = reader.schema.names
    # The reader counts physical rows, the header among them.
    header_rows = 0 if csv_format.names else 1
    first = 1
    for batch in reader:
        # Rows the reader skipped before the end of this batch are already known: parsing comes
        # first. The batch's own rows are those whose numbers were not skipped.
        skipped = np.array([row.number - header_rows for row in invalid], dtype=np.int64)
        candidates = np.arange(first, first + batch.num_rows + len(skipped), dtype=np.int64)
        rows = candidates[~np.isin(candidates, skipped)][: batch.num_rows]
        table = _mark_headers(batch, rows, csv_format, source=source, day=day)
        if batch.num_rows:
            first = int(rows[-1]) + 1
        before = [row for row in invalid if row.number - header_rows < first]
        invalid[:] = [row for row in invalid if row.number - header_rows >= first]
        if before:
            bad = _invalid_table(before, names, header_rows, source=source, day=day)
            table = pa.concat_tables([table, bad])
            table = table.sort_by("_row")
        yield table
    if invalid:
        yield _invalid_table(invalid, names, header_rows, source=source, day=day)
    else:
        yield empty_raw(names)


def _mark_headers(
    batch: pa.RecordBatch,
    rows: np.ndarray[Any, Any],
    csv_format: CsvFormat,
    *,
    source: str,
    day: date | None,
) -> pa.Table:
    names = batch.schema.names
    columns = dict(zip(names, batch.columns, strict=True))
    header = None
    for position, name in enumerate(names):
        column = columns[name]
        if position == 0:
            # A file that begins with a mark brings it along when it is glued to another.
            column = pc.utf8_ltrim(column, characters="\ufeff")
        same = pc.fill_null(pc.equal(column, name), False)
        header = same if header is None else pc.and_(header, same)
        if not pc.any(header).as_py():
            break
    else:
        null = pa.scalar(None, pa.string())
        line = pa.scalar(csv_format.delimiter.join(names))
        return raw_table(
            {name: pc.if_else(header, null, column) for name, column in columns.items()},
            source=source,
            rows=pa.array(rows),
            day=day,
            errors=pc.if_else(header, pa.scalar("repeated header"), null),
            texts=pc.if_else(header, line, null),
        )
    return raw_table(columns, source=source, rows=pa.array(rows), day=day)


def _invalid_table(
    invalid: list[Any], names: Sequence[str], header_rows: int, *, source: str, day: date | None
) -> pa.Table:
    errors = [
        f"expected {row.expected_columns} fields, found {row.actual_columns}" for row in invalid
    ]
    nulls = pa.nulls(len(invalid), pa.string())
    return raw_table(
        dict.fromkeys(names, nulls),
        source=source,
        rows=pa.array([row.number - header_rows for row in invalid], pa.int64()),
        day=day,
        errors=pa.array(errors, pa.string()),
        texts=pa.array([row.text for row in invalid], pa.string()),
    )


def _header_only(
    handle: BinaryIO, csv_format: CsvFormat, required: Sequence[str], source: str
) -> pa.Table:
    # The reader calls a file empty, too, when its header line has no line break.
    handle.seek(0)
    text = handle.read(_BLOCK_BYTES).decode(_codec(csv_format.encoding)).strip("\r\n")
    if not text:
        raise SourceError(
            f"{source} is empty; expected at least a header line. A day without rows is a file "
            "with only the header."
        )
    lines = csv.reader(
        io.StringIO(text), delimiter=csv_format.delimiter, quotechar=csv_format.quote
    )
    names = next(lines)
    check_columns(names, required, source)
    return empty_raw(names)


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise ConfigError(
            f"source.csv.encoding is {encoding!r}, which is not an encoding; expected for example "
            "utf-8, latin-1 or cp1252."
        ) from error
    # Through Python's decoder, which drops the mark and reports bad bytes wherever they are; the
    # reader's own UTF-8 path takes rows it cannot decode for rows with missing fields.
    return "utf-8-sig" if name == "utf-8" else name
