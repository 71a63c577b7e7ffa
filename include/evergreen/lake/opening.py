"""Planned files, opened as one relation of DuckDB."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from evergreen.lake.sealed import require_intact


def open_files(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """Open planned Parquet files, local ones or those behind URLs, as one relation.

    Raises
    ------
    DamagedError
        One is missing or damaged.
    """
    # DuckDB and Arrow's datasets look at no checksum.
    require_intact(paths)
    if any("://" in path for path in paths):
        # DuckDB's own access to object stores is an extension to download; Arrow's is not.
        system, first = pafs.FileSystem.from_uri(paths[0])
        rest = [system.normalize_path(path.split("://", 1)[1]) for path in paths[1:]]
        return connection.from_arrow(ds.dataset([first, *rest], filesystem=system))
    # DuckDB takes some characters for a pattern. The folders of a partitioned table spell
    # `day=...`; the file holds the column already.
    named = [re.sub(r"([*?[])", r"[\1]", path) for path in paths]
    return connection.read_parquet(named, union_by_name=True, hive_partitioning=False)
