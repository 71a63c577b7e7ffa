import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.decisions.gate import (
    Agreement,
    Difference,
    MeasuredChampion,
    PromotionDemands,
    PromotionEvidence,
    PromotionVerdict,
    decide_promotion,
    record_promotion_decision,
    render_promotion,
    replay_promotion,
)
from evergreen.decisions.stored import DECISIONS
from evergreen.errors import PermanentError
from tiny_people import FEATURES, declare

BASELINES = ("naive", "recency")
DEMANDS = PromotionDemands(
    main_metric="auc",
    possible={"auc": (0.0, 1.0), "logloss": (0.0, None), "brier": (0.0, 1.0)},
    limits={"min_auc": 0.7, "max_logloss": 0.6},
    counts={"rows": 200, "minority_rows": 30},
    baselines=BASELINES,
    max_latency_ms_per_1k=250.0,
    min_baseline_margin=0.01,
    max_champion_deficit=0.01,
    promote=("better",),
    max_age_days=90,
    max_slice_deficit=0.02,
    min_refit_correlation=0.8,
    max_refit_shift=1.0,
)


def around(estimate, error=0.005):
    return Difference(estimate, estimate - 2 * error, estimate + 2 * error, error)


def beside(estimate, **changes):
    """A champion that the challenger exceeds by about as much."""
    return MeasuredChampion(3, {"auc": 0.79}, {"auc": around(estimate)}, **changes)


GOOD = PromotionEvidence(
    day=date(2026, 3, 1),
    use_case="churn",
    version=4,
    holdout_as_of=datetime(2025, 12, 1, tzinfo=UTC),
    counts={"rows": 5_000, "minority_rows": 1_500},
    challenger={"auc": 0.8, "logloss": 0.5, "brier": 0.17},
    intervals={"auc": (0.78, 0.82)},
    latency_ms_per_1k=3.0,
    baselines={"naive": {"auc": 0.5}, "recency": {"auc": 0.74}, "linear": {"auc": 0.79}},
    over_baselines={"naive": around(0.3), "recency": around(0.06), "linear": around(0.0)},
    champion=beside(0.02, age_days=30, slices={"country=DE": around(-0.02)}),
    ledger_sequence=2,
    refit=Agreement(0.97, 0.1),
)


def with_metrics(**metrics):
    return replace(GOOD, challenger={**GOOD.challenger, **metrics})


def over(**differences):
    return replace(GOOD, over_baselines={**GOOD.over_baselines, **differences})


def failed(evidence, demands=DEMANDS):
    return {check.name for check in decide_promotion(evidence, demands).failed}


def test_a_good_challenger_is_promoted_with_all_reasons():
    verdict = decide_promotion(GOOD, DEMANDS)
    assert verdict.decision == "promote"
    assert verdict.comparison == "better"
    assert not verdict.failed
    assert len(verdict.reasons) == len(verdict.checks) == 14


@pytest.mark.parametrize(
    ("evidence", "names"),
    [
        (with_metrics(auc=0.69), {"min_auc"}),
        (with_metrics(logloss=0.61), {"max_logloss"}),
        (replace(GOOD, latency_ms_per_1k=251.0), {"max_latency"}),
        (replace(GOOD, counts={"rows": 199, "minority_rows": 30}), {"holdout_rows"}),
        (replace(GOOD, counts={"rows": 200, "minority_rows": 29}), {"holdout_minority_rows"}),
        (replace(GOOD, counts={"rows": 200}), {"holdout_minority_rows"}),
        (with_metrics(brier=None), {"metrics_measured"}),
        (with_metrics(brier=1.1), {"metrics_measured"}),
        (with_metrics(logloss=-0.1), {"metrics_measured"}),
        (with_metrics(auc=math.nan), {"metrics_measured", "min_auc"}),
        (replace(GOOD, latency_ms_per_1k=math.inf), {"metrics_measured", "max_latency"}),
        # More than the margin, but not surely.
        (over(recency=around(0.015)), {"beats_recency"}),
        (over(recency=Difference(None, None, None)), {"beats_recency"}),
        (replace(GOOD, over_baselines={}), {"beats_naive", "beats_recency"}),
        (over(linear=around(-0.02)), {"not_below_linear"}),
        (replace(GOOD, promoted_on_holdout=2), {"fresh_holdout"}),
        (replace(GOOD, refit=Agreement(0.7, 0.1)), {"refit_ranks_alike"}),
        (replace(GOOD, refit=Agreement(0.97, -1.1)), {"refit_scores_alike"}),
        (replace(GOOD, refit=None), {"refit_ranks_alike", "refit_scores_alike"}),
    ],
)
def test_each_demand_refuses_by_its_own_name(evidence, names):
    verdict = decide_promotion(evidence, DEMANDS)
    assert verdict.decision == "refuse"
    assert {check.name for check in verdict.failed} == names
    assert len(verdict.reasons) == len(names)


