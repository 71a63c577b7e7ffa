from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.decisions.alarm import Night as DriftOfNight
from evergreen.decisions.alerts import (
    LASTING,
    News,
    Night,
    Training,
    due_by_night,
    due_by_trainings,
    find_changes,
)
from evergreen.decisions.governor import (
    Change,
    Performance,
    RetrainingEvidence,
    RetrainingVerdict,
)

DAY = date(2026, 3, 20)
CALM = {"incident": False, "drift": False, "degradation": False}
BAD, DRIFTS, UNKNOWN = CALM | {"incident": True}, CALM | {"drift": True}, CALM | {"drift": None}


def after(days):
    return DAY + timedelta(days=days)


def on_nights(*states):
    return [(after(n), state) for n, state in enumerate(states)]


def begun(concern, day=0):
    return News(concern, "begun", after(day))


def over(concern, since=0):
    return News(concern, "over", after(since))


@pytest.mark.parametrize(
    ("told", "states", "expected"),
    [
        ([], [CALM, CALM], []),
        ([], [CALM, BAD], [begun("incident", 1)]),
        # It goes on: silence.
        ([begun("incident", 1)], [CALM, BAD, BAD], []),
        ([begun("incident", 1)], [CALM, BAD, CALM], [over("incident", 1)]),
        ([begun("incident", 1), over("incident", 1)], [CALM, BAD, CALM, CALM], []),
        ([begun("incident"), over("incident")], [BAD, CALM, BAD], [begun("incident", 2)]),
        # A night that cannot tell says neither; told later, it says since when all the same.
        ([], [CALM, UNKNOWN], []),
        ([begun("drift")], [DRIFTS, UNKNOWN], []),
        ([], [CALM, DRIFTS, UNKNOWN, DRIFTS], [begun("drift", 1)]),
        # What did not get through is told by the next night.
        ([], [CALM, BAD, BAD], [begun("incident", 1)]),
        # Several at once, and one begins as another ends.
        ([], [BAD | {"drift": True}], [begun("incident"), begun("drift")]),
        ([begun("incident")], [BAD, DRIFTS], [begun("drift", 1), over("incident")]),
    ],
)
def test_what_begins_and_what_ends_is_told(told, states, expected):
    found = find_changes(told, on_nights(*states))
    assert sorted(found, key=str) == sorted(expected, key=str)


STATES = st.fixed_dictionaries({name: st.sampled_from([True, False, None]) for name in LASTING})


@given(st.lists(STATES, min_size=1, max_size=20), st.data())
def test_beginnings_and_ends_take_turns_and_a_repeated_night_adds_none(states, data):
    told = []
    for n in range(len(states)):
        # Some nights are repeated, and on some the destination is down.
        for _ in range(data.draw(st.integers(0, 2))):
            told += find_changes(told, on_nights(*states[: n + 1]))
            assert find_changes(told, on_nights(*states[: n + 1])) == ()
    for concern in LASTING:
        events = [news.event for news in told if news.concern == concern]
        assert events == ["begun", "over"] * (len(events) // 2) + ["begun"] * (len(events) % 2)
        sinces = [news.since for news in told if news.concern == concern]
        # An end names the beginning it ends.
        assert sinces[1::2] == sinces[: len(sinces) // 2 * 2 : 2]


@given(st.lists(STATES, min_size=1, max_size=20))
def test_told_every_night_one_knows_the_newest_known_state(states):
    told = []
    for n in range(len(states)):
        told += find_changes(told, on_nights(*states[: n + 1]))
    for concern in LASTING:
        known = [state[concern] for state in states if state[concern] is not None]
        events = [news.event for news in told if news.concern == concern]
        assert (events[-1:] == ["begun"]) == (known[-1:] == [True])
        changes = sum(a != b for a, b in zip([False, *known], known, strict=False))
        assert len(events) == changes


MEASURED = DriftOfNight(DAY, 3, 5, (), (), False, 0.0, False)
PERFORMANCE = Performance(after(-90), 3, 5_000, "auc", 0.78, 0.8, False)
QUIET = Night(
    RetrainingEvidence("churn", DAY, DAY, (MEASURED,), PERFORMANCE),
    RetrainingVerdict("wait", None, (), (), ("nothing calls for retraining",)),
)


AHEAD = Change(after(-3), after(-5), after(90), ("spent_30d",))
DUE = replace(AHEAD, learnable_from=after(-1))
METRIC = replace(DUE, what=("realised auc",))
METRIC_AHEAD = replace(METRIC, learnable_from=after(9))


def seen(night=QUIET, verdict=(), **evidence):
    return replace(
        night,
        evidence=replace(night.evidence, **evidence),
        verdict=replace(night.verdict, **dict(verdict)),
    )


@pytest.mark.parametrize(
    ("night", "differs"),
    [
        (QUIET, {}),
        (seen(incidents=("no file",)), {"incident": True}),
        (seen(nights=()), {"drift": None}),
        (seen(nights=(replace(MEASURED, day=after(-1)),)), {"drift": None}),
        (seen(performance=None), {"degradation": None}),
        (seen(verdict={"triggers": ("drift",)}), {"drift": True}),
        # The alarm may be over while the change still waits to be learned.
        (seen(changes=(AHEAD,)), {"drift": True}),
        (seen(changes=(AHEAD,), nights=()), {"drift": True}),
        (seen(verdict={"triggers": ("drift",)}, changes=(DUE,)), {"drift": True}),
        # A challenger has had its chance.
        (seen(changes=(DUE,), judged=(after(-1),)), {}),
        # What only performance shows is no drift, though the governor calls it so when it is due.
        (seen(verdict={"triggers": ("drift",)}, changes=(METRIC,)), {}),
        (
            seen(
                verdict={"triggers": ("degradation",)},
                changes=(replace(METRIC, learnable_from=after(9)),),
            ),
            {"degradation": True},
        ),
        (seen(verdict={"triggers": ("drift",)}, changes=(METRIC, AHEAD)), {"drift": True}),
        (
            seen(verdict={"triggers": ("degradation", "drift")}),
            {"drift": True, "degradation": True},
        ),
        (seen(verdict={"triggers": ("schedule",), "decision": "retrain"}), {}),
    ],
)
def test_a_night_says_which_concerns_hold(night, differs):
    assert night.state == CALM | differs


def test_a_request_and_a_training_are_told_once():
    asked = seen(verdict={"decision": "retrain", "trigger": "schedule", "triggers": ("schedule",)})
    trainings = [
        Training(after(-3), 7, "promote", ("all checks passed",)),
        Training(after(-2), None, None, ("run x failed",)),
    ]
    request = News("retraining", "happened", DAY)
    judged = News("training", "happened", after(-3), 7)
    failed = News("training", "happened", after(-2))
    assert due_by_night([], [asked], trainings) == (request, judged, failed)
    assert due_by_night([request, judged, failed], [asked], trainings) == ()
    assert due_by_trainings([judged], trainings) == (failed,)
    # Another version of the same day is another training.
    again = replace(trainings[0], version=8)
    assert due_by_trainings([judged], [again]) == (News("training", "happened", after(-3), 8),)


def test_a_night_that_is_not_the_newest_tells_nothing():
    late = seen(verdict={"blocks": ("incident", "not_newest")}, incidents=("no file",))
    assert due_by_night([], [late], [Training(after(-1), 7, "refuse", ("no",))]) == ()
    assert due_by_night([begun("drift")], [late], []) == ()
