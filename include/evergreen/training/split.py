"""Which days a training run learns from and is tested on: by time, with an embargo.

A label of as-of `t` is known at `t + horizon`. Days are tested on only by models whose labels were
all known before the tested day's as-of; otherwise the same future events would sit on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

from evergreen.contract import Training, UseCase
from evergreen.errors import NotReadyError


@dataclass(frozen=True)
class Fold:
    """Days to fit on, ascending, and a later day to test on, separated by the horizon."""

    fit: tuple[date, ...]
    test: date


@dataclass(frozen=True)
class SplitPlan:
    """The days of one training run. Every test day is later than the one before by a horizon.

    Parameters
    ----------
    tuning
        Folds by which kind of model, settings and number of rounds are chosen, oldest first.
        Empty when the history is too short.
    calibration
        Its test day says whether what was learned of the meaning of scores on the days before
        holds; None when the history is too short.
    evaluation
        Its test day is the holdout: the newest day whose labels are known. No choice is made on
        it, except the one whether to promote.
    final
        Days the model that serves is fitted on: the newest with known labels, the holdout among
        them.
    """

    tuning: tuple[Fold, ...]
    calibration: Fold | None
    evaluation: Fold
    final: tuple[date, ...]

    @property
    def holdout(self) -> date:
        """The day the model is measured on."""
        return self.evaluation.test

    @property
    def folds(self) -> tuple[Fold, ...]:
        """All folds, oldest first."""
        return (*self.tuning, *filter(None, [self.calibration]), self.evaluation)

    @property
    def days(self) -> tuple[date, ...]:
        """Every day whose features and labels are needed, ascending, each once."""
        wanted = {*self.final, *(fold.test for fold in self.folds)}
        return tuple(sorted(wanted.union(*(fold.fit for fold in self.folds))))

    @property
    def parts(self) -> dict[str, tuple[date, ...]]:
        """Days by what they are used for; parts without days are absent."""
        tuning = {fold.test for fold in self.tuning}.union(*(fold.fit for fold in self.tuning))
        parts = {
            "tuning": tuple(sorted(tuning)),
            "calibration": (self.calibration.test,) if self.calibration else (),
            "measured": self.evaluation.fit,
            "holdout": (self.holdout,),
            "final": self.final,
        }
        return {name: days for name, days in parts.items() if days}

    def to_json(self) -> str:
        """Return it as text; `from_json` reads it."""
        folds = [[*map(str, fold.fit), str(fold.test)] for fold in self.folds]
        kept = [len(self.tuning), self.calibration is not None, folds, [*map(str, self.final)]]
        return json.dumps(kept, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild it from what `to_json` gave."""
        tuning, has_calibration, stored, final = json.loads(text)
        dates = [tuple(map(date.fromisoformat, days)) for days in stored]
        folds = [Fold(days[:-1], days[-1]) for days in dates]
        return cls(
            tuple(folds[:tuning]),
            folds[tuning] if has_calibration else None,
            folds[-1],
            tuple(map(date.fromisoformat, final)),
        )


def plan_training(use_case: UseCase, day: date) -> SplitPlan:
    """Plan the training run of a day; see `plan_split`."""
    return plan_split(use_case.training, use_case.target.horizon_days, use_case.first_day, day)


def plan_split(training: Training, horizon_days: int, first_day: date, day: date) -> SplitPlan:
    """Plan the training run of `day`, which knows events before its as-of and nothing later.

    Test days go back from one horizon before `day` in steps of the horizon: the holdout, the
    calibration day, and up to `tuning_folds` for choices. Each is tested by models that are fitted
    on up to `max_cutoffs` days, in steps of `cutoff_every_days`, back from one horizon before it:
    every model is fitted just as it would have been at the time.

    Parameters
    ----------
    training
        Spacing and numbers, and the history the first cut-off needs.
    horizon_days
        Length of the label's window, in days.
    first_day
        First day there is data for.
    day
        Partition key of the run.

    Returns
    -------
    SplitPlan
        A history that has room for one test day beside the holdout gives it to tuning: how many
        rounds are right matters more than calibration.

    Raises
    ------
    NotReadyError
        The history does not hold even one cut-off beside the holdout.

    Examples
    --------
    >>> plan = plan_split(Training(max_cutoffs=2), 90, date(2024, 1, 1), date(2025, 7, 1))
    >>> [str(fold.test) for fold in plan.folds]
    ['2024-07-06', '2024-10-04', '2025-01-02', '2025-04-02']
    >>> [str(day) for day in plan.final]
    ['2025-03-19', '2025-04-02']
    """
    horizon, step = timedelta(days=horizon_days), timedelta(days=training.cutoff_every_days)
    # The as-of of a day is its end, so a day that is the n-th of the history knows n days.
    oldest = first_day + timedelta(days=training.min_history_days - 1)
    ready_on = oldest + 2 * horizon
    if day < ready_on:
        needed = (ready_on - first_day).days + 1
        raise NotReadyError(
            f"Training for {day} has {max((day - first_day).days + 1, 0)} days of history since "
            f"first_day {first_day}; expected at least {needed}: min_history_days "
            f"{training.min_history_days}, then one label horizon of {horizon_days} days for the "
            f"fit and one for the holdout. Training is possible from {ready_on} on; load older "
            "events and set first_day to them, or lower training.min_history_days."
        )

    def cutoffs(last: date) -> tuple[date, ...]:
        return tuple(sorted(_going_back(last, step, oldest, training.max_cutoffs)))

    newest_test = day - horizon
    # A test day needs at least one day to fit on, a horizon before it.
    tests = _going_back(newest_test, horizon, oldest + horizon, training.tuning_folds + 2)
    folds = [Fold(cutoffs(test - horizon), test) for test in sorted(tests)]
    *inner, evaluation = folds
    calibration = inner.pop() if len(inner) > 1 else None
    inner = inner[-training.tuning_folds :]
    return SplitPlan(tuple(inner), calibration, evaluation, cutoffs(newest_test))


def learnable_from(
    training: Training, horizon_days: int, first_day: date, began: date, share: float
) -> date:
    """Return the first day whose challenger can learn a change, and be judged on what came after.

    It is fitted on days up to two horizons before its own (`plan_split`); `share` of these days,
    and at least one, lie wholly after the change then, as does the holdout.

    Parameters
    ----------
    share
        In [0, 1].

    >>> training = Training(cutoff_every_days=7, max_cutoffs=8, min_history_days=1)
    >>> str(learnable_from(training, 14, date(2025, 1, 1), date(2026, 1, 6), 0.25))
    '2026-02-10'
    """
    day = began + 2 * timedelta(days=horizon_days)
    # With as many days from after the change as are ever fitted on, all of them are.
    last = day + timedelta(days=training.cutoff_every_days * (training.max_cutoffs - 1))
    while day < last:
        with suppress(NotReadyError):
            fitted = plan_split(training, horizon_days, first_day, day).evaluation.fit
            after = sum(cutoff >= began for cutoff in fitted)
            if after >= max(share * len(fitted), 1):
                break
        day += timedelta(days=1)
    return day


def _going_back(last: date, step: timedelta, oldest: date, count: int) -> Iterator[date]:
    for index in range(count):
        # Compared as a distance: the date itself may lie before the calendar begins.
        if last - oldest < index * step:
            return
        yield last - index * step
