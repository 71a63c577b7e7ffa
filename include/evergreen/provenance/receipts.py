"""What each step did, from what, with which code.

A receipt is written twice: into the summary of the Iceberg snapshot it belongs to (in the same
commit as the data, so it cannot be lost), and as one row per step and day into SQL, where it can be
asked for. The SQL rows are append-only; the newest row of a step and day is the one that counts.

`basis` and `content` tell whether an output is still true: the newest receipt there was when a step
read its inputs, and a digest of what the step published. An input whose content is no longer the
one that stood at the basis has changed since.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import sqlalchemy as sa
from structlog.contextvars import bound_contextvars

from evergreen.contract import UseCase
from evergreen.databases import ledger_engine, take_lock
from evergreen.errors import NotReadyError
from evergreen.settings import PROJECT_ROOT

logger = logging.getLogger(__name__)

# How long one publisher waits for another of the same table.
_LOCK_SECONDS = 600
# Newest runs of a step that an estimate of its work is made from.
_RUNS = 20

_DECLARING = (".yaml", ".sql")
METADATA = sa.MetaData()
"""The tables of this room in the database `ledger`."""

_RECEIPTS = sa.Table(
    "receipts",
    METADATA,
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("use_case", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("inputs", sa.Text, nullable=False),
    sa.Column("output_table", sa.Text, nullable=False),
    sa.Column("output_snapshot", sa.BigInteger, nullable=False),
    sa.Column("part", sa.Text, nullable=False, server_default=""),
    sa.Column("counts", sa.Text, nullable=False),
    sa.Column("basis", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("content", sa.Text, nullable=False, server_default=""),
    sa.Column("contract_digest", sa.Text, nullable=False, server_default=""),
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
    basis
        Sequence of the newest receipt there was before the step read its inputs.
    content
        Digest of what the day says; see `evergreen.lake.content`. Empty for a day without rows.
    contract_digest
        Digest of the part of the use case that the output depends on.
    code_digest, lock_digest
        Digests of the package with the whole use case, and of `requirements.txt`.
    seconds
        Wall time of the step, staging to commit, over the whole run.
    part
        Values that all rows of it share, where several steps own a part of a day of the table.
    """

    use_case: str
    step: str
    day: date
    run: str
    inputs: Mapping[str, Any]
    output_table: str
    output_snapshot: int
    counts: Mapping[str, int]
    basis: int
    content: str
    contract_digest: str
    code_digest: str
    lock_digest: str
    seconds: float
    part: Mapping[str, str | int] = field(default_factory=dict)
    sequence: int = 0
    recorded_at: datetime | None = field(default=None, compare=False)

    @classmethod
    def of_nothing(
        cls,
        use_case: UseCase,
        step: str,
        day: date,
        run: str,
        inputs: Mapping[str, Any],
        counts: Mapping[str, int] | None = None,
    ) -> Receipt:
        """Return the receipt of a step that found or did something, and published nothing."""
        return cls(
            use_case=use_case.name,
            step=step,
            day=day,
            run=run,
            inputs=inputs,
            output_table="",
            output_snapshot=0,
            counts=counts or {},
            basis=0,
            content="",
            contract_digest="",
            code_digest=code_digest(use_case),
            lock_digest=lock_digest(),
            seconds=0.0,
        )


class Trace(NamedTuple):
    """One receipt in short; see `Receipt`."""

    sequence: int
    basis: int
    content: str
    contract_digest: str
    output_snapshot: int


def create_tables() -> None:
    """Create the tables of this room, or give an older one the columns it lacks; safe to repeat."""
    # Its table is one of them.
    from evergreen.provenance import erased  # noqa: F401

    engine = ledger_engine()
    METADATA.create_all(engine)
    present = {column["name"] for column in sa.inspect(engine).get_columns(_RECEIPTS.name)}
    with engine.begin() as connection:
        for column in _RECEIPTS.columns:
            if column.name not in present:
                definition = sa.schema.CreateColumn(column).compile(dialect=engine.dialect)
                statement = f"ALTER TABLE {_RECEIPTS.name} ADD COLUMN IF NOT EXISTS {definition}"
                connection.execute(sa.text(statement))


