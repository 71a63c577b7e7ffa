"""The release ledger: an append-only SQL table that decides which model is in charge.

The champion of a use case is the version named by its last entry. That entry may also name a
challenger that is being rolled out, and the share of the entities that get its scores. Entries are
numbered 1, 2, 3, … per use case, and they are appended under a lock: of several actors that append
after the same entry exactly one wins. Each entry carries the hash of the one before.

Notes
-----
The chain shows changed, removed and reordered entries: nothing is appended to one that does not
verify, and a last entry that was changed names no champion. Removal of the newest entries, or a
chain rewritten from some entry on, shows only against a hash that was written down elsewhere: pass
it to `verify`. Triggers refuse UPDATE, DELETE and TRUNCATE; the owner of the database can drop
them, which is what the chain is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Engine, Row, func, select

from evergreen.databases import ledger_engine, take_lock
from evergreen.decisions.stored import canonical_json, digest
from evergreen.errors import LedgerConflictError, LedgerDamagedError, PermanentError
from evergreen.release.ledger_table import LEDGER

Action = Literal["promote", "roll_back", "roll_out", "stop"]
_RELEASES = ("promote", "roll_back")

GENESIS = "0" * 64
"""`previous_hash` of a first entry."""

_LOCK_SECONDS = 60
# Version in charge, challenger, share.
_Step = tuple[int, int | None, float | None]

engine = ledger_engine
"""Connect to the ledger's database."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Parameters
    ----------
    sequence
        1, 2, 3, … within the use case.
    version
        The version in charge from this entry on.
    previous_version
        The version in charge before; None for the first entry.
    actor
        Who or what appended it.
    request
        What asked for it, for example a training run; repeated by a retry.
    evidence
        Canonical JSON; `evidence_digest` is its SHA-256.
    recorded_at
        UTC; never before the entry it follows.
    hash
        SHA-256 over all of the above (evidence by its digest) and `previous_hash`.
    challenger
        The version that is being rolled out from this entry on; None if none is.
    share
        Of the entities that get the challenger's scores, 0 to 1; None without a challenger.
    """

    use_case: str
    sequence: int
    action: Action
    version: int
    previous_version: int | None
    actor: str
    reason: str
    request: str
    evidence: str
    evidence_digest: str
    recorded_at: datetime
    previous_hash: str
    hash: str
    challenger: int | None = None
    share: float | None = None

    @property
    def is_release(self) -> bool:
        """Whether it changed who is in charge; else it is a step of a rollout."""
        return self.action in _RELEASES


def append(
    engine: Engine,
    use_case: str,
    action: Action,
    version: int,
    *,
    actor: str,
    reason: str,
    expected_sequence: int | None = None,
    request: str | None = None,
    evidence: Mapping[str, Any] | None = None,
    challenger: int | None = None,
    share: float | None = None,
) -> Entry:
    """Append one entry after entry `expected_sequence`, or not at all.

    Every entry but a step of a rollout ends the rollout that is on.

    Parameters
    ----------
    version
        Who is in charge from now on; for steps of a rollout, who is and stays.
    expected_sequence
        Number of the entry the decision was based on; 0 for an empty ledger. Nobody may have been
        put in charge since; if it was a step of a rollout, it must be the newest entry. None, for a
        person who decides regardless, appends after whatever is newest.
    request
        What asked for it, for example a training run. The same request for the same action and
        version, made again, returns the entry it made the first time, even if others followed.
    evidence
        JSON-able; stored with the entry.
    challenger, share
        Of `roll_out`: the version that is rolled out, and to whom.

    Returns
    -------
    Entry
        The new entry; or the existing one, when this request made it before, the version to
        promote is in charge already, or the newest entry is this very step or roll-back.

    Raises
    ------
    LedgerConflictError
        Somebody else appended first. Decide again on what the ledger says now.
    BusyError
        Others have been appending for a minute.
    LedgerDamagedError
        The ledger does not verify.
    PermanentError
        A roll-back to the version in charge or to one that never was; a rollout of the version in
        charge, or with nobody in charge; the end of a rollout where none is on.

    Notes
    -----
    The whole chain is verified before anything is chained upon it: O(n_entries).
    """
    version, is_release = int(version), action in _RELEASES
    with engine.begin() as connection:
        take_lock(connection.exec_driver_sql, f"release {use_case}", _LOCK_SECONDS)
        ledger = _read(connection, use_case)
        _require_intact(use_case, _find_problems(ledger))
        head = ledger[-1] if ledger else None
        step = (version, challenger, share)
        if done := _already_done(ledger, action, step, request):
            return done
        found = head.sequence if head else 0
        if expected_sequence is not None and _has_moved_on(ledger, expected_sequence):
            raise LedgerConflictError(_conflict(use_case, action, step, expected_sequence, head))
        if action == "roll_back":
            _require_former_champion(ledger, use_case, version)
        if not is_release:
            _require_rollout(use_case, action, step, head)
        payload = canonical_json(dict(evidence or {}))
        entry = _sealed(
            use_case=use_case,
            sequence=found + 1,
            action=action,
            version=version,
            previous_version=head.version if head else None,
            challenger=challenger,
            share=share,
            actor=actor,
            reason=reason,
            request=request or f"entry {found + 1}",
            evidence=payload,
            evidence_digest=digest(payload),
            recorded_at=_now(connection, head),
            previous_hash=head.hash if head else GENESIS,
        )
        connection.execute(LEDGER.insert().values(**asdict(entry)))
    return entry


@contextmanager
def projecting(engine: Engine, use_case: str) -> Iterator[None]:
    """Be the only one who shows the ledger of a use case elsewhere; others wait.

    What is to be shown must be read inside.

    Raises
    ------
    BusyError
        Others have been at it for a minute.
    """
    with engine.begin() as connection:
        take_lock(connection.exec_driver_sql, f"project {use_case}", _LOCK_SECONDS)
        yield


def newest_hash(engine: Engine, use_case: str) -> str:
    """Return the hash of the last entry; empty for an empty ledger."""
    query = select(LEDGER.c.hash).where(LEDGER.c.use_case == use_case)
    with engine.connect() as connection:
        return connection.execute(query.order_by(LEDGER.c.sequence.desc()).limit(1)).scalar() or ""


def champion(engine: Engine, use_case: str) -> Entry | None:
    """Return the entry that put the present champion in charge; None when there is none.

    Raises
    ------
    LedgerDamagedError
        That entry was changed after it was appended, or the last one was.
    """
    newest = _newest(engine, use_case)
    if newest is None or newest.is_release:
        return newest
    return _newest(engine, use_case, LEDGER.c.action.in_(_RELEASES))


def rollout(engine: Engine, use_case: str) -> Entry | None:
    """Return the newest step of the rollout that is on; None when none is.

    Raises
    ------
    LedgerDamagedError
        That entry was changed after it was appended.
    """
    newest = _newest(engine, use_case)
    return newest if newest and newest.challenger is not None else None


def champion_at(engine: Engine, use_case: str, instant: datetime) -> Entry | None:
    """Return the entry that named the champion of a past instant; None when there was none yet.

    Parameters
    ----------
    instant
        With a zone. An entry counts from the very instant it was recorded at.

    Raises
    ------
    ValueError
        The instant has no zone.
    LedgerDamagedError
        The ledger does not verify: any changed entry may be the one that was in charge.
    """
    if instant.tzinfo is None:
        raise ValueError(f"The instant {instant} has no zone; expected one, such as UTC.")
    ledger = entries(engine, use_case)
    _require_intact(use_case, _find_problems(ledger))
    return max(
        (entry for entry in ledger if entry.is_release and entry.recorded_at <= instant),
        key=lambda entry: entry.sequence,
        default=None,
    )


def entries(engine: Engine, use_case: str) -> list[Entry]:
    """Return the whole ledger of a use case, oldest first, as it is; see `verify`."""
    with engine.connect() as connection:
        return _read(connection, use_case)


def releases(engine: Engine, use_case: str) -> list[Entry]:
    """Return the entries that changed who is in charge, oldest first; see `entries`."""
    return [entry for entry in entries(engine, use_case) if entry.is_release]


def verify(engine: Engine, use_case: str, anchor: tuple[int, str] | None = None) -> tuple[str, ...]:
    """Return what is wrong with the ledger of a use case; empty when it is intact.

    Parameters
    ----------
    anchor
        Sequence and hash of an entry, written down elsewhere when it was the newest. Without it,
        a ledger that was cut off at its end looks intact.
    """
    ledger = entries(engine, use_case)
    problems = _find_problems(ledger)
    if anchor and anchor not in {(entry.sequence, entry.hash) for entry in ledger}:
        problems.append(f"entry {anchor[0]} with hash {anchor[1]} is missing")
    return tuple(problems)


def tell_damage(use_case: str, problems: Sequence[str]) -> str:
    """Say what is wrong with a ledger (see `verify`), what follows from it, and what to do."""
    return (
        f"The release ledger of {use_case} is not as it was written: {'; '.join(problems)}. Until "
        "that is settled nothing is promoted or rolled back. Find out who changed the table "
        "release_ledger, and bring it back from a backup (`evergreen restore`)."
    )


def _newest(engine: Engine, use_case: str, *conditions: ColumnElement[bool]) -> Entry | None:
    query = select(LEDGER).where(LEDGER.c.use_case == use_case, *conditions)
    with engine.connect() as connection:
        row = connection.execute(query.order_by(LEDGER.c.sequence.desc()).limit(1)).first()
    if row is None:
        return None
    entry = _entry(row)
    _require_intact(use_case, _find_changes(entry))
    return entry


def _read(connection: Connection, use_case: str) -> list[Entry]:
    query = select(LEDGER).where(LEDGER.c.use_case == use_case).order_by(LEDGER.c.sequence)
    return [_entry(row) for row in connection.execute(query)]


def _require_intact(use_case: str, problems: Sequence[str]) -> None:
    if problems:
        raise LedgerDamagedError(tell_damage(use_case, problems))


def _find_changes(entry: Entry) -> list[str]:
    """Say what of one entry is not what was sealed in its hashes."""
    problems = []
    if digest(entry.evidence) != entry.evidence_digest:
        problems.append(f"entry {entry.sequence}: the evidence was changed")
    if _hash(asdict(entry)) != entry.hash:
        problems.append(f"entry {entry.sequence}: its content does not give its hash")
    return problems


def _find_problems(ledger: Sequence[Entry]) -> list[str]:
    problems = [problem for entry in ledger for problem in _find_changes(entry)]
    if ledger and (ledger[0].sequence != 1 or ledger[0].previous_hash != GENESIS):
        problems.append(f"the first entry is number {ledger[0].sequence}; entries are missing")
    for before, after in pairwise(ledger):
        if after.sequence != before.sequence + 1:
            problems.append(f"entries between {before.sequence} and {after.sequence} are missing")
        if after.previous_hash != before.hash or after.previous_version != before.version:
            problems.append(f"entry {after.sequence} does not follow from entry {before.sequence}")
        if after.recorded_at < before.recorded_at:
            problems.append(f"entry {after.sequence} is older than entry {before.sequence}")
    return problems


def _already_done(
    ledger: Sequence[Entry], action: Action, step: _Step, request: str | None
) -> Entry | None:
    for entry in ledger:
        if (entry.request, entry.action, _step(entry)) == (request, action, step):
            return entry
    head = ledger[-1] if ledger else None
    if head is None or head.version != step[0]:
        return None
    if action == "promote":
        return max((e for e in ledger if e.is_release), key=lambda e: e.sequence)
    return head if (head.action, _step(head)) == (action, step) else None


def _has_moved_on(ledger: Sequence[Entry], expected_sequence: int) -> bool:
    """Whether what was decided on is no longer so: see `append`."""
    if not ledger:
        return expected_sequence != 0
    if expected_sequence > ledger[-1].sequence:
        return True
    later = [entry for entry in ledger if entry.sequence > expected_sequence]
    was_step = expected_sequence > 0 and not ledger[expected_sequence - 1].is_release
    return any(entry.is_release for entry in later) or (was_step and bool(later))


def _require_rollout(use_case: str, action: Action, step: _Step, head: Entry | None) -> None:
    version, challenger, share = step
    if head is None or head.version != version:
        raise PermanentError(
            f"{use_case}: there is no rollout beside version {version}, which is not in charge "
            f"({head.version if head else 'nobody'} is). Promote a first version."
        )
    if action == "stop" and head.challenger is None:
        raise PermanentError(f"{use_case}: no rollout is on, so there is none to stop.")
    if action == "roll_out" and (challenger in (None, version) or not 0 <= (share or 0) <= 1):
        raise PermanentError(
            f"{use_case}: found version {challenger} and a share of {share} to roll out beside "
            f"version {version}; expected another version, and a share from 0 to 1."
        )


def _require_former_champion(ledger: Sequence[Entry], use_case: str, version: int) -> None:
    in_charge = ledger[-1].version if ledger else None
    former = {entry.version for entry in ledger} - {in_charge}
    if version not in former:
        raise PermanentError(
            f"Cannot roll {use_case} back to version {version}: "
            f"{'it is in charge now' if version == in_charge else 'it never was champion'}. "
            f"Former champions: {', '.join(map(str, sorted(former))) or 'none'}."
        )


def _now(connection: Connection, head: Entry | None) -> datetime:
    # Not the transaction's time: that began before the lock was waited for.
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    # The clock of a database may be set back by a little; order in time must not break.
    return max(now.astimezone(UTC), head.recorded_at) if head else now.astimezone(UTC)


def _entry(row: Row[Any]) -> Entry:
    stored = row._mapping
    # The server answers in a zone of its own.
    return Entry(**{**stored, "recorded_at": stored["recorded_at"].astimezone(UTC)})


def _sealed(**content: Any) -> Entry:
    return Entry(**content, hash=_hash(content))


def _hash(content: Mapping[str, Any]) -> str:
    sealed = {key: value for key, value in content.items() if key not in ("evidence", "hash")}
    for later in ("challenger", "share"):
        # Entries of before there were rollouts are hashed without.
        if sealed[later] is None:
            del sealed[later]
    sealed["recorded_at"] = sealed["recorded_at"].isoformat(timespec="microseconds")
    return digest(canonical_json(sealed))


def _conflict(
    use_case: str, action: Action, step: _Step, expected_sequence: int, head: Entry | None
) -> str:
    now = "nothing"
    if head:
        now = f"entry {head.sequence}: version {head.version} was put in charge ({head.action})"
        if not head.is_release:
            now = f"entry {head.sequence}: version {head.version} is in charge ({head.action})"
        now += f" by {head.actor}, because: {head.reason.rstrip('.')}"
    version, challenger, _ = step
    return (
        f"{use_case}: cannot {action} version {challenger or version} after entry "
        f"{expected_sequence}: the ledger ends with {now}. Compare with the present champion and "
        "decide again."
    )


def _step(entry: Entry) -> _Step:
    return entry.version, entry.challenger, entry.share
