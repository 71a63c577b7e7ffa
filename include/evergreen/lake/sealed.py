"""The files of the lake carry their own checksum, and are read only if it fits.

In a data file it covers every byte, footer and page headers too, and lies between the rows and the
footer, where other readers of Parquet pass it over. The name ends in `.sealed.parquet`, and the
name stands in the manifest: so a file that should have a checksum cannot be taken for an older one
that has none. In a list of files (Avro) it is one more entry of the header's metadata.
See docs/adr/0014-sealed-files.md.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from typing import Any, cast

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem
from pyiceberg.avro.decoder import StreamingBinaryDecoder
from pyiceberg.avro.encoder import BinaryEncoder
from pyiceberg.avro.file import META_SCHEMA, AvroFileHeader
from pyiceberg.avro.resolver import construct_reader, construct_writer
from pyiceberg.exceptions import ValidationError
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.io.fsspec import FsspecFileIO
from pyiceberg.io.pyarrow import (
    ParquetFormatModel,
    PyArrowFile,
    PyArrowFileIO,
)
from pyiceberg.manifest import FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import EMPTY_DICT, Properties

from evergreen.errors import DamagedError
from evergreen.lake import elsewhere
from evergreen.settings import load_settings

_SEALED = "sealed.parquet"
_MARK = b"evergreen-crc32="
_CRC_BYTES = 4
_SEAL_BYTES = len(_MARK) + _CRC_BYTES
# Length of the footer and the magic number of Parquet.
_TAIL_BYTES = 8
_AVRO_KEY = "evergreen.crc32"
_PLACE = re.compile(r"([^/]+)/([^/]+)/data/day=(\d{4}-\d\d-\d\d)/[^/]+$")
# What PyIceberg runs into when it decodes something else than what it wrote.
_ILLEGIBLE: tuple[type[Exception], ...] = (
    *(ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError),
    *(OverflowError, zlib.error, struct.error, FileNotFoundError, ValidationError),
)


# Of an object store: how many files are on their way at once.
_DOWNLOADS = 8


class LakeFileIO(PyArrowFileIO):
    """PyIceberg's access to files: data files are written with their checksum and opened whole."""

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        super().__init__({**_object_store(), **elsewhere.declared(), **properties})

    def new_input(self, location: str) -> PyArrowFile:
        """Name a file to be read."""
        return _File(self, location)

    def new_output(self, location: str) -> PyArrowFile:
        """Name a file to be written."""
        return _File(self, location)

    def _initialize_s3_fs(self, netloc: str | None) -> S3FileSystem:
        # As it rebuilds itself from a pickle; PyIceberg passes neither of these on.
        rebuild, (options,) = super()._initialize_s3_fs(netloc).__reduce__()
        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS") or 5)
        more = {
            # A small file takes one request instead of three, of which the last cannot be repeated.
            "allow_delayed_open": True,
            "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=attempts),
        }
        return rebuild(options | more)

    def delete(self, location: Any) -> None:
        """Remove a file.

        In its place Arrow would leave an empty object for the folder, as if S3 had folders; not
        every store takes it.
        """
        place = getattr(location, "location", location)
        if not place.startswith("s3://"):
            super().delete(place)
            return
        FsspecFileIO(self.properties).get_fs("s3").rm_file(place)


def locate(scheme: str, path: str) -> str:
    """Return the location of what a file system lists by its path."""
    return path if scheme == "file" else f"{scheme}://{path}"


def folder_of(table: Table) -> tuple[Any, str, str]:
    """Return the file system, the scheme and the path of the folder that a table's files are in."""
    scheme, netloc, path = LakeFileIO.parse_location(table.location())
    access = cast("LakeFileIO", table.io)
    return access.fs_by_scheme(scheme, netloc), scheme, path


def _object_store() -> dict[str, str]:
    """Return what other clients of S3 take from the environment, and PyIceberg does not."""
    env = os.environ
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    # Without a region PyIceberg asks Amazon for that of the bucket, whoever's the endpoint is.
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or (endpoint and "us-east-1")
    found = {
        "s3.endpoint": endpoint,
        "s3.region": region,
        # Arrow itself waits for three seconds.
        "s3.connect-timeout": "10",
        "s3.request-timeout": "60",
    }
    return {name: value for name, value in found.items() if value}


