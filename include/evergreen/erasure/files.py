"""Every file we wrote, wherever it lies: looked through by what kind of file it is, and blotted."""

from __future__ import annotations

import gzip
import os
import re
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evergreen import lake
from evergreen.contract import list_use_cases
from evergreen.erasure.needle import Needle
from evergreen.lake.forgetting import bounds_in
from evergreen.lake.sealed import LakeFileIO, folder_of, locate
from evergreen.lake.upkeep import files_under
from evergreen.settings import Settings, is_catalog_elsewhere

REMEMBERED = "erasing"
"""Folder of the data directory: what unfinished erasures look for."""

_TEXT = re.compile(r"(\.(html|json|md|txt|csv|ya?ml|sql|out|err)|\.log(\.\d+)?|/[^./]+)$")
# Not ours to write into: the model's own code, and what its digests are of.
_KEPT = re.compile(r"/(code|data)/")
# MLflow shows some rows of the holdout beside a model; nothing reads them.
_EXAMPLES = re.compile(r"/(serving_)?input_example\.json$")
# Trees of texts that we or Airflow have written.
_WRITTEN = ("quality", "reports", "logs")
# Airflow's own setting, where workers share no disk.
_REMOTE_LOGS = "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER"
_BLOCK = 1 << 24
# Longer than any word, so that none is missed between two blocks.
_OVERLAP = 1 << 12
_ROWS = 65_536


@dataclass(frozen=True)
class Tree:
    """One folder, local or of an object store, and what below it is looked at elsewhere."""

    name: str
    access: LakeFileIO
    files: Any
    root: str
    without: tuple[str, ...] = ()

    @classmethod
    def at(cls, name: str, place: str, without: Collection[str] = ()) -> Tree:
        """Return the tree of a path or URL, without some of its own folders."""
        access = LakeFileIO()
        scheme, netloc, root = access.parse_location(place, access.properties)
        files = access.fs_by_scheme(scheme, netloc)
        return cls(name, access, files, root, tuple(f"{root}/{folder}" for folder in without))

    def paths(self) -> Iterator[str]:
        """Yield the paths of its files, for its file system."""
        for info in files_under(self.files, self.root):
            if not any(info.path.startswith(f"{place}/") for place in self.without):
                yield info.path

    def remove(self, path: str) -> None:
        """Remove a file, and leave nothing in its place."""
        self.access.delete(locate("file" if path.startswith("/") else "s3", path))


def trees(settings: Settings, besides: Collection[str]) -> list[Tree]:
    """Return all folders that we write to: the data directory, and what may be outside of it.

    Backups are left out: they are listed by when they go. So are the files of Postgres, whose
    tables are asked instead.

    Parameters
    ----------
    besides
        Use cases whose entities are others, though their keys may be spelled alike.
    """
    places = settings.places
    logs = os.environ.get(_REMOTE_LOGS, "")
    if logs.startswith("s3://"):
        places["logs"] = logs
    found = [Tree.at(name, place, besides) for name, place in places.items()]
    if is_catalog_elsewhere():
        found += _tables_elsewhere(besides)
    elsewhere = (settings.postgres_dir, settings.backups, settings.home / REMEMBERED)
    home = Tree.at("data directory", str(settings.home))
    without = (*map(str, elsewhere), *(tree.root for tree in found))
    return [*found, replace(home, without=without)]


def _tables_elsewhere(besides: Collection[str]) -> Iterator[Tree]:
    for use_case in sorted({*list_use_cases()} - {*besides}):
        for name in lake.tables(use_case):
            if table := lake.load(use_case, name):
                files, _, root = folder_of(table)
                yield Tree("warehouse", table.io, files, root)


def find(tree: Tree, needle: Needle) -> Iterator[str]:
    """Yield the files of a tree that hold an entity, and where in them."""
    for path in tree.paths():
        try:
            where = look_into(tree.files, path, needle)
        except FileNotFoundError:
            # What is written and removed all the time, such as staged files.
            continue
        if where:
            yield f"{path} ({where})"


def look_into(files: Any, path: str, needle: Needle) -> str:
    """Say where a file holds an entity; empty if it does not.

    Columns of Parquet are decoded and compared value by value, their statistics, too, and so are
    the bounds in lists of files. Whatever is text is searched for words; the bytes of all files
    for those words that are hardly ever anything else.
    """
    if path.endswith(".parquet"):
        with files.open_input_file(path) as file:
            content = file.read_buffer()
        found = _in_parquet(content, needle)
        return found or ("bytes" if needle.is_in_bytes(memoryview(content)) else "")
    if path.endswith(".avro"):
        with files.open_input_file(path) as file:
            return _in_bounds(file.read(), needle)
    with files.open_input_stream(path, compression=None) as stream:
        readable = gzip.GzipFile(fileobj=stream) if path.endswith(".gz") else stream
        text = _TEXT.search(path.removesuffix(".gz")) is not None
        for block in _blocks(readable):
            if needle.is_in_bytes(block):
                return "text" if text else "bytes"
            if text and needle.is_in_text(block.decode("utf-8", "replace")):
                return "text"
    return ""


