"""Planned files, opened as one relation of DuckDB."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb

from evergreen.lake.sealed import open_remote, require_intact


def open_files(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """Open planned Parquet files, local ones or those behind URLs, as one relation.

    Raises
    ------
    DamagedError
        One is missing or damaged.
    """
    if any("://" in path for path in paths):
        return connection.from_arrow(open_remote(paths))
    # DuckDB looks at no checksum.
    require_intact(paths)
    # DuckDB takes some characters for a pattern. The folders of a partitioned table spell
    # `day=...`; the file holds the column already.
    named = [re.sub(r"([*?[])", r"[\1]", path) for path in paths]
    return connection.read_parquet(named, union_by_name=True, hive_partitioning=False)
