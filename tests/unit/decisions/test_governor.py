import json
from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.contract import Monitoring
from evergreen.decisions.alarm import Night, summarise_nights
from evergreen.decisions.governor import (
    Champion,
    Change,
    Performance,
    RequestedTraining,
    RetrainingEvidence,
    RetrainingVerdict,
    decide_retraining,
    has_passed,
    record_retraining_decision,
    replay_retraining,
)
from evergreen.decisions.stored import DECISIONS

DAY = date(2026, 3, 20)
MONITORING = Monitoring(persistence=(2, 3), cooldown_days=7, weekly_budget=1, max_model_age_days=90)


def ago(days):
    return DAY - timedelta(days)


def night(days, drift=True, version=3):
    drifted = ("spent_30d",) if drift else ()
    return Night(ago(days), version, 5, drifted, (), False, 0.4 if drift else 0.0, drift)


CALM = RetrainingEvidence(
    use_case="churn",
    day=DAY,
    newest_day=DAY,
    nights=(night(2, False), night(1, False), night(0, False)),
    performance=Performance(ago(90), 3, 5_000, "auc", 0.78, 0.8, False),
    champion=Champion(3, ago(30)),
)
DRIFTING = replace(CALM, nights=(night(2, False), night(1), night(0)))
DEGRADED = replace(CALM, performance=Performance(ago(90), 3, 5_000, "auc", 0.7, 0.8, True))
OLD = replace(CALM, champion=Champion(3, ago(91)))


def decide(evidence, monitoring=MONITORING):
    return decide_retraining(evidence, monitoring)


def test_a_calm_night_waits_and_says_so():
    verdict = decide(CALM)
    assert (verdict.decision, verdict.trigger, verdict.blocks) == ("wait", None, ())
    assert verdict.reasons == ("nothing calls for retraining",)


@pytest.mark.parametrize(
    ("evidence", "trigger", "text"),
    [
        (DRIFTING, "drift", "2 of the last 3 nights drifted (needed 2)"),
        (DEGRADED, "degradation", "auc of 2025-12-20 is 0.7000 over 5000 rows, against 0.8000"),
        (OLD, "schedule", "91 days old; the limit is 90"),
    ],
)
def test_each_trigger_alone_retrains(evidence, trigger, text):
    verdict = decide(evidence)
    assert (verdict.decision, verdict.trigger, verdict.triggers) == ("retrain", trigger, (trigger,))
    assert text in verdict.reasons[0]


def test_all_triggers_are_stated():
    both = replace(DRIFTING, performance=DEGRADED.performance, champion=OLD.champion)
    verdict = decide(both)
    assert verdict.triggers == ("degradation", "drift", "schedule")
    assert verdict.trigger == "degradation"
    assert len(verdict.reasons) == 3


@pytest.mark.parametrize(
    ("changes", "block"),
    [
        ({"incidents": ("features ends 3 days before",)}, "incident"),
        ({"newest_day": DAY + timedelta(1)}, "not_newest"),
        ({"newest_day": None}, "not_newest"),
        ({"trainings": (RequestedTraining(ago(1), "asked"),)}, "in_progress"),
        (
            {
                "trainings": (
                    RequestedTraining(ago(9), "started"),
                    RequestedTraining(ago(6), "started"),
                )
            },
            "in_progress",
        ),
        ({"champion": Champion(3, DAY)}, "already_trained"),
        ({"requests": (ago(6),)}, "cooldown"),
    ],
)
def test_each_block_alone_waits_and_still_states_the_trigger(changes, block):
    verdict = decide(replace(DRIFTING, **changes))
    assert (verdict.decision, verdict.trigger) == ("wait", None)
    assert block in verdict.blocks
    assert verdict.triggers == ("drift",)
    assert any(reason.startswith("blocked, ") for reason in verdict.reasons)
    assert any(reason.startswith("drift: ") for reason in verdict.reasons)


