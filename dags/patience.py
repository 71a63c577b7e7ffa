"""How long is waited, and for what: retries, and what is not worth waiting for.

Bad data fails at once, because trying again cannot mend it; everything else (a network, a lock) is
tried a few times more. A source that is late is waited for, for hours.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.retry_policy import (
    ExceptionRetryPolicy,
    RetryAction,
    RetryDecision,
    RetryRule,
)

RETRIES = 3
# With the delays below: about twelve hours.
RETRIES_OF_A_LATE_SOURCE = 75

_PERMANENT = RetryRule(
    exception="evergreen.errors.PermanentError",
    action=RetryAction.FAIL,
    reason="trying again cannot mend this: the data or the configuration must change",
)
_LATE = RetryRule(
    exception="evergreen.errors.SourceMissingError",
    reason="the source is late: it is waited for",
)
RETRY_POLICY = ExceptionRetryPolicy(rules=[_PERMANENT])


class LateSourcePolicy(ExceptionRetryPolicy):
    """Waits for a late source with all the retries a task has; other errors get `RETRIES` of them.

    The scheduler knows one number of retries per task, whatever the error. In a backfill nothing
    is waited for: its days are past, somebody watches, and no other may begin before it ends.
    """

    def __init__(self) -> None:
        super().__init__(rules=[_PERMANENT, _LATE])

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any = None
    ) -> RetryDecision:
        """Decide on one failure; runs beside the task."""
        decision = super().evaluate(exception, try_number, max_tries, context)
        # A cleared task goes on counting its tries, and its maximum moves with them.
        tries = try_number - max(0, max_tries - RETRIES_OF_A_LATE_SOURCE)
        backfill = context is not None and context["dag_run"].run_type == "backfill"
        waits = decision.action is RetryAction.RETRY and not backfill
        if decision.action is not RetryAction.FAIL and not waits and tries > RETRIES:
            return RetryDecision.fail("tried often enough")
        return decision


UNTIL_DELIVERED: dict[str, Any] = {
    "retries": RETRIES_OF_A_LATE_SOURCE,
    "retry_policy": LateSourcePolicy(),
}

# Days of a backfill are ingested side by side; a gap usually closes within seconds, and within a
# quarter of an hour where a worker died and its task is tried again. Waits about half an hour in
# all, without holding a worker.
UNTIL_NO_GAP: dict[str, Any] = {
    "retries": 22,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 1.5,
    "max_retry_delay": timedelta(minutes=2),
}
