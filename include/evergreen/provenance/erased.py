"""Who was erased: salted hashes of keys, asked wherever rows come in, and what erasures took.

The source still has the rows of whoever was erased. So an erasure is remembered for good, by a hash
that only says yes or no to a key somebody has: rows of such keys are counted and never stored.
See docs/adr/0034-erasure.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from evergreen.contract import UseCase
from evergreen.databases import ledger_engine
from evergreen.errors import BusyError, ErasedError
from evergreen.provenance import receipts
from evergreen.provenance.receipts import Receipt
from evergreen.settings import Settings

STEP = "erase"
"""Step of the receipt that is written before the snapshots of a namespace are forgotten."""

# Beside the backups: what must be erased again after one of them was restored.
_FILE = "erasures.json"
_ERASURES = sa.Table(
    "erasures",
    receipts.METADATA,
    sa.Column("use_case", sa.Text, primary_key=True),
    sa.Column("key_hash", sa.Text, primary_key=True),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
    sa.Column("closed", sa.BigInteger),
)
# What is between the fields of a line that could not be split, whatever its delimiter is.
_DELIMITERS = (re.compile(r'[,;|\t"]'), re.compile(r'[,;|\t"\s]+'))


@dataclass(frozen=True)
class Erasure:
    """One entity that was erased, or is about to be.

    Parameters
    ----------
    use_case
        The one that has the tables and features; those that build on it share its entities.
    key_hash, salt
        HMAC-SHA256 of use case and key under the installation's salt; hexadecimal.
    actor, reason
        Who asked for it, and why.
    asked_at
        From when on its rows are not ingested.
    closed
        Sequence of the receipt after which no row was left; None while some may be.
    """

    use_case: str
    key_hash: str
    salt: str
    actor: str
    reason: str
    asked_at: datetime
    closed: int | None


class Suppressed:
    """The keys that must not come in, known by their hashes."""

    def __init__(self, erasures: Iterable[Erasure] = ()) -> None:
        self._by_salt: dict[tuple[str, str], set[str]] = {}
        for erasure in erasures:
            hashes = self._by_salt.setdefault((erasure.use_case, erasure.salt), set())
            hashes.add(erasure.key_hash)

    def __bool__(self) -> bool:
        return bool(self._by_salt)

    def among(self, keys: Iterable[str]) -> set[str]:
        """Return those of some keys that are erased. O(keys), about a microsecond each."""
        return {
            key
            for key in keys
            for (use_case, salt), hashes in self._by_salt.items()
            if _hash(use_case, salt, key) in hashes
        }


def register(use_case: str, key: str, actor: str, reason: str) -> Erasure:
    """Remember that an entity is to be erased; from now on its rows are not published.

    Safe to repeat: the first one stays as it was asked for, and counts as not closed again.
    """
    with ledger_engine().begin() as connection:
        # One salt for all, so that keys are hashed once.
        connection.execute(sa.text("LOCK TABLE erasures IN SHARE ROW EXCLUSIVE MODE"))
        salt = connection.scalar(sa.select(_ERASURES.c.salt).limit(1)) or secrets.token_hex(32)
        values = {"use_case": use_case, "key_hash": _hash(use_case, salt, key), "salt": salt}
        statement = insert(_ERASURES).values(**values, actor=actor, reason=reason)
        again = {"closed": None}
        connection.execute(statement.on_conflict_do_update(constraint="erasures_pkey", set_=again))
    found = find(use_case, key)
    assert found is not None
    return found


def close(erasure: Erasure, sequence: int) -> None:
    """Say by which receipt the rows of an entity were gone."""
    with ledger_engine().begin() as connection:
        connection.execute(
            sa.update(_ERASURES)
            .where(_ERASURES.c.use_case == erasure.use_case)
            .where(_ERASURES.c.key_hash == erasure.key_hash)
            .values(closed=sequence)
        )


def find(use_case: str, key: str) -> Erasure | None:
    """Return the erasure of an entity, if there is one."""
    for erasure in erasures(use_case):
        if erasure.key_hash == _hash(use_case, erasure.salt, key):
            return erasure
    return None


def erasures(use_case: str | None = None, *, open_at: int | None = None) -> list[Erasure]:
    """Return the erasures of a use case, or of all, oldest first.

    Parameters
    ----------
    open_at
        Leave out those that were closed by this receipt: what was read after it knows them.
    """
    query = sa.select(_ERASURES).order_by(_ERASURES.c.asked_at)
    if use_case is not None:
        query = query.where(_ERASURES.c.use_case == use_case)
    if open_at is not None:
        query = query.where((_ERASURES.c.closed.is_(None)) | (_ERASURES.c.closed > open_at))
    with ledger_engine().connect() as connection:
        return [Erasure(**row._mapping) for row in connection.execute(query)]


def suppressed(use_case: str) -> Suppressed:
    """Return whose rows are not to be ingested."""
    return Suppressed(erasures(use_case))


# --- what was staged before, and is published now ------------------------------------------------


def drop(
    found: Sequence[Erasure], use_case: UseCase, rows: pa.Table
) -> tuple[pa.Table, Mapping[date, int]]:
    """Leave out the rows of erased entities; return the others, and how many each day lost.

    Parameters
    ----------
    rows
        Of any table, with a column `day`; rows of nobody stay. Not modified.
    """
    hidden, key = Suppressed(found), use_case.entity.key
    if not hidden or not rows.num_rows:
        return rows, {}
    if key in rows.column_names:
        texts = rows[key].cast(pa.string())
        gone = hidden.among(set(texts.drop_null().to_pylist()))
        mask = pc.is_in(texts, value_set=pa.array(sorted(gone), pa.string()))
    elif {"table", "raw"} <= {*rows.column_names}:
        named = zip(rows["table"].to_pylist(), rows["raw"].to_pylist(), strict=True)
        mask = pa.array(
            [
                bool(hidden.among(keys_in(raw, sources(use_case, of), use_case.key_dtype)))
                for of, raw in named
            ]
        )
    else:
        return rows, {}
    lost = Counter(rows["day"].filter(mask).to_pylist())
    return (rows.filter(pc.invert(mask)), lost) if lost else (rows, {})


def require_known(found: Sequence[Erasure], use_case: str, basis: int) -> None:
    """Raise if somebody else is to be erased than was when rows were looked through.

    Raises
    ------
    BusyError
        Trying again leaves out the rows of the new one, too.
    """
    known = {erasure.key_hash for erasure in found}
    if any(now.key_hash not in known for now in erasures(use_case, open_at=basis)):
        raise BusyError(
            f"Somebody of {use_case} is being erased while this was published. Nothing of it was; "
            "trying again leaves out what is erased."
        )


def sources(use_case: UseCase, table: str) -> set[str] | None:
    """Return what a source calls the entity's key; None where it cannot be told."""
    declared = use_case.tables.get(table)
    if declared is None or use_case.entity.key not in declared.columns:
        return None
    return {declared.columns[use_case.entity.key].source}


