"""Whether the tables still say what their receipts say: every live day is read and digested again.

A checksum tells that a file is what was written. Only the receipt tells that it is what was
published: that nothing was lost with a list of files, and nobody else wrote into the table.

What is wrong is receipted, too, so that it stays listed until the day is published again.
"""

from __future__ import annotations

import logging
from datetime import date, timedelta
from itertools import chain, combinations

import pyarrow as pa
import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.errors import DamagedError
from evergreen.lake.content import ORIGINS, STAMPS, digest_by_day
from evergreen.provenance import receipts
from evergreen.provenance.receipts import Receipt, Trace

logger = logging.getLogger(__name__)

_ONE_DAY = timedelta(days=1)
# So many columns that are empty throughout a day may have been added since.
_ADDED_COLUMNS = 6


def find_damage(use_case: UseCase, table: str) -> dict[date, str]:
    """Return the days of a table that are known to be damaged, and what was found.

    Known are files that are missing or of another size, at once, and what `verify` has found in
    days that were not published since.

    Raises
    ------
    DamagedError
        What the table consists of cannot be read.
    """
    standing = receipts.standing(use_case.name, table)
    found = {
        day: verdict.inputs["found"]
        for day, verdict in receipts.latest(use_case.name, _step(table)).items()
        if verdict.inputs["found"]
        and all(published.sequence < verdict.sequence for _, published in standing.get(day, ()))
    }
    return dict(sorted((found | lake.damaged_days(use_case.name, table)).items()))


def verify(use_case: UseCase, table: str) -> dict[date, str]:
    """Read all days of a table, compare them with their receipts, and record what differs.

    Returns
    -------
    dict[date, str]
        What is wrong, by day.

    Raises
    ------
    DamagedError
        What the table consists of cannot be read.

    Notes
    -----
    One day is in memory at a time. Days receipted before receipts knew contents are only read.
    """
    known = find_damage(use_case, table)
    standing = receipts.standing(use_case.name, table)
    days = {*lake.partitions(use_case.name, table), *standing}
    problems = {day: found for day in sorted(days) if (found := _problem(use_case, table, day))}
    with receipts.recording(f"{use_case.name}.{table}") as record:
        record(
            _verdict(use_case, table, day, problems.get(day, ""))
            for day in sorted({*known, *problems})
        )
    return problems


def _problem(use_case: UseCase, table: str, day: date) -> str:
    found = _compare(use_case, table, day)
    if not found:
        return ""
    # Unless it was replaced while it was read.
    with receipts.recording(f"{use_case.name}.{table}"):
        return _compare(use_case, table, day)


def _compare(use_case: UseCase, table: str, day: date) -> str:
    published = receipts.standing(use_case.name, table, day).get(day, [])
    try:
        rows = lake.read_day(use_case.name, table, day)
    except DamagedError as error:
        return error.found
    for part, receipt in published:
        of_part = rows
        for column, value in part.items():
            of_part = of_part.filter(pc.equal(of_part[column], value))
        if receipt.contract_digest and not _says(of_part, day, receipt):
            return f"its {of_part.num_rows:,} rows are not those of its receipt {receipt.sequence}"
    return ""


def _says(rows: pa.Table, day: date, published: Trace) -> bool:
    """Whether the rows are those of a receipt, but for columns that the table gained since."""
    return columns_gained(rows, day, published.content) is not None


def columns_gained(rows: pa.Table, day: date, content: str) -> tuple[str, ...] | None:
    """Return the empty columns without which rows say what a receipt says; None if they do not.

    Parameters
    ----------
    rows
        Of one day. Not modified.
    content
        Of the receipt.
    """
    empty = [name for name in rows.column_names if rows[name].null_count == rows.num_rows]
    gained = chain.from_iterable(
        combinations(empty, size) for size in range(min(len(empty), _ADDED_COLUMNS) + 1)
    )
    for without in gained:
        if digest_by_day(rows, [day], STAMPS | ORIGINS | set(without))[day] == content:
            return without
    return None


def _step(table: str) -> str:
    return f"verify_{table}"


def _verdict(use_case: UseCase, table: str, day: date, found: str) -> Receipt:
    if found:
        logger.error("%s.%s of %s is damaged: %s", use_case.name, table, day, found)
    return Receipt.of_nothing(use_case, _step(table), day, "maintenance", {"found": found})
