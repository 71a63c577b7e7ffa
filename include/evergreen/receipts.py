"""What each step did, from what, with which code.

A receipt is written twice: into the summary of the Iceberg snapshot it belongs to (in the same
commit as the data, so it cannot be lost), and as one row per step and day into SQL, where it can be
asked for. The SQL rows are append-only; the newest row of a step and day is the one that counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from evergreen.settings import PROJECT_ROOT, load_settings
from evergreen.use_case import UseCase

_METADATA = sa.MetaData()
_RECEIPTS = sa.Table(
    "receipts",
    _METADATA,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("use_case", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("inputs", sa.Text, nullable=False),
    sa.Column("output_table", sa.Text, nullable=False),
    sa.Column("output_snapshot", sa.BigInteger, nullable=False),
    sa.Column("counts", sa.Text, nullable=False),
    sa.Column("code_digest", sa.Text, nullable=False),
    sa.Column("lock_digest", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
    sa.Index("receipts_by_day", "use_case", "step", "day", "sequence"),
)


@dataclass(frozen=True)
class Receipt:
    """One step's work on one day.

    Parameters
    ----------
    step
        Name of the step, for example `publish_features`.
    day
        The partition.
    run
        What the step ran for: a day, or a period such as `2024-01-01..2025-12-31`.
    inputs
        Snapshot id of each table that was read (0 for a table without a snapshot), and other
        identities the output depends on (model version, source digest).
    output_table, output_snapshot
        What was committed.
    counts
        Rows in and out of the day, by kind.
    seconds
        Wall time of the step, staging to commit, over the whole run.
    """

    use_case: str
    step: str
    day: date
    run: str
    inputs: Mapping[str, Any]
    output_table: str
    output_snapshot: int
    counts: Mapping[str, int]
    code_digest: str
    lock_digest: str
    seconds: float
    sequence: int = 0
    recorded_at: datetime | None = field(default=None, compare=False)


def create_tables() -> None:
    """Create the table of receipts; safe to repeat."""
    _METADATA.create_all(_engine())


def record(receipts: Iterable[Receipt]) -> None:
    """Append receipts in one transaction."""
    rows = [
        {
            **{k: v for k, v in asdict(receipt).items() if k not in ("sequence", "recorded_at")},
            "inputs": json.dumps(dict(receipt.inputs), sort_keys=True),
            "counts": json.dumps(dict(receipt.counts), sort_keys=True),
        }
        for receipt in receipts
    ]
    if rows:
        with _engine().begin() as connection:
            connection.execute(sa.insert(_RECEIPTS), rows)


def latest(
    use_case: str, step: str, start: date | None = None, end: date | None = None
) -> dict[date, Receipt]:
    """Return the newest receipt of a step for each day of `[start, end)`, oldest day first."""
    newest = (
        sa.select(sa.func.max(_RECEIPTS.c.sequence))
        .where(_RECEIPTS.c.use_case == use_case, _RECEIPTS.c.step == step)
        .group_by(_RECEIPTS.c.day)
    )
    query = sa.select(_RECEIPTS).where(_RECEIPTS.c.sequence.in_(newest)).order_by(_RECEIPTS.c.day)
    if start is not None:
        query = query.where(_RECEIPTS.c.day >= start)
    if end is not None:
        query = query.where(_RECEIPTS.c.day < end)
    with _engine().connect() as connection:
        return {row.day: _from_row(row) for row in connection.execute(query)}


def missing_days(use_case: str, step: str, start: date, end: date) -> list[date]:
    """Return the days of `[start, end)` that a step has no receipt for, oldest first."""
    query = sa.select(_RECEIPTS.c.day).where(
        _RECEIPTS.c.use_case == use_case,
        _RECEIPTS.c.step == step,
        _RECEIPTS.c.day >= start,
        _RECEIPTS.c.day < end,
    )
    with _engine().connect() as connection:
        present = set(connection.scalars(query.distinct()))
    days = (start + timedelta(days=n) for n in range((end - start).days))
    return [day for day in days if day not in present]


def newest_day(use_case: str, step: str) -> date | None:
    """Return the newest day a step has ever been receipted for."""
    query = sa.select(sa.func.max(_RECEIPTS.c.day)).where(
        _RECEIPTS.c.use_case == use_case, _RECEIPTS.c.step == step
    )
    with _engine().connect() as connection:
        day: date | None = connection.execute(query).scalar()
        return day


def snapshots_in_use(use_case: str) -> dict[str, set[int]]:
    """Snapshot ids per table that the newest receipts name as input or output."""
    used: dict[str, set[int]] = {}
    with _engine().connect() as connection:
        newest = (
            sa.select(sa.func.max(_RECEIPTS.c.sequence))
            .where(_RECEIPTS.c.use_case == use_case)
            .group_by(_RECEIPTS.c.step, _RECEIPTS.c.day)
        )
        query = sa.select(_RECEIPTS).where(_RECEIPTS.c.sequence.in_(newest))
        receipts = [_from_row(row) for row in connection.execute(query)]
    for receipt in receipts:
        table = receipt.output_table.removeprefix(f"{use_case}.")
        used.setdefault(table, set()).add(receipt.output_snapshot)
        for name, snapshot in receipt.inputs.items():
            used.setdefault(name, set()).add(snapshot)
    return used


def code_digest(use_case: UseCase) -> str:
    """Return the digest of the package's code and the use case's declaration and SQL."""
    return _digest_of(
        *sorted((PROJECT_ROOT / "include" / "evergreen").rglob("*.py")),
        *sorted(p for p in use_case.folder.iterdir() if p.suffix in (".yaml", ".sql")),
    )


def lock_digest() -> str:
    """Return the digest of the lock file."""
    return _digest_of(PROJECT_ROOT / "requirements.txt")


def _digest_of(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _from_row(row: Any) -> Receipt:
    values = dict(row._mapping)
    values["inputs"] = json.loads(values["inputs"])
    values["counts"] = json.loads(values["counts"])
    return Receipt(**values)


def _engine() -> sa.Engine:
    return _engine_for(load_settings().database_url("ledger"))


@lru_cache(maxsize=8)
def _engine_for(url: str) -> sa.Engine:
    return sa.create_engine(url, pool_pre_ping=True)
