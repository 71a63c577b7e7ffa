import itertools
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.contract import Training, as_of
from evergreen.errors import NotReadyError
from evergreen.training.split import SplitPlan, learnable_from, plan_split

FIRST = date(2020, 1, 1)
trainings = st.builds(
    Training,
    cutoff_every_days=st.integers(1, 120),
    max_cutoffs=st.integers(1, 30),
    min_history_days=st.integers(1, 400),
    tuning_folds=st.integers(1, 4),
)


def label_known(day, horizon):
    return as_of(day) + timedelta(days=horizon)


@given(training=trainings, horizon=st.integers(1, 200), age=st.integers(-50, 2000))
def test_any_plan_is_ordered_disjoint_and_embargoed(training, horizon, age):
    day = FIRST + timedelta(days=age)
    try:
        plan = plan_split(training, horizon, FIRST, day)
    except NotReadyError:
        # Refused exactly while not one cut-off fits in front of a holdout.
        assert age + 1 < training.min_history_days + 2 * horizon
        return
    assert age + 1 >= training.min_history_days + 2 * horizon
    tests = [fold.test for fold in plan.folds]
    assert tests == sorted(set(tests))
    assert all((b - a).days == horizon for a, b in itertools.pairwise(tests))
    for fold in plan.folds:
        assert fold.fit
        assert all(label_known(d, horizon) <= as_of(fold.test) for d in fold.fit)
    # The holdout is the newest day whose labels are known.
    assert label_known(plan.holdout, horizon) == as_of(day)
    # Nothing that is chosen on, or learned from, reaches into the holdout or a later test day.
    for fold, later in itertools.pairwise(plan.folds):
        known = [label_known(d, horizon) for d in (*fold.fit, fold.test)]
        assert max(known) <= as_of(later.test)
    assert max(plan.final) == plan.holdout
    assert len(plan.tuning) <= training.tuning_folds
    # Each cut-off knows at least the demanded days of orders.
    assert all((as_of(d) - as_of(FIRST)).days + 1 >= training.min_history_days for d in plan.days)
    for part in (plan.final, *(fold.fit for fold in plan.folds)):
        assert 1 <= len(part) <= training.max_cutoffs
        steps = {(b - a).days for a, b in itertools.pairwise(part)}
        assert steps <= {training.cutoff_every_days}
    assert set(plan.days) == {d for days in plan.parts.values() for d in days}.union(
        plan.calibration.fit if plan.calibration else ()
    )
    assert SplitPlan.from_json(plan.to_json()) == plan


def test_a_growing_history_gets_rounds_first_then_a_calibration_then_more_folds():
    training = Training(cutoff_every_days=30, max_cutoffs=5, min_history_days=30)
    found = []
    for days in (250, 320, 400, 500, 600, 900):
        plan = plan_split(training, 90, FIRST, FIRST + timedelta(days=days))
        found.append((len(plan.tuning), plan.calibration is not None))
    assert found == [(0, False), (1, False), (1, True), (2, True), (3, True), (3, True)]


def test_refusal_names_the_first_day_that_works():
    training = Training(min_history_days=60)
    with pytest.raises(NotReadyError, match=r"at least 240: .* possible from 2020-08-27 on"):
        plan_split(training, 90, FIRST, date(2020, 8, 26))
    assert plan_split(training, 90, FIRST, date(2020, 8, 27)).evaluation.fit == (date(2020, 2, 29),)


@given(
    training=trainings,
    horizon=st.integers(1, 60),
    age=st.integers(0, 1000),
    share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_a_change_can_be_learned_once_enough_days_after_it_are_fitted_on(
    training, horizon, age, share
):
    began = FIRST + timedelta(days=age)
    first = learnable_from(training, horizon, FIRST, began, share)

    def fitted(day):
        try:
            days = plan_split(training, horizon, FIRST, day).evaluation.fit
        except NotReadyError:
            return 0, 0
        return sum(cutoff >= began for cutoff in days), len(days)

    after, of = fitted(first)
    # Labels of the days it is fitted on, and of the holdout, lie after the change.
    assert not of or after >= max(share * of, 1)
    before, of = fitted(first - timedelta(days=1))
    assert before < max(share * of, 1)