def erasing(step: str) -> str:
    """Name the step that takes an entity's rows out of what a step has published."""
    return f"erase_{step.removeprefix('publish_')}"


@contextmanager
def recording(table: str) -> Iterator[Callable[[Iterable[Receipt]], None]]:
    """Keep other publishers of a table out, and append receipts when the body ends.

    Without it, of two commits to the same day the earlier might be receipted later, and the
    receipt that counts would describe rows that are gone. What was appended is logged, its
    sequence as the field `receipt`.

    Parameters
    ----------
    table
        `<namespace>.<table>`.

    Yields
    ------
    Callable
        Call it with the receipts of what was committed.

    Raises
    ------
    BusyError
        Another publisher held the table for ten minutes.
    """
    sequences: list[int] = []
    with ledger_engine().begin() as connection:
        take_lock(connection.exec_driver_sql, f"publish {table}", _LOCK_SECONDS)

        def append(receipts: Iterable[Receipt]) -> None:
            rows = [_to_row(receipt) for receipt in receipts]
            if rows:
                inserted = sa.insert(_RECEIPTS).returning(_RECEIPTS.c.sequence)
                sequences.extend(connection.scalars(inserted, rows))

        yield append
    if sequences:
        with bound_contextvars(receipt=max(sequences)):
            logger.info("published %s (days: %d)", table, len(sequences))


def now() -> datetime:
    """Return the instant, in UTC, by the clock of the ledger's database.

    Clocks of machines differ; what is ordered or judged by time is so by one clock.
    """
    with ledger_engine().connect() as connection:
        instant: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return instant.astimezone(UTC)


def newest_sequence(*use_cases: str) -> int:
    """Sequence of the newest receipt (of some use cases, or of all); 0 without any.

    Ask before reading what it is the basis of.

    A publish is receipted after its commit. So whatever stands at this sequence is in the tables
    that are read afterwards; what they hold beyond it makes the output look stale, never current.
    """
    return _newest(*([_RECEIPTS.c.use_case.in_(use_cases)] if use_cases else []))


def traces(use_case: str, *steps: str) -> dict[str, dict[date, list[Trace]]]:
    """Return in short what each step has published of each day, oldest first.

    An erasure is no correction: a day that lost somebody's rows says what it said before, so
    nothing that was made from it is stale.
    """
    columns, erased = _RECEIPTS.c, {erasing(step): step for step in steps}
    query = (
        sa.select(
            *(columns.step, columns.day, columns.sequence, columns.basis),
            *(columns.content, columns.contract_digest, columns.output_snapshot),
            sa.case((columns.step.in_(erased), columns.inputs), else_="{}"),
        )
        .where(columns.use_case == use_case, columns.step.in_([*steps, *erased]))
        .order_by(columns.day, columns.sequence)
    )
    found: dict[str, dict[date, list[Trace]]] = {step: {} for step in steps}
    with ledger_engine().connect() as connection:
        for step, day, *values, inputs in connection.execute(query):
            trace = Trace(*values)
            history = found[erased.get(step, step)].setdefault(day, [])
            if step in erased:
                replaced = json.loads(inputs)["replaced"]
                history[:] = [
                    earlier._replace(content=trace.content)
                    if earlier.content == replaced
                    else earlier
                    for earlier in history
                ]
            history.append(trace)
    return found


