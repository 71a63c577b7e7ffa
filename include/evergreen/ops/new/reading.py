"""What sample files are: their format, the path that names them all, and their rows as text."""

from __future__ import annotations

import csv
import glob
import os
import re
import zlib
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zoneinfo import available_timezones

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from evergreen.contract import CsvFormat, FilesSource
from evergreen.disk import scratch
from evergreen.errors import ConfigError
from evergreen.sources.files import FileReader
from evergreen.sql.connection import opened

# Rows that are looked at: enough to tell, few enough for the memory.
MOST_ROWS = 1_000_000
_ANY_DAY = date(2000, 1, 1)
_DAY = re.compile(r"(?<!\d)(\d{4})([-_/]?)(\d{2})\2(\d{2})(?!\d)")
_VALUE = re.compile(r"[-+\d.,:/ TZ]*\d[-+\d.,:/ TZ]*")


class Sample(NamedTuple):
    """Files of one table: how a use case declares them, and their raw rows."""

    source: FilesSource
    rows: pa.Table
    # Days that the files are named after; none unless each day has its own.
    days: list[date]
    # Name of the zone of Parquet's instants, if one is told.
    zone: str | None
    # What a person must confirm of the source.
    checks: list[str]


def read_sample(paths: Sequence[Path]) -> Sample:
    """Read files that have the same columns.

    Raises
    ------
    ConfigError
        A file does not exist, is of no format that a source can read, or has other columns.
    SourceError
        It cannot be read.
    """
    paths = [path.expanduser().resolve() for path in paths]
    (source, names, zone), *others = [_layout(path) for path in paths]
    for path, (_, found, _) in zip(paths[1:], others, strict=True):
        if found != names:
            raise ConfigError(
                f"{path} has other columns ({', '.join(found)}) than {paths[0]} "
                f"({', '.join(names)}). A draft is made of one table of events; add attributes and "
                "references to it by hand, as docs/use_case.md describes."
            )
    path, days, checks = _place(paths)
    start, end = (days[0], days[-1] + timedelta(days=1)) if days else (_ANY_DAY, date(2000, 1, 2))
    source = source.model_copy(update={"path": path})
    if days and (absent := (end - start).days - len(days)):
        source = source.model_copy(update={"missing": "empty"})
        checks.append(f"{absent} days have no file; was there no business?")
    tables: list[pa.Table] = []
    for table in FileReader(source, ()).read(start, end):
        tables.append(table)
        if sum(one.num_rows for one in tables) >= MOST_ROWS:
            checks.append(f"only the first {MOST_ROWS:,} rows were looked at")
            break
    rows = pa.concat_tables(tables, promote_options="default").slice(0, MOST_ROWS)
    broken = rows.num_rows - rows["_error"].null_count
    if 2 * broken >= rows.num_rows:
        raise ConfigError(
            f"{path} has {rows.num_rows:,} rows, of which {broken:,} have other numbers of fields "
            f"than its first line ({len(names)}). Expected a table of rows from the first line on, "
            "without a title above it."
        )
    if source.csv.encoding == "cp1252":
        checks.append("it is not UTF-8; do letters beyond ASCII look right?")
    if source.csv.names:
        checks.append("there is no header; what are the columns called?")
    return Sample(source, rows, days, zone, checks)


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
    with scratch("new") as folder, opened("new") as connection:
        head = Path(folder) / "head.csv"
        head.write_text("".join(lines), encoding="utf-8")
        try:
            delimiter, quote = connection.execute(
                "SELECT Delimiter, if(len(Quote) = 1, Quote, '\"') "
                "FROM sniff_csv(?, strict_mode = false, ignore_errors = true)",
                [str(head)],
            ).fetchall()[0]
        except duckdb.Error as error:
            raise ConfigError(
                f"{path} has no structure that can be told: {str(error).splitlines()[0]}. Expected "
                "rows of fields that a comma, semicolon, tab, pipe or blanks separate."
            ) from error
    first = next(csv.reader(lines, delimiter=delimiter, quotechar=quote))
    # Blanks inside of fields are nothing regular; between them, they are.
    blanks = lines[0].split()
    if len(blanks) > len(first) and all(len(line.split()) == len(blanks) for line in lines):
        delimiter, first = "whitespace", blanks
    names = None
    if any(map(_VALUE.fullmatch, first)) or len({*first}) < len(first):
        names = first = [f"column_{n}" for n in range(1, len(first) + 1)]
    layout = CsvFormat(delimiter=delimiter, quote=quote, encoding=encoding, names=names)
    return FilesSource(kind="files", path="", csv=layout), first, None


def _lines(path: Path) -> tuple[str, list[str]]:
    """Return the first encoding that fits a file, and its first lines that are not blank."""
    for encoding in ("utf-8", "utf-16", "cp1252"):
        try:
            with fsspec.open(path, "rt", encoding=encoding, compression="infer") as handle:
                lines = [line for line in islice(handle, MOST_ROWS) if line.strip("\ufeff\r\n ")]
        except UnicodeError:
            continue
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(f"{path} cannot be read: {error}.") from error
        if not lines:
            raise ConfigError(f"{path} holds no rows; give a file with some.")
        return encoding, [lines[0].removeprefix("\ufeff"), *lines[1:5_000]]
    raise ConfigError(f"{path} is no text in UTF-8, UTF-16 or cp1252; export it as UTF-8.")


def _place(paths: Sequence[Path]) -> tuple[str, list[date], list[str]]:
    """Return the path of all the files, the days they are of if each has its own, and checks."""
    template, daily = _daily(str(paths[0]))
    if len(daily) > 1 and {*paths} <= {*daily.values()}:
        return template, sorted(daily), []
    if len(paths) == 1:
        check = "if each day has a file of its own, write {day} for the day"
        return str(paths[0]), [], [check] if daily else []
    start = os.path.commonprefix([*map(str, paths)])  # noqa: RUF071 - letters are meant
    path = f"{glob.escape(start)}*{paths[0].suffix}"
    if {*map(str, paths)} - {*glob.glob(path)}:  # noqa: PTH207 - as the source reads it
        raise ConfigError(f"No path names all of {', '.join(map(str, paths))}. Use one folder.")
    return path, [], ["are all files of this name of this table?"]


def _daily(text: str) -> tuple[str, dict[date, Path]]:
    """Return a path with `{day}` for the day it is named after, and the files it stands for."""

    def day_in(match: re.Match[str] | None) -> date | None:
        try:
            return date(*map(int, match.group(1, 3, 4))) if match else None
        except ValueError:
            return None

    found = [match for match in _DAY.finditer(text) if day_in(match)]
    if not found:
        return text, {}
    # The file's own name counts more than the folders above it.
    (start, end), sign = found[-1].span(), found[-1][2]
    stands = "{day}" if sign == "-" else f"{{day:%Y{sign}%m{sign}%d}}"
    pattern = glob.escape(text[:start]) + sign.join(("????", "??", "??")) + glob.escape(text[end:])
    alike = glob.glob(pattern)  # noqa: PTH207 - a pattern of a whole path
    days = {day: Path(one) for one in alike if (day := day_in(_DAY.match(one, start)))}
    return text[:start] + stands + text[end:], days
