"""The state of a registered version: derived from ledger and gate, kept nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evergreen.release.ledger import Entry

Lifecycle = Literal["challenger", "refused", "champion", "former"]


def lifecycle(version: int, ledger: Sequence[Entry], decision: str | None) -> Lifecycle:
    """Return the state of a version.

    Parameters
    ----------
    ledger
        All entries of the use case, oldest first.
    decision
        The gate's, `promote` or `refuse`; None before it has judged.

    Notes
    -----
    What the ledger says comes first: a person may promote what the gate refused.
    """
    if ledger and ledger[-1].version == version:
        return "champion"
    if any(entry.version == version for entry in ledger):
        return "former"
    return "refused" if decision == "refuse" else "challenger"