def clean(settings: Settings, needle: Needle, besides: Collection[str]) -> list[str]:
    """Blot the entity out of texts, and remove what cannot be blotted; return what was changed.

    Texts are validation results, Data Docs, reports, logs, and the documents of MLflow's runs.
    Removed are staged and scratch files that name the entity, and all examples of input beside
    models: rows without a name, of which nobody can say whose they are.
    """
    changed = []
    for tree in trees(settings, besides):
        if tree.name == "warehouse":
            continue
        for path in list(tree.paths()):
            try:
                done = _clean(tree, path, needle, settings)
            except FileNotFoundError:
                continue
            if done:
                changed.append(f"{done} {path}")
    return changed


def _clean(tree: Tree, path: str, needle: Needle, settings: Settings) -> str:
    if tree.name == "artifacts" and _EXAMPLES.search(path):
        tree.remove(path)
        return "removed"
    logged = path.startswith(f"{settings.home}/airflow/logs/") or ".log" in path.rsplit("/", 1)[-1]
    ours = tree.name in _WRITTEN or logged or (tree.name == "artifacts" and not _KEPT.search(path))
    written = ours and _TEXT.search(path)
    disposable = tree.name == "staging" or path.startswith(f"{settings.scratch}/")
    if not (written or disposable) or not look_into(tree.files, path, needle):
        return ""
    if disposable:
        tree.remove(path)
        return "removed"
    with tree.files.open_input_stream(path) as stream:
        text = stream.read().decode("utf-8", "surrogateescape")
    blotted = needle.blot_text(text).encode("utf-8", "surrogateescape")
    _replace(tree, path, blotted)
    return "blotted"


def _replace(tree: Tree, path: str, content: bytes) -> None:
    """Write a file anew: whole or not at all, which objects are anyway."""
    if not path.startswith("/"):
        with tree.files.open_output_stream(path) as stream:
            stream.write(content)
        return
    place = Path(path)
    draft = place.with_name(f".{place.name}.blotted")
    draft.write_bytes(content)
    draft.chmod(place.stat().st_mode)
    draft.replace(place)


def _blocks(stream: Any) -> Iterator[bytes]:
    before = b""
    while block := stream.read(_BLOCK):
        yield before + block
        before = block[-_OVERLAP:]


def _in_parquet(content: Any, needle: Needle) -> str:
    file = pq.ParquetFile(pa.BufferReader(content))
    for name in _statistics(file, needle):
        return f"statistics of {name}"
    for batch in file.iter_batches(_ROWS):
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if _in_column(field, column, needle):
                return f"column {field.name}"
    return ""


def _statistics(file: pq.ParquetFile, needle: Needle) -> Iterator[str]:
    for group in range(file.num_row_groups):
        for number in range(file.metadata.num_columns):
            column = file.metadata.row_group(group).column(number)
            found = column.statistics
            if found is None or not found.has_min_max:
                continue
            name = column.path_in_schema.partition(".")[0]
            if any(needle.is_in(value, name) for value in (found.min, found.max)):
                yield name


def _in_column(field: pa.Field, column: pa.Array, needle: Needle) -> bool:
    kind = field.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _in_column(kind.value_field.with_name(field.name), column.flatten(), needle)
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary, kind.value_type
    if pa.types.is_integer(kind):
        # Only columns that are named like the key hold keys.
        return field.name in needle.names and needle.key in column.unique().to_pylist()
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return False
    likely = column.filter(pc.match_substring_regex(column, needle.anywhere))
    return any(needle.is_in(value, field.name) for value in likely.unique().to_pylist())


def _in_bounds(content: bytes, needle: Needle) -> str:
    wanted = {needle.text.encode(), *(value.encode() for value in needle.personal)}
    if isinstance(needle.key, int):
        wanted = {struct.pack("<q", needle.key)}
    for column, value in bounds_in(content):
        if value in wanted and (column in needle.names or not isinstance(needle.key, int)):
            return f"bounds of {column}"
    return ""


def remembered(settings: Settings) -> Path:
    """Return the folder of what unfinished erasures look for; private."""
    folder = settings.home / REMEMBERED
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