def standing(
    use_case: str, table: str, day: date | None = None
) -> dict[date, list[tuple[dict[str, str | int], Trace]]]:
    """Return in short what was last published of each day of a table (or one), by any step.

    A day has one entry, or one for each part of it.
    """
    columns = _RECEIPTS.c
    query = (
        sa.select(
            *(columns.day, columns.part, columns.sequence, columns.basis),
            *(columns.content, columns.contract_digest, columns.output_snapshot),
        )
        .distinct(columns.day, columns.part)
        .where(columns.use_case == use_case, columns.output_table == f"{use_case}.{table}")
        .order_by(columns.day, columns.part, columns.sequence.desc())
    )
    if day is not None:
        query = query.where(columns.day == day)
    found: dict[date, list[tuple[dict[str, str | int], Trace]]] = {}
    with ledger_engine().connect() as connection:
        for of, part, *values in connection.execute(query):
            found.setdefault(of, []).append((json.loads(part or "{}"), Trace(*values)))
    return found


def of_table(use_case: str, table: str, days: Sequence[date]) -> list[Receipt]:
    """Return the newest receipt of each of some days of a table, or of each part of them."""
    columns = _RECEIPTS.c
    query = (
        sa.select(_RECEIPTS)
        .distinct(columns.day, columns.part)
        .where(columns.use_case == use_case, columns.output_table == f"{use_case}.{table}")
        .where(columns.day.in_(days))
        .order_by(columns.day, columns.part, columns.sequence.desc())
    )
    with ledger_engine().connect() as connection:
        return [_from_row(row) for row in connection.execute(query)]


def first(use_case: str, step: str, after: int) -> Receipt | None:
    """Return the first receipt of a step after a sequence."""
    columns = _RECEIPTS.c
    return _first(columns.use_case == use_case, columns.step == step, columns.sequence > after)


def newest_of(use_case: str, step: str) -> int:
    """Sequence of the newest receipt of a step; 0 without any."""
    return _newest(_RECEIPTS.c.use_case == use_case, _RECEIPTS.c.step == step)


def of_snapshot(use_case: str, table: str, snapshot: int) -> int:
    """Sequence of the newest receipt of what a snapshot published; 0 without any."""
    columns = _RECEIPTS.c
    published = columns.output_table == f"{use_case}.{table}"
    return _newest(published, columns.output_snapshot == snapshot)


def erased_since(receipt: Receipt) -> Receipt | None:
    """Return the first erasure that took rows of what a receipt has published."""
    columns = _RECEIPTS.c
    return _first(
        *(columns.use_case == receipt.use_case, columns.step == erasing(receipt.step)),
        *(columns.day == receipt.day, columns.sequence >= receipt.sequence),
    )


def _newest(*conditions: sa.ColumnElement[bool]) -> int:
    query = sa.select(sa.func.max(_RECEIPTS.c.sequence)).where(*conditions)
    with ledger_engine().connect() as connection:
        return connection.execute(query).scalar() or 0


def _first(*conditions: sa.ColumnElement[bool]) -> Receipt | None:
    query = sa.select(_RECEIPTS).where(*conditions).order_by(_RECEIPTS.c.sequence).limit(1)
    with ledger_engine().connect() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else _from_row(row)


def by_sequence(sequence: int) -> Receipt:
    """Return one receipt.

    Raises
    ------
    NotReadyError
        There is none with this sequence.
    """
    with ledger_engine().connect() as connection:
        row = connection.execute(
            sa.select(_RECEIPTS).where(_RECEIPTS.c.sequence == sequence)
        ).one_or_none()
    if row is None:
        raise NotReadyError(
            f"There is no receipt {sequence}. The table `receipts` in the database `ledger` lists "
            "them."
        )
    return _from_row(row)


def latest(
    use_case: str, step: str, start: date | None = None, end: date | None = None
) -> dict[date, Receipt]:
    """Return the newest receipt of a step for each day of `[start, end)`, oldest day first.

    It may be that of an erasure, which says of a day what the step said, without somebody's rows.
    """
    newest = (
        sa.select(sa.func.max(_RECEIPTS.c.sequence))
        .where(_RECEIPTS.c.use_case == use_case, _RECEIPTS.c.step.in_([step, erasing(step)]))
        .group_by(_RECEIPTS.c.day)
    )
    # The bounds are in here, or every call would group the whole history.
    if start is not None:
        newest = newest.where(_RECEIPTS.c.day >= start)
    if end is not None:
        newest = newest.where(_RECEIPTS.c.day < end)
    query = sa.select(_RECEIPTS).where(_RECEIPTS.c.sequence.in_(newest)).order_by(_RECEIPTS.c.day)
    with ledger_engine().connect() as connection:
        return {row.day: _from_row(row) for row in connection.execute(query)}


