"""Sources: raw rows as delivered, one day or many at a time.

A source interprets nothing. Whatever it finds becomes text beside a note of where it was found,
so that the contract can judge every row, and no row disappears before it was judged.
"""

from __future__ import annotations

from evergreen.contract import AnyTable, Events, FilesSource, References, SqlSource
from evergreen.errors import ConfigError
from evergreen.sources.base import RAW_COLUMNS, Source, empty_raw, required_columns

__all__ = ["RAW_COLUMNS", "Source", "empty_raw", "open_source", "required_columns"]


def open_source(table: AnyTable) -> Source:
    """Return the source a table declares; nothing is opened or connected yet.

    Parameters
    ----------
    table
        A table of a loaded use case; its `source` says which kind, its `columns` which columns
        must exist.

    Returns
    -------
    Source
        `read(start, end)` gives the raw rows of the local days in `[start, end)`; see `Source`.

    Raises
    ------
    ConfigError
        Something other than events is to come from a generator.
    """
    source, setting, required = table.source, table.setting, required_columns(table)
    # Each kind brings its own heavy library; a process loads only the one it uses.
    if isinstance(source, FilesSource):
        from evergreen.sources.files import FileReader

        # A reference without days is true at all times.
        only_day = setting.first_day if isinstance(table, References) else None
        return FileReader(source, required, only_day)
    if isinstance(source, SqlSource):
        from evergreen.sources.sql import QueryReader

        return QueryReader(source, required, setting.zone)
    if not isinstance(table, Events):
        raise ConfigError(
            f"{table.where}.source.kind: found 'generator', expected 'files' or 'sql'; the "
            "simulation has events only."
        )
    from evergreen.sources.generator import GeneratorReader
    from evergreen.sources.simulation import World

    return GeneratorReader(World(source, setting.first_day, setting.zone), required)
