"""`evergreen erase`: what would be done, what was done, and which backups still hold it."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from evergreen.erasure import run
from evergreen.erasure.run import Outcome, Subject
from evergreen.ops.backup import manifest
from evergreen.settings import Settings

# As the DAG `maintenance` keeps them, unless it is told otherwise.
_KEPT_BACKUPS = 4
_WEEK = timedelta(weeks=1)


def tell_plan(subject: Subject, asked: str) -> Iterator[str]:
    """Say where an entity is, and what an erasure will do; changes nothing."""
    owner = subject.owner
    if asked != owner.name:
        yield (
            f"{asked} builds on {owner.name}, which has the tables and features: it is erased "
            "there, and from all that builds on it."
        )
    known = subject.erasure
    if known is not None:
        state = f"erased by receipt {known.closed}" if known.closed else "begun, and not finished"
        yield f"Asked for on {known.asked_at:%Y-%m-%d %H:%M} UTC by {known.actor}: {state}."
    total = 0
    for name, tables in run.find(subject).items():
        for table, days in sorted(tables.items()):
            total += sum(days.values())
            span = f"{min(days)} to {max(days)}" if len(days) > 1 else min(days)
            yield f"  {name}.{table}: {sum(days.values()):,} rows on {len(days):,} days ({span})"
    if not total:
        yield (
            "No table holds it now. Its rows will not be ingested, older snapshots are forgotten "
            "all the same, and everything else is looked through."
        )
    yield (
        f"These days are rewritten without it. Of all tables of {_listed(subject)} every earlier "
        "snapshot is forgotten, those of trainings too: trainings and outputs of before cannot be "
        "replayed any more. Online values, validation results, reports, logs and examples of "
        "input are cleaned. From now on its rows are counted and not stored."
    )


def tell_outcome(outcome: Outcome, settings: Settings) -> Iterator[str]:
    """Say what was done, what is left, and what backups hold."""
    erasure = outcome.erasure
    yield (
        f"{outcome.days:,} days rewritten or looked at, {outcome.snapshots:,} snapshots forgotten, "
        f"{outcome.files:,} files removed or cleaned; receipt {erasure.closed}."
    )
    yield from tell_backups(settings)
    if not outcome.left:
        yield "Nothing of it is left in any file or table."
        return
    yield f"Something of it is left in {len(outcome.left)} places:"
    yield from (f"  {where}" for where in outcome.left)
    yield (
        "Runs that were at work may have written these: let them end, and run the same command "
        "again. What stays is not ours to change: remove it where it is (docs/erasure.md)."
    )


def tell_backups(settings: Settings) -> Iterator[str]:
    """Say which backups were made before, and until when they are kept."""
    held = [*manifest.complete_in(settings.backups)]
    if not held:
        yield f"There are no backups in {settings.backups}."
        return
    yield (
        f"Backups hold it still. Maintenance keeps the newest {_KEPT_BACKUPS} (`keep_backups`); a "
        "restore of one of them erases again by itself."
    )
    for newer, directory in enumerate(reversed(held)):
        weeks = max(1, _KEPT_BACKUPS - newer)
        made = datetime.fromisoformat(manifest.made_at(directory))
        yield (
            f"  {directory} of {made:%Y-%m-%d}: until about "
            f"{_newest(held) + weeks * _WEEK:%Y-%m-%d}, or rm -r {shlex.quote(str(directory))}"
        )


def asking() -> str:
    """Name the user of the operating system who runs this."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def _newest(held: list[Path]) -> datetime:
    return datetime.fromisoformat(manifest.made_at(held[-1]))


def _listed(subject: Subject) -> str:
    return ", ".join(of.name for of in subject.family)
