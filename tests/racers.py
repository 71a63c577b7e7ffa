"""One of many processes that promote at once, forked from one that has imported everything."""

from __future__ import annotations

import os
from collections.abc import Mapping

from evergreen.contract import load_use_case
from evergreen.errors import LedgerConflictError
from evergreen.release import ledger
from evergreen.release.promote import promote
from evergreen.training.tracking import set_champion

IMPORTS = ("pytest", "evergreen.release.promote", "evergreen.training.tracking")


def race(environment: Mapping[str, str], version: int, request: str) -> tuple[int, int | str]:
    """Promote a version of `churn` after entry 1; return the process and the entry or the error."""
    os.environ.update(environment)
    # All of them wait until the last one has come.
    ledger._LOCK_SECONDS = 600
    use_case = load_use_case("churn")
    try:
        entry = promote(
            ledger.engine(),
            use_case.name,
            version,
            actor=f"process {version}",
            reason="a race",
            set_alias=lambda champion: set_champion(use_case, champion),
            expected_sequence=1,
            request=request,
        )
    except LedgerConflictError as error:
        return os.getpid(), str(error)
    return os.getpid(), entry.sequence
