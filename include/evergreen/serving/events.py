"""Events between two batches: those that wait are taken together, and move online values on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa

from evergreen import lake
from evergreen.contract import Events, UseCase
from evergreen.errors import BusyError, NotReadyError, PermanentError
from evergreen.features.store import pushed
from evergreen.features.store.push import move_on
from evergreen.features.store.pushed import Pushed, content_of
from evergreen.provenance import erased, receipts
from evergreen.quality.pushed import judge_events

PUBLISHED_DAY = "published_day"
"""What an event breaks whose day has been published without it."""

_ONE_DAY = timedelta(days=1)
# Events that are taken at once, and that may wait.
_AT_ONCE, _WAITING = 10_000, 100_000


@dataclass(frozen=True)
class Request:
    """Events of one table that somebody sends, by the names of the source's columns."""

    table: str
    events: Sequence[Mapping[str, Any]]


@dataclass
class Taken:
    """What became of a request.

    Parameters
    ----------
    accepted, duplicates
        How many move values on; how many are there already.
    refused
        Which are not taken, by their number from 0, and the rules that they break.
    erased
        How many are about entities that were erased: counted, and kept nowhere.
    as_of
        Instant that the new values bear; None if nothing moved.
    """

    accepted: int = 0
    duplicates: int = 0
    refused: dict[int, Sequence[str]] = field(default_factory=dict)
    erased: int = 0
    as_of: datetime | None = None


class Intake:
    """Takes events, a micro-batch at a time; what comes meanwhile is the next one."""

    def __init__(self, use_case: UseCase, clock: Callable[[], datetime]) -> None:
        self._use_case, self._clock = use_case, clock
        self._waiting: list[tuple[Request, asyncio.Future[Taken]]] = []
        self._work: asyncio.Task[None] | None = None

    async def take(self, request: Request) -> Taken:
        """Take the events of a request, with those of others.

        Raises
        ------
        BusyError
            Too many wait.
        """
        waiting = sum(len(other.events) for other, _ in self._waiting)
        if waiting + len(request.events) > _WAITING:
            raise BusyError(f"{waiting:,} events wait to be taken. Send these again later.")
        answer: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._take_all())
        return await answer

    async def _take_all(self) -> None:
        while self._waiting:
            batch, events = [], 0
            while self._waiting and events <= _AT_ONCE - len(self._waiting[0][0].events):
                batch.append(self._waiting.pop(0))
                events += len(batch[-1][0].events)
            await self._take(batch)

    async def _take(self, batch: Sequence[tuple[Request, asyncio.Future[Taken]]]) -> None:
        requests = [request for request, _ in batch]
        try:
            found = await asyncio.to_thread(take, self._use_case, requests, self._clock)
        except PermanentError as error:
            if len(batch) > 1:
                # One that cannot be taken is no reason to refuse the others.
                for one in batch:
                    await self._take([one])
                return
            _fail(batch, error)
        except Exception as error:
            # Whoever waits is told, whatever it is.
            _fail(batch, error)
        else:
            for taken, (_, answer) in zip(found, batch, strict=True):
                if not answer.done():
                    answer.set_result(taken)


def _fail(batch: Sequence[tuple[Request, asyncio.Future[Taken]]], error: Exception) -> None:
    for _, answer in batch:
        # Whoever went away waits no more.
        if not answer.done():
            answer.set_exception(error)


def take(
    use_case: UseCase, requests: Sequence[Request], clock: Callable[[], datetime]
) -> list[Taken]:
    """Take events and move the online values of their entities on, all or nothing.

    Raises
    ------
    ConfigError
        The SQL of the use case fails on what the events make of its tables.
    NotReadyError
        The definitions were not applied, or there will be no batch of today.
    ServiceDownError
        A database does not answer.
    """
    taken = [Taken() for _ in requests]
    with pushed.alone(use_case) as of:
        now = clock()
        today = use_case.day_at(now)
        if use_case.last_day is not None and today > use_case.last_day:
            raise NotReadyError(
                f"The data of {use_case.name} end on {use_case.last_day} (last_day in "
                f"use_case.yaml), and it is {today}: no batch will follow."
            )
        entities: set[str] = set()
        for name in {request.table for request in requests}:
            table = use_case.events[name]
            # By the number of the request, also of those that are about other tables.
            batches = [request.events if request.table == name else () for request in requests]
            entities |= _take(use_case, table, batches, today, of, taken)
        move_on(use_case, of, entities, now)
    for request, outcome in zip(requests, taken, strict=True):
        refused = len(outcome.refused) + outcome.erased
        outcome.duplicates = len(request.events) - outcome.accepted - refused
        outcome.as_of = now if outcome.accepted else None
    return taken


def _take(
    use_case: UseCase,
    table: Events,
    batches: Sequence[Sequence[Mapping[str, Any]]],
    today: date,
    of: Pushed,
    taken: Sequence[Taken],
) -> set[str]:
    """Keep the events of a table that are new; return whom they are about."""
    rows, refused = judge_events(table, batches, today)
    for one in refused:
        taken[one.batch].refused[one.event] = one.rules
    days = set(rows["day"].to_pylist())
    known, published = of.known(table, days), _published(use_case, table, days)
    hidden = erased.Suppressed(erased.erasures(use_case.name))
    gone = hidden.among(set(rows[table.entity_key].cast(pa.string()).to_pylist()))
    new = []
    for row in rows.to_pylist():
        outcome, key = taken[row["batch"]], str(row[table.row_key])
        before = known.get((row["day"], key))
        if str(row[table.entity_key]) in gone:
            outcome.erased += 1
        elif before is not None:
            if before != content_of(table, row):
                outcome.refused[row["event"]] = (f"{table.row_key}_conflict",)
        elif row["day"] in published:
            if key not in published[row["day"]]:
                outcome.refused[row["event"]] = (PUBLISHED_DAY,)
        else:
            new.append(row)
            outcome.accepted += 1
    of.add(table, new)
    return {str(row[table.entity_key]) for row in new}


def _published(
    use_case: UseCase, table: Events, days: Collection[date]
) -> Mapping[date, Collection[str]]:
    """Return the keys of those of some days that are published."""
    if not days:
        return {}
    names = use_case.name, table.name
    receipted = receipts.latest(
        use_case.name, f"publish_{table.name}", min(days), max(days) + _ONE_DAY
    )
    found = {}
    for day in receipted.keys() & days:
        rows = lake.read(*names, day, day + _ONE_DAY, columns=[str(table.row_key)])
        found[day] = set(rows[table.row_key].cast(pa.string()).to_pylist())
    return found
