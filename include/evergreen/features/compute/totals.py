"""Where a step gets the orders it needs: the files of recent days, and totals of all before."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from evergreen.contract import Period, UseCase
from evergreen.errors import ConfigError, DamagedError
from evergreen.provenance.staging import Staged, publish_chunk

if TYPE_CHECKING:
    from evergreen.features.compute.daily import Totals
    from evergreen.lake import Files

logger = logging.getLogger(__name__)

STEP, TABLE = "publish_totals", "totals"


def plan_orders(
    use_case: UseCase, period: Period, end: date, basis: int, snapshot_id: int | None = None
) -> tuple[tuple[str, ...], Totals | None, int]:
    """Plan what features or labels of a period are computed from, out of one snapshot.

    Parameters
    ----------
    period
        The as-of days.
    end
        Day from which on orders are not needed.
    basis
        Newest receipt there was before orders were read, for the receipts of totals.
    snapshot_id
        Of `orders`; None takes the current one.

    Returns
    -------
    tuple[tuple[str, ...], Totals | None, int]
        Files of the orders; what stands for all orders before them, None where these are all;
        and the snapshot of both (0 for none).

    Notes
    -----
    Totals that are not there, or that orders have been corrected under, are computed from the
    newest that still hold, and published. A use case without `daily` gets all files.
    """
    from evergreen import lake
    from evergreen.features.compute.daily import stored_before

    snapshot = snapshot_id or lake.snapshot_id(use_case.name, "orders")
    if snapshot is None:
        return (), None, 0
    start, totals = None, None
    if use_case.daily is not None:
        needed = {stored_before(use_case.daily, day) for day in period.days}
        # Before the first day there is nothing to sum up: such days look back on all orders singly.
        boundaries = sorted(boundary for boundary in needed if boundary > use_case.first_day)
        if boundaries:
            totals = _ensure_totals(use_case, snapshot, boundaries, basis)
        if totals is not None and totals.before == stored_before(use_case.daily, period.start):
            start = totals.before
        else:
            totals = None
    return lake.scan(use_case.name, "orders", start, end, snapshot).paths, totals, snapshot


def _ensure_totals(use_case: UseCase, snapshot: int, boundaries: list[date], basis: int) -> Totals:
    """Publish the totals that do not hold at a boundary; return those at the first.

    A period publishes the totals of all its days, so that the table does not depend on whether
    days are run one by one or at once.
    """
    from evergreen import lake
    from evergreen.features.compute.daily import Totals, iter_totals
    from evergreen.lake.content import ORIGINS, STAMPS, digest_by_day
    from evergreen.provenance import receipts
    from evergreen.settings import load_settings

    started, settings = time.monotonic(), load_settings()
    contract = use_case.contract_digest(TABLE)
    stored = {
        day + timedelta(days=1): receipt
        for day, receipt in receipts.latest(use_case.name, STEP, end=boundaries[-1]).items()
        if receipt.output_snapshot and receipt.contract_digest == contract
    }

    def read(before: date) -> Totals | None:
        # By content, not by snapshot: another run may have replaced the day since, from other
        # orders, and the snapshot may have been expired.
        day = before - timedelta(days=1)
        try:
            rows = lake.read_day(use_case.name, TABLE, day)
        except DamagedError as error:
            logger.warning("Computing again: %s", error)
            return None
        same = digest_by_day(rows, [day], STAMPS | ORIGINS)[day] == stored[before].content
        return Totals(before, rows) if same else None

    def is_current(before: date) -> bool:
        # Another run may have read an older snapshot or a newer one.
        made_of = int(stored[before].inputs["orders"])
        return any(
            lake.is_unchanged_before(use_case.name, "orders", before, since, until)
            for since, until in ((made_of, snapshot), (snapshot, made_of))
        )

    if all(boundary in stored and is_current(boundary) for boundary in boundaries):
        first = read(boundaries[0])
        if first is not None:
            return first
    # Now it takes the list of all files, which is what a new receipt must state in any case.
    files = lake.files(use_case.name, "orders", boundaries[-1], snapshot)
    states = _states(files, {*stored, *boundaries})

    def holds(before: date) -> bool:
        same_orders = before in stored and stored[before].inputs["state"] == states[before]
        return same_orders and read(before) is not None

    missing = [boundary for boundary in boundaries if not holds(boundary)]
    # One at a time: a long period has many.
    renewed = (
        totals for boundary in boundaries if boundary not in missing and (totals := read(boundary))
    )
    computed: Iterator[Totals] = iter(())
    if missing:
        older = sorted((before for before in stored if before < missing[0]), reverse=True)
        start = next((before for before in older if holds(before)), None)
        computed = iter_totals(
            use_case,
            files.paths(start, missing[-1]),
            read(start) if start else None,
            missing,
            threads=settings.threads,
            memory_mb=settings.memory_mb,
        )
    first = None
    for totals in chain(renewed, computed):
        # Those that hold are receipted again, so that the next run need not list the files.
        inputs = {"orders": snapshot, "state": states[totals.before]}
        _publish(use_case, totals, inputs, basis, started)
        if totals.before == boundaries[0]:
            first = totals
    assert first is not None
    return first


def _publish(
    use_case: UseCase, totals: Totals, inputs: dict[str, Any], basis: int, started: float
) -> None:
    import pyarrow as pa

    day = totals.before - timedelta(days=1)
    batch = Staged(
        use_case.name,
        day.isoformat(),
        "",
        inputs=inputs,
        counts={day.isoformat(): {"rows": totals.rows.num_rows}},
        basis=basis,
    )
    _require_known_types(use_case, totals)
    rows = totals.rows
    if "day" not in rows.column_names:
        partition = pa.repeat(pa.scalar(day, pa.date32()), rows.num_rows)
        rows = rows.append_column("day", partition)
    publish_chunk(batch.with_seconds(started), STEP, TABLE, rows, [day])


def _states(files: Files, boundaries: set[date]) -> dict[date, str]:
    """Digest of the orders before each boundary.

    A day's orders are known by the names of their files: no two writes share one, and the files
    are those of the very snapshot that the other days are read from.
    """
    digest = hashlib.sha256()
    waiting, states = sorted(boundaries), {}
    for day, paths in files.by_day.items():
        while waiting and waiting[0] <= day:
            states[waiting.pop(0)] = digest.hexdigest()[:16]
        names = sorted(path.rsplit("/", 1)[-1] for path in paths)
        digest.update(f"{day} {' '.join(names)}\n".encode())
    return states | dict.fromkeys(waiting, digest.hexdigest()[:16])


def _require_known_types(use_case: UseCase, totals: Totals) -> None:
    """Refuse a column of another type than the table has it with: it would not fit in."""
    from evergreen import lake

    table = lake.scan(use_case.name, TABLE, totals.before, totals.before).schema
    if table is None:
        return
    for field in totals.rows.schema:
        if field.name not in table.names:
            continue
        known = str(table.field(field.name).type).removeprefix("large_")
        if known != str(field.type):
            raise ConfigError(
                f"{use_case.name}/use_case.yaml: daily.columns: {field.name} is {field.type}; the "
                f"table {TABLE} has it as {known}. Give the changed column another name."
            )
