"""Sources: raw rows as delivered, one day or many at a time.

A source interprets nothing. Whatever it finds becomes text beside a note of where it was found,
so that the contract can judge every row, and no row disappears before it was judged.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from evergreen.contract import FilesSource, GeneratorSource, SqlSource, UseCase
from evergreen.sources.base import RAW_COLUMNS, Source, empty_raw, required_columns

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RAW_COLUMNS", "Source", "empty_raw", "open_source", "oracle_for", "required_columns"]


def open_source(use_case: UseCase) -> Source:
    """Return the source a use case declares; nothing is opened or connected yet.

    Parameters
    ----------
    use_case
        The use case; its `source` says which kind, its `orders.columns` which columns must exist.

    Returns
    -------
    Source
        `read(start, end)` gives the raw rows of the days in `[start, end)`; see `Source`.
    """
    source = use_case.source
    # Each kind brings its own heavy library; a process loads only the one it uses.
    if isinstance(source, FilesSource):
        from evergreen.sources.files import FileReader

        return FileReader(source, required_columns(use_case))
    if isinstance(source, SqlSource):
        from evergreen.sources.sql import QueryReader

        return QueryReader(source, required_columns(use_case))
    if isinstance(source, GeneratorSource):
        from evergreen.sources.generator import GeneratorReader

        return GeneratorReader(source, use_case.first_day, required_columns(use_case))
    raise AssertionError(f"unknown source {source!r}")  # pragma: no cover - the model forbids it


def oracle_for(use_case: UseCase, as_of: datetime, horizon_days: int) -> pa.Table | None:
    """Return the true probability of no purchase per entity, where the source can tell it.

    Returns
    -------
    pa.Table or None
        The entity key and `probability` (float64); None for sources that are not simulations.
    """
    if not isinstance(use_case.source, GeneratorSource):
        return None
    from evergreen.sources.generator import oracle_no_purchase

    return oracle_no_purchase(use_case, as_of, horizon_days)
