"""What a source delivers of a table for a period: read, split, judged day by day, published."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import AnyTable, Period
from evergreen.decisions.stored import Stored, decision_table
from evergreen.errors import ConfigError, SourceMissingError, ValidationError
from evergreen.provenance import commands, erased, receipts
from evergreen.provenance.receipts import Receipt
from evergreen.provenance.staging import Staged, publish_chunk, publish_staged
from evergreen.quality.refusal import Refused
from evergreen.quality.schemas import quarantine_schema
from evergreen.quality.split import Split, select_days, split_rows
from evergreen.quality.validate import validate_rows
from evergreen.settings import load_settings
from evergreen.sources import Source, open_source
from evergreen.sources.base import empty_raw, required_columns

# Days that are read and committed at once, unless they have more rows than fit into memory.
CHUNK_DAYS = 62
# What a raw row takes with all that is made of it, for rows of five columns; measured.
_KIB_A_ROW = 1.2
_COUNTS = ("rows_in", "accepted", "quarantined", "duplicates", "published")


@dataclass(frozen=True)
class WithoutData(Stored):
    """Somebody's decision that a table has no data for a day and never will.

    Parameters
    ----------
    decided_at
        Instant of the request, ISO 8601.
    """

    day: date
    table: str
    reason: str
    decided_by: str
    decided_at: str

    def to_table(self, use_case: str) -> pa.Table:
        """Return it as a row of the table `decisions`."""
        return decision_table(
            day=self.day,
            use_case=use_case,
            kind="delivery",
            decision="without_data",
            trigger=self.table,
            version=None,
            reasons=(f"{self.reason} ({self.decided_by})",),
            evidence=self,
            demands={},
            verdict=self,
        )


def stage(table: AnyTable, staged: Staged, decided: Mapping[str, str] | None) -> Staged:
    """Read the source's rows of the period, and stage what was accepted and what was not.

    Parameters
    ----------
    decided
        Somebody's decision that the source has nothing for the period and never will: its days are
        published empty. They stay so, when they are ingested again, until the source has rows.

    Raises
    ------
    ConfigError
        It was decided that there is no data, and there is.
    """
    period = Period.parse(staged.period)
    standing = receipts.latest(staged.use_case, f"publish_{table.name}", period.start, period.end)
    excused = {day for day in period.days if decided or _is_without_data(standing.get(day))}
    chunks: list[Period] = []
    counts: dict[str, dict[str, Any]] = {}
    by_rule: dict[str, int] = {}
    for chunk, split in read_and_split(table, period, excused):
        chunks.append(chunk)
        staged.write(table.name, chunk, split.accepted)
        staged.write("quarantine", chunk, split.quarantined)
        staged.write("counts", chunk, split.counts)
        for row in split.counts.to_pylist():
            counts[row["day"].isoformat()] = {name: row[name] for name in _COUNTS}
            if row["erased"]:
                counts[row["day"].isoformat()]["erased"] = row["erased"]
            if row["day"] in excused and not row["rows_in"]:
                counts[row["day"].isoformat()]["without_data"] = 1
        for rule, broken in split.by_rule.items():
            by_rule[rule] = by_rule.get(rule, 0) + broken
    facts = {**staged.facts, "broken_rules": dict(sorted(by_rule.items()))}
    if decided:
        _require_no_data(table, counts, standing)
        facts["without_data"] = dict(decided)
    return replace(
        staged, chunks=tuple(chunk.label for chunk in chunks), counts=counts, facts=facts
    )


def judge(table: AnyTable, staged: Staged) -> Staged:
    """Hold the accepted rows against the contract and each day against the batch rules.

    Refused days are kept in the table `refused`, and staged no longer; the others are passed on.
    Days without data are no batches: they are not judged.

    Raises
    ------
    ValidationError
        Rows break the contract, or all days were refused.
    """
    row_counts, refused, accepted = _row_counts(table, staged), Refused(table), []
    for chunk in staged.periods():
        judged = [day for day in chunk.days if "without_data" not in staged.counts[str(day)]]
        if not judged:
            accepted.append(chunk)
            continue
        rows, counts = staged.read(table.name, chunk), staged.read("counts", chunk)
        report = validate_rows(
            table, rows, _of_days(counts, judged), row_counts, run_name=chunk.label
        )
        if report.failures:
            report.require()
        if not report.refused:
            accepted.append(chunk)
            continue
        rejected = staged.read("quarantine", chunk)
        _refuse(table, staged, refused.add(report.refused, rejected), list(report.refused))
        for part in chunk.without(report.refused):
            staged.write(table.name, part, _of_days(rows, part.days))
            staged.write("quarantine", part, _of_days(rejected, part.days))
            accepted.append(part)
    facts = dict(staged.facts)
    if refused.days:
        facts["refused"] = refused.describe(sum(len(chunk.days) for chunk in accepted))
        if not accepted:
            raise ValidationError(facts["refused"])
    return replace(staged, chunks=tuple(chunk.label for chunk in accepted), facts=facts)


def publish(table: AnyTable, staged: Staged, chunk: Period, refused: Collection[date]) -> int:
    """Replace one chunk of `quarantine` and of the table; the table is committed last.

    Parameters
    ----------
    refused
        Days that an earlier delivery was refused for.

    Returns
    -------
    int
        The table's snapshot.
    """
    name, part = table.name, {"table": table.name}
    publish_staged(staged, f"publish_{name}_quarantine", "quarantine", chunk, part)
    if mended := [day for day in chunk.days if day in refused]:
        _refuse(table, staged, quarantine_schema().empty_table(), mended)
    if decided := staged.facts.get("without_data"):
        for day in chunk.days:
            rows = WithoutData(day=day, table=name, **decided).to_table(staged.use_case)
            kind = {"kind": "delivery", "trigger": name}
            publish_chunk(staged, "decide_without_data", "decisions", rows, [day], kind)
    return publish_staged(staged, f"publish_{name}", name, chunk)


def read_and_split(
    table: AnyTable, period: Period, without_data: Collection[date] = ()
) -> Iterator[tuple[Period, Split]]:
    """Read the source's rows and split them, as many days at once as fit; see `split_rows`.

    Parameters
    ----------
    without_data
        Days the source need not have; it is asked for them all the same.
    """
    source, start, days = open_source(table), period.start, CHUNK_DAYS
    while start < period.end:
        chunk = Period(start, min(start + timedelta(days=days), period.end))
        split = _split_if_it_fits(table, source, chunk, without_data)
        if split is None:
            days = len(chunk.days) // 2
            continue
        yield chunk, split
        start = chunk.end


def _split_if_it_fits(
    table: AnyTable, source: Source, chunk: Period, without_data: Collection[date]
) -> Split | None:
    """Read and split the rows of some days; None if they are too many, and could be fewer days."""
    settings = load_settings()
    most = int(settings.memory_mb * 1024 / _KIB_A_ROW)
    rows, pieces = 0, []
    for piece in _read(table, source, chunk, without_data):
        pieces.append(piece)
        rows += piece.num_rows
        if rows > most and len(chunk.days) > 1:
            return None
    return split_rows(
        table,
        pa.concat_tables(pieces, promote_options="default"),
        chunk.start,
        chunk.end,
        threads=settings.threads,
        memory_mb=settings.memory_mb,
        erased=erased.suppressed(table.setting.use_case),
    )


def _read(
    table: AnyTable, source: Source, period: Period, without_data: Collection[date]
) -> Iterator[pa.Table]:
    threads = load_settings().threads
    excused = [day for day in period.days if day in without_data]
    start = period.start
    for day in (*excused, period.end):
        if start < day:
            for rows in source.read(start, day):
                yield select_days(table, rows, start, day, threads=threads)
        start = day + timedelta(days=1)
        if day < period.end:
            try:
                delivered = list(source.read(day, start))
            except SourceMissingError:
                delivered = [empty_raw(required_columns(table))]
            for rows in delivered:
                yield select_days(table, rows, day, start, threads=threads)


def _row_counts(table: AnyTable, staged: Staged) -> dict[date, int]:
    """Rows in of the batch's days, and of the weeks before that they are compared with."""
    start = Period.parse(staged.period).start
    weeks = timedelta(weeks=table.batch.row_count_weeks)
    before = receipts.latest(staged.use_case, f"publish_{table.name}", start - weeks, start)
    known = {day: receipt.counts.get("rows_in", 0) for day, receipt in before.items()}
    return known | {date.fromisoformat(day): c["rows_in"] for day, c in staged.counts.items()}


