"""Ingestion: source rows to `orders` and `quarantine`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evergreen.contract import Period, UseCase, as_of, load_use_case, parse_day
from evergreen.errors import ConfigError, ValidationError
from evergreen.provenance import commands
from evergreen.provenance.staging import (
    Staged,
    drop_staging,
    new_staging,
    publish_chunk,
    publish_staged,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from evergreen.provenance.receipts import Receipt

# Days of raw rows held in memory at once.
CHUNK_DAYS = 62


def stage_orders(
    use_case: str,
    period: str,
    run: str | None = None,
    without_data: str = "",
    decided_by: str = "",
    decided_at: str = "",
) -> dict[str, Any]:
    """Read the source's rows of the period and split them into accepted and quarantined.

    A reason in `without_data` is somebody's decision that the source has nothing for the period
    and never will: its days are published empty. They stay so, when they are ingested again, until
    the source has rows.
    """
    from evergreen.provenance import receipts
    from evergreen.quality.delivery import read_and_split
    from evergreen.sources import open_source

    started = time.monotonic()
    declared, wanted = load_use_case(use_case), Period.parse(period)
    _require_days_with_data(declared, wanted)
    standing = receipts.latest(use_case, "publish_orders", wanted.start, wanted.end)
    excused = {day for day in wanted.days if without_data or _is_without_data(standing.get(day))}
    staged = Staged(
        use_case,
        wanted.label,
        str(new_staging(use_case, "orders", wanted.label, run)),
        basis=receipts.newest_sequence(use_case),
    )
    source = open_source(declared)
    counts: dict[str, dict[str, Any]] = {}
    by_rule: dict[str, int] = {}
    chunks = wanted.chunks(CHUNK_DAYS)
    for chunk in chunks:
        split = read_and_split(declared, source, chunk, excused)
        staged.write("orders", chunk, split.accepted)
        staged.write("quarantine", chunk, split.quarantined)
        staged.write("counts", chunk, split.counts)
        for row in split.counts.to_pylist():
            counts[row["day"].isoformat()] = {
                name: row[name]
                for name in ("rows_in", "accepted", "quarantined", "duplicates", "published")
            }
            if row["day"] in excused and not row["rows_in"]:
                counts[row["day"].isoformat()]["without_data"] = 1
        for rule, broken in split.by_rule.items():
            by_rule[rule] = by_rule.get(rule, 0) + broken
    facts: dict[str, Any] = {"broken_rules": dict(sorted(by_rule.items()))}
    if without_data:
        _require_no_data(declared, counts, standing)
        facts["without_data"] = {
            "reason": without_data,
            "decided_by": decided_by,
            "decided_at": decided_at,
        }
    return staged.with_seconds(
        started, chunks=tuple(chunk.label for chunk in chunks), counts=counts, facts=facts
    ).to_dict()


def validate_orders(staged: dict[str, Any]) -> dict[str, Any]:
    """Hold the accepted rows against the contract and each day against the batch rules.

    Refused days are kept in the table `refused`, and staged no longer; the others are passed on.
    Days without data are no batches: they are not judged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from evergreen.quality.refusal import Refused
    from evergreen.quality.validate import validate_orders as validate

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    declared = batch.load_use_case()
    row_counts, refused, accepted = _row_counts(declared, batch), Refused(declared), []
    for chunk in batch.periods():
        judged = [day for day in chunk.days if "without_data" not in batch.counts[day.isoformat()]]
        if not judged:
            accepted.append(chunk)
            continue
        orders, counts = batch.read("orders", chunk), batch.read("counts", chunk)
        report = validate(
            declared,
            orders,
            counts.filter(pc.is_in(counts["day"], pa.array(judged, pa.date32()))),
            row_counts,
            run_name=chunk.label,
        )
        if report.failures:
            report.require()
        if not report.refused:
            accepted.append(chunk)
            continue
        rejected = batch.read("quarantine", chunk)
        rows = refused.add(report.refused, rejected)
        publish_chunk(batch, "refuse_orders", "refused", rows, list(report.refused))
        for part in chunk.without(report.refused):
            batch.write("orders", part, _of_days(orders, part))
            batch.write("quarantine", part, _of_days(rejected, part))
            accepted.append(part)
    facts = dict(batch.facts)
    if refused.days:
        facts["refused"] = refused.describe(sum(len(chunk.days) for chunk in accepted))
        if not accepted:
            raise ValidationError(facts["refused"])
    return batch.with_seconds(
        started, chunks=tuple(chunk.label for chunk in accepted), facts=facts
    ).to_dict()