class _File(PyArrowFile):
    def __init__(self, access: PyArrowFileIO, location: str) -> None:
        scheme, netloc, path = access.parse_location(location, access.properties)
        super().__init__(location, path, access.fs_by_scheme(scheme, netloc))

    def open(self, seekable: bool = True) -> Any:
        try:
            if not self.location.endswith((_SEALED, ".avro")):
                return super().open(seekable)
            with self._filesystem.open_input_file(self._path) as file:
                content = file.read_buffer()
        except FileNotFoundError as error:
            if not self.location.endswith(".parquet"):
                raise
            raise damaged(self.location, "is missing") from error
        if self.location.endswith(".avro"):
            _require_whole_avro(content.to_pybytes())
            return pa.BufferReader(content)
        found, expected = _crcs(content)
        if found != expected:
            raise damaged(
                self.location,
                f"is damaged: {content.size:,} bytes with checksum {found:08x}, expected "
                + (f"{expected:08x}" if expected is not None else "a checksum in it"),
            )
        return pa.BufferReader(content)

    def create(self, overwrite: bool = False) -> Any:
        stream = super().create(overwrite)
        if self.location.endswith(_SEALED):
            return _Sealing(stream, _seal_parquet)
        return _Sealing(stream, _seal_avro) if self.location.endswith(".avro") else stream


class _Sealing(io.BytesIO):
    """Holds a file until it is whole, then writes it with its checksum."""

    def __init__(self, target: Any, seal: Callable[[bytes], Iterable[bytes | memoryview]]) -> None:
        super().__init__()
        self._target = target
        self._seal = seal

    def close(self) -> None:
        if not self.closed:
            with self._target:
                for part in self._seal(self.getvalue()):
                    self._target.write(part)
        super().close()


class _SealedParquet(ParquetFormatModel):
    """The format in which PyIceberg writes data files, in this process."""

    def file_extension(self) -> str:
        return _SEALED


# PyIceberg refuses to register a second one.
FileFormatFactory._registry[FileFormat.PARQUET] = _SealedParquet()


def _seal_parquet(content: bytes) -> Iterator[bytes | memoryview]:
    held = memoryview(content)
    at = _footer_begin(held)
    yield held[:at]
    yield _MARK + zlib.crc32(held).to_bytes(_CRC_BYTES, "big")
    yield held[at:]


def _seal_avro(content: bytes) -> Iterator[bytes | memoryview]:
    header, begin = _avro_header(content)
    header.meta[_AVRO_KEY] = f"{zlib.crc32(content):08x}"
    yield _encode(header)
    yield memoryview(content)[begin:]


def _require_whole_avro(content: bytes) -> None:
    """Raise unless a list of files is what was written.

    PyIceberg's decoder reads past the end of a file that was cut off, into whatever lies there.
    """
    header, begin = _avro_header(content)
    blocks = memoryview(content)[begin:]
    expected = header.meta.pop(_AVRO_KEY, None)
    if expected is None:
        # By another writer, or from before there were checksums.
        if bytes(blocks[-len(header.sync) :]) != header.sync:
            raise ValueError("a list of files is cut off")
        return
    found = f"{zlib.crc32(blocks, zlib.crc32(_encode(header))):08x}"
    if found != expected:
        raise ValueError(f"a list of files has the checksum {found}, expected {expected}")


def _avro_header(content: bytes) -> tuple[AvroFileHeader, int]:
    """Return the header of an Avro file, and where it ends."""
    decoder = StreamingBinaryDecoder(content)
    header = construct_reader(META_SCHEMA, {-1: AvroFileHeader}).read(decoder)
    return header, decoder.tell()


def _encode(header: AvroFileHeader) -> bytes:
    encoded = io.BytesIO()
    construct_writer(META_SCHEMA).write(BinaryEncoder(encoded), header)
    return encoded.getvalue()


def _footer_begin(content: Any) -> int:
    """Return where the footer of a Parquet file begins, by its last bytes."""
    length = int.from_bytes(content[-_TAIL_BYTES:-4], "little")
    return max(0, len(content) - _TAIL_BYTES - length)


