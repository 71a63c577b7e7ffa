"""Upkeep of the lake: forget old snapshots, free the disk; take turns.

Nothing here changes what a table holds. Every function takes one table, is safe to repeat, and
runs beside publishing steps; among themselves and beside a backup they take turns (`exclusive`),
because a backup must find every file that the catalog it dumped refers to.

Notes
-----
PyIceberg forgets snapshots but leaves their files; `expire_snapshots` followed by
`remove_orphan_files` frees the disk. See docs/adr/0008-upkeep-and-backup.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import StaticTable
from pyiceberg.table.update import (
    AssertTableUUID,
    RemoveSnapshotsUpdate,
    ValidatableTableRequirement,
)

from evergreen import lake
from evergreen.databases import ledger_engine, take_lock
from evergreen.errors import PermanentError
from evergreen.lake import sealed
from evergreen.settings import Settings

if TYPE_CHECKING:
    import sqlalchemy as sa
    from pyiceberg.table import Table
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.snapshots import Snapshot

logger = logging.getLogger(__name__)

_ATTEMPTS = 10
_LOCK_SECONDS = 600


@dataclass(frozen=True)
class Removed:
    """Files that were removed, and their size in bytes."""

    files: int
    bytes: int


@dataclass(frozen=True)
class TableVersion:
    """What makes up one version of a table; files by their locations.

    Parameters
    ----------
    snapshot
        Id of the current one.
    rows
        Of the current snapshot.
    files
        Its metadata file and all that any of its snapshots needs.
    current
        Those that the current snapshot needs.
    log
        Older metadata files. Nothing needs them to read the table, and the next commits remove
        them.
    """

    snapshot: int | None
    rows: int
    files: frozenset[str]
    current: frozenset[str]
    log: tuple[str, ...]


class _StillUnwanted(ValidatableTableRequirement):
    """At the moment of the commit nobody has named the snapshots meanwhile.

    PyIceberg protects the references it saw when it planned; removing a snapshot that was tagged
    since would silently remove the tag with it.

    A REST catalog checks requirements itself, and knows none like it. There a tag could get lost
    that is set within the moment of the commit, on a snapshot that was replaced weeks ago.
    """

    type: Literal["evergreen-still-unwanted"] = "evergreen-still-unwanted"
    snapshot_ids: list[int]

    def validate(self, base_metadata: TableMetadata | None) -> None:
        refs = base_metadata.refs.values() if base_metadata else ()
        if {ref.snapshot_id for ref in refs} & set(self.snapshot_ids):
            raise CommitFailedException("A snapshot was tagged while it was about to expire.")


@contextmanager
def exclusive(
    settings: Settings | None = None, wait_seconds: int = _LOCK_SECONDS
) -> Iterator[sa.Connection]:
    """Hold the one lock of upkeep and backup; it ends with the process, however that ends.

    Yields
    ------
    sqlalchemy.Connection
        Its transaction holds the lock; if it still answers, the lock was held.

    Raises
    ------
    BusyError
        Another upkeep or backup held it all the time.
    """
    with ledger_engine(settings).begin() as connection:
        take_lock(connection.exec_driver_sql, "upkeep or backup of the lake", wait_seconds)
        yield connection


def expire_snapshots(namespace: str, table: str, older_than: datetime) -> int:
    """Forget the snapshots that were replaced before an instant, except tagged ones.

    What counts is when a snapshot stopped being the current one, not when it was made: every
    state the table had at or after `older_than` stays readable, and a run that reads a snapshot
    which another run has just replaced keeps its files, however old they are.

    Parameters
    ----------
    older_than
        Instant with a time zone.

    Returns
    -------
    int
        How many were forgotten.
    """
    limit = int(older_than.timestamp() * 1000)
    with exclusive():
        for attempt in range(_ATTEMPTS):
            found = lake.load(namespace, table)
            if found is None or not (doomed := _replaced_before(found, limit)):
                return 0
            try:
                found.catalog.commit_table(
                    found,
                    requirements=(_StillUnwanted(snapshot_ids=doomed),)
                    if isinstance(found.catalog, MetastoreCatalog)
                    else (AssertTableUUID(uuid=found.metadata.table_uuid),),
                    updates=(RemoveSnapshotsUpdate(snapshot_ids=doomed),),
                )
            except CommitFailedException:
                if attempt == _ATTEMPTS - 1:
                    raise
                logger.info("%s changed while snapshots expired; starting again", found.name())
                lake.pause(attempt)
            else:
                return len(doomed)
    raise AssertionError


def _replaced_before(table: Table, limit: int) -> list[int]:
    """Ids of the snapshots that stopped being current before `limit` (ms) and bear no name."""
    named = {ref.snapshot_id for ref in table.metadata.refs.values()}
    history = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
    return [
        snapshot.snapshot_id
        for snapshot, successor in pairwise(history)
        if successor.timestamp_ms < limit and snapshot.snapshot_id not in named
    ]


# --- files nobody refers to ----------------------------------------------------------------------


def remove_orphan_files(namespace: str, table: str, older_than: datetime) -> Removed:
    """Remove the files under a table's location that nothing refers to any more.

    They come from expired snapshots, and from attempts that were killed before their commit.

    Parameters
    ----------
    older_than
        Instant with a time zone. Files written since then stay: a running commit writes files
        before it refers to them. Longer ago than any commit lasts.

    Raises
    ------
    PermanentError
        A file of what the table holds now is missing; nothing is removed.
    """
    with exclusive():
        found = lake.load(namespace, table)
        if found is None:
            return Removed(0, 0)
        files, scheme, root = sealed.folder_of(found)
        manifests: dict[str, frozenset[str]] = {}
        with sealed.readable(f"{namespace}.{table}"):
            before = referenced(found, manifests)
        listed = {info.path: info for info in files_under(files, root)}
        # Again after listing: what was committed meanwhile is referred to by now.
        found.refresh()
        wanted = plain(before | referenced(found, manifests))
        current = found.current_snapshot()
        standing = _content(found, manifests, [current] if current else [])
        _require_whole(found, plain(standing), listed, root)
        limit = older_than.timestamp() * 1e9
        orphans = [
            info for path, info in listed.items() if path not in wanted and info.mtime_ns < limit
        ]
        for info in orphans:
            found.io.delete(sealed.locate(scheme, info.path))
    return Removed(len(orphans), sum(info.size for info in orphans))


def version_at(metadata_location: str) -> TableVersion:
    """Return what makes up the version of a table whose metadata file the catalog names.

    Raises
    ------
    FileNotFoundError
        The metadata file is gone.
    """
    table = StaticTable.from_metadata(metadata_location, lake.catalog().properties)
    current = table.current_snapshot()
    summary = current.summary.additional_properties if current and current.summary else {}
    manifests: dict[str, frozenset[str]] = {}
    return TableVersion(
        snapshot=current.snapshot_id if current else None,
        rows=int(summary.get("total-records", 0)),
        files=frozenset({metadata_location} | _content(table, manifests, table.snapshots())),
        current=frozenset(_content(table, manifests, [current] if current else [])),
        log=tuple(entry.metadata_file for entry in table.metadata.metadata_log),
    )


def missing_files(locations: Sequence[str]) -> list[str]:
    """Locations of the lake where there is no file."""
    if not locations:
        return []
    io = sealed.LakeFileIO()
    return [location for location in locations if not io.new_input(location).exists()]


def referenced(table: Table, manifests: dict[str, frozenset[str]]) -> set[str]:
    """Locations of all files that any snapshot of a table needs, and of its log of metadata.

    `manifests` remembers the files each manifest names.
    """
    log = {entry.metadata_file for entry in table.metadata.metadata_log}
    return {table.metadata_location, *log, *_content(table, manifests, table.snapshots())}


def _content(
    table: Table, manifests: dict[str, frozenset[str]], snapshots: Sequence[Snapshot]
) -> set[str]:
    """Manifest lists, manifests, data and statistics of some snapshots.

    `manifests` remembers the files each manifest names: successive snapshots share nearly all.
    PyIceberg's own listings (`inspect.all_files`) take more than twice as long.
    """
    statistics = [*table.metadata.statistics, *table.metadata.partition_statistics]
    locations = {statistic.statistics_path for statistic in statistics}
    for snapshot in snapshots:
        locations.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            path = manifest.manifest_path
            if path not in manifests:
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                manifests[path] = frozenset(entry.data_file.file_path for entry in entries)
            locations |= {path, *manifests[path]}
    return locations


def files_under(files: Any, root: str) -> list[Any]:
    """List the files below a folder of an Arrow file system."""
    from pyarrow.fs import FileSelector, FileType

    selector = FileSelector(root, recursive=True, allow_not_found=True)
    return [info for info in files.get_file_info(selector) if info.type == FileType.File]


def plain(locations: set[str]) -> set[str]:
    """Turn locations into the paths that the file system of the table lists."""
    return {sealed.LakeFileIO.parse_location(location)[2] for location in locations}


def _require_whole(table: Table, content: set[str], listed: dict[str, Any], root: str) -> None:
    """Refuse to judge files by a listing in which the table's own are missing.

    Either the table is damaged, or paths are spelled in two ways; in both cases what looks like
    an orphan may be the only copy. Only what stands now is asked for: a day that was lost and made
    again stays lost in the snapshots before.
    """
    missing = sorted(path for path in content - set(listed) if path.startswith(f"{root}/"))
    # What was committed after listing is not in it.
    io = table.io
    lost = [path for path in missing if not io.new_input(path).exists()]
    if lost:
        raise PermanentError(
            f"{len(lost)} files of {'.'.join(table.name())} are missing, among them {lost[0]}. "
            "Nothing was removed. `evergreen status` lists the days with the commands that make "
            "them again; what cannot be made again is in a backup (`evergreen restore`)."
        )
