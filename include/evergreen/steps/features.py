"""Features and labels: delivered tables to `features`, the online store and `labels`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from evergreen.contract import Period, load_use_case
from evergreen.provenance.staging import Staged, drop_staging, new_staging


def compute_features(use_case: str, period: str, run: str | None = None) -> dict[str, Any]:
    """Run `features.sql` for the period's days over what happened before their ends."""
    import pyarrow as pa

    from evergreen.features.compute import gaps, totals
    from evergreen.features.compute.run import iter_features
    from evergreen.provenance import receipts
    from evergreen.provenance.staging import rows_by_day

    started = time.monotonic()
    declared, wanted = load_use_case(use_case), Period.parse(period)
    gaps.require_all_days(declared, declared.tables.values(), wanted)
    gaps.require_usual_row_counts(declared, declared.tables.values(), wanted)
    basis, tables = receipts.newest_sequence(), declared.read_by(declared.features_sql)
    given, snapshots = totals.plan(declared, tables, wanted.days, wanted.end, basis)
    folder = new_staging(use_case, "features", wanted.label, run)
    staged = Staged(use_case, wanted.label, str(folder), inputs=snapshots, basis=basis)
    counts: dict[str, dict[str, int]] = {}
    chunks = []
    for days, rows in iter_features(declared, given, wanted.days):
        chunks.append(Period(days[0], days[-1] + timedelta(days=1)))
        # An audit stamp, not an input: it orders corrections of the same as-of.
        created_at = pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC"))
        stamped = rows.append_column("created_at", pa.repeat(created_at, rows.num_rows))
        staged.write("features", chunks[-1], stamped)
        counts.update(rows_by_day(rows, days))
    return staged.with_seconds(
        started, chunks=tuple(chunk.label for chunk in chunks), counts=counts
    ).to_dict()


def validate_features(staged: dict[str, Any]) -> dict[str, Any]:
    """Hold the computed features against the contract."""
    from evergreen.quality.validate import validate_features as validate

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    declared = batch.load_use_case()
    allow_empty = all(table.allow_empty for table in declared.tables.values())
    for chunk in batch.periods():
        rows = batch.scan("features", chunk)
        validate(
            declared, rows, chunk.days, run_name=chunk.label, allow_empty=allow_empty
        ).require()
    return batch.with_seconds(started).to_dict()


def publish_features(staged: dict[str, Any]) -> dict[str, Any]:
    """Replace the period's days of `features`."""
    from evergreen.provenance.staging import publish_staged

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    batch.require_unchanged()
    snapshot = 0
    for chunk in batch.periods():
        timed = batch.with_seconds(started)
        snapshot = publish_staged(timed, "publish_features", "features", chunk)
    drop_staging(Path(batch.folder))
    return {
        "use_case": batch.use_case,
        "period": batch.period,
        "snapshot": snapshot,
        "rows": sum(counts["rows"] for counts in batch.counts.values()),
        "inputs": dict(batch.inputs),
        "basis": batch.basis,
    }


def materialize_online(published: dict[str, Any]) -> dict[str, Any]:
    """Move the online store forward to the days that were published, as they stand now.

    Customers that left the population before the newest day keep the features of their last one.
    """
    from evergreen.features.store import materialize

    declared, period = load_use_case(published["use_case"]), Period.parse(published["period"])
    if not published["snapshot"]:
        # Nobody has ever had features.
        return {"use_case": declared.name, "period": period.label, "rows": 0}
    written = materialize(declared, period.last, since=period.start)
    return {"use_case": declared.name, "period": period.label, "rows": written.rows}


def publish_labels(published: dict[str, Any]) -> dict[str, Any]:
    """Publish the labels whose horizon the period's days complete.

    Parameters
    ----------
    published
        `use_case` and `period`; and, if the features of the period were computed right before,
        from which snapshots (`inputs`) and on which `basis`.
    """
    from evergreen.features.compute import gaps, totals
    from evergreen.features.compute.run import iter_labels
    from evergreen.provenance import receipts
    from evergreen.provenance.staging import publish_chunk, rows_by_day

    started = time.monotonic()
    declared, known = load_use_case(published["use_case"]), Period.parse(published["period"])
    basis: int | None = published.get("basis")
    horizon = timedelta(days=declared.target.horizon_days)
    start = max(known.start - horizon, declared.first_day)
    if start >= known.end - horizon:
        return {"use_case": declared.name, "period": None, "rows": 0}
    matured = Period(start, known.end - horizon)
    tables = declared.read_by(declared.labels_sql)
    if basis is None:
        gaps.require_all_days(declared, tables, known)
        basis = receipts.newest_sequence()
    given, snapshots = totals.plan(
        declared, tables, matured.days, known.end, basis, published.get("inputs")
    )
    total = 0
    for days, rows in iter_labels(declared, given, matured.days):
        label = Period(days[0], days[-1] + timedelta(days=1)).label
        counts = rows_by_day(rows, days)
        batch = Staged(declared.name, label, "", inputs=snapshots, counts=counts, basis=basis)
        publish_chunk(batch.with_seconds(started), "publish_labels", "labels", rows, days)
        total += rows.num_rows
    return {"use_case": declared.name, "period": matured.label, "rows": total}
