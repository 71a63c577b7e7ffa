"""Which days a training run stacks, validates on and holds out: by time, with an embargo.

A label of as-of `t` is known at `t + horizon`. Two parts of the split are separated when every
label of the older one was known before the newer one's first as-of; otherwise the same future
events would sit on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from evergreen.contract import Training, UseCase
from evergreen.errors import NotReadyError


@dataclass(frozen=True)
class SplitPlan:
    """The days of one training run; every tuple ascends.

    Parameters
    ----------
    fit
        Days the trial model is fitted on while the number of rounds is sought.
    validation
        Days on which that number is chosen; later than `fit` by at least the horizon. Empty when
        the history is too short, and then `fit` is empty as well.
    refit
        Days the final model is fitted on: the newest ones whose labels were known before the
        holdout's as-of. Holds `validation`, and the days between `fit` and `validation`.
    holdout
        Days nobody has seen; later than `refit` by at least the horizon.
    """

    fit: tuple[date, ...]
    validation: tuple[date, ...]
    refit: tuple[date, ...]
    holdout: tuple[date, ...]

    @property
    def days(self) -> tuple[date, ...]:
        """Every day whose features and labels are needed, ascending, each once."""
        return tuple(sorted({*self.fit, *self.validation, *self.refit, *self.holdout}))


def plan_training(use_case: UseCase, day: date) -> SplitPlan:
    """Plan the training run of a day; see `plan_split`."""
    return plan_split(use_case.training, use_case.target.horizon_days, use_case.first_day, day)


def plan_split(training: Training, horizon_days: int, first_day: date, day: date) -> SplitPlan:
    """Plan the training run of `day`, which knows events before its as-of and nothing later.

    The holdout is the newest day whose label horizon has passed by then. Cut-offs go back from
    one horizon before it in steps of `cutoff_every_days`; the newest is the validation day. The
    trial model is fitted on up to `max_cutoffs` of the cut-offs one horizon before *that*, so it
    is fitted just as the final model would have been at the time.

    Parameters
    ----------
    training
        Spacing and number of cut-offs, and the history the first one needs.
    horizon_days
        Length of the label's window, in days.
    first_day
        First day there is data for.
    day
        Partition key of the run.

    Returns
    -------
    SplitPlan
        With empty `fit` and `validation` when no cut-off lies a horizon before the validation
        day; the final model then uses the booster's `default_rounds` without early stopping.

    Raises
    ------
    NotReadyError
        The history does not hold even one cut-off beside the holdout.

    Examples
    --------
    >>> plan = plan_split(Training(max_cutoffs=2), 90, date(2024, 1, 1), date(2025, 1, 1))
    >>> [str(d) for d in plan.holdout + plan.validation]
    ['2024-10-03', '2024-07-05']
    """
    horizon = timedelta(days=horizon_days)
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
    holdout = day - horizon
    validation = holdout - horizon
    step = timedelta(days=training.cutoff_every_days)

    def newest_cutoffs(last: date) -> tuple[date, ...]:
        return tuple(sorted(_going_back(last, step, oldest, training.max_cutoffs)))

    refit = newest_cutoffs(validation)
    fit = newest_cutoffs(validation - horizon)
    return SplitPlan(
        fit=fit,
        validation=(validation,) if fit else (),
        refit=refit,
        holdout=(holdout,),
    )


def _going_back(last: date, step: timedelta, oldest: date, count: int) -> Iterator[date]:
    for index in range(count):
        # Compared as a distance: the date itself may lie before the calendar begins.
        if last - oldest < index * step:
            return
        yield last - index * step
