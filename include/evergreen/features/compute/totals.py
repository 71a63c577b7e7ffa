"""Where a step gets what it computes from: files of recent days, and totals of all before."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import chain
from typing import Any

import pyarrow as pa

from evergreen import lake
from evergreen.contract import AnyTable, Events, UseCase, load_use_case
from evergreen.errors import ConfigError, DamagedError
from evergreen.features.compute.daily import iter_totals
from evergreen.features.compute.past import Given, Totals
from evergreen.lake.content import ORIGINS, STAMPS, digest_by_day
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk

logger = logging.getLogger(__name__)

_ONE_DAY = timedelta(days=1)


def plan(
    use_case: UseCase,
    tables: Iterable[AnyTable],
    days: Sequence[date],
    end: date,
    basis: int,
    snapshots: Mapping[str, int] | None = None,
    *,
    keep: bool = True,
) -> tuple[dict[str, Given], dict[str, int]]:
    """Plan what features or labels of some days are computed from, one snapshot of each table.

    Parameters
    ----------
    days
        The as-of days, ascending.
    end
        Day from which on rows are not needed.
    basis
        Newest receipt there was before anything was read, for the receipts of totals.
    snapshots
        By table, 0 for none; the current one of a table that is absent.
    keep
        Whether totals that had to be computed are published.

    Returns
    -------
    tuple
        What there is of each table, and the snapshot it was planned from (0 for none).

    Notes
    -----
    Totals that are not there, or that days have been corrected under, are computed from the newest
    that still hold, and published.
    """
    # Totals belong to whoever has the tables.
    owner = load_use_case(use_case.base) if use_case.base else use_case
    given, used = {}, {}
    for table in tables:
        chosen = (snapshots or {}).get(table.name)
        snapshot = lake.snapshot_id(owner.name, table.name) if chosen is None else chosen or None
        used[table.name] = snapshot or 0
        if snapshot is None:
            continue
        totals = None
        if isinstance(table, Events) and table.daily is not None:
            totals = _totals_for(owner, owner.events[table.name], days, snapshot, basis, keep)
        start = totals.before if totals else None
        paths = lake.scan(owner.name, table.name, start, end, snapshot).paths
        given[table.name] = Given(paths, totals)
    return given, used


def _totals_for(
    use_case: UseCase,
    table: Events,
    days: Sequence[date],
    snapshot: int,
    basis: int,
    keep: bool,
) -> Totals | None:
    """Return the totals that the first of some days starts from; None if it needs none.

    A period publishes the totals of all its days, so that the table does not depend on whether
    days are run one by one or at once.
    """
    assert table.daily is not None
    needed = {table.daily.stored_before(day) for day in days}
    # Before the first day there is nothing to sum up: such days look back on all rows singly.
    boundaries = sorted(boundary for boundary in needed if boundary > use_case.first_day)
    if not boundaries:
        return None
    first = _Totals(use_case, table, snapshot, basis, keep=keep).ensure(boundaries)
    return first if first.before == table.daily.stored_before(days[0]) else None


class _Totals:
    """The stored totals of one table, held against one snapshot of it."""

    def __init__(
        self, use_case: UseCase, table: Events, snapshot: int, basis: int, *, keep: bool
    ) -> None:
        self._use_case, self._table = use_case, table
        self._snapshot, self._basis, self._keep = snapshot, basis, keep
        self._name = f"{table.name}_totals"
        self._stored: dict[date, receipts.Receipt] = {}

    def ensure(self, boundaries: list[date]) -> Totals:
        """Publish those that do not hold at a boundary; return those at the first."""
        started, contract = time.monotonic(), self._use_case.contract_digest(self._name)
        published = receipts.latest(
            self._use_case.name, f"publish_{self._name}", end=boundaries[-1]
        )
        self._stored = {
            day + _ONE_DAY: receipt
            for day, receipt in published.items()
            if receipt.output_snapshot and receipt.contract_digest == contract
        }
        if all(boundary in self._stored and self._is_current(boundary) for boundary in boundaries):
            first = self._read(boundaries[0])
            if first is not None:
                return first
        # Now it takes the list of all files, which is what a new receipt must state in any case.
        files = lake.files(self._use_case.name, self._table.name, boundaries[-1], self._snapshot)
        states = _states(files, {*self._stored, *boundaries})
        missing = [boundary for boundary in boundaries if not self._holds(boundary, states)]
        # One at a time: a long period has many.
        renewed = (
            totals
            for boundary in boundaries
            if boundary not in missing and (totals := self._read(boundary))
        )
        first = None
        for totals in chain(renewed, self._compute(missing, files, states)):
            # Those that hold are receipted again, so that the next run need not list the files.
            if self._keep:
                self._publish(totals, states[totals.before], started)
            if totals.before == boundaries[0]:
                first = totals
        assert first is not None
        return first

    def _compute(
        self, missing: list[date], files: lake.Files, states: Mapping[date, str]
    ) -> Iterator[Totals]:
        if not missing:
            return iter(())
        older = sorted((before for before in self._stored if before < missing[0]), reverse=True)
        start = next((before for before in older if self._holds(before, states)), None)
        older_totals = self._read(start) if start else None
        return iter_totals(
            self._table, Given(files.paths(start, missing[-1]), older_totals), missing
        )

    def _read(self, before: date) -> Totals | None:
        # By content, not by snapshot: another run may have replaced the day since, from other
        # rows, and the snapshot may have been expired.
        day = before - _ONE_DAY
        try:
            rows = lake.read_day(self._use_case.name, self._name, day)
        except DamagedError as error:
            logger.warning("Computing again: %s", error)
            return None
        same = digest_by_day(rows, [day], STAMPS | ORIGINS)[day] == self._stored[before].content
        return Totals(before, rows) if same else None

    def _is_current(self, before: date) -> bool:
        # Another run may have read an older snapshot or a newer one.
        made_of = int(self._stored[before].inputs[self._table.name])
        return any(
            lake.is_unchanged_before(self._use_case.name, self._table.name, before, since, until)
            for since, until in ((made_of, self._snapshot), (self._snapshot, made_of))
        )

    def _holds(self, before: date, states: Mapping[date, str]) -> bool:
        stored = self._stored.get(before)
        same_rows = stored is not None and stored.inputs["state"] == states[before]
        return same_rows and self._read(before) is not None

    def _publish(self, totals: Totals, state: str, started: float) -> None:
        day, rows = totals.before - _ONE_DAY, totals.rows
        inputs: dict[str, Any] = {self._table.name: self._snapshot, "state": state}
        counts = {day.isoformat(): {"rows": rows.num_rows}}
        batch = Staged(self._use_case.name, day.isoformat(), "", inputs=inputs, counts=counts)
        self._require_known_types(totals)
        if "day" not in rows.column_names:
            partition = pa.repeat(pa.scalar(day, pa.date32()), rows.num_rows)
            rows = rows.append_column("day", partition)
        publish_chunk(
            replace(batch, basis=self._basis).with_seconds(started),
            f"publish_{self._name}",
            self._name,
            rows,
            [day],
        )

    def _require_known_types(self, totals: Totals) -> None:
        """Refuse a column of another type than the table has it with: it would not fit in."""
        table = lake.scan(self._use_case.name, self._name, totals.before, totals.before).schema
        if table is None:
            return
        for field in totals.rows.schema:
            if field.name not in table.names:
                continue
            known = str(table.field(field.name).type).removeprefix("large_")
            if known != str(field.type):
                raise ConfigError(
                    f"{self._table.where}.daily.columns: {field.name} is {field.type}; the table "
                    f"{self._name} has it as {known}. Give the changed column another name."
                )


def _states(files: lake.Files, boundaries: set[date]) -> dict[date, str]:
    """Digest of the rows before each boundary.

    A day's rows are known by the names of their files: no two writes share one, and the files are
    those of the very snapshot that the other days are read from.
    """
    digest = hashlib.sha256()
    waiting, states = sorted(boundaries), {}
    for day, paths in files.by_day.items():
        while waiting and waiting[0] <= day:
            states[waiting.pop(0)] = digest.hexdigest()[:16]
        names = sorted(path.rsplit("/", 1)[-1] for path in paths)
        digest.update(f"{day} {' '.join(names)}\n".encode())
    return states | dict.fromkeys(waiting, digest.hexdigest()[:16])
