"""What a source delivers for a period, split."""

from __future__ import annotations

import pyarrow as pa

from evergreen.period import Period
from evergreen.quality.split import Split, select_days, split_rows
from evergreen.settings import load_settings
from evergreen.sources import Source
from evergreen.use_case import UseCase


def read_and_split(use_case: UseCase, source: Source, period: Period) -> Split:
    """Read the source's rows of a period and split them; see `split_rows`."""
    settings = load_settings()
    wanted = (
        select_days(use_case, rows, period.start, period.end, threads=settings.threads)
        for rows in source.read(period.start, period.end)
    )
    return split_rows(
        use_case,
        pa.concat_tables(wanted, promote_options="default"),
        period.start,
        period.end,
        threads=settings.threads,
        memory_mb=settings.memory_mb,
    )