def test_without_a_champion_the_first_training_is_by_hand():
    verdict = decide(replace(DRIFTING, champion=None))
    assert (verdict.decision, verdict.blocks, verdict.triggers) == ("wait", ("no_champion",), ())


@pytest.mark.parametrize(
    ("nights", "decision"),
    [
        ((night(0),), "wait"),
        ((night(1), night(0)), "retrain"),
        ((night(2), night(0)), "retrain"),
        ((night(2), night(1)), "retrain"),
        # Outside the window, doubled, in the future, or against a former champion's reference.
        ((night(3), night(0)), "wait"),
        ((night(0), night(0)), "wait"),
        ((night(-1), night(0)), "wait"),
        ((night(1, version=2), night(0)), "wait"),
    ],
)
def test_drift_must_persist(nights, decision):
    assert decide(replace(CALM, nights=nights)).decision == decision


def test_degradation_of_a_former_champion_is_history():
    former = replace(DEGRADED.performance, model_version=2)
    assert decide(replace(CALM, performance=former)).decision == "wait"


@pytest.mark.parametrize(
    ("before", "decision"),
    [
        # Records of when one day was enough.
        (None, "retrain"),
        ((), "wait"),
        ((91,), "retrain"),
        ((92,), "retrain"),
        ((93,), "wait"),
        ((100, 99, 91), "retrain"),
    ],
)
def test_degradation_must_persist(before, decision):
    days = None if before is None else tuple(ago(n) for n in before)
    realised = replace(DEGRADED.performance, degraded_before=days)
    found = decide(replace(CALM, performance=realised))
    assert found.decision == decision
    if before and decision == "retrain":
        assert f"too low since {ago(max(before))}" in found.reasons[0]
    # The newest day is well again.
    well = replace(realised, degraded=False)
    assert decide(replace(CALM, performance=well)).decision == "wait"


@pytest.mark.parametrize(("refused", "expected"), [(0, 7), (1, 14), (2, 28), (4, 112), (9, 112)])
def test_every_refused_challenger_doubles_the_cooldown(refused, expected):
    days = tuple(ago(expected + n) for n in range(refused))
    ready = replace(DRIFTING, requests=(ago(expected),), refused=days)
    assert decide(ready).decision == "retrain"
    early = replace(ready, requests=(ago(expected - 1),))
    found = decide(early)
    assert found.blocks[0] == "cooldown"
    assert (
        f"requested on {ago(expected - 1)}; expected {expected} days in between"
        in (found.reasons[0])
    )
    assert (f"after {refused} refused since champion 3" in found.reasons[0]) == bool(refused)
    # One that was tried by hand counts as well.
    tried = replace(DRIFTING, refused=(*days, ago(1)))
    assert decide(tried).blocks[0] == "cooldown"
    assert f"tried on {ago(1)}" in decide(tried).reasons[0]
    # What can be learned since then is something new.
    due = replace(early, requests=(ago(7),), changes=(change(began=28, learnable=0, seen=24),))
    assert decide(due).decision == "retrain"


def test_cooldown_and_budget_end_on_time():
    assert decide(replace(DRIFTING, requests=(ago(7),))).decision == "retrain"
    lenient = MONITORING.model_copy(update={"cooldown_days": 0})
    assert decide(replace(DRIFTING, requests=(ago(6),)), lenient).blocks == ("budget",)
    assert decide(replace(DRIFTING, requests=(ago(7),)), lenient).decision == "retrain"
    two = lenient.model_copy(update={"weekly_budget": 2})
    assert decide(replace(DRIFTING, requests=(ago(6),)), two).decision == "retrain"
    assert decide(replace(DRIFTING, requests=(ago(6), ago(1))), two).blocks == ("budget",)
    # The same request twice is one.
    assert decide(replace(DRIFTING, requests=(ago(6), ago(6))), two).decision == "retrain"