def of_run(use_case: str, step: str, run: str, basis: int) -> dict[date, Receipt]:
    """Return the newest receipt per day of a step that ran for `run` on that basis."""
    query = (
        sa.select(_RECEIPTS)
        .where(
            _RECEIPTS.c.use_case == use_case,
            _RECEIPTS.c.step == step,
            _RECEIPTS.c.run == run,
            _RECEIPTS.c.basis == basis,
        )
        .order_by(_RECEIPTS.c.sequence)
    )
    with ledger_engine().connect() as connection:
        return {row.day: _from_row(row) for row in connection.execute(query)}


def of_steps(
    use_case: str,
    steps: Sequence[str],
    run: str,
    begun: datetime | None = None,
    ended: datetime | None = None,
) -> list[Receipt]:
    """Return all receipts of steps that ran for `run` between two instants, oldest first."""
    columns = _RECEIPTS.c
    return _recorded_between(
        begun,
        ended,
        columns.use_case == use_case,
        columns.step.in_(steps),
        columns.run == run,
    )


def of_kind(use_case: str, prefix: str) -> list[Receipt]:
    """Return all receipts of steps whose names begin alike, oldest first."""
    columns = _RECEIPTS.c
    named = columns.step.startswith(prefix, autoescape=True)
    return _recorded_between(None, None, columns.use_case == use_case, named)


def of_days(
    use_case: str,
    step: str,
    start: date,
    end: date,
    begun: datetime | None = None,
    ended: datetime | None = None,
) -> list[Receipt]:
    """Return all receipts of a step for days of `[start, end)` between two instants."""
    columns = _RECEIPTS.c
    return _recorded_between(
        begun,
        ended,
        columns.use_case == use_case,
        columns.step == step,
        columns.day >= start,
        columns.day < end,
    )


def _recorded_between(
    begun: datetime | None, ended: datetime | None, *conditions: sa.ColumnElement[bool]
) -> list[Receipt]:
    query = sa.select(_RECEIPTS).where(*conditions).order_by(_RECEIPTS.c.sequence)
    if begun is not None:
        query = query.where(_RECEIPTS.c.recorded_at >= begun)
    if ended is not None:
        query = query.where(_RECEIPTS.c.recorded_at <= ended)
    with ledger_engine().connect() as connection:
        return [_from_row(row) for row in connection.execute(query)]


def missing_days(use_case: str, step: str, start: date, end: date) -> list[date]:
    """Return the days of `[start, end)` that a step has no receipt for, oldest first."""
    query = sa.select(_RECEIPTS.c.day).where(
        _RECEIPTS.c.use_case == use_case,
        _RECEIPTS.c.step == step,
        _RECEIPTS.c.day >= start,
        _RECEIPTS.c.day < end,
    )
    with ledger_engine().connect() as connection:
        present = set(connection.scalars(query.distinct()))
    days = (start + timedelta(days=n) for n in range((end - start).days))
    return [day for day in days if day not in present]


def seconds_per_day(use_case: str, step: str, *, many: bool) -> float | None:
    """Return the median work of a step for a day, of its newest runs; None where it never ran.

    Parameters
    ----------
    many
        Of runs over many days, which take less for each, if there were any; else of single days.
    """
    columns = _RECEIPTS.c
    query = (
        sa.select(sa.func.count(columns.day.distinct()), sa.func.max(columns.seconds))
        .where(columns.use_case == use_case, columns.step == step)
        .group_by(columns.run, columns.basis)
        .order_by(sa.func.max(columns.sequence).desc())
        .limit(_RUNS)
    )
    with ledger_engine().connect() as connection:
        runs = [(days, seconds) for days, seconds in connection.execute(query)]
    alike = [s / n for n, s in runs if (n > 1) == many] or [s / n for n, s in runs]
    return median(alike) if alike else None


