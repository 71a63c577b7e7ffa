"""Merge small files of a day, and group the lists of files by neighbouring days.

Rows do not change. Takes turns with the rest of upkeep; see `evergreen.lake.upkeep`.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.expressions import AlwaysTrue, In
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _SnapshotProducer
from pyiceberg.utils.datetime import days_to_date

from evergreen import lake
from evergreen.lake.sealed import readable
from evergreen.lake.upkeep import exclusive

if TYPE_CHECKING:
    from pyiceberg.table import FileScanTask, Table

logger = logging.getLogger(__name__)

_ATTEMPTS = 10
# One commit of a compaction rewrites at most this much, and reads one merged file at a time.
_BYTES_PER_COMMIT = 256 * 2**20
_TARGET_BYTES = 64 * 2**20
# A manifest is read as a whole, and only if it may hold the day.
_FILES_PER_MANIFEST = 100
# The weekly commits of a daily table are no reason to rewrite anything.
_SPARE_MANIFESTS = 8


@dataclass(frozen=True)
class Compacted:
    """What a compaction merged: data files before and after, manifests before and after."""

    files: tuple[int, int]
    manifests: tuple[int, int]


def compact(namespace: str, table: str, target_bytes: int = _TARGET_BYTES) -> Compacted:
    """Merge small files of the same day, and the manifests of many small commits.

    Rows do not change. Days in which a file was replaced meanwhile are planned again from the
    newest snapshot, so an old row never comes back; a table that changes all the time is left for
    the next time. The commits say `evergreen.step=compact`.

    Parameters
    ----------
    target_bytes
        Files are merged up to this size on disk; larger ones stay as they are.

    Notes
    -----
    Memory: one merged file at a time, decoded. A commit covers whole days, up to 256 MB.
    """
    with exclusive():
        found = lake.load(namespace, table)
        if found is None or found.current_snapshot() is None:
            return Compacted((0, 0), (0, 0))
        with readable(f"{namespace}.{table}"):
            files = len(list(found.scan().plan_files()))
        manifests = len(_manifests(found))
        for attempt in range(_ATTEMPTS):
            try:
                _merge_files(found, target_bytes)
                _cluster_manifests(found)
                break
            except (CommitFailedException, ValidationException):
                logger.info("%s changed while it was compacted; starting again", found.name())
                lake.pause(attempt)
                found.refresh()
        else:
            # Publishing comes first, and files that stay small for another week do no harm.
            logger.warning("%s changes too often to merge its files now", found.name())
        merged = len(list(found.scan().plan_files()))
    return Compacted((files, merged), (manifests, len(_manifests(found))))


_Bins = list[list["FileScanTask"]]


def _merge_files(table: Table, target_bytes: int) -> None:
    by_day: dict[Any, list[FileScanTask]] = defaultdict(list)
    for task in table.scan().plan_files():
        by_day[task.file.partition[0]].append(task)
    plan = [(day, _bins(tasks, target_bytes)) for day, tasks in sorted(by_day.items())]
    size = 0
    batch: list[tuple[Any, _Bins]] = []
    for day, bins in plan:
        if not bins:
            continue
        batch.append((day, bins))
        size += sum(task.file.file_size_in_bytes for tasks in bins for task in tasks)
        if size >= _BYTES_PER_COMMIT:
            _replace_files(table, batch)
            batch, size = [], 0
    if batch:
        _replace_files(table, batch)


def _bins(tasks: Sequence[FileScanTask], target_bytes: int) -> _Bins:
    """Group the small files of one day, in the order of their paths, up to the target each."""
    bins: _Bins = [[]]
    filled = 0
    for task in sorted(tasks, key=lambda task: str(task.file.file_path)):
        size = task.file.file_size_in_bytes
        if size >= target_bytes:
            continue
        if bins[-1] and filled + size > target_bytes:
            bins.append([])
            filled = 0
        bins[-1].append(task)
        filled += size
    return [group for group in bins if len(group) > 1]


def _replace_files(table: Table, batch: Sequence[tuple[Any, _Bins]]) -> None:
    transaction = table.transaction()
    metadata = transaction.table_metadata
    producer = transaction.update_snapshot({"evergreen.step": "compact"}).overwrite()
    days = set()
    for day, bins in batch:
        for tasks in bins:
            rows = ArrowScan(metadata, table.io, metadata.schema(), AlwaysTrue()).to_table(tasks)
            merged = list(_dataframe_to_data_files(metadata, rows, table.io))
            if len(merged) >= len(tasks):
                # They compress so well that the writer splits them again, by their size in memory.
                continue
            days.add(days_to_date(day).isoformat())
            for file in merged:
                producer.append_data_file(file)
            for task in tasks:
                producer.delete_data_file(task.file)
    if days:
        # Scope of the conflict check: commits to other days pass, one to these makes us fail.
        producer.delete_by_predicate(In("day", days))
        producer.commit()
        transaction.commit_transaction()


class _ClusterManifests(_SnapshotProducer):
    """A commit that adds and removes no file, and lists the files of neighbouring days together.

    Planning one day then reads one short manifest, and replacing it rewrites one.
    """

    def _validate_concurrency(self) -> None:
        """Nothing to check: a retry starts again from the newest snapshot's manifests."""

    def _deleted_entries(self) -> list[Any]:
        return []

    def _existing_manifests(self) -> list[Any]:
        parent = self._transaction.table_metadata.snapshot_by_id(self._parent_snapshot_id)
        entries: dict[int, list[Any]] = defaultdict(list)
        for manifest in parent.manifests(self._io):
            found = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
            entries[manifest.partition_spec_id] += found
        written = []
        for spec_id, group in entries.items():
            group.sort(key=lambda entry: (entry.data_file.partition[0], entry.data_file.file_path))
            for start in range(0, len(group), _FILES_PER_MANIFEST):
                with self.new_manifest_writer(self.spec(spec_id)) as writer:
                    for entry in group[start : start + _FILES_PER_MANIFEST]:
                        writer.existing(entry)
                written.append(writer.to_manifest_file())
        return written


def _cluster_manifests(table: Table) -> None:
    counts = [m.added_files_count + m.existing_files_count for m in _manifests(table)]
    ideal = math.ceil(sum(counts) / _FILES_PER_MANIFEST)
    if (
        len(counts) < 2 * ideal + _SPARE_MANIFESTS
        and max(counts, default=0) <= 2 * _FILES_PER_MANIFEST
    ):
        return
    group_manifests(table)


def group_manifests(table: Table) -> None:
    """Commit lists of the files that stand, by neighbouring days, and of no others."""
    transaction = table.transaction()
    _ClusterManifests(
        operation=Operation.APPEND,
        transaction=transaction,
        io=table.io,
        snapshot_properties={"evergreen.step": "compact"},
    ).commit()
    transaction.commit_transaction()


def _manifests(table: Table) -> list[Any]:
    current = table.current_snapshot()
    return list(current.manifests(table.io)) if current else []
