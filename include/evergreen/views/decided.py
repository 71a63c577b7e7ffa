"""What was decided, with the evidence it was decided on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from evergreen.contract import UseCase
from evergreen.decisions.gate import PromotionEvidence, PromotionVerdict, read_promotion
from evergreen.decisions.governor import RetrainingEvidence, RetrainingVerdict, read_retraining
from evergreen.views.reading import Row, read_rows
from evergreen.views.remembered import remembered

_TOLD = ("kind", "decision", "trigger", "version", "reasons", "verdict")


@remembered
def decisions(use_case: UseCase) -> Sequence[Row]:
    """Return all decisions without their evidence, oldest day first."""
    return read_rows(use_case, "decisions", columns=_TOLD)


def of_kind(use_case: UseCase, kind: str) -> list[Row]:
    """Return the decisions of one kind, oldest day first."""
    return [row for row in decisions(use_case) if row["kind"] == kind]


@remembered
def night(use_case: UseCase, day: date) -> tuple[RetrainingEvidence, RetrainingVerdict] | None:
    """Return what the governor saw and said on a night; None if it has said nothing."""
    for row in _of_day(use_case, day, "governor"):
        return read_retraining(row)
    return None


@remembered
def judged(use_case: UseCase, version: int) -> tuple[PromotionEvidence, PromotionVerdict] | None:
    """Return what the gate saw of a version and said; None if it has not judged it."""
    for told in of_kind(use_case, "gate"):
        if told["version"] == version:
            for row in _of_day(use_case, told["day"], "gate"):
                if row["version"] == version:
                    return read_promotion(row)
    return None


def _of_day(use_case: UseCase, day: date, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(use_case, "decisions", day, day) if row["kind"] == kind]
