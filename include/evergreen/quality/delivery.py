"""What a source delivers for a period, split; and the decision that it will deliver nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa

from evergreen.contract import AnyTable, Period
from evergreen.decisions.stored import Stored, decision_table
from evergreen.errors import SourceMissingError
from evergreen.quality.split import Split, select_days, split_rows
from evergreen.settings import load_settings
from evergreen.sources import Source
from evergreen.sources.base import empty_raw, required_columns


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


def read_and_split(
    table: AnyTable, source: Source, period: Period, without_data: Collection[date] = ()
) -> Split:
    """Read the source's rows of a period and split them; see `split_rows`.

    Parameters
    ----------
    without_data
        Days the source need not have; it is asked for them all the same.
    """
    return split_rows(
        table,
        pa.concat_tables(_read(table, source, period, without_data), promote_options="default"),
        period.start,
        period.end,
        threads=load_settings().threads,
        memory_mb=load_settings().memory_mb,
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