def _refuse(table: AnyTable, staged: Staged, rows: pa.Table, days: list[date]) -> None:
    part = {"table": table.name}
    publish_chunk(staged, f"refuse_{table.name}", "refused", rows, days, part)


def _of_days(rows: pa.Table, days: list[date]) -> pa.Table:
    return rows.filter(pc.is_in(rows["day"], pa.array(days, pa.date32())))


def _is_without_data(standing: Receipt | None) -> bool:
    return standing is not None and "without_data" in standing.counts


def _require_no_data(
    table: AnyTable, counts: Mapping[str, Mapping[str, int]], standing: Mapping[date, Receipt]
) -> None:
    use_case = table.setting.use_case
    for day, found in counts.items():
        published = standing.get(date.fromisoformat(day))
        if found["rows_in"]:
            where = f"its source has {found['rows_in']} rows for it"
        elif published is not None and published.counts.get("rows_in"):
            where = f"{published.counts['rows_in']} source rows of it are published"
        else:
            continue
        raise ConfigError(
            f"{day} cannot be declared a day without data of {use_case}.{table.name}: {where}. "
            "Nothing was changed. Ingest it as it is: "
            f"{commands.backfill(use_case, Period.parse(day), 'completed')}"
        )


def refused_days(use_case: str, table: AnyTable) -> set[date]:
    """Return the days of a table that stand refused."""
    rows = lake.rows(use_case, "refused", columns=("day",), equal={"table": table.name})
    return {row["day"] for row in rows}
