"""The life of a request for training, as the tables and receipts tell it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

from evergreen import lake
from evergreen.decisions.governor import Event, RequestedTraining, State, record_event
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk

_TELLS: dict[Event, str] = {"started": "accept_request", "failed": "fail_request"}
_TOLD_BY: dict[str, State] = {
    "accept_request": "started",
    "fail_request": "failed",
    "judge_challenger": "judged",
}
_REQUEST = {"kind": "governor", "decision": "retrain"}
_REFUSAL = {"kind": "gate", "decision": "refuse"}
_ONE_DAY = timedelta(days=1)


def tell(use_case: str, day: date, event: Event, reason: str) -> None:
    """Record that the training of a day started, or failed."""
    publish_chunk(
        Staged(use_case, day.isoformat(), ""),
        _TELLS[event],
        "decisions",
        record_event(use_case, day, event, reason),
        [day],
        part={"kind": "request", "decision": event},
    )


def states(use_case: str) -> dict[date, State]:
    """Tell how the training of each day stands, by the newest receipt of the tasks that know."""
    newest: dict[date, tuple[int, State]] = {}
    for step, days in receipts.traces(use_case, *_TOLD_BY).items():
        for day, history in days.items():
            newest[day] = max(newest.get(day, (0, "asked")), (history[-1].sequence, _TOLD_BY[step]))
    return {day: state for day, (_, state) in newest.items()}


def requested_before(use_case: str, night: date) -> tuple[date, ...]:
    """Return the earlier days that the governor has requested retraining for."""
    rows = lake.rows(use_case, "decisions", None, night - _ONE_DAY, ("decision",), _REQUEST)
    return tuple(sorted({row["day"] for row in rows}))


def refused_between(use_case: str, after: date, night: date) -> tuple[date, ...]:
    """Return the days after one and before the other whose challenger the gate has refused."""
    between = after + _ONE_DAY, night - _ONE_DAY
    rows = lake.rows(use_case, "decisions", *between, ("decision",), _REFUSAL)
    return tuple(sorted({row["day"] for row in rows}))


def trainings_before(
    use_case: str, night: date, requested: Iterable[date]
) -> tuple[RequestedTraining, ...]:
    """Return the trainings of earlier days, those that were requested among them."""
    asked: dict[date, State] = dict.fromkeys(requested, "asked")
    return tuple(
        RequestedTraining(day, state)
        for day, state in sorted((asked | states(use_case)).items())
        if day < night
    )
