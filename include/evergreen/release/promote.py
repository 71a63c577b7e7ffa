"""Put a version in charge: first the ledger, then its projection, the registry's alias.

The ledger decides. The alias may lag behind after a crash between the two, and `project` brings it
up to date from the ledger at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Engine

from evergreen.decisions.gate import PromotionVerdict
from evergreen.errors import PermanentError
from evergreen.release import ledger

SetAlias = Callable[[int], object]
"""Points the registry's alias `champion` at a version; may be called repeatedly."""


def promote(
    engine: Engine,
    use_case: str,
    version: int,
    *,
    actor: str,
    reason: str,
    set_alias: SetAlias,
    action: ledger.Action = "promote",
    expected_sequence: int | None = None,
    request: str | None = None,
    evidence: Mapping[str, Any] | None = None,
    verdict: PromotionVerdict | None = None,
) -> ledger.Entry:
    """Put `version` in charge and project the alias.

    Parameters
    ----------
    action
        `promote`, or `roll_back` to a former champion.
    expected_sequence
        Number of the ledger entry the decision was based on (`PromotionEvidence.ledger_sequence`).
        None is for a person who decides regardless.
    request
        The training run or manual run that asks; a retry with the same request appends nothing.
    evidence
        JSON-able; stored in the ledger together with the verdict.
    verdict
        The gate's; None for a decision by hand, which answers for itself with `actor` and
        `reason`.

    Returns
    -------
    Entry
        The entry that this request made, now or before. The alias follows the newest entry, which
        may be a later one.

    Raises
    ------
    PermanentError
        The verdict refuses; or the version to roll back to is in charge or never was.
    LedgerConflictError, BusyError
        The champion changed since the decision; see `ledger.append`.
    """
    if verdict is not None and verdict.decision != "promote":
        raise PermanentError(
            f"{use_case}: the gate refused version {version}: {'; '.join(verdict.reasons)}. "
            "Promote it by hand, with a reason, if it must be."
        )
    stored = {
        "evidence": dict(evidence or {}),
        "verdict": verdict.to_dict() if verdict is not None else None,
    }
    entry = ledger.append(
        engine,
        use_case,
        action,
        version,
        actor=actor,
        reason=reason,
        expected_sequence=expected_sequence,
        request=request,
        evidence=stored,
    )
    project(engine, use_case, set_alias)
    return entry


def project(engine: Engine, use_case: str, set_alias: SetAlias) -> ledger.Entry | None:
    """Set the alias to what the ledger says; repeatable, and safe beside other promotions.

    Returns
    -------
    Entry or None
        The entry the alias now follows; None (and no call) when the ledger is empty.

    Raises
    ------
    BusyError
        Others have been projecting for a minute.
    """
    # Whoever appends while we write projects after us.
    with ledger.projecting(engine, use_case):
        head = ledger.champion(engine, use_case)
        if head is not None:
            set_alias(head.version)
    return head