def publish_orders(staged: dict[str, Any]) -> dict[str, Any]:
    """Replace the period's days of `quarantine` and `orders`; `orders` is committed last.

    Fails at the end if days of the period were refused, so that nobody takes them for loaded.
    """
    from evergreen import lake
    from evergreen.quality.schemas import quarantine_schema

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    batch.require_unchanged()
    snapshot, refused = 0, lake.partitions(batch.use_case, "refused")
    for chunk in batch.periods():
        publish_staged(batch, "publish_quarantine", "quarantine", chunk)
        # An earlier delivery was refused; this one is accepted.
        if mended := [day for day in chunk.days if day in refused]:
            none = quarantine_schema().empty_table()
            publish_chunk(batch, "refuse_orders", "refused", none, mended)
        if decided := batch.facts.get("without_data"):
            _record_without_data(batch, chunk, decided)
        timed = batch.with_seconds(started)
        snapshot = publish_staged(timed, "publish_orders", "orders", chunk)
    drop_staging(Path(batch.folder))
    if "refused" in batch.facts:
        raise ValidationError(batch.facts["refused"])
    totals: dict[str, int] = {}
    for counts in batch.counts.values():
        for name, value in counts.items():
            totals[name] = totals.get(name, 0) + value
    return {
        "use_case": batch.use_case,
        "period": batch.period,
        "snapshot": snapshot,
        "rows": totals,
        "broken_rules": batch.facts["broken_rules"],
    }


def _row_counts(use_case: UseCase, batch: Staged) -> dict[date, int]:
    """Rows in of the batch's days, and of the weeks before that they are compared with."""
    from evergreen.provenance import receipts

    start = Period.parse(batch.period).start
    weeks = timedelta(weeks=use_case.orders.batch.row_count_weeks)
    before = receipts.latest(use_case.name, "publish_orders", start - weeks, start)
    known = {day: receipt.counts.get("rows_in", 0) for day, receipt in before.items()}
    return known | {date.fromisoformat(day): c["rows_in"] for day, c in batch.counts.items()}


def _of_days(rows: pa.Table, period: Period) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    return rows.filter(pc.is_in(rows["day"], pa.array(period.days, pa.date32())))


def _is_without_data(standing: Receipt | None) -> bool:
    return standing is not None and "without_data" in standing.counts


def _require_no_data(
    use_case: UseCase, counts: Mapping[str, Mapping[str, int]], standing: Mapping[date, Receipt]
) -> None:
    for day, found in counts.items():
        published = standing.get(parse_day(day))
        if found["rows_in"]:
            where = f"the source of {use_case.name} has {found['rows_in']} rows for it"
        elif published is not None and published.counts.get("rows_in"):
            where = f"{published.counts['rows_in']} source rows of it are published"
        else:
            continue
        raise ConfigError(
            f"{day} cannot be declared a day without data: {where}. Nothing was changed. Ingest it "
            f"as it is: {commands.backfill(use_case.name, Period.parse(day), 'completed')}"
        )


def _record_without_data(batch: Staged, chunk: Period, decided: Mapping[str, str]) -> None:
    from evergreen.quality.delivery import WithoutData

    for day in chunk.days:
        rows = WithoutData(day=day, **decided).to_table(batch.use_case)
        part = {"kind": "delivery"}
        publish_chunk(batch, "decide_without_data", "decisions", rows, [day], part)


def _require_days_with_data(use_case: UseCase, period: Period) -> None:
    # The one clock read of the chain: a day that has not ended has no complete partition.
    now = datetime.now(UTC)
    if as_of(period.last) > now:
        raise ConfigError(
            f"The day {period.last} has not ended yet (it is {now:%Y-%m-%d %H:%M} UTC). "
            "Ask for days up to yesterday."
        )
    if period.start < use_case.first_day:
        raise ConfigError(
            f"{use_case.name} has data from {use_case.first_day} on (first_day in use_case.yaml); "
            f"found {period.label}. Ask for later days, or declare an earlier first_day."
        )
    if use_case.last_day is not None and period.last > use_case.last_day:
        raise ConfigError(
            f"The data of {use_case.name} end on {use_case.last_day} (last_day in use_case.yaml); "
            f"found {period.label}. Ask for earlier days, or declare a later last_day."
        )
