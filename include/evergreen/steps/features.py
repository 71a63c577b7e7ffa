"""Features and labels: `orders` to `features`, the online store and `labels`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from evergreen.contract import Period, UseCase, join_days, load_use_case
from evergreen.errors import GapError, ValidationError
from evergreen.provenance import commands
from evergreen.provenance.staging import (
    Staged,
    drop_staging,
    new_staging,
    publish_chunk,
    publish_staged,
)

_GAPS_TOLD = 5


def compute_features(use_case: str, period: str, run: str | None = None) -> dict[str, Any]:
    """Run `features.sql` for the period's days over what happened before their ends.

    Days may be ingested in any order and several at once. Features of a day look back over all of
    them, so they wait until no earlier day is missing; else the result would depend on the order.
    """
    import pyarrow as pa

    from evergreen.features.compute.run import iter_features
    from evergreen.features.compute.totals import plan_orders
    from evergreen.provenance import receipts
    from evergreen.settings import load_settings

    started = time.monotonic()
    declared, wanted, settings = load_use_case(use_case), Period.parse(period), load_settings()
    _require_all_orders(declared, wanted)
    _require_usual_row_counts(declared, wanted)
    basis = receipts.newest_sequence(use_case)
    paths, totals, snapshot = plan_orders(declared, wanted, wanted.end, basis)
    staged = Staged(
        use_case,
        wanted.label,
        str(new_staging(use_case, "features", wanted.label, run)),
        inputs={"orders": snapshot},
        basis=basis,
    )
    counts: dict[str, dict[str, int]] = {}
    chunks = []
    for days, rows in iter_features(
        declared,
        paths,
        wanted.days,
        totals=totals,
        threads=settings.threads,
        memory_mb=settings.memory_mb,
    ):
        chunk = Period(days[0], days[-1] + timedelta(days=1))
        chunks.append(chunk)
        # An audit stamp, not an input: it orders corrections of the same as-of.
        created_at = pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC"))
        stamped = rows.append_column("created_at", pa.repeat(created_at, rows.num_rows))
        staged.write("features", chunk, stamped)
        counts.update({day: {"rows": n} for day, n in _rows_by_day(rows, chunk).items()})
    return staged.with_seconds(
        started, chunks=tuple(chunk.label for chunk in chunks), counts=counts
    ).to_dict()


def validate_features(staged: dict[str, Any]) -> dict[str, Any]:
    """Hold the computed features against the contract."""
    from evergreen.quality.validate import validate_features as validate

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    declared = batch.load_use_case()
    for chunk in batch.periods():
        validate(
            declared,
            batch.scan("features", chunk),
            chunk.days,
            run_name=chunk.label,
            allow_empty=declared.orders.batch.allow_empty,
        ).require()
    return batch.with_seconds(started).to_dict()


def publish_features(staged: dict[str, Any]) -> dict[str, Any]:
    """Replace the period's days of `features`."""
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
        "orders_snapshot": batch.inputs["orders"],
        "basis": batch.basis,
    }


def materialize_online(published: dict[str, Any]) -> dict[str, Any]:
    """Move the online store forward to the days that were published, as they stand now.

    Customers that left the population before the newest day keep the features of their last one.
    """
    from evergreen.features.store.store import materialize

    declared, period = load_use_case(published["use_case"]), Period.parse(published["period"])
    if not published["snapshot"]:
        # Nobody has ever had features.
        return {"use_case": declared.name, "period": period.label, "rows": 0}
    written = materialize(declared, period.last, since=period.start)
    return {"use_case": declared.name, "period": period.label, "rows": written.rows}


def publish_labels(published: dict[str, Any]) -> dict[str, Any]:
    """Publish the labels whose horizon the period's days complete."""
    from evergreen.features.compute.run import iter_labels
    from evergreen.features.compute.totals import plan_orders
    from evergreen.settings import load_settings

    started = time.monotonic()
    declared, settings = load_use_case(published["use_case"]), load_settings()
    horizon = timedelta(days=declared.label.horizon_days)
    known = Period.parse(published["period"])
    start = max(known.start - horizon, declared.first_day)
    if start >= known.end - horizon:
        return {"use_case": declared.name, "period": None, "rows": 0}
    matured = Period(start, known.end - horizon)
    orders_snapshot = published["orders_snapshot"] or None
    paths, totals, _ = plan_orders(
        declared, matured, known.end, published["basis"], orders_snapshot
    )
    total = 0
    for days, rows in iter_labels(
        declared,
        paths,
        matured.days,
        totals=totals,
        threads=settings.threads,
        memory_mb=settings.memory_mb,
    ):
        chunk = Period(days[0], days[-1] + timedelta(days=1))
        counts = {day: {"rows": n} for day, n in _rows_by_day(rows, chunk).items()}
        batch = Staged(
            declared.name,
            chunk.label,
            "",
            inputs={"orders": orders_snapshot or 0},
            counts=counts,
            basis=published["basis"],
        )
        publish_chunk(batch.with_seconds(started), "publish_labels", "labels", rows, chunk.days)
        total += rows.num_rows
    return {"use_case": declared.name, "period": matured.label, "rows": total}


def _require_all_orders(use_case: UseCase, wanted: Period) -> None:
    from evergreen import lake
    from evergreen.provenance import receipts

    missing = receipts.missing_days(use_case.name, "publish_orders", use_case.first_day, wanted.end)
    if missing:
        refused = sorted({*lake.partitions(use_case.name, "refused")} & {*missing})
        also = (
            f" {len(refused)} of them ({refused[0]} .. {refused[-1]}) were refused: the table "
            f"{use_case.name}.refused says why."
            if refused
            else ""
        )
        gaps = join_days(missing)
        load = [commands.load(use_case.name, gap) for gap in gaps[:_GAPS_TOLD]]
        raise GapError(
            f"Features of {wanted.label} look back over all orders since {use_case.first_day}, and "
            f"{len(missing)} of these days are not published: "
            f"{', '.join(gap.label for gap in gaps[:_GAPS_TOLD])}"
            f"{' and more' if len(gaps) > _GAPS_TOLD else ''}.{also} While they are being "
            "ingested, this is tried again. Else load them (days whose run failed run again):\n  "
            + "\n  ".join(load)
            + "\nor, where there will never be data, decide so, day by day:\n  "
            + commands.declare_without_data(use_case.name, missing[0])
            + "\n`evergreen status` then lists what is still owed, with the commands."
        )


def _require_usual_row_counts(use_case: UseCase, wanted: Period) -> None:
    """Judge the row counts again, now that no day they are compared with is missing.

    A day that was ingested before its predecessors could not be judged then; judging it here makes
    what features are built on independent of the order in which days came.
    """
    from evergreen.provenance import receipts
    from evergreen.quality.refusal import describe_published
    from evergreen.quality.row_counts import unusual_row_counts

    standing = receipts.latest(use_case.name, "publish_orders", use_case.first_day, wanted.end)
    row_counts = {day: receipt.counts.get("rows_in", 0) for day, receipt in standing.items()}
    if unusual := unusual_row_counts(use_case, row_counts):
        raise ValidationError(describe_published(use_case, wanted.label, unusual))


def _rows_by_day(rows: Any, chunk: Period) -> dict[str, int]:
    """Count rows per ISO day of the chunk; days without rows count 0."""
    counted = {row["values"]: row["counts"] for row in rows["day"].value_counts().to_pylist()}
    return {day.isoformat(): counted.get(day, 0) for day in chunk.days}