def test_a_training_that_never_ended_is_not_waited_for_for_ever():
    found = decide(replace(DRIFTING, trainings=(RequestedTraining(ago(7), "asked"),)))
    assert found.decision == "retrain"
    assert found.reasons[-1] == (
        f"no longer waited for: the training of {ago(7)} was requested and has not started, within "
        "7 days (see the runs of churn_train)"
    )
    patient = MONITORING.model_copy(update={"request_expires_days": 8})
    found = decide(replace(DRIFTING, trainings=(RequestedTraining(ago(7), "started"),)), patient)
    assert found.blocks == ("in_progress",)
    assert "waited for until 2026-03-21" in found.reasons[0]
    # Nothing calls for retraining, so nobody misses the one that got lost.
    assert decide(replace(CALM, trainings=(RequestedTraining(ago(7), "asked"),))) == decide(CALM)


def test_no_age_limit_means_no_schedule():
    never = MONITORING.model_copy(update={"max_model_age_days": None})
    assert decide(replace(OLD, champion=Champion(3, ago(5_000))), never).decision == "wait"
    assert decide(replace(CALM, champion=Champion(3, ago(90)))).decision == "wait"


def row(feature, drifted, importance=0.5, day=DAY, version=3):
    return {
        "day": day,
        "model_version": version,
        "feature": feature,
        "slice": "all",
        "drifted": drifted,
        "extreme": False,
        "importance": importance,
        "current_rows": 100,
    }


def test_nights_are_summarised_per_day_and_model():
    rows = [
        row("a", True, 0.3),
        row("b", False, 0.6),
        row("c", True, 0.0),
        row("score", False, None),
        row("a", False, day=ago(1), version=2),
    ]
    yesterday, today = summarise_nights(rows, MONITORING)
    assert (yesterday.day, yesterday.model_version, yesterday.is_drift) == (ago(1), 2, False)
    assert today.drifted == ("a",)
    assert today.unused == ("c",)
    assert today.tested == 4
    assert today.weight == pytest.approx(1 / 3)
    assert today.is_drift


@pytest.mark.parametrize(
    ("rows", "is_drift"),
    [
        ([row("a", True, 0.0), row("b", False)], False),
        ([row("a", True, None)], True),
        ([row("a", False), row("score", True, None)], True),
        ([], None),
    ],
)
def test_what_makes_a_drift_night(rows, is_drift):
    found = [night.is_drift for night in summarise_nights(rows, MONITORING)]
    assert found == ([] if is_drift is None else [is_drift])


def test_so_much_of_the_importance_must_drift():
    calm = [row("b", False, 0.97), row("c", False, 0.0)]
    assert not summarise_nights([row("a", True, 0.03), *calm], MONITORING)[0].is_drift
    assert summarise_nights([row("a", True, 0.06), *calm], MONITORING)[0].is_drift
    lax = MONITORING.model_copy(update={"min_weight": 0.0})
    assert summarise_nights([row("a", True, 0.03), *calm], lax)[0].is_drift
    # A slice counts by its share of the rows.
    of_few = row("a", True, 0.2) | {"slice": "land=fr", "current_rows": 20}
    found = summarise_nights([row("a", False, 0.2), of_few, row("b", False, 0.8)], MONITORING)[0]
    assert (found.drifted, found.is_drift) == (("a",), False)
    assert found.weight == pytest.approx(0.04)


def test_an_extreme_night_needs_no_second_one():
    far = row("a", True, 0.02) | {"extreme": True}
    (found,) = summarise_nights([far, row("b", False, 0.98)], MONITORING)
    assert (found.extreme, found.is_drift) == (("a",), True)
    verdict = decide(replace(CALM, nights=(found,)))
    assert verdict.decision == "retrain"
    assert "1 of the last 3 nights drifted (so far that one is enough)" in verdict.reasons[0]
    # The night before was; tonight it is over.
    over = replace(found, day=ago(1))
    assert decide(replace(CALM, nights=(over, night(0, False)))).decision == "wait"
    # What the model does not use may go as far as it likes.
    unused = row("a", True, 0.0) | {"extreme": True}
    assert not summarise_nights([unused, row("b", False, 0.98)], MONITORING)[0].is_drift


