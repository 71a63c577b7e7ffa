"""Forget what a table looked like, and remove every file that held it: for what was erased.

Upkeep keeps snapshots for a month, tagged ones for good, and young files; here none of that counts.
Takes turns with upkeep and backup; see `evergreen.lake.upkeep`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from pyiceberg.avro.file import AvroFile
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table.update import RemoveSnapshotsUpdate
from pyiceberg.typedef import Record

from evergreen import lake
from evergreen.lake import sealed, upkeep
from evergreen.lake.compaction import group_manifests
from evergreen.lake.upkeep import Removed, exclusive

logger = logging.getLogger(__name__)

_ATTEMPTS = 10


def forget(namespace: str, table: str, holds: Callable[[str], bool]) -> tuple[int, Removed]:
    """Keep only what a table holds now; return how many snapshots and files went.

    Safe to repeat and beside commits, which stay. Whoever reads an older snapshot at that moment
    is told that its files are missing.

    Parameters
    ----------
    holds
        Whether a file, by its location, holds what must not be left. Asked of files that nothing
        refers to: attempts that died have left them, and no commit will ever name them.

    Raises
    ------
    BusyError
        Another upkeep or backup was at work all the time.
    DamagedError
        The metadata of the table cannot be read.
    """
    with exclusive():
        found = lake.load(namespace, table)
        if found is None or found.current_snapshot() is None:
            return 0, Removed(0, 0)
        manifests: dict[str, frozenset[str]] = {}
        with sealed.readable(f"{namespace}.{table}"):
            before = upkeep.referenced(found, manifests)
            # A commit lists the files it removed, with the least and greatest of their values. The
            # next one does not.
            _commit(lambda: group_manifests(found.refresh()))
            grouped = found.refresh().current_snapshot()
            doomed = [
                snapshot.snapshot_id
                for snapshot in found.snapshots()
                if (snapshot.sequence_number or 0) < (grouped.sequence_number or 0)
            ]
            # Whatever names one of them goes with it.
            update = RemoveSnapshotsUpdate(snapshot_ids=doomed)
            _commit(lambda: lake.catalog().commit_table(found.refresh(), (), (update,)))
            files, scheme, root = sealed.folder_of(found)
            listed = {info.path: info for info in upkeep.files_under(files, root)}
            wanted = upkeep.plain(upkeep.referenced(found.refresh(), manifests))
            gone = upkeep.plain(before) - wanted
        removed = [
            info
            for path, info in listed.items()
            if path in gone or (path not in wanted and holds(sealed.locate(scheme, path)))
        ]
        for info in removed:
            found.io.delete(sealed.locate(scheme, info.path))
    return len(doomed), Removed(len(removed), sum(info.size for info in removed))


def bounds_in(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the least and greatest values that a list of files (Avro) says of columns.

    Yields
    ------
    tuple
        Name of the column, and a value as Iceberg encodes it; text may be cut off.
    """
    import json

    with AvroFile[Record](_InMemory(content)) as entries:
        named = json.loads(entries.header.meta.get("schema", "{}"))
        columns = {field["id"]: field["name"] for field in named.get("fields", ())}
        for entry in entries:
            for column, value in _bounds(entry):
                yield columns.get(column, ""), value


class _InMemory:
    """What PyIceberg's reader wants of a file whose bytes are there."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, seekable: bool = True) -> Any:
        import io

        return io.BytesIO(self._content)


def _bounds(value: Any) -> Iterator[tuple[int, bytes]]:
    if isinstance(value, dict):
        yield from ((k, v) for k, v in value.items() if isinstance(v, bytes))
    elif isinstance(value, Record):
        for position in range(len(value)):
            yield from _bounds(value[position])


def _commit(attempt: Callable[[], object]) -> None:
    for number in range(_ATTEMPTS):
        try:
            attempt()
        except CommitFailedException:
            if number == _ATTEMPTS - 1:
                raise
            lake.pause(number)
        else:
            return
