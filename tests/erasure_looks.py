"""What tests of erasures look with: nothing of it is the code that erases."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from click.testing import CliRunner, Result

from evergreen import lake
from evergreen.cli import cli
from evergreen.lake.sealed import _avro_header
from evergreen.settings import load_settings
from lived_shop import SECOND, WHO
from tiny_shop import NAME

ALL = (NAME, SECOND)


def erase(*more: str, who: str = WHO, use_case: str = NAME) -> Result:
    arguments = ["erase", use_case, who, "--yes", "--by", "ann", "--reason", "request 17", *more]
    return CliRunner().invoke(cli, arguments)


def places(needle: str) -> set[str]:
    """Look for a text in all files and tables, with nothing of the code that erases."""
    return {*_files(needle.encode()), *_tables(needle)}


def _files(needle: bytes) -> Iterator[str]:
    settings = load_settings()
    for path in settings.home.rglob("*"):
        if not path.is_file() or path.is_relative_to(settings.backups):
            continue
        content = path.read_bytes()
        if needle in content or needle in _unpacked(path, content):
            yield str(path.relative_to(settings.home))


def _unpacked(path: Path, content: bytes) -> bytes:
    if path.suffix == ".parquet":
        rows = pq.read_table(pa.BufferReader(content))
        return repr(rows.to_pydict()).encode()
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".avro":
        header, begin = _avro_header(content)
        found, blocks = b"", io.BytesIO(content[begin:])
        while rest := blocks.read():
            # Length and count of a block are variable; whatever inflates is one.
            for start in range(12):
                stream = zlib.decompressobj(-15)
                try:
                    inflated = stream.decompress(rest[start:])
                except zlib.error:
                    continue
                if stream.eof:
                    found += inflated
                    blocks = io.BytesIO(stream.unused_data[len(header.sync) :])
                    break
        return found
    return b""


def _tables(needle: str) -> Iterator[str]:
    engine = sa.create_engine(load_settings().database_url("ledger"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f'SELECT * FROM "{table}"')).all()
            if any(needle.encode() in _as_bytes(value) for row in rows for value in row):
                yield f"SQL {table}"


def _as_bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, memoryview | bytes) else str(value).encode()


def contents() -> dict[str, list[str]]:
    """Everything that tables hold of everybody else."""
    return {
        f"{name}.{table}": sorted(
            repr(row) for row in lake.read(name, table).to_pylist() if WHO not in repr(row)
        )
        for name in ALL
        for table in lake.tables(name)
    }
