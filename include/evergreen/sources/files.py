"""CSV and Parquet files through fsspec: local paths, `s3://`, and whatever else it knows.

Credentials and endpoints of remote systems come from their own environment variables or from
fsspec's (`FSSPEC_S3_ENDPOINT_URL`); none of them belongs into a path.
"""

from __future__ import annotations

import glob
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evergreen.contract import FilesSource, expand_variables
from evergreen.errors import ConfigError, ServiceDownError, SourceError, SourceMissingError
from evergreen.settings import PROJECT_ROOT
from evergreen.sources.base import (
    CHUNK_ROWS,
    as_text,
    check_columns,
    chunked,
    days_between,
    empty_raw,
    raw_table,
)
from evergreen.sources.csv_file import read_csv

_DAY = re.compile(r"\{day(?::([^{}]+))?\}")
_LEADING_VARIABLE = re.compile(r"^(\$\{[A-Z][A-Z0-9_]*\})/")


@dataclass(frozen=True)
class FileReader:
    """Reads the files of a day, or one file (or glob) that holds many days.

    Parameters
    ----------
    declared
        The `source` section. A relative local path starts at the project's root.
    required
        Columns every file must have.
    only_day
        The day that a file without `{day}` belongs to; None where its rows say when they are of.

    Notes
    -----
    With `{day}` in the path every file belongs to its day. Without it, and without `only_day`, the
    rows of all days come out whatever the range is (`_day` is null), and the caller keeps those in
    its range.
    Compressed CSV (`.gz`, `.bz2`, `.xz`, `.zst`) is recognised by its name.
    """

    declared: FilesSource
    required: tuple[str, ...]
    only_day: date | None = None

    def read(self, start: date, end: date) -> Iterator[pa.Table]:
        """Yield raw rows; see `Source.read`. Files of a day come in sorted order."""
        return chunked(self._read(days_between(start, end)), self.required)

    def _read(self, days: list[date]) -> Iterator[pa.Table]:
        for day in self._delivered(days):
            url = self._url(day)
            system, path = _filesystem(url)
            with _explained(url):
                files = _existing(system, path)
            if not files:
                self._judge_missing(url, day)
            for file in files:
                name = self._name(system, file)
                with _explained(name):
                    yield from self._rows(system, file, name, day)

    @property
    def _per_day(self) -> bool:
        return _DAY.search(self.declared.path) is not None

    def _delivered(self, days: list[date]) -> Sequence[date | None]:
        """Return the days to look for files of."""
        if self._per_day:
            return days
        if self.only_day is not None:
            return [self.only_day] if self.only_day in days else []
        return [None] if days else []

    def _url(self, day: date | None) -> str:
        url = expand_variables(self.declared.path)
        if day is not None:
            url = _DAY.sub(lambda match: day.strftime(match[1] or "%Y-%m-%d"), url)
        return _absolute(url)

    def _name(self, system: Any, file: str) -> str:
        """Name a file so that the same file has the same name on another machine."""
        if "file" not in _protocols(system):
            return re.sub(r"://[^/@]*@", "://", str(system.unstrip_protocol(file)))
        variable = _LEADING_VARIABLE.match(self.declared.path)
        base = Path(expand_variables(variable[1])) if variable else PROJECT_ROOT
        base = (PROJECT_ROOT / base.expanduser()).resolve()
        path = PurePosixPath(file)
        return str(path.relative_to(base)) if path.is_relative_to(base) else file

    def _judge_missing(self, url: str, day: date | None) -> None:
        policy = self.declared.missing
        if not self._per_day:
            raise SourceMissingError(
                f"No file matches {url}. Check source.path and the variables in it, or wait for "
                "the delivery."
            )
        if policy == "fail":
            raise SourceMissingError(
                f"There is no file for {day}: nothing matches {url}, and source.missing is 'fail'. "
                "Wait for the delivery and run the day again, or set source.missing to 'empty' if "
                "a day without a file is a day without rows."
            )
        # A wrong folder would otherwise look like years without business.
        folder = self._fixed_folder()
        with _explained(folder):
            system, path = _filesystem(folder)
            present = system.exists(path)
        if not present:
            raise SourceMissingError(
                f"The folder {folder} does not exist. source.missing is 'empty', which excuses a "
                "missing file, not a missing folder; check source.path and the variables in it."
            )

    def _fixed_folder(self) -> str:
        """Return the folder above the first part of the path that varies."""
        fixed = re.split(r"[*?\[{]", expand_variables(self.declared.path))[0]
        return _absolute(fixed.rpartition("/")[0])

    def _rows(self, system: Any, file: str, name: str, day: date | None) -> Iterator[pa.Table]:
        compression = "infer" if self.declared.format == "csv" else None
        with system.open(file, "rb", compression=compression) as handle:
            if not handle.read(1):
                raise SourceError(
                    f"{name} is empty (0 bytes); expected "
                    f"{'at least a header line' if self.declared.format == 'csv' else 'Parquet'}. "
                    "A day without rows is a file without rows, not an empty file."
                )
            handle.seek(0)
            if self.declared.format == "csv":
                yield from read_csv(handle, self.declared.csv, self.required, source=name, day=day)
            else:
                yield from _read_parquet(handle, self.required, source=name, day=day)


