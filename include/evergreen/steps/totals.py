"""Where a step gets the orders it needs: the files of recent days, and totals of all before."""

from __future__ import annotations

import hashlib
import time
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from evergreen.errors import ConfigError
from evergreen.period import Period
from evergreen.steps.staged import Staged, publish_chunk
from evergreen.use_case import UseCase

if TYPE_CHECKING:
    from evergreen.features.daily import Totals
    from evergreen.lake import Files

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
    from evergreen.features.daily import stored_before

    files = lake.files(use_case.name, "orders", end, snapshot_id)
    snapshot = files.snapshot_id or 0
    if use_case.daily is None:
        return files.paths(), None, snapshot
    first = stored_before(use_case.daily, period.start)
    needed = {stored_before(use_case.daily, day) for day in period.days}
    # Before the first day there is nothing to sum up: such days look back on all orders singly.
    boundaries = sorted(boundary for boundary in needed if boundary > use_case.first_day)
    totals = _publish_missing(use_case, files, boundaries, basis) if boundaries else None
    if totals is None or totals.before != first:
        return files.paths(), None, snapshot
    return files.paths(start=first), totals, snapshot


def _publish_missing(use_case: UseCase, files: Files, boundaries: list[date], basis: int) -> Totals:
    """Publish the totals that do not hold at a boundary; return those at the first.

    A period publishes the totals of all its days, so that the table does not depend on whether
    days are run one by one or at once.
    """
    from evergreen import lake, receipts
    from evergreen.features.daily import Totals, iter_totals
    from evergreen.settings import load_settings

    started, settings = time.monotonic(), load_settings()
    stored = {
        day + timedelta(days=1): receipt
        for day, receipt in receipts.latest(use_case.name, STEP, end=boundaries[-1]).items()
        if receipt.output_snapshot
    }
    states = _states(use_case, files, {*stored, *boundaries})
    valid = {
        before: receipt
        for before, receipt in stored.items()
        if receipt.inputs["state"] == states[before]
    }

    def read(before: date) -> Totals:
        # As receipted: another run may have replaced it since, from other orders.
        rows = lake.read_day(
            use_case.name, TABLE, before - timedelta(days=1), valid[before].output_snapshot
        )
        return Totals(before, rows)

    missing = [boundary for boundary in boundaries if boundary not in valid]
    first = None
    if missing:
        start = max((before for before in valid if before < missing[0]), default=None)
        for totals in iter_totals(
            use_case,
            files.paths(start, missing[-1]),
            read(start) if start else None,
            missing,
            threads=settings.threads,
            memory_mb=settings.memory_mb,
        ):
            inputs = {"orders": files.snapshot_id or 0, "state": states[totals.before]}
            _publish(use_case, totals, inputs, basis, started)
            if totals.before == boundaries[0]:
                first = totals
    return first or read(boundaries[0])


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
    partition = pa.repeat(pa.scalar(day, pa.date32()), totals.rows.num_rows)
    _require_known_types(use_case, totals)
    publish_chunk(
        batch.with_seconds(started), STEP, TABLE, totals.rows.append_column("day", partition), [day]
    )


def _states(use_case: UseCase, files: Files, boundaries: set[date]) -> dict[date, str]:
    """Digest of all that the totals at each boundary are made of.

    A day's orders are known by the names of their files: no two writes share one, and the files
    are those of the very snapshot that the other days are read from.
    """
    digest = hashlib.sha256(use_case.contract_digest(TABLE).encode())
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
