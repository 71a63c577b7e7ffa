"""Events that are pushed between two batches, judged by the rules that ingestion judges rows by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from evergreen.contract import Events
from evergreen.quality.split import select_days, split_rows
from evergreen.settings import load_settings
from evergreen.sources.base import raw_table, required_columns, value_as_text

FUTURE_DAY = "future_day"
"""What an event breaks that is dated later than the day it is pushed on."""


@dataclass(frozen=True)
class Refused:
    """An event that is not taken.

    Parameters
    ----------
    batch, event
        Numbers of the batch and of the event in it, from 0.
    rules
        What it breaks, sorted.
    """

    batch: int
    event: int
    rules: tuple[str, ...]


def judge_events(
    table: Events, batches: Sequence[Sequence[Mapping[str, Any]]], today: date
) -> tuple[pa.Table, list[Refused]]:
    """Split pushed events into rows of the table and refused ones.

    Parameters
    ----------
    batches
        Events by the names of the source's columns: what they lack is absent, and what no column
        maps is not looked at.
    today
        The newest day that there can be events of.

    Returns
    -------
    tuple
        Rows of the table, with `batch` and `event` as of the refused ones; and these. What is in
        neither is equal to an earlier event.

    Raises
    ------
    ConfigError
        `today` lies before the first day, or the SQL of the rules fails.
    """
    settings = load_settings()
    raw, days = _raw(table, batches), (table.setting.first_day, today + timedelta(days=1))
    threads, memory_mb = settings.threads, settings.memory_mb
    split = split_rows(table, raw, *days, threads=threads, memory_mb=memory_mb)
    refused = [
        Refused(int(row["source"]), row["row"], tuple(row["rules"]))
        for row in split.quarantined.select(["source", "row", "rules"]).to_pylist()
    ]
    if split.excluded:
        kept = select_days(table, raw, *days, threads=threads)
        refused += _others(raw, kept)
    # By where the rows came from.
    places = {_row_id(n, m): (n, m) for n, batch in enumerate(batches) for m in range(len(batch))}
    found = [places[row_id] for row_id in split.accepted["row_id"].to_pylist()]
    rows = split.accepted
    for at, name in enumerate(("batch", "event")):
        rows = rows.append_column(name, pa.array([place[at] for place in found], pa.int64()))
    return rows, refused


def _row_id(batch: int, event: int) -> str:
    """Return what `split_rows` makes of source and row."""
    return hashlib.md5(f"{batch}|{event}".encode(), usedforsecurity=False).hexdigest()


def _raw(table: Events, batches: Sequence[Sequence[Mapping[str, Any]]]) -> pa.Table:
    events = [event for batch in batches for event in batch]
    names = required_columns(table)
    texts = [[value_as_text(event.get(name)) for name in names] for event in events]
    errors = [_error(of) for of in texts]
    # As of a line that could not be split into columns.
    rows = [[None] * len(names) if error else of for of, error in zip(texts, errors, strict=True)]
    return raw_table(
        {name: pa.array([of[n] for of in rows], pa.string()) for n, name in enumerate(names)},
        source=pa.array([str(n) for n, batch in enumerate(batches) for _ in batch], pa.string()),
        rows=pa.array([n for batch in batches for n in range(len(batch))], pa.int64()),
        errors=pa.array(errors, pa.string()),
    )


def _error(texts: Sequence[str | None]) -> str | None:
    """Say what no database takes."""
    whole = "".join(filter(None, texts))
    try:
        whole.encode()
    except UnicodeEncodeError as error:
        return f"a value is no text: {error}"
    return "a value holds a zero character" if "\0" in whole else None


def _others(raw: pa.Table, kept: pa.Table) -> Iterator[Refused]:
    """Yield the rows that were not kept: they belong to later days."""
    names = ["_source", "_row"]
    held = {tuple(row.values()) for row in kept.select(names).to_pylist()}
    for row in raw.select(names).to_pylist():
        if tuple(row.values()) not in held:
            yield Refused(int(row["_source"]), row["_row"], (FUTURE_DAY,))