def change(began, learnable, seen=0):
    return Change(ago(seen), ago(began), ago(learnable), ("spent_30d", "the score"))


def test_a_change_that_cannot_be_learned_yet_is_waited_for():
    ahead = change(began=4, learnable=-24)
    for evidence in (DRIFTING, replace(DRIFTING, performance=DEGRADED.performance)):
        verdict = decide(replace(evidence, changes=(ahead,)))
        assert (verdict.decision, verdict.blocks) == ("wait", ("not_learnable",))
        assert verdict.learnable_from == ahead.learnable_from
        assert f"spent_30d, the score changed about {ago(4)}" in verdict.reasons[0]
        assert str(ahead.learnable_from) in verdict.reasons[0]
    # It stays known when nights do not show it any more, and calls for nothing.
    calm = decide(replace(CALM, changes=(ahead,)))
    assert (calm.decision, calm.triggers, calm.blocks) == ("wait", (), ())
    assert calm.learnable_from == ahead.learnable_from
    # Age is no matter of the change.
    assert decide(replace(OLD, changes=(ahead,))).trigger == "schedule"


@pytest.mark.parametrize("evidence", [CALM, DRIFTING])
def test_a_change_is_learned_on_its_day_and_once(evidence):
    due = change(began=28, learnable=0, seen=24)
    verdict = decide(replace(evidence, changes=(due,)))
    assert (verdict.decision, verdict.trigger) == ("retrain", "drift")
    assert f"can be learned since {DAY}" in verdict.reasons[0]
    late = replace(evidence, changes=(change(began=38, learnable=10, seen=34),))
    assert decide(late).decision == "retrain"
    # A training of a day since then has had the chance, whatever the gate said of it.
    assert decide(replace(late, judged=(ago(9),))).triggers == ()
    assert decide(replace(late, champion=Champion(3, ago(10)))).triggers == ()
    # One from before has not, nor has one that was asked for and came to nothing.
    assert decide(replace(late, judged=(ago(11),), requests=(ago(9),))).decision == "retrain"
    # Another one is still ahead, and is no reason to wait with this one.
    both = replace(evidence, changes=(due, change(began=3, learnable=-25)))
    assert decide(both).decision == "retrain"


days = st.integers(-3, 20).map(ago)
nights = st.builds(
    lambda back, drift, version: night(back, drift, version),
    st.integers(-2, 6),
    st.booleans(),
    st.sampled_from([3, 3, 3, 2]),
)
evidences = st.builds(
    RetrainingEvidence,
    use_case=st.just("churn"),
    day=st.just(DAY),
    newest_day=st.sampled_from([DAY, DAY, DAY, ago(-1), None]),
    nights=st.lists(nights, max_size=6).map(tuple),
    performance=st.none() | st.just(CALM.performance) | st.just(DEGRADED.performance),
    champion=st.none() | st.builds(Champion, st.just(3), st.integers(-1, 120).map(ago)),
    requests=st.lists(days, max_size=3).map(tuple),
    trainings=st.lists(
        st.builds(RequestedTraining, days, st.sampled_from(["asked", "started"])), max_size=2
    ).map(tuple),
    incidents=st.sampled_from([(), (), ("orders is stale",)]),
    changes=st.lists(st.builds(change, st.integers(0, 60), st.integers(-30, 30)), max_size=2).map(
        tuple
    ),
    judged=st.lists(days, max_size=2).map(tuple),
)
demands = st.builds(
    Monitoring,
    persistence=st.sampled_from([(1, 1), (2, 3), (3, 5)]),
    cooldown_days=st.integers(0, 10),
    weekly_budget=st.integers(1, 3),
    max_model_age_days=st.none() | st.integers(1, 100),
)


