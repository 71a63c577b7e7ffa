"""Snapshots: which there are, what was said of them, and names that keep them."""

from __future__ import annotations

import logging
from collections.abc import Container
from datetime import date

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table.refs import MAIN_BRANCH

from evergreen.errors import NotReadyError
from evergreen.lake.iceberg import ATTEMPTS, load, pause
from evergreen.lake.publishing import FIRST_DAY

logger = logging.getLogger(__name__)


def snapshot_id(namespace: str, table: str) -> int | None:
    """Id of the current snapshot; None when there is none."""
    found = load(namespace, table)
    current = found.current_snapshot() if found else None
    return current.snapshot_id if current else None


def has_snapshot(namespace: str, table: str, snapshot_id: int) -> bool:
    """Whether a snapshot of a table can still be read."""
    found = load(namespace, table)
    return found is not None and found.snapshot_by_id(snapshot_id) is not None


def summaries_since(namespace: str, table: str, known: Container[int]) -> list[dict[str, str]]:
    """Summaries of the snapshots since the newest `known` one, newest first."""
    found = load(namespace, table)
    snapshot = found.current_snapshot() if found else None
    summaries = []
    while found and snapshot and snapshot.snapshot_id not in known:
        summaries.append(dict(snapshot.summary.additional_properties) if snapshot.summary else {})
        parent = snapshot.parent_snapshot_id
        snapshot = found.snapshot_by_id(parent) if parent else None
    return summaries


def is_unchanged_before(namespace: str, table: str, day: date, since: int, until: int) -> bool:
    """Whether it is certain that no commit between two snapshots replaced a day before `day`.

    Notes
    -----
    Asks the summaries of the snapshots only, so the cost is that of the commits between the two.
    False also when that cannot tell: a snapshot was expired, or was not made by `publish`.
    """
    found = load(namespace, table)
    known = {snapshot.snapshot_id: snapshot for snapshot in found.snapshots()} if found else {}
    while until != since:
        snapshot = known.get(until)
        if snapshot is None or snapshot.summary is None or snapshot.parent_snapshot_id is None:
            return False
        first_day = snapshot.summary.additional_properties.get(FIRST_DAY)
        if first_day is None or date.fromisoformat(first_day) < day:
            return False
        until = snapshot.parent_snapshot_id
    return True


def tag(namespace: str, table: str, snapshot_id: int, name: str) -> None:
    """Give a snapshot a name, which protects it and its files from expiry for good.

    Safe to repeat and beside other commits; a name that exists moves to this snapshot.

    Raises
    ------
    NotReadyError
        The table does not exist, or the snapshot was expired.
    """
    for attempt in range(ATTEMPTS):
        found = load(namespace, table)
        if found is None or found.snapshot_by_id(snapshot_id) is None:
            raise NotReadyError(
                f"{namespace}.{table} has no snapshot {snapshot_id}; it was expired. Run the step "
                "that read it again, on the newest snapshot."
            )
        known = found.metadata.refs.get(name)
        if known is not None and known.snapshot_id == snapshot_id:
            return
        try:
            found.manage_snapshots().create_tag(snapshot_id, name).commit()
        except (CommitFailedException, ValueError):
            # The latter where the snapshot was expired meanwhile; the next look says so.
            if attempt == ATTEMPTS - 1:
                raise
            # Only commits of snapshots are retried by PyIceberg itself.
            logger.info("%s changed while a snapshot was tagged; starting again", found.name())
            pause(attempt)
        else:
            return


def tags(namespace: str, table: str) -> dict[str, int]:
    """Snapshot id per tag of a table, sorted by name."""
    found = load(namespace, table)
    refs = found.metadata.refs if found else {}
    named = {name: ref.snapshot_id for name, ref in refs.items() if name != MAIN_BRANCH}
    return dict(sorted(named.items()))