def _crcs(content: pa.Buffer) -> tuple[int, int | None]:
    """Return the checksum of a sealed file without its seal, and what the seal says."""
    held = memoryview(content)
    at = _footer_begin(held)
    seal = held[max(0, at - _SEAL_BYTES) : at]
    rest = zlib.crc32(held[at:], zlib.crc32(held[: at - len(seal)]))
    is_sealed = bytes(seal[: len(_MARK)]) == _MARK
    return rest, int.from_bytes(seal[len(_MARK) :], "big") if is_sealed else None


def write_and_read(location: str, content: bytes) -> bytes:
    """Try a place: write a file as large ones are, in parts; return what is read, and remove it."""
    access = LakeFileIO()
    with PyArrowFileIO(access.properties).new_output(location).create(overwrite=True) as stream:
        stream.write(content)
    with access.new_input(location).open() as stream:
        found = bytes(stream.read())
    access.delete(location)
    return found


def local_path(location: str) -> str:
    """Turn a `file:` URL into the path that PyIceberg means by it; other locations stay."""
    return LakeFileIO.parse_location(location)[2] if location.startswith("file:") else location


def open_intact(location: str) -> Any:
    """Open a planned file for reading, once it has been compared with its checksum.

    Raises
    ------
    DamagedError
        It is missing or damaged. A file from before there were checksums only has to be there.

    Notes
    -----
    O(bytes): 0.7 GB/s on one core, and the compressed file is held in memory.
    """
    return LakeFileIO().new_input(location).open()


def require_intact(locations: Sequence[str]) -> None:
    """Do the same for readers that open files themselves and look at no checksum, as DuckDB."""
    # One for all: it opens the file system once.
    access = LakeFileIO()
    for location in locations:
        access.new_input(location).open().close()


def open_remote(locations: Sequence[str]) -> ds.Dataset:
    """Open planned files of an object store as one dataset, once each fits its checksum.

    Columns that older files lack are null. DuckDB's own access to object stores is an extension to
    download; Arrow's is not.

    Raises
    ------
    DamagedError
        One is missing or damaged.
    """
    access = LakeFileIO()

    def schema_of(location: str) -> pa.Schema:
        with access.new_input(location).open() as file:
            return pq.read_schema(file)

    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        schemas = list(pool.map(schema_of, locations))
    scheme, netloc, _ = access.parse_location(locations[0])
    return ds.dataset(
        [access.parse_location(location)[2] for location in locations],
        schema=pa.unify_schemas(schemas, promote_options="permissive"),
        filesystem=access.fs_by_scheme(scheme, netloc),
    )


@contextmanager
def readable(table: str) -> Iterator[None]:
    """Run the body, which reads metadata of `<namespace>.<table>`, and tell damage in a sentence.

    Raises
    ------
    DamagedError
        A metadata file or a list of files is missing, or is not what was written.
    """
    try:
        yield
    except _ILLEGIBLE as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise DamagedError(
            f"The metadata of the table {table} is missing or damaged ({what}), so nothing of it "
            f"can be read. Its data files may be whole. {_restore()}."
        ) from error


def damaged(location: str, what: str) -> DamagedError:
    """Return the error that names a data file, its table and its day, and how to mend that."""
    from evergreen.provenance.staleness import mend_damage

    place = _PLACE.search(location)
    if place is None:
        return DamagedError(f"The file {location} of the lake {what}. {_restore()}.")
    commands = mend_damage(place[1], place[2], date.fromisoformat(place[3]))
    mend = (
        f"Make the day again: {'; '.join(commands)}. Or: {_restore()}."
        if commands
        else (f"Its rows cannot be made again. {_restore()}.")
    )
    return DamagedError(
        f"{place[1]}.{place[2]} of {place[3]} cannot be read: the file {location} {what}. {mend}",
        found=f"the file {location} {what}",
    )


def _restore() -> str:
    """Say how to go back to the newest backup."""
    from evergreen.ops.backup import manifest

    backups = manifest.complete_in(load_settings().backups)
    if not backups:
        return f"There is no backup in {load_settings().backups} for `evergreen restore`"
    return (
        "Go back to the newest backup, with all tables: stop Airflow (`make down`), then "
        f"`evergreen restore {backups[-1]} --force`"
    )
