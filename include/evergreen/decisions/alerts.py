"""Which changes of state a destination is told of: a pure function of stored decisions.

Three concerns last from night to night: bad data, drift, degradation. One that begins is told once,
one that ends is told once, and one that goes on is silence. Two things happen at once, and are told
once each: retraining is requested, a training is judged or fails.

What is due follows from what the destination was told before, and from nothing else. So a night
that is repeated tells nothing twice, and what did not get through is told by the next night.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import pyarrow as pa

from evergreen.decisions.governor import (
    Change,
    RetrainingEvidence,
    RetrainingVerdict,
    open_changes,
)

Lasting = Literal["incident", "drift", "degradation"]
Concern = Literal["incident", "drift", "degradation", "retraining", "training"]
Event = Literal["begun", "over", "happened"]
# Whether a concern holds on a night; None: the night cannot tell.
State = Mapping[Lasting, bool | None]

LASTING: tuple[Lasting, ...] = ("incident", "drift", "degradation")

ALERTS = pa.schema(
    [
        ("day", pa.date32()),
        ("use_case", pa.string()),
        ("number", pa.int64()),
        ("destination", pa.string()),
        ("concern", pa.string()),
        ("event", pa.string()),
        ("since", pa.date32()),
        ("version", pa.int64()),
        ("title", pa.string()),
        ("text", pa.string()),
    ]
)
"""Arrow schema of the table `alerts`: one row per message and destination that got it."""


@dataclass(frozen=True)
class News:
    """Something a destination is told of, or was.

    Parameters
    ----------
    since
        First night on which it held; of what happened, the day it is about.
    version
        The challenger that was judged.
    """

    concern: Concern
    event: Event
    since: date
    version: int | None = None


@dataclass(frozen=True)
class Night:
    """What the governor saw and decided on one night."""

    evidence: RetrainingEvidence
    verdict: RetrainingVerdict

    @property
    def day(self) -> date:
        """The night's day."""
        return self.evidence.day

    @property
    def drifts(self) -> tuple[Change, ...]:
        """Changes that showed as drift, and that no training has had the chance to learn."""
        due, ahead = open_changes(self.evidence)
        return tuple(change for change in (*due, *ahead) if not change.is_of_performance)

    @property
    def state(self) -> State:
        """Which concerns hold; None where the night measured nothing that could tell."""
        evidence, verdict = self.evidence, self.verdict
        # The governor calls whatever has become due by that name.
        due, _ = open_changes(evidence)
        alarmed = "drift" in verdict.triggers and not (due and due[0].is_of_performance)
        drift = alarmed or bool(self.drifts)
        seen = any(night.day == evidence.day for night in evidence.nights)
        degraded = "degradation" in verdict.triggers
        return {
            "incident": bool(evidence.incidents),
            "drift": drift or (False if seen else None),
            "degradation": degraded or (False if evidence.performance else None),
        }


@dataclass(frozen=True)
class Training:
    """How a training ended; `version` and `decision` are None of one that failed."""

    day: date
    version: int | None
    decision: str | None
    reasons: tuple[str, ...]


def find_changes(told: Iterable[News], states: Sequence[tuple[date, State]]) -> tuple[News, ...]:
    """Return which concerns begin or end for who was told something before.

    Parameters
    ----------
    told
        Oldest first.
    states
        Of nights, oldest first; the last is the one that is told, the others say since when.
    """
    last = {news.concern: news for news in told if news.event != "happened"}
    tonight, state = states[-1]
    changes = []
    for concern in LASTING:
        begun = last.get(concern)
        is_open = begun is not None and begun.event == "begun"
        if state[concern] and not is_open:
            since = tonight
            for day, earlier in reversed(states):
                if earlier[concern] is False:
                    break
                since = day if earlier[concern] else since
            changes.append(News(concern, "begun", since))
        elif begun and is_open and state[concern] is False:
            changes.append(News(concern, "over", begun.since))
    return tuple(changes)


def due_by_night(
    told: Sequence[News], nights: Sequence[Night], trainings: Iterable[Training]
) -> tuple[News, ...]:
    """Return what is due to who was told something before, by the last of some nights.

    Nothing by a night that is not the newest: it is looked at again, and what it says is history.

    Parameters
    ----------
    told
        Oldest first.
    nights
        Oldest first, without gaps in what is recorded.
    trainings
        Of those days.
    """
    tonight = nights[-1]
    if "not_newest" in tonight.verdict.blocks:
        return ()
    changes = find_changes(told, [(night.day, night.state) for night in nights])
    request = News("retraining", "happened", tonight.day)
    asked = tonight.verdict.decision == "retrain" and request not in told
    return (*changes, *([request] if asked else []), *due_by_trainings(told, trainings))


def due_by_trainings(told: Sequence[News], trainings: Iterable[Training]) -> tuple[News, ...]:
    """Return which trainings have ended since somebody was told of trainings."""
    news = (News("training", "happened", ended.day, ended.version) for ended in trainings)
    return tuple(item for item in news if item not in told)
