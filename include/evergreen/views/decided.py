"""What was decided, with the evidence it was decided on."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.decisions.gate import PromotionEvidence, PromotionVerdict, read_promotion
from evergreen.views.reading import Row
from evergreen.views.remembered import remembered

_TOLD = ("kind", "decision", "trigger", "version", "reasons", "verdict")


@remembered
def decisions(use_case: UseCase) -> Sequence[Row]:
    """Return all decisions without their evidence, oldest day first."""
    return lake.rows(use_case.name, "decisions", columns=_TOLD)


def of_kind(use_case: UseCase, kind: str) -> list[Row]:
    """Return the decisions of one kind, oldest day first."""
    return [row for row in decisions(use_case) if row["kind"] == kind]


@remembered
def judged(use_case: UseCase, version: int) -> tuple[PromotionEvidence, PromotionVerdict] | None:
    """Return what the gate saw of a version and said; None if it has not judged it."""
    for told in of_kind(use_case, "gate"):
        if told["version"] == version:
            (row,) = lake.rows(
                *(use_case.name, "decisions", told["day"], told["day"]),
                equal={"kind": "gate", "version": version},
            )
            return read_promotion(row)
    return None