@given(evidences, demands)
@settings(deadline=None)
def test_retraining_only_ever_happens_when_it_may(evidence, monitoring):
    verdict = decide(evidence, monitoring)
    assert (verdict.trigger is not None) == (verdict.decision == "retrain")
    assert verdict.reasons
    if verdict.decision == "retrain":
        earlier = [request for request in evidence.requests if request != DAY]
        assert not evidence.incidents
        assert all((DAY - training.day).days >= 7 for training in evidence.trainings)
        assert evidence.newest_day == DAY
        assert evidence.champion is not None
        assert evidence.champion.trained_on < DAY
        assert all((DAY - request).days >= monitoring.cooldown_days for request in earlier)
        week = {request for request in earlier if request > ago(7)}
        assert len(week) < monitoring.weekly_budget
        if verdict.trigger != "schedule" and verdict.triggers != (verdict.trigger, "schedule"):
            trained = max([*evidence.judged, evidence.champion.trained_on])
            unlearned = [c for c in evidence.changes if c.learnable_from > trained]
            assert not unlearned or min(c.learnable_from for c in unlearned) <= DAY


@given(
    st.sampled_from([DRIFTING, DEGRADED, OLD]) | evidences,
    demands,
    st.lists(st.integers(0, 5), max_size=5),
)
@settings(deadline=None)
def test_more_drift_never_calms_the_governor(evidence, monitoring, more):
    if decide(evidence, monitoring).decision == "wait":
        return
    worse = replace(evidence, nights=evidence.nights + tuple(night(back) for back in more))
    assert decide(worse, monitoring).decision == "retrain"


@given(evidences, demands, st.permutations(range(6)))
@settings(deadline=None)
def test_the_order_of_nights_and_requests_does_not_matter(evidence, monitoring, order):
    shuffled = replace(
        evidence,
        nights=tuple(evidence.nights[n] for n in order if n < len(evidence.nights)),
        requests=evidence.requests[::-1],
        trainings=evidence.trainings[::-1],
    )
    found, expected = decide(shuffled, monitoring), decide(evidence, monitoring)
    assert found == expected


@given(evidences, demands)
@settings(deadline=None)
def test_a_stored_decision_can_be_replayed(evidence, monitoring):
    text = json.dumps(evidence.to_dict(), allow_nan=False)
    assert RetrainingEvidence.from_dict(json.loads(text)) == evidence
    verdict = decide(evidence, monitoring)
    assert RetrainingVerdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
    table = record_retraining_decision(evidence, monitoring, verdict)
    assert table.schema == DECISIONS
    stored = table.to_pylist()[0]
    assert (stored["kind"], stored["trigger"]) == ("governor", verdict.trigger)
    assert replay_retraining(stored["evidence"]) == verdict


@pytest.mark.parametrize(
    ("persistence", "nights", "passed"),
    [
        # Seen two nights ago, by one extreme night.
        ((2, 3), {2: True}, False),
        ((2, 3), {2: True, 1: False}, False),
        ((2, 3), {2: True, 1: False, 0: False}, True),
        ((2, 3), {2: True, 1: False, 0: True}, False),
        # What was not measured says nothing.
        ((2, 3), {2: True, 0: False}, False),
        # It had lasted by then, whatever came after.
        ((2, 3), {3: True, 2: True, 1: False, 0: False}, False),
        ((2, 3), {5: True, 2: True, 1: False, 0: False}, True),
        ((1, 3), {2: True, 1: False, 0: False}, False),
        ((2, 2), {2: True, 1: False}, True),
    ],
)
def test_what_one_extreme_night_showed_passes_if_nothing_comes_of_it(persistence, nights, passed):
    monitoring = Monitoring(persistence=persistence)
    change = Change(ago(2), ago(2), DAY + timedelta(30), ("spent_30d",))
    measured = [night(days, drift) for days, drift in nights.items()]
    assert has_passed(change, measured, monitoring) is passed
    fallen = replace(change, what=("realised auc",))
    assert not has_passed(fallen, measured, monitoring)
