"""Features and labels: delivered tables to `features`, the online store and `labels`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from evergreen.contract import Period, UseCase, load_use_case
from evergreen.provenance.staging import Staged, drop_staging, new_staging
from evergreen.sql.shards import Shard

if TYPE_CHECKING:
    import pyarrow as pa

    from evergreen.features.compute.past import Given


def compute_features(use_case: str, period: str, run: str | None = None) -> dict[str, Any]:
    """Run `features.sql` for the period's days over what happened before their ends."""
    staged, given = _plan_features(use_case, period, run)
    return _stage(staged, "features", given).to_dict()


def plan_features(use_case: str, period: str, run: str | None = None) -> dict[str, Any]:
    """Choose what all shards of the period's features are computed from: one state of each table.

    Raises
    ------
    GapError
        A day of a table is missing, or has fewer rows than usual and may still be on its way.
    """
    return _plan_features(use_case, period, run)[0].to_dict()


def compute_features_of(planned: dict[str, Any], shard: int) -> dict[str, Any]:
    """Compute the features of one shard's entities; see `plan_features`."""
    return _stage_shard(planned, "features", shard).to_dict()


def validate_features(staged: dict[str, Any] | Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Hold the computed features, of all shards, against the contract."""
    from evergreen.quality.validate import validate_features as validate

    started = time.monotonic()
    batch = Staged.gather(staged)
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
    drop_staging(batch.folder)
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
    What was pushed between two batches has done its work, and is compared by the night.
    """
    from evergreen.features.store import materialize, settle
    from evergreen.provenance import receipts

    declared, period = load_use_case(published["use_case"]), Period.parse(published["period"])
    if not published["snapshot"]:
        # Nobody has ever had features.
        return {"use_case": declared.name, "period": period.label, "rows": 0}
    written = materialize(declared, period.last, since=period.start)
    settle(declared, period.last, receipts.now)
    return {"use_case": declared.name, "period": period.label, "rows": written.rows}


def publish_labels(
    published: dict[str, Any], shards: Sequence[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Publish the labels whose horizon the period's days complete.

    Parameters
    ----------
    published
        `use_case` and `period`; and, if the features of the period were computed right before,
        from which snapshots (`inputs`) and on which `basis`.
    shards
        What shards have computed of them; without, they are computed here.
    """
    from evergreen.provenance.staging import publish_chunk, rows_by_day

    computed: Iterator[tuple[Sequence[date], pa.Table]]
    if shards:
        batch = Staged.gather(shards)
        batch.require_unchanged()
        computed = ((chunk.days, batch.read("labels", chunk)) for chunk in batch.periods())
    else:
        batch, given = _plan_labels(published)
        computed = _compute(batch, "labels", given)
    started, total = time.monotonic(), 0
    for days, rows in computed:
        label = Period(days[0], days[-1] + timedelta(days=1)).label
        timed = batch.with_seconds(started, period=label, counts=rows_by_day(rows, days))
        publish_chunk(timed, "publish_labels", "labels", rows, days)
        total += rows.num_rows
    if batch.folder:
        drop_staging(batch.folder)
    return {"use_case": batch.use_case, "period": batch.period or None, "rows": total}


def plan_labels(published: dict[str, Any], run: str | None = None) -> dict[str, Any]:
    """Choose what all shards of the labels are computed from; see `publish_labels`."""
    staged, _ = _plan_labels(published)
    if not staged.period:
        return staged.to_dict()
    folder = new_staging(staged.use_case, "labels", staged.period, run)
    return replace(staged, folder=folder).to_dict()


def compute_labels_of(planned: dict[str, Any], shard: int) -> dict[str, Any]:
    """Compute the labels of one shard's entities; see `plan_labels`."""
    return _stage_shard(planned, "labels", shard).to_dict()


# --- what is computed, whole or by shards --------------------------------------------------------

Kind = Literal["features", "labels"]


def _plan_features(
    use_case: str, period: str, run: str | None
) -> tuple[Staged, Mapping[str, Given]]:
    from evergreen.features.compute import gaps, totals
    from evergreen.provenance import receipts

    started = time.monotonic()
    declared, wanted = load_use_case(use_case), Period.parse(period)
    gaps.require_all_days(declared, declared.tables.values(), wanted)
    gaps.require_usual_row_counts(declared, declared.tables.values(), wanted)
    basis, tables = receipts.newest_sequence(), declared.read_by(declared.features_sql)
    given, snapshots = totals.plan(declared, tables, wanted.days, wanted.end, basis)
    folder = new_staging(use_case, "features", wanted.label, run)
    facts = {
        **_facts(declared, given, wanted),
        # An audit stamp, not an input: it orders corrections of the same as-of.
        "created_at": receipts.now().isoformat(),
    }
    staged = Staged(use_case, wanted.label, folder, inputs=snapshots, facts=facts, basis=basis)
    return staged.with_seconds(started), given


def _plan_labels(published: dict[str, Any]) -> tuple[Staged, Mapping[str, Given]]:
    from evergreen.features.compute import gaps, totals
    from evergreen.provenance import receipts

    started = time.monotonic()
    declared, known = load_use_case(published["use_case"]), Period.parse(published["period"])
    basis: int | None = published.get("basis")
    horizon = timedelta(days=declared.target.horizon_days)
    start = max(known.start - horizon, declared.first_day)
    if start >= known.end - horizon:
        return Staged(declared.name, "", ""), {}
    matured = Period(start, known.end - horizon)
    tables = declared.read_by(declared.labels_sql)
    if basis is None:
        gaps.require_all_days(declared, tables, known)
        basis = receipts.newest_sequence()
    given, snapshots = totals.plan(
        declared, tables, matured.days, known.end, basis, published.get("inputs")
    )
    facts = _facts(declared, given, matured)
    staged = Staged(declared.name, matured.label, "", inputs=snapshots, facts=facts, basis=basis)
    return staged.with_seconds(started), given


def _facts(use_case: UseCase, given: Mapping[str, Given], period: Period) -> dict[str, Any]:
    """Return what all shards must agree on, beside what they read."""
    from evergreen.features.compute.run import days_at_once
    from evergreen.provenance import receipts

    return {
        "lock": receipts.lock_digest(),
        "days_at_once": days_at_once(use_case, given, period.days),
    }


def _compute(
    planned: Staged, kind: Kind, given: Mapping[str, Given], shard: int | None = None
) -> Iterator[tuple[Sequence[date], pa.Table]]:
    """Compute what was planned, as many days at once as fit into memory."""
    from evergreen.features.compute.run import iter_features, iter_labels

    if not planned.period:
        return iter(())
    declared = planned.load_use_case()
    iterate = iter_features if kind == "features" else iter_labels
    return iterate(
        declared,
        given,
        Period.parse(planned.period).days,
        days_per_chunk=planned.facts["days_at_once"],
        shard=Shard.of(declared.shards, shard),
    )


def _stage(
    staged: Staged, kind: Kind, given: Mapping[str, Given], shard: int | None = None
) -> Staged:
    """Stage what is computed chunk by chunk, and count its rows by day."""
    import pyarrow as pa

    from evergreen.provenance.staging import rows_by_day

    started = time.monotonic()
    counts: dict[str, dict[str, int]] = {}
    chunks = []
    for days, rows in _compute(staged, kind, given, shard):
        chunks.append(Period(days[0], days[-1] + timedelta(days=1)))
        counts.update(rows_by_day(rows, days))
        stamped = rows
        if stamp := staged.facts.get("created_at"):
            created_at = pa.scalar(datetime.fromisoformat(stamp), pa.timestamp("us", tz="UTC"))
            stamped = rows.append_column("created_at", pa.repeat(created_at, rows.num_rows))
        staged.write(kind, chunks[-1], stamped)
    labels = tuple(chunk.label for chunk in chunks)
    return staged.with_seconds(started, chunks=labels, counts=counts)


def _stage_shard(planned: dict[str, Any], kind: Kind, shard: int) -> Staged:
    """Stage one shard from what its plan has chosen."""
    from evergreen.features.compute import totals
    from evergreen.features.compute.result import features_task, labels_task

    staged = Staged.shard_of(planned)
    if not staged.period:
        return staged
    declared, period = staged.load_use_case(), Period.parse(staged.period)
    task = (features_task if kind == "features" else labels_task)(declared)
    tables, end = declared.read_by(task.sql), task.end(period.last)
    given, _ = totals.plan(declared, tables, period.days, end, staged.basis, staged.inputs)
    return _stage(staged, kind, given, shard)
