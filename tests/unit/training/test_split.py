import itertools
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.contract import Training, as_of
from evergreen.errors import NotReadyError
from evergreen.training.split import plan_split

FIRST = date(2020, 1, 1)
trainings = st.builds(
    Training,
    cutoff_every_days=st.integers(1, 120),
    max_cutoffs=st.integers(1, 30),
    min_history_days=st.integers(1, 400),
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
    for part in (plan.fit, plan.validation, plan.refit, plan.holdout):
        assert list(part) == sorted(set(part))
    assert not {*plan.fit} & {*plan.validation}
    assert not {*plan.fit, *plan.refit, *plan.validation} & {*plan.holdout}
    # The holdout is the newest day whose labels are known.
    assert [label_known(d, horizon) for d in plan.holdout] == [as_of(day)]
    assert all(label_known(d, horizon) <= as_of(plan.holdout[0]) for d in plan.refit)
    assert all(label_known(d, horizon) <= as_of(v) for d in plan.fit for v in plan.validation)
    assert {*plan.validation} <= {*plan.refit}
    assert bool(plan.fit) == bool(plan.validation)
    assert 1 <= len(plan.refit) <= training.max_cutoffs
    assert len(plan.fit) <= training.max_cutoffs
    # Each cut-off knows at least the demanded days of orders.
    assert all((as_of(d) - as_of(FIRST)).days + 1 >= training.min_history_days for d in plan.days)
    for part in (plan.fit, plan.refit):
        steps = {(b - a).days for a, b in itertools.pairwise(part)}
        assert steps <= {training.cutoff_every_days}


def test_history_without_room_for_validation_still_gives_a_final_fit():
    training = Training(cutoff_every_days=30, max_cutoffs=5, min_history_days=30)
    plan = plan_split(training, 90, FIRST, FIRST + timedelta(days=250))
    assert plan.fit == plan.validation == ()
    assert plan.refit
    assert plan.days == (*plan.refit, *plan.holdout)


def test_refusal_names_the_first_day_that_works():
    training = Training(min_history_days=60)
    with pytest.raises(NotReadyError, match=r"at least 240: .* possible from 2020-08-27 on"):
        plan_split(training, 90, FIRST, date(2020, 8, 26))
    assert plan_split(training, 90, FIRST, date(2020, 8, 27)).refit == (date(2020, 2, 29),)


def test_horizon_shorter_than_spacing_keeps_the_embargo():
    training = Training(cutoff_every_days=7, max_cutoffs=2, min_history_days=1)
    plan = plan_split(training, 30, date(2024, 1, 1), date(2024, 12, 31))
    assert plan.holdout == (date(2024, 12, 1),)
    assert plan.refit == (date(2024, 10, 25), date(2024, 11, 1))
    assert plan.validation == (date(2024, 11, 1),)
    assert plan.fit == (date(2024, 9, 25), date(2024, 10, 2))