@pytest.mark.parametrize(
    ("champion", "comparison", "decision"),
    [
        (beside(0.011), "better", "promote"),
        (beside(0.01), "equivalent", "refuse"),
        (beside(0.0), "equivalent", "refuse"),
        # The champion is past its age: one that is as good takes over.
        (beside(0.0, age_days=90), "equivalent", "refuse"),
        (beside(0.0, age_days=91), "equivalent", "promote"),
        (beside(-0.005), "unclear", "refuse"),
        (beside(-0.005, age_days=91), "unclear", "refuse"),
        (beside(-0.02, age_days=91), "worse", "refuse"),
        (MeasuredChampion(3, {"auc": 0.79}, {"auc": around(0.0, 0.02)}), "unclear", "refuse"),
        (MeasuredChampion(3, {"auc": 0.79}), "unclear", "refuse"),
        (MeasuredChampion(3, unfit="it reads x, which is gone"), "unfit", "promote"),
    ],
)
def test_the_interval_beside_the_champion_decides(champion, comparison, decision):
    verdict = decide_promotion(replace(GOOD, champion=champion), DEMANDS)
    assert (verdict.comparison, verdict.decision) == (comparison, decision)
    assert failed(replace(GOOD, champion=champion)) <= {"champion"}


def test_what_promotes_can_be_declared():
    demands = replace(DEMANDS, promote=("better", "equivalent"))
    assert failed(replace(GOOD, champion=beside(0.0)), demands) == set()
    assert failed(replace(GOOD, champion=beside(-0.02)), demands) == {"champion"}
    young = replace(DEMANDS, max_age_days=None)
    assert failed(replace(GOOD, champion=beside(0.0, age_days=999)), young) == {"champion"}


def test_a_champion_that_cannot_be_measured_excuses_nothing_else():
    unfit = replace(GOOD, champion=MeasuredChampion(3, unfit="it reads x, which is gone"))
    reasons = decide_promotion(unfit, DEMANDS).reasons
    assert any("champion 3, which cannot be measured" in reason for reason in reasons)
    assert failed(replace(unfit, promoted_on_holdout=3)) == set()
    weak = replace(unfit, challenger={**GOOD.challenger, "auc": 0.69})
    assert failed(weak) == {"min_auc"}


def test_no_champion_passes_only_on_an_empty_ledger():
    first = replace(GOOD, champion=None, ledger_sequence=0)
    assert decide_promotion(first, DEMANDS).comparison == "first"
    assert failed(first) == set()
    assert failed(replace(first, ledger_sequence=1)) == {"champion"}


def test_a_slice_refuses_when_it_is_surely_worse_and_not_by_the_chance_of_many():
    bad, unlucky = around(-0.05, 0.01), around(-0.04, 0.01)
    one = replace(GOOD, champion=beside(0.02, slices={"country=DE": unlucky}))
    assert failed(one) == {"slice country=DE"}
    many = {f"country={n}": around(0.0, 0.01) for n in range(9)}
    lost = replace(GOOD, champion=beside(0.02, slices={**many, "country=DE": unlucky}))
    assert failed(lost) == set()
    found = replace(GOOD, champion=beside(0.02, slices={**many, "country=DE": bad}))
    assert failed(found) == {"slice country=DE"}


def test_demands_are_those_of_the_target_and_of_what_is_declared():
    churn = declare({"name": "gone"}, FEATURES)
    training = churn.training.model_copy(update={"baselines": ("idle_days",)})
    gate = type(churn.gate).model_validate({"min_auc": 0.7, "max_brier": 0.2})
    found = PromotionDemands.of(churn.model_copy(update={"training": training, "gate": gate}))
    assert found.limits == {"min_auc": 0.7, "max_logloss": 0.69, "max_brier": 0.2}
    assert found.counts == {"rows": 200, "minority_rows": 30}
    assert found.baselines == ("naive", "idle_days")
    assert set(found.possible) == set(churn.target.metrics)
    assert found.main_metric == "auc"


def test_a_number_is_judged_by_the_same_rules():
    spend = declare({"kind": "number", "name": "spent", "distribution": "tweedie"}, FEATURES)
    demands = PromotionDemands.of(spend)
    good = replace(
        GOOD,
        counts={"rows": 200},
        challenger={"d2": 0.3, "deviance": 2.0, "mae": 10.0, "rmse": 20.0},
        over_baselines={"naive": around(0.3), "linear": around(0.1)},
        champion=MeasuredChampion(3, {"d2": 0.25}, {"d2": around(0.05)}),
    )
    verdict = decide_promotion(good, demands)
    assert verdict.decision == "promote", verdict.reasons
    assert failed(replace(good, challenger={"d2": 0.3}), demands) == {"metrics_measured"}
    below = replace(good, challenger={**good.challenger, "d2": -0.1}, champion=None)
    assert failed(below, demands) == {"min_d2", "champion"}