def work(use_case: str) -> dict[str, tuple[int, float]]:
    """Return how often each step has published, and in how many seconds altogether."""
    columns = _RECEIPTS.c
    runs = (
        sa.select(columns.step, sa.func.max(columns.seconds).label("seconds"))
        .where(columns.use_case == use_case)
        .group_by(columns.step, columns.run, columns.basis)
        .subquery()
    )
    query = sa.select(runs.c.step, sa.func.count(), sa.func.sum(runs.c.seconds))
    with ledger_engine().connect() as connection:
        found = connection.execute(query.group_by(runs.c.step).order_by(runs.c.step))
        return {step: (times, seconds) for step, times, seconds in found}


def newest_day(use_case: str, step: str, before: datetime | None = None) -> date | None:
    """Return the newest day a step has ever been receipted for, or had been by an instant."""
    query = sa.select(sa.func.max(_RECEIPTS.c.day)).where(
        _RECEIPTS.c.use_case == use_case, _RECEIPTS.c.step == step
    )
    if before is not None:
        query = query.where(_RECEIPTS.c.recorded_at < before)
    with ledger_engine().connect() as connection:
        day: date | None = connection.execute(query).scalar()
        return day


def without_erased(
    counts: Mapping[str, int], rows: int = 0, quarantined: int = 0
) -> dict[str, int]:
    """Return the counts of a day that lost rows to an erasure; none of them is lost count of.

    Parameters
    ----------
    rows, quarantined
        How many rows were erased of the day's table, and of what was quarantined for it.

    Examples
    --------
    >>> without_erased({"rows_in": 9, "accepted": 6, "quarantined": 3, "published": 6}, 2, 1)
    {'rows_in': 9, 'accepted': 4, 'quarantined': 2, 'published': 4, 'erased': 3}
    """
    if not rows and not quarantined:
        return dict(counts)
    found = dict(counts) | {"erased": counts.get("erased", 0)}
    # A roll-up published fewer rows than it accepted, and nobody knows which of them these were.
    rolled = counts.get("accepted") != counts.get("published")
    for name, gone in (
        ("accepted", 0 if rolled else rows),
        ("quarantined", quarantined),
        *([] if "accepted" in counts else [("rows", rows)]),
    ):
        if name in found and gone:
            found[name] -= gone
            found["erased"] += gone
    if "published" in found:
        found["published"] -= rows
    return found


def code_digest(use_case: UseCase) -> str:
    """Return the digest of the package's code and the use case's declaration and SQL."""
    folders = [use_case.folder, *([use_case.features_path.parent] if use_case.base else [])]
    return _digest_of(
        *_package(),
        *(p for folder in folders for p in sorted(folder.iterdir()) if p.suffix in _DECLARING),
    )


def package_digest() -> str:
    """Return the digest of the package's code."""
    return _digest_of(*_package())


def lock_digest() -> str:
    """Return the digest of the lock file."""
    return _digest_of(PROJECT_ROOT / "requirements.txt")


def _package() -> list[Path]:
    return sorted((PROJECT_ROOT / "include" / "evergreen").rglob("*.py"))


def _digest_of(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _to_row(receipt: Receipt) -> dict[str, Any]:
    return {
        **{k: v for k, v in asdict(receipt).items() if k not in ("sequence", "recorded_at")},
        "inputs": json.dumps(dict(receipt.inputs), sort_keys=True),
        "part": json.dumps(dict(receipt.part), sort_keys=True) if receipt.part else "",
        "counts": json.dumps(dict(receipt.counts), sort_keys=True),
    }


def _from_row(row: Any) -> Receipt:
    values = dict(row._mapping)
    values["inputs"] = json.loads(values["inputs"])
    values["part"] = json.loads(values["part"] or "{}")
    values["counts"] = json.loads(values["counts"])
    return Receipt(**values)
