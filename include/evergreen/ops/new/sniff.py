"""What a sample file is: its format, whether it is of one day, and its rows as text."""

from __future__ import annotations

import codecs
import csv
import glob
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal
from zoneinfo import available_timezones

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from evergreen.contract import CsvFormat, FilesSource
from evergreen.disk import scratch
from evergreen.errors import ConfigError
from evergreen.settings import PROJECT_ROOT
from evergreen.sources.base import RAW_COLUMNS
from evergreen.sources.files import FileReader
from evergreen.sql.connection import opened

_HEAD_BYTES = 1 << 20
# Rows of one table that are looked at: enough to tell, few enough for the memory.
MOST_ROWS = 500_000
_ANY_DAY = date(2000, 1, 1)
_A_VALUE = re.compile(r"[+-]?[\d.,:/ -]*\d[\d.,:/ TZ+-]*")
# How a day may be written in a path, and what stands for it in `source.path`.
_DATED = (
    (r"year=(\d{4})/month=(\d{2})/day=(\d{2})", "year={day:%Y}/month={day:%m}/day={day:%d}"),
    (r"(\d{4})-(\d{2})-(\d{2})", "{day}"),
    (r"(\d{4})_(\d{2})_(\d{2})", "{day:%Y_%m_%d}"),
    (r"(\d{4})/(\d{2})/(\d{2})", "{day:%Y/%m/%d}"),
    (r"(\d{4})(\d{2})(\d{2})", "{day:%Y%m%d}"),
)


@dataclass(frozen=True)
class Sample:
    """Files with the same columns.

    Parameters
    ----------
    paths
        The files.
    file_format, csv_format
        As `source` declares them.
    rows
        Their rows, at most `MOST_ROWS`: columns of text, by the names of the source.
    header
        Whether the names are the file's own.
    malformed
        Rows that could not be split into columns; not among `rows`.
    zone
        Name of the zone of Parquet's instants; None where none is told.
    template
        Path with `{day}`; None where the first file is not named after a day.
    """

    paths: tuple[Path, ...]
    file_format: Literal["csv", "parquet"]
    csv_format: CsvFormat
    rows: pa.Table
    header: bool
    malformed: int
    zone: str | None
    template: str | None

    @property
    def named_days(self) -> list[date]:
        """Days the files are named after."""
        found = [dated(path) for path in self.paths]
        return [item[1] for item in found if item and item[0] == self.template]

    @property
    def path(self) -> str:
        """Path that names all the files, which are not of one day each; maybe others, too."""
        if len(self.paths) == 1:
            return shown(self.paths[0])
        folders = {path.parent for path in self.paths}
        folder = folders.pop() if len(folders) == 1 else Path(*_common(self.paths))
        return f"{shown(folder)}/*{self.paths[0].suffix}"


def read_samples(paths: Sequence[Path]) -> list[Sample]:
    """Read files, those with the same columns as one sample, in the order of their first files.

    Raises
    ------
    ConfigError
        A file does not exist or is of no format that a source can read.
    SourceError
        It cannot be read.
    """
    found: dict[tuple[str, ...], Sample] = {}
    for path in paths:
        sample = _read(path.expanduser().resolve())
        names = tuple(sample.rows.schema.names)
        if (before := found.get(names)) is not None:
            sample = replace(
                before,
                paths=before.paths + sample.paths,
                rows=pa.concat_tables([before.rows, sample.rows]).slice(0, MOST_ROWS),
                malformed=before.malformed + sample.malformed,
            )
        found[names] = sample
    return list(found.values())


def dated(path: Path) -> tuple[str, date] | None:
    """Find the day a path is named after.

    Returns
    -------
    tuple or None
        The path with `{day}` in its place, and the day.

    >>> dated(Path("/data/orders-20260301.csv"))
    ('/data/orders-{day:%Y%m%d}.csv', datetime.date(2026, 3, 1))
    """
    text = shown(path)
    best: tuple[int, str, date] | None = None
    for pattern, stands in _DATED:
        for match in re.finditer(rf"(?<!\d){pattern}(?!\d)", text):
            try:
                day = date(*map(int, match.groups()))
            except ValueError:
                continue
            # The file's own name counts more than the folders above it.
            if best is None or match.end() > best[0]:
                template = f"{text[: match.start()]}{stands}{text[match.end() :]}"
                best = match.end(), template, day
    return best[1:] if best else None


def delivered_days(template: str) -> list[date]:
    """Return the days there are files of, oldest first."""
    parts = re.split(r"(\{day(?::[^{}]+)?\})", template)
    fixed, _, rest = parts[0].rpartition("/")
    pattern = glob.escape(rest) + "".join(
        re.sub(r"[^/]+", "*", part) if n % 2 == 0 else glob.escape(part)
        for n, part in enumerate(parts[1:])
    )
    found = [dated(path) for path in (PROJECT_ROOT / fixed).glob(pattern)]
    return sorted({item[1] for item in found if item and item[0] == template})


def shown(path: Path) -> str:
    """Return a path as `source.path` takes it: from the project's root on, if it lies there."""
    inside = path.is_relative_to(PROJECT_ROOT)
    return (path.relative_to(PROJECT_ROOT) if inside else path).as_posix()


