"""What sample files are: their format, the path that names them all, and their rows as text."""

from __future__ import annotations

import csv
import glob
import os
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import available_timezones

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from evergreen.contract import FilesSource
from evergreen.disk import scratch
from evergreen.errors import ConfigError
from evergreen.sources.files import FileReader
from evergreen.sql.connection import opened

# Rows that are looked at: enough to tell, few enough for the memory.
MOST_ROWS = 1_000_000
_DAY = re.compile(r"(?<!\d)(\d{4})([-_/]?)(\d{2})\2(\d{2})(?!\d)")
_VALUE = re.compile(r"[-+\d.,:/ TZ]*\d[-+\d.,:/ TZ]*")


def read_sample(paths: Sequence[Path]) -> tuple[FilesSource, pa.Table, str | None, list[str]]:
    """Read files that have the same columns.

    Return how a use case declares them, their raw rows, the name of the zone of Parquet's
    instants, and what a person must confirm.
    """
    paths = [path.expanduser().resolve() for path in paths]
    layouts = [_layout(path) for path in paths]
    source, names, zone = layouts[0]
    if any(found != names for _, found, _ in layouts):
        raise ConfigError(
            "The files have different columns. A draft is made of one table of events; add "
            "attributes and references to it by hand, as docs/use_case.md describes."
        )
    place, days, checks = _place(paths)
    source = source.model_copy(update={"path": place})
    start, end = (days[0], days[-1] + timedelta(days=1)) if days else (date.min, date(1, 1, 2))
    if days and (absent := (end - start).days - len(days)):
        source = source.model_copy(update={"missing": "empty"})
        checks.append(f"{absent} days have no file; was there no business?")
    tables: list[pa.Table] = []
    for table in FileReader(source, ()).read(start, end):
        tables.append(table)
        if sum(one.num_rows for one in tables) >= MOST_ROWS:
            checks.append(f"only the first {MOST_ROWS:,} rows were looked at")
            break
    rows = pa.concat_tables(tables, promote_options="default")
    broken = rows.num_rows - rows["_error"].null_count
    if 2 * broken >= rows.num_rows:
        raise ConfigError(
            f"{place}: {broken:,} of {rows.num_rows:,} rows have other numbers of fields than the "
            f"first line ({len(names)}). Expected a table from there on, without a title above it."
        )
    if source.csv.encoding == "cp1252":
        checks.append("it is not UTF-8; do letters beyond ASCII look right?")
    if source.csv.names:
        checks.append("there is no header; what are the columns called?")
    return source, rows, zone, checks


def _layout(path: Path) -> tuple[FilesSource, list[str], str | None]:
    """Return how a file is to be read, the names of its columns, and the zone of its instants."""
    if not path.is_file():
        raise ConfigError(f"There is no file {path}; give CSV or Parquet files of this machine.")
    with path.open("rb") as handle:
        magic = handle.read(4)
    if magic[:2] in (b"PK", b"\xd0\xcf"):
        raise ConfigError(f"{path} is a spreadsheet or archive; export its table as CSV.")
    if magic == b"PAR1":
        schema = pq.read_schema(path)
        zone = next((kind.tz for kind in schema.types if getattr(kind, "tz", None)), "")
        source = FilesSource(kind="files", path="", format="parquet")
        return source, schema.names, zone if zone in available_timezones() else None
    encoding, lines = _lines(path)
    if len(lines) < 2:
        raise ConfigError(f"{path} holds no rows; give a file with some.")
    delimiter, quote = ",", '"'
    with scratch("new") as folder, opened("new") as connection, suppress(duckdb.Error):
        head = Path(folder) / "head.csv"
        head.write_text("".join(lines), encoding="utf-8")
        delimiter, quote = connection.execute(
            "SELECT Delimiter, if(len(Quote) = 1, Quote, '\"') "
            "FROM sniff_csv(?, strict_mode = false, ignore_errors = true)",
            [str(head)],
        ).fetchall()[0]
    first = next(csv.reader(lines, delimiter=delimiter, quotechar=quote))
    # Blanks inside of fields are nothing regular; between them, they are.
    blanks = lines[0].split()
    if len(blanks) > len(first) and all(len(line.split()) == len(blanks) for line in lines):
        delimiter, first = "whitespace", blanks
    names = None
    if any(map(_VALUE.fullmatch, first)):
        names = first = [f"column_{n}" for n in range(1, len(first) + 1)]
    layout = {"delimiter": delimiter, "quote": quote, "encoding": encoding, "names": names}
    return FilesSource.model_validate({"kind": "files", "path": "", "csv": layout}), first, None


def _lines(path: Path) -> tuple[str, list[str]]:
    """Return the first encoding that fits a file, and its first lines that are not blank."""
    try:
        for encoding in ("utf-8", "utf-16", "cp1252"):
            file = fsspec.open(path, "rt", encoding=encoding, compression="infer")
            with suppress(UnicodeError), file as handle:
                lines = [line.lstrip("\ufeff") for line in islice(handle, MOST_ROWS)]
                return encoding, [line for line in lines if line.strip()][:5_000]
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    raise ConfigError(f"{path} is no text in UTF-8, UTF-16 or cp1252; export it as UTF-8.")


def _place(paths: Sequence[Path]) -> tuple[str, list[date], list[str]]:
    """Return the path of all the files, the days they are of if each has its own, and checks."""
    text, texts, daily = str(paths[0]), {*map(str, paths)}, dict[date, str]()
    # The file's own name counts more than the folders above it.
    for day in [*_DAY.finditer(text)][-1:]:
        before, after = text[: day.start()], text[day.end() :]
        alike = glob.escape(before) + re.sub(r"\d", "[0-9]", day[0]) + glob.escape(after)
        for one in glob.glob(alike):  # noqa: PTH207 - a pattern as the source reads it
            with suppress(ValueError):
                daily[date.fromisoformat(re.sub(r"\D", "", one[slice(*day.span())]))] = one
        if len(daily) > 1 and texts <= {*daily.values()}:
            stands = ":%Y-%m-%d".replace("-", day[2]) if day[2] != "-" else ""
            return f"{before}{{day{stands}}}{after}", sorted(daily), []
    if len(paths) == 1:
        return text, [], ["if each day has its own file, write {day} for the day"] if daily else []
    # Letters, not folders: orders_1.csv and orders_2.csv are orders_*.csv.
    path = f"{glob.escape(os.path.commonprefix([*texts]))}*{paths[0].suffix}"  # noqa: RUF071
    if texts - {*glob.glob(path)}:  # noqa: PTH207 - a pattern as the source reads it
        raise ConfigError(f"No pattern names {', '.join(sorted(texts))}. Put them into one folder.")
    return path, [], ["are all files of this name of this table?"]
