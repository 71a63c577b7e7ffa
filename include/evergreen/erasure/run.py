"""An erasure from end to end: suppress, rewrite, forget, look again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from evergreen import lake
from evergreen.contract import (
    UseCase,
    list_use_cases,
    load_use_case,
    load_use_cases,
    require_whole_use_cases,
)
from evergreen.databases import ledger_engine, take_lock
from evergreen.erasure import databases, files, rows
from evergreen.erasure.needle import Needle, needle_of
from evergreen.errors import ConfigError
from evergreen.features.store.forget import forget_online, is_online
from evergreen.lake import forgetting
from evergreen.provenance import erased, receipts
from evergreen.provenance.erased import Erasure
from evergreen.provenance.receipts import Receipt
from evergreen.settings import Settings

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 600
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """Who is to be erased, and from where.

    Parameters
    ----------
    owner
        The use case that has the tables and features.
    family
        The owner, and all use cases that build on it.
    key
        As the tables hold it.
    """

    owner: UseCase
    family: tuple[UseCase, ...]
    key: str | int

    @property
    def others(self) -> list[str]:
        """Use cases whose entities are others, though their keys may be spelled alike."""
        names = {of.name for of in self.family}
        return [name for name in list_use_cases() if name not in names]

    @property
    def erasure(self) -> Erasure | None:
        """What is on record of an earlier request."""
        return erased.find(self.owner.name, str(self.key))


@dataclass(frozen=True)
class Outcome:
    """What an erasure came to.

    Parameters
    ----------
    erasure
        As it is on record now.
    days, snapshots, files
        Days that were gone through, snapshots that were forgotten, files that were removed or
        changed.
    left
        Where something of the entity still is; empty if it is gone.
    """

    erasure: Erasure
    days: int
    snapshots: int
    files: int
    left: tuple[str, ...]


def find_subject(name: str, entity: str) -> Subject:
    """Say whom a key means.

    Raises
    ------
    ConfigError
        There is no such use case, the key is not of its dtype, or a folder that may build on the
        use case cannot be loaded.
    """
    asked = load_use_case(name)
    require_whole_use_cases()
    owner = load_use_case(asked.base) if asked.base else asked
    key: str | int = entity
    if owner.key_dtype == "int64":
        try:
            key = int(entity)
        except ValueError:
            raise ConfigError(
                f"{owner.entity.key} is {entity!r}; expected a whole number, as {owner.name} "
                "declares it. Nothing was changed."
            ) from None
    if not entity.strip():
        raise ConfigError(f"{owner.entity.key} is empty; expected a key. Nothing was changed.")
    return Subject(owner, find_family(owner), key)


def find(subject: Subject) -> dict[str, rows.Held]:
    """Return where the tables hold an entity: rows by day, by table, by use case."""
    bare = _needle(subject, ())
    return {of.name: rows.find(of, bare) for of in subject.family}


def erase(
    subject: Subject, actor: str, reason: str, settings: Settings, tell: Tell = lambda _: None
) -> Outcome:
    """Erase an entity; safe to repeat, also after a kill at any point.

    Its rows are kept out first. So whatever runs beside this cannot bring them back: what was
    staged or computed before is published without them.

    Parameters
    ----------
    actor, reason
        Who asked for it, and why; kept in receipts.

    Raises
    ------
    ConfigError
        The reason names the entity.
    BusyError
        Another erasure, an upkeep or a backup was at work all the time.
    DamagedError
        A day cannot be read; make it again first.
    """
    if (
        not reason.strip()
        or _needle(subject, ()).is_in_text(reason)
        or str(subject.key) in reason.split()
    ):
        raise ConfigError(
            "The reason is empty or names the entity, and is kept for good. Give one that does "
            "not, such as the number of the request. Nothing was changed."
        )
    erasure = erased.register(subject.owner.name, str(subject.key), actor, reason)
    erased.save(settings.backups)
    tell("kept out of ingestion from now on")
    with _alone(subject.owner.name), _remembering(erasure, settings) as memory:
        needle = _needle(
            subject, memory.personal | rows.personal_values(subject.owner, _needle(subject, ()))
        )
        memory.note(needle.personal, {of.name: rows.find(of, needle) for of in subject.family})
        days = 0
        for of in subject.family:
            held = memory.held.get(of.name, {})
            for table in _in_order(of, held):
                days += rows.rewrite(of, table, held, needle, erasure)
                tell(f"rewritten: {of.name}.{table}")
        sequence = _record(subject, erasure, memory.held)
        snapshots = removed = 0
        for of in subject.family:
            for table in lake.tables(of.name):
                gone, found = forgetting.forget(of.name, table, lambda path: _holds(path, needle))
                snapshots, removed = snapshots + gone, removed + found.files
        tell(f"forgotten: {snapshots} snapshots, {removed} files")
        if values := forget_online(subject.owner, subject.key):
            tell(f"removed from the online store: {values} values")
        changed = files.clean(settings, needle, subject.others)
        for line in changed:
            tell(line)
        databases.blot(settings, needle)
        erased.close(erasure, sequence)
        erased.save(settings.backups)
        left = tuple(prove(subject, needle, settings))
        memory.done = not left
    closed = subject.erasure
    assert closed is not None
    return Outcome(closed, days, snapshots, removed + len(changed), left)


def prove(subject: Subject, needle: Needle, settings: Settings) -> Iterator[str]:
    """Look through all bytes we wrote, and yield where something of an entity is."""
    for tree in files.trees(settings, subject.others):
        yield from files.find(tree, needle)
    yield from databases.find(settings, needle, subject.others)
    if is_online(subject.owner, subject.key):
        yield f"the online store of {subject.owner.name}"


def erase_again(settings: Settings, tell: Tell = lambda _: None) -> list[Erasure]:
    """Erase whom a restored backup has brought back; return those that could not be found.

    Only hashes of them are known: the keys are found by hashing all that the tables hold.
    """
    waiting = erased.merge(settings.backups)
    unknown = []
    for erasure in waiting:
        try:
            owner = load_use_case(erasure.use_case)
        except ConfigError:
            unknown.append(erasure)
            continue
        key = _key_of(erasure, owner)
        if key is None:
            # Not in the tables, and kept out of them; there is nothing else to look for.
            erased.close(erasure, receipts.newest_sequence())
            continue
        subject = find_subject(owner.name, key)
        tell(f"erasing again whom {erasure.actor} erased ({erasure.reason})")
        if erase(subject, erasure.actor, erasure.reason, settings, tell).left:
            unknown.append(erasure)
    erased.save(settings.backups)
    return unknown


def _key_of(erasure: Erasure, owner: UseCase) -> str | None:
    hidden = erased.Suppressed([erasure])
    for of in find_family(owner):
        for table in lake.tables(of.name):
            scan = lake.scan(of.name, table)
            if scan.schema is None or not scan.paths:
                continue
            if owner.entity.key in scan.schema.names:
                pieces = lake.stream(scan, [owner.entity.key], 65_536)
                keys = (set(map(str, p.column(0).unique().to_pylist())) for p in pieces)
            elif {"table", "raw"} <= {*scan.schema.names}:
                keys = (
                    erased.keys_in(row["raw"], erased.sources(owner, row["table"]), owner.key_dtype)
                    for piece in lake.stream(scan, ["table", "raw"], 65_536)
                    for row in piece.to_pylist()
                )
            else:
                continue
            for found in keys:
                if known := hidden.among(found):
                    return known.pop()
    return None


def find_family(owner: UseCase) -> tuple[UseCase, ...]:
    """Return a use case and those that build on it."""
    return (owner, *(found for found in load_use_cases() if found.base == owner.name))


def _needle(subject: Subject, personal: frozenset[str] | tuple[str, ...] | set[str]) -> Needle:
    return needle_of(subject.owner, subject.key, personal)


def _holds(path: str, needle: Needle) -> bool:
    from evergreen.lake.sealed import LakeFileIO

    access = LakeFileIO()
    scheme, netloc, place = access.parse_location(path, access.properties)
    return bool(files.look_into(access.fs_by_scheme(scheme, netloc), place, needle))


def _in_order(use_case: UseCase, held: rows.Held) -> list[str]:
    """Tables that have to be gone through, what is delivered first.

    Who was rejected counts for the table it came for, too.
    """
    named = {part for name in held for part in name.split("/", 1) if part}
    return [
        table
        for table in sorted(lake.tables(use_case.name), key=lambda t: (t not in use_case.tables, t))
        if table in named
    ]


def _record(subject: Subject, erasure: Erasure, held: dict[str, rows.Held]) -> int:
    """Receipt the erasure itself, of each use case, before its snapshots are forgotten."""
    today = receipts.now().date()
    why = {"erasure": erasure.key_hash, "actor": erasure.actor, "reason": erasure.reason}
    for of in subject.family:
        counts = {table: sum(days.values()) for table, days in held.get(of.name, {}).items()}
        with receipts.recording(f"{of.name} {erased.STEP}") as record:
            record([Receipt.of_nothing(of, erased.STEP, today, "erasure", why, counts)])
    return receipts.newest_sequence(*(of.name for of in subject.family))


@contextmanager
def _alone(owner: str) -> Iterator[None]:
    with ledger_engine().begin() as connection:
        take_lock(connection.exec_driver_sql, f"erase {owner}", _LOCK_SECONDS)
        yield
        connection.execute(sa.text("SELECT 1"))


class _Memory:
    """What an erasure has to know after a kill, when the rows that say it may be gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.personal: frozenset[str] = frozenset()
        self.held: dict[str, rows.Held] = {}
        self.done = False
        with suppress(FileNotFoundError):
            known = json.loads(path.read_text(encoding="utf-8"))
            self.personal, self.held = frozenset(known["personal"]), known["held"]

    def note(self, personal: tuple[str, ...], found: dict[str, rows.Held]) -> None:
        self.personal |= {*personal}
        for use_case, tables in found.items():
            of = self.held.setdefault(use_case, {})
            for table, days in tables.items():
                # What an interrupted try has seen is what the day had.
                of[table] = days | of.get(table, {})
        draft = self._path.with_suffix(".unfinished")
        draft.touch(mode=0o600)
        text = {"personal": sorted(self.personal), "held": self.held}
        draft.write_text(json.dumps(text), encoding="utf-8")
        draft.replace(self._path)


@contextmanager
def _remembering(erasure: Erasure, settings: Settings) -> Iterator[_Memory]:
    path = files.remembered(settings) / f"{erasure.key_hash[:32]}.json"
    memory = _Memory(path)
    yield memory
    if memory.done:
        path.unlink(missing_ok=True)