def _common(paths: Sequence[Path]) -> list[str]:
    return [
        parts[0] for parts in zip(*(p.parts for p in paths), strict=False) if len({*parts}) == 1
    ]


def _read(path: Path) -> Sample:
    if not path.is_file():
        raise ConfigError(f"There is no file {path}; give CSV or Parquet files of this machine.")
    with path.open("rb") as handle:
        magic = handle.read(4)
    file_format: Literal["csv", "parquet"] = "csv"
    zones: set[str] = set()
    if magic == b"PAR1":
        file_format, csv_format, header = "parquet", CsvFormat(), True
        zones = {str(t.tz) for t in pq.read_schema(path).types if getattr(t, "tz", None)}
    elif magic[:2] in (b"PK", b"\xd0\xcf"):
        raise ConfigError(f"{path} is a spreadsheet or archive; export its table as CSV.")
    else:
        csv_format, header = _csv_format(path)
    source = FilesSource(kind="files", path=str(path), format=file_format, csv=csv_format)
    tables, seen = [], 0
    for table in FileReader(source, ()).read(_ANY_DAY, date(2000, 1, 2)):
        tables.append(table)
        seen += table.num_rows
        if seen >= MOST_ROWS:
            break
    raw = pa.concat_tables(tables).slice(0, MOST_ROWS)
    rows = raw.filter(raw["_error"].is_null()).drop_columns([*RAW_COLUMNS])
    if not rows.num_rows or rows.num_rows < raw.num_rows / 2:
        raise ConfigError(
            f"{path} has {raw.num_rows:,} rows, of which {rows.num_rows:,} have as many fields as "
            f"its first line ({len(rows.schema.names)}). Expected a table of rows from the first "
            "line on, without a title above it."
        )
    named = dated(path)
    return Sample(
        paths=(path,),
        template=named[0] if named else None,
        file_format=file_format,
        csv_format=csv_format,
        rows=rows.select([name for name in rows.schema.names if name.strip()]),
        header=header,
        malformed=raw.num_rows - rows.num_rows,
        zone=zones.pop() if len(zones) == 1 and zones <= available_timezones() else None,
    )


def _csv_format(path: Path) -> tuple[CsvFormat, bool]:
    encoding = _encoding(path)
    with fsspec.open(path, "rb", compression="infer") as handle:
        content = handle.read(_HEAD_BYTES)
        whole = not handle.read(1)
    text = codecs.getincrementaldecoder(encoding)().decode(content)
    text = text.removeprefix("\ufeff")
    lines = (text if whole else text.rpartition("\n")[0]).splitlines()
    lines = [line for line in lines if line.strip()][:5_000]
    if not lines:
        raise ConfigError(f"{path} holds no rows; give a file with some.")
    delimiter, quote, count = _dialect("\n".join(lines), path)
    # Blanks inside of fields are nothing regular; between them, they are.
    blanks = Counter(len(_fields(line, "whitespace", quote)) for line in lines)
    ((most, times),) = blanks.most_common(1)
    if most > count and times >= 0.98 * len(lines):
        delimiter, count = "whitespace", most
    first = _fields(lines[0], delimiter, quote)
    filled = [name.strip() for name in first if name.strip()]
    header = 2 * len(filled) >= len(first) and len({*filled}) == len(filled)
    header = header and not any(_A_VALUE.fullmatch(name) for name in filled)
    names = None if header else tuple(f"column_{n}" for n in range(1, count + 1))
    return CsvFormat(delimiter=delimiter, quote=quote, encoding=encoding, names=names), header


def _encoding(path: Path) -> str:
    """Return UTF-8 if all of a file is, else what fits; nothing tells single-byte ones apart."""
    for encoding in ("utf-8", "cp1252"):
        decoder = codecs.getincrementaldecoder(encoding)()
        with fsspec.open(path, "rb", compression="infer") as handle:
            if handle.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                return "utf-16"
            handle.seek(0)
            try:
                while block := handle.read(_HEAD_BYTES):
                    decoder.decode(block)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                continue
            return encoding
    return "latin-1"


def _dialect(text: str, path: Path) -> tuple[str, str, int]:
    """Return delimiter, quote and number of columns."""
    with scratch("new") as folder, opened("new") as connection:
        head = Path(folder) / "head.csv"
        head.write_text(text, encoding="utf-8")
        try:
            row = connection.execute(
                "SELECT Delimiter, Quote, len(Columns) "
                "FROM sniff_csv(?, strict_mode = false, ignore_errors = true)",
                [str(head)],
            ).fetchone()
        except duckdb.Error as error:
            raise ConfigError(
                f"{path} has no structure that can be told: {str(error).splitlines()[0]}. Expected "
                "rows of fields that a comma, semicolon, tab, pipe or blanks separate."
            ) from error
    delimiter, quote, count = row or (",", '"', 1)
    return delimiter, quote if len(quote) == 1 else '"', count


def _fields(line: str, delimiter: str, quote: str) -> list[str]:
    if delimiter == "whitespace":
        line, delimiter = re.sub(r"[ \t]+", " ", line).strip(), " "
    return next(csv.reader(io.StringIO(line), delimiter=delimiter, quotechar=quote), [])
