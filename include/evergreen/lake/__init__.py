"""The lake: Iceberg tables partitioned by day, replaced one partition at a time.

Its functions are used as `lake.read(...)`, `lake.publish(...)`.
"""

from evergreen.lake.iceberg import (
    catalog,
    claim,
    days_between,
    exists,
    heads,
    load,
    pause,
    prepare,
    tables,
)
from evergreen.lake.publishing import Published, publish
from evergreen.lake.reading import (
    Files,
    Scan,
    damaged_days,
    files,
    partitions,
    read,
    read_day,
    rows,
    scan,
    stream,
)
from evergreen.lake.snapshots import (
    has_snapshot,
    is_unchanged_before,
    snapshot_id,
    summaries_since,
    tag,
    tags,
)

__all__ = [
    "Files",
    "Published",
    "Scan",
    "catalog",
    "claim",
    "damaged_days",
    "days_between",
    "exists",
    "files",
    "has_snapshot",
    "heads",
    "is_unchanged_before",
    "load",
    "partitions",
    "pause",
    "prepare",
    "publish",
    "read",
    "read_day",
    "rows",
    "scan",
    "snapshot_id",
    "stream",
    "summaries_since",
    "tables",
    "tag",
    "tags",
]
