"""What was decided, with the evidence it was decided on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from evergreen.contract import UseCase
from evergreen.decisions.gate import PromotionEvidence, PromotionVerdict, read_promotion
from evergreen.provenance import receipts
from evergreen.views.reading import Row, read_rows
from evergreen.views.remembered import remembered

_TOLD = ("kind", "decision", "trigger", "version", "reasons", "verdict")


@remembered
def decisions(use_case: UseCase, first: date, last: date) -> Sequence[Row]:
    """Return the decisions of some days, both ends included, without their evidence."""
    return read_rows(use_case, "decisions", first, last, _TOLD)


@remembered
def on(use_case: UseCase, day: date) -> Sequence[Row]:
    """Return the decisions of a day, with their evidence."""
    return read_rows(use_case, "decisions", day, day)


def of_governor(use_case: UseCase, first: date, last: date) -> list[Row]:
    """Return what the governor said on some nights, oldest first; see `decisions`."""
    return [row for row in decisions(use_case, first, last) if row["kind"] == "governor"]


def newest_night(use_case: UseCase) -> date | None:
    """Return the newest day of which the governor has said anything."""
    return max((day for day, _ in _recorded(use_case, "governor")), default=None)


@remembered
def judged_on(use_case: UseCase) -> dict[int, date]:
    """Return the day of each version that the gate has judged."""
    return {int(part["version"]): day for day, part in _recorded(use_case, "gate")}


@remembered
def judged(use_case: UseCase, version: int) -> tuple[PromotionEvidence, PromotionVerdict] | None:
    """Return what the gate saw of a version and said; None if it has not judged it."""
    day = judged_on(use_case).get(version)
    if day is None:
        return None
    (row,) = (
        row for row in on(use_case, day) if (row["kind"], row["version"]) == ("gate", version)
    )
    return read_promotion(row)


def _recorded(use_case: UseCase, kind: str) -> Iterator[tuple[date, dict[str, Any]]]:
    """Yield the days of a kind of decision by their receipts, so that no file is opened."""
    for day, parts in receipts.standing(use_case.name, "decisions").items():
        yield from ((day, part) for part, _ in parts if part.get("kind") == kind)