def test_the_decision_is_told_with_every_check():
    refused = replace(GOOD, latency_ms_per_1k=300.0)
    lines = render_promotion(refused, decide_promotion(refused, DEMANDS)).splitlines()
    assert lines[0] == "Version 4, trained for 2026-03-01: **refuse**."
    assert [line for line in lines if line.startswith("- FAILED max_latency: latency in ms")]
    assert len(lines) == 15


maybe = st.none() | st.floats(-1, 1) | st.just(math.nan)
metrics = st.dictionaries(st.sampled_from(sorted(DEMANDS.possible)), maybe)
differences = st.builds(around, st.floats(-0.1, 0.4), st.floats(0, 0.05)) | st.builds(
    Difference, maybe, maybe, maybe, maybe
)
champions = st.none() | st.builds(
    MeasuredChampion,
    version=st.integers(1, 9),
    metrics=metrics,
    differences=st.dictionaries(st.just("auc"), differences),
    slices=st.dictionaries(st.sampled_from(["a", "b"]), differences),
    age_days=st.none() | st.integers(0, 200),
    unfit=st.none() | st.just("it reads x"),
)
evidences = st.builds(
    replace,
    st.just(GOOD),
    counts=st.dictionaries(st.sampled_from(["rows", "minority_rows"]), st.integers(0, 1_000)),
    challenger=metrics | st.just(GOOD.challenger),
    latency_ms_per_1k=st.none() | st.floats(0, 500),
    over_baselines=st.dictionaries(st.sampled_from([*BASELINES, "other"]), differences)
    | st.just(GOOD.over_baselines),
    champion=champions,
    ledger_sequence=st.integers(0, 3),
    refit=st.none() | st.just(GOOD.refit) | st.builds(Agreement, maybe, maybe),
)
# Evidence near the line, where a promotion is possible at all.
hopeful = st.builds(
    lambda auc, logloss, latency, base, other: replace(
        GOOD,
        challenger={"auc": auc, "logloss": logloss, "brier": 0.2},
        latency_ms_per_1k=latency,
        over_baselines={name: around(base) for name in BASELINES},
        champion=beside(other),
    ),
    st.floats(0.6, 1),
    st.floats(0.4, 0.7),
    st.floats(0, 300),
    st.floats(0, 0.1),
    st.floats(-0.02, 0.05),
)


def lifted(difference, up):
    return replace(
        difference,
        **{
            name: value + up
            for name in ("estimate", "lower", "upper")
            if (value := getattr(difference, name)) is not None
        },
    )


@settings(deadline=None)
@given(hopeful | evidences, st.floats(0, 0.3), st.floats(0, 0.3))
def test_improving_the_challenger_never_turns_promote_into_refuse(evidence, up, down):
    if decide_promotion(evidence, DEMANDS).decision == "refuse":
        return
    found, champion = evidence.challenger, evidence.champion
    improved = replace(
        evidence,
        challenger={
            **found,
            "auc": min(1.0, found["auc"] + up),
            "logloss": max(0.0, found["logloss"] - down),
        },
        latency_ms_per_1k=evidence.latency_ms_per_1k * (1 - down),
        counts={what: count + 10 for what, count in evidence.counts.items()},
        over_baselines={n: lifted(d, up) for n, d in evidence.over_baselines.items()},
        champion=champion
        and replace(
            champion,
            differences={n: lifted(d, up) for n, d in champion.differences.items()},
            slices={n: lifted(d, up) for n, d in champion.slices.items()},
        ),
    )
    assert decide_promotion(improved, DEMANDS).decision == "promote"


@settings(deadline=None)
@given(evidences | hopeful)
def test_promotion_means_all_was_measured_and_every_baseline_surely_beaten(evidence):
    verdict = decide_promotion(evidence, DEMANDS)
    if verdict.decision == "promote":
        assert set(DEMANDS.possible) <= set(evidence.challenger)
        assert None not in (*evidence.challenger.values(), evidence.latency_ms_per_1k)
        for name in BASELINES:
            assert evidence.over_baselines[name].lower > DEMANDS.min_baseline_margin
        assert verdict.comparison in ("first", "better", "equivalent", "unfit")
        assert evidence.refit is not None


@settings(deadline=None)
@given(evidences | hopeful)
def test_evidence_and_verdict_survive_json_and_decide_the_same(evidence):
    text = json.dumps(evidence.to_dict(), allow_nan=False)
    assert PromotionEvidence.from_dict(json.loads(text)) == evidence
    verdict = decide_promotion(evidence, DEMANDS)
    stored = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert PromotionVerdict.from_dict(stored) == verdict
    table = record_promotion_decision(evidence, DEMANDS, verdict)
    assert table.schema == DECISIONS
    row = table.to_pylist()[0]
    assert (row["day"], row["kind"], row["version"]) == (GOOD.day, "gate", evidence.version)
    assert replay_promotion(row["evidence"]) == verdict


def test_unreadable_evidence_says_what_is_wrong():
    with pytest.raises(PermanentError, match="holdout_as_of"):
        PromotionEvidence.from_dict({"day": "2026-03-01"})