def keys_in(raw: str, wanted: Collection[str] | None, dtype: str = "string") -> set[str]:
    """Return what may be keys in a row as it was delivered (a JSON object).

    Parameters
    ----------
    wanted
        Names of the columns that hold a key; None for any. Of a row that could not be split into
        columns, every part of its text may be one.

    dtype
        Of the key; a whole number may be written with zeros before it.

    Examples
    --------
    >>> sorted(keys_in('{"id": "7", "customer": " 12.0 "}', {"customer"}))
    ['12', '12.0']
    """
    found = {
        spelled
        for name, value in json.loads(raw).items()
        if value is not None and (wanted is None or name in wanted or name == "_text")
        for part in _parts(name, str(value))
        for spelled in (part, re.sub(r"\.0+$", "", part))
        if spelled
    }
    if dtype == "int64":
        found |= {str(int(text)) for text in found if text.isdecimal()}
    return found


def _parts(name: str, text: str) -> Iterator[str]:
    yield text.strip()
    if name == "_text":
        for delimiters in _DELIMITERS:
            yield from (part.strip() for part in delimiters.split(text))


# --- what erasures took --------------------------------------------------------------------------


def forgotten(use_case: str, after: int = 0) -> Receipt | None:
    """Return the first erasure after a receipt: it made the snapshots of before unreadable."""
    return receipts.first(use_case, STEP, after)


def forgotten_up_to(use_case: str) -> int:
    """Return the sequence up to which snapshots that receipts name are gone; 0 for none."""
    return receipts.newest_of(use_case, STEP)


def require_not_erased(what: str, receipt: Receipt | None) -> None:
    """Raise if an erasure has taken what is asked for.

    Raises
    ------
    ErasedError
        With the receipt of the erasure.
    """
    if receipt is not None:
        raise ErasedError(
            f"{what}: erased. Somebody's rows were part of it and were erased on "
            f"{receipt.recorded_at:%Y-%m-%d %H:%M} UTC (receipt {receipt.sequence} of "
            f"{receipt.use_case}, by {receipt.inputs['actor']}: {receipt.inputs['reason']}), with "
            "all snapshots that held them. So it cannot be made again; nothing is damaged."
        )


# --- beside the backups --------------------------------------------------------------------------


def save(folder: Path) -> None:
    """Write all erasures into a file beside the backups; those it knows already stay."""
    known = {(one.use_case, one.key_hash): one for one in [*_read(folder), *erasures()]}
    if not known:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{_FILE}.{os.getpid()}"
    rows = [asdict(one) | {"asked_at": one.asked_at.isoformat()} for one in known.values()]
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(rows, file, indent=1)
    draft.replace(folder / _FILE)


def save_known(settings: Settings) -> None:
    """Do the same with what the ledger knows, if there is a ledger."""
    engine = ledger_engine(settings)
    if sa.inspect(engine).has_table(_ERASURES.name):
        save(settings.backups)


def merge(folder: Path) -> list[Erasure]:
    """Take over what the file beside the backups knows; return what has to be done again."""
    receipts.create_tables()
    rows = [asdict(one) | {"closed": None} for one in _read(folder)]
    if rows:
        with ledger_engine().begin() as connection:
            connection.execute(insert(_ERASURES).values(rows).on_conflict_do_nothing())
    return [one for one in erasures() if one.closed is None]


def _read(folder: Path) -> list[Erasure]:
    try:
        rows: list[dict[str, Any]] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    asked = [datetime.fromisoformat(row["asked_at"]) for row in rows]
    return [Erasure(**row | {"asked_at": at}) for row, at in zip(rows, asked, strict=True)]


def _hash(use_case: str, salt: str, key: str) -> str:
    text = f"{use_case}\0{key}".encode()
    return hmac.new(bytes.fromhex(salt), text, hashlib.sha256).hexdigest()
