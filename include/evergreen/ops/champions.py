"""Who was in charge, from when to when, by whom and why: the release ledger, for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evergreen.contract import UseCase, load_use_case, parse_instant
from evergreen.errors import LedgerDamagedError, NotReadyError
from evergreen.release import ledger
from evergreen.release.ledger import Entry

if TYPE_CHECKING:
    from evergreen.pages import Format


def show_champions(name: str) -> None:
    """Print all champions with their terms, oldest first, in the use case's zone.

    Raises
    ------
    LedgerDamagedError
        The ledger does not verify; it is printed all the same.
    """
    use_case, console = load_use_case(name), Console()
    found = ledger.releases(ledger.engine(), name)
    if not found:
        console.print(f"{name}: nobody has been in charge yet.", highlight=False)
        return
    columns = ("entry", "version", "from", "until", "by", "because")
    table = Table(*columns, title=f"Champions of {name}")
    for entry, until in _terms(use_case, found):
        table.add_row(
            str(entry.sequence),
            str(entry.version),
            _local(use_case, entry.recorded_at),
            until,
            escape(f"{entry.actor} ({_action(entry)})"),
            escape(entry.reason),
        )
    console.print(table)
    if damage := ledger.verify(ledger.engine(), name):
        raise LedgerDamagedError(ledger.tell_damage(name, damage))


def show_champion_at(name: str, text: str) -> None:
    """Print who was in charge at an instant: since and until when, by whom, why.

    Parameters
    ----------
    text
        See `parse_instant`.

    Raises
    ------
    ConfigError
        It is no instant.
    LedgerDamagedError
        The ledger does not verify.
    """
    use_case, console = load_use_case(name), Console()
    instant = parse_instant(text, use_case.zone)
    entry = ledger.champion_at(ledger.engine(), name, instant)
    terms = dict(_terms(use_case, ledger.releases(ledger.engine(), name)))
    lines = [f"{name} at {_local(use_case, instant)}: nobody was in charge yet"]
    if entry:
        lines = [
            f"{name} at {_local(use_case, instant)}: version {entry.version}",
            f"  from     {_local(use_case, entry.recorded_at)}",
            f"  until    {terms[entry]}",
            f"  by       {entry.actor} ({_action(entry)}), entry {entry.sequence} of the ledger",
            f"  because  {entry.reason}",
        ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def find_card(name: str, version: int | None, format_: Format) -> str:
    """Find the card of a version; of the champion if none is named.

    Raises
    ------
    NotReadyError
        There is no champion, no such version, or it has no card.
    """
    from evergreen.training.tracking import fetch_card

    if version is None:
        entry = ledger.champion(ledger.engine(), name)
        if entry is None:
            raise NotReadyError(
                f"{name} has no champion yet. Name a version with --version, or train and promote "
                "one."
            )
        version = entry.version
    return fetch_card(load_use_case(name), version, format_)


def _terms(use_case: UseCase, found: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Return entries with the end of their term."""
    ends = [_local(use_case, after.recorded_at) for _, after in pairwise(found)]
    return list(zip(found, [*ends, "now"], strict=True)) if found else []


def _local(use_case: UseCase, instant: datetime) -> str:
    return instant.astimezone(ZoneInfo(use_case.zone)).isoformat(" ", "seconds")


def _action(entry: Entry) -> str:
    return entry.action.replace("_", " ")