def _read_parquet(
    handle: BinaryIO, required: Sequence[str], *, source: str, day: date | None
) -> Iterator[pa.Table]:
    try:
        parquet = pq.ParquetFile(handle)
        names = parquet.schema_arrow.names
        check_columns(names, required, source)
        first = 1
        for batch in parquet.iter_batches(batch_size=CHUNK_ROWS):
            columns = {
                name: as_text(column) for name, column in zip(names, batch.columns, strict=True)
            }
            columns, errors, texts = _without_illegible(columns)
            rows = pa.array(range(first, first + batch.num_rows), pa.int64())
            first += batch.num_rows
            yield raw_table(columns, source=source, rows=rows, day=day, errors=errors, texts=texts)
        if first == 1:
            yield empty_raw(names)
    except (pa.ArrowInvalid, OSError) as error:
        # A file system's errors carry a number; the decoder's, about damaged content, do not.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise SourceError(
            f"{source} cannot be read as Parquet: {error}. Check source.format and whether the "
            "file was written to its end."
        ) from error


def _without_illegible(
    columns: dict[str, pa.Array],
) -> tuple[dict[str, pa.Array], pa.Array | None, pa.Array | None]:
    """Mark rows with text that is not UTF-8, which Parquet stores unchecked.

    Returns
    -------
    tuple
        The columns, null where they cannot be read; per row the error, and the row as text.
    """
    bytewise: dict[str, list[bytes | None]] = {}
    for name, column in columns.items():
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            bytewise[name] = column.cast(pa.binary()).to_pylist()
    if not bytewise:
        return columns, None, None
    legible = {name: [_is_utf8(value) for value in values] for name, values in bytewise.items()}
    null = pa.scalar(None, pa.string())
    for name, good in legible.items():
        columns[name] = pc.if_else(pa.array(good), columns[name], null)
    errors: list[str | None] = []
    texts: list[str | None] = []
    for row in range(len(columns[next(iter(legible))])):
        names = [name for name, good in legible.items() if not good[row]]
        errors.append(f"not UTF-8: {', '.join(names)}" if names else None)
        shown = {name: column[row].as_py() for name, column in columns.items()} if names else {}
        shown |= {name: _escaped(bytewise[name][row]) for name in names}
        texts.append(json.dumps(shown) if names else None)
    return columns, pa.array(errors, pa.string()), pa.array(texts, pa.string())


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _escaped(value: bytes | None) -> str:
    return (value or b"").decode(errors="backslashreplace")


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(
            f"{url} needs a package that is not installed: {error}. Install it."
        ) from error
    except ValueError as error:
        raise ConfigError(f"source.path {url} is not a path fsspec knows: {error}.") from error
    return system, str(path)


def _protocols(system: Any) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _existing(system: Any, path: str) -> list[str]:
    if system.isfile(path):
        return [path]
    if not glob.has_magic(path):
        return []
    found = system.glob(path, detail=True)
    return sorted(name for name, info in found.items() if info["type"] == "file")


def _absolute(url: str) -> str:
    if "://" in url or "::" in url:
        return url
    return str(PROJECT_ROOT / Path(url).expanduser())


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what file systems raise into what a retry policy understands."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceMissingError(f"{name} disappeared or is not there: {error}.") from error
    except PermissionError as error:
        raise SourceError(f"{name} may not be read: {error}. Grant read access to it.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(
            f"{name} is not compressed as its name says, or ends too early: {error}. "
            "Deliver it again."
        ) from error
    except OSError as error:
        raise ServiceDownError(f"{name} cannot be read now: {error}.") from error
