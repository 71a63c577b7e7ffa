"""The rollout that is on, and the steps that begin, continue and end it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from evergreen.contract import UseCase
from evergreen.errors import LedgerConflictError
from evergreen.release import ledger


@dataclass(frozen=True)
class Rolling:
    """The rollout that is on.

    Parameters
    ----------
    champion, challenger
        Versions.
    share
        Of the entities that get the challenger's scores; 0 in shadow.
    salt
        By which entities are chosen, as it was when the rollout began.
    began, sequence
        Of its first and its newest step in the ledger.
    decided_on
        The night that decided the step, as ISO date; empty for the first.
    """

    champion: int
    challenger: int
    share: float
    salt: str
    began: int
    sequence: int
    decided_on: str


def rolling(engine: Engine, use_case: str) -> Rolling | None:
    """Return the rollout that is on; None when none is.

    Raises
    ------
    LedgerDamagedError
        The newest entry was changed after it was appended.
    """
    entry = ledger.rollout(engine, use_case)
    if entry is None:
        return None
    assert entry.challenger is not None and entry.share is not None
    kept = json.loads(entry.evidence)
    return Rolling(
        entry.version,
        entry.challenger,
        entry.share,
        kept["salt"],
        kept.get("began", entry.sequence),
        entry.sequence,
        kept.get("night", ""),
    )


def begin(
    engine: Engine,
    use_case: UseCase,
    version: int,
    *,
    evidence: Mapping[str, Any] | None = None,
    **told: Any,
) -> ledger.Entry:
    """Begin to roll a version out beside the champion, in shadow; it replaces one that is on.

    Raises
    ------
    PermanentError
        It is in charge itself.
    LedgerConflictError
        Nobody is in charge, or somebody else than when it was decided.
    """
    champion = ledger.champion(engine, use_case.name)
    if champion is None:
        raise LedgerConflictError(
            f"{use_case.name} has no champion beside which version {version} could be rolled out. "
            "Promote it."
        )
    declared = use_case.rollout
    salt = (declared and declared.salt) or f"{use_case.name} {version}"
    return ledger.append(
        engine,
        use_case.name,
        "roll_out",
        champion.version,
        challenger=version,
        share=0.0,
        evidence={**(evidence or {}), "salt": salt},
        **told,
    )


def go_on(
    engine: Engine, use_case: str, found: Rolling, share: float, night: str, **told: Any
) -> ledger.Entry:
    """Give the challenger a greater share, as a night has decided.

    Raises
    ------
    LedgerConflictError
        The ledger has moved on since `found`.
    """
    kept = {"salt": found.salt, "began": found.began, "night": night}
    evidence = {**told.pop("evidence", {}), **kept}
    return ledger.append(
        engine,
        use_case,
        "roll_out",
        found.champion,
        challenger=found.challenger,
        share=share,
        expected_sequence=found.sequence,
        request=f"night {night}",
        evidence=evidence,
        **told,
    )


def stop(
    engine: Engine, use_case: str, found: Rolling, *, request: str | None, **told: Any
) -> ledger.Entry:
    """End a rollout; the champion stays in charge, of everybody.

    Raises
    ------
    LedgerConflictError
        The ledger has moved on since `found`.
    """
    return ledger.append(
        engine,
        use_case,
        "stop",
        found.champion,
        expected_sequence=found.sequence,
        request=request,
        **told,
    )
