import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.decisions.gate import (
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

BASELINES = ("recency", "logistic_regression")
DEMANDS = PromotionDemands(
    main_metric="auc",
    possible={"auc": (0.0, 1.0), "logloss": (0.0, None), "brier": (0.0, 1.0)},
    limits={"min_auc": 0.7, "max_logloss": 0.6},
    counts={"rows": 200, "minority_rows": 30},
    baselines=BASELINES,
    max_latency_ms_per_1k=250.0,
    min_baseline_margin=0.01,
    max_champion_deficit=0.0,
)

GOOD = PromotionEvidence(
    day=date(2026, 3, 1),
    use_case="churn",
    version=4,
    holdout_as_of=datetime(2025, 12, 1, tzinfo=UTC),
    counts={"rows": 5_000, "minority_rows": 1_500},
    challenger={"auc": 0.8, "logloss": 0.5, "brier": 0.17},
    latency_ms_per_1k=3.0,
    baselines={"recency": {"auc": 0.74, "logloss": 0.58}, "logistic_regression": {"auc": 0.78}},
    champion=MeasuredChampion(3, {"auc": 0.79, "logloss": 0.51}),
    ledger_sequence=2,
)


def with_metrics(**metrics):
    return replace(GOOD, challenger={**GOOD.challenger, **metrics})


def champion(auc):
    return MeasuredChampion(3, {"auc": auc})


def failed(evidence, demands=DEMANDS):
    return {check.name for check in decide_promotion(evidence, demands).failed}


def test_a_good_challenger_is_promoted_with_all_reasons():
    verdict = decide_promotion(GOOD, DEMANDS)
    assert verdict.decision == "promote"
    assert not verdict.failed
    assert len(verdict.reasons) == len(verdict.checks) == 9


def test_a_champion_that_cannot_be_measured_excuses_nothing_else():
    unfit = replace(GOOD, champion=MeasuredChampion(3, unfit="it reads x, which is gone"))
    verdict = decide_promotion(unfit, DEMANDS)
    assert verdict.decision == "promote"
    assert any("champion 3 cannot be measured" in reason for reason in verdict.reasons)
    assert PromotionEvidence.from_dict(json.loads(json.dumps(unfit.to_dict()))) == unfit
    weak = replace(unfit, challenger={**GOOD.challenger, "auc": 0.69})
    assert failed(weak) == {"min_auc", "beats_recency", "beats_logistic_regression"}


@pytest.mark.parametrize(
    ("evidence", "names"),
    [
        (
            replace(with_metrics(auc=0.69), champion=champion(0.6)),
            {"min_auc", "beats_recency", "beats_logistic_regression"},
        ),
        (with_metrics(logloss=0.61), {"max_logloss"}),
        (replace(GOOD, latency_ms_per_1k=251.0), {"max_latency"}),
        (with_metrics(auc=0.785), {"beats_logistic_regression", "not_worse_than_champion"}),
        (replace(GOOD, counts={"rows": 199, "minority_rows": 30}), {"holdout_rows"}),
        (replace(GOOD, counts={"rows": 200, "minority_rows": 29}), {"holdout_minority_rows"}),
        (replace(GOOD, counts={"rows": 200}), {"holdout_minority_rows"}),
        (replace(GOOD, champion=champion(0.801)), {"not_worse_than_champion"}),
        (replace(GOOD, champion=champion(math.nan)), {"not_worse_than_champion"}),
        (replace(GOOD, baselines={}), {"beats_recency", "beats_logistic_regression"}),
        (with_metrics(brier=None), {"metrics_measured"}),
        (with_metrics(brier=1.1), {"metrics_measured"}),
        (replace(GOOD, latency_ms_per_1k=math.inf), {"metrics_measured", "max_latency"}),
        (with_metrics(logloss=-0.1), {"metrics_measured"}),
    ],
)
def test_each_demand_refuses_by_its_own_name(evidence, names):
    verdict = decide_promotion(evidence, DEMANDS)
    assert verdict.decision == "refuse"
    assert {check.name for check in verdict.failed} == names
    assert len(verdict.reasons) == len(names)


def test_nan_auc_fails_every_check_it_enters():
    assert failed(with_metrics(auc=math.nan)) == {
        "metrics_measured",
        "min_auc",
        "beats_recency",
        "beats_logistic_regression",
        "not_worse_than_champion",
    }


def test_an_unmeasured_baseline_or_an_extra_one_is_not_skipped():
    unmeasured = {**GOOD.baselines, "recency": {"auc": None}}
    assert failed(replace(GOOD, baselines=unmeasured)) == {"beats_recency"}
    extra = {**GOOD.baselines, "yesterday": {"auc": 0.81}}
    assert failed(replace(GOOD, baselines=extra)) == {"beats_yesterday"}


def test_no_champion_passes_only_on_an_empty_ledger():
    assert failed(replace(GOOD, champion=None, ledger_sequence=0)) == set()
    assert failed(replace(GOOD, champion=None, ledger_sequence=1)) == {"not_worse_than_champion"}


def test_equal_to_the_champion_passes_and_equal_to_a_baseline_does_not():
    demands = replace(DEMANDS, min_baseline_margin=0.0)
    assert failed(replace(GOOD, champion=champion(0.8)), demands) == set()
    tied = {**GOOD.baselines, "recency": {"auc": 0.8}}
    assert failed(replace(GOOD, baselines=tied), demands) == {"beats_recency"}


def test_demands_are_those_of_the_target_and_of_what_is_declared():
    churn = declare({"name": "gone"}, FEATURES)
    training = churn.training.model_copy(update={"baselines": ("idle_days",)})
    gate = type(churn.gate).model_validate({"min_auc": 0.7, "max_brier": 0.2})
    found = PromotionDemands.of(churn.model_copy(update={"training": training, "gate": gate}))
    assert found.limits == {"min_auc": 0.7, "max_logloss": 0.69, "max_brier": 0.2}
    assert found.counts == {"rows": 200, "minority_rows": 30}
    assert found.baselines == ("idle_days", "logistic_regression")
    assert found.possible == DEMANDS.possible
    assert found.main_metric == "auc"


def test_a_number_is_judged_by_the_same_rules():
    spend = declare({"kind": "number", "name": "spent", "distribution": "tweedie"}, FEATURES)
    demands = PromotionDemands.of(spend)
    good = replace(
        GOOD,
        counts={"rows": 200},
        challenger={"d2": 0.3, "deviance": 2.0, "mae": 10.0, "rmse": 20.0},
        baselines={"naive": {"d2": -0.01}, "linear": {"d2": 0.2}},
        champion=MeasuredChampion(3, {"d2": 0.3}),
    )
    verdict = decide_promotion(good, demands)
    assert verdict.decision == "promote", verdict.reasons
    names = {"min_d2", "beats_naive", "beats_linear", "not_worse_than_champion", "holdout_rows"}
    assert names < {check.name for check in verdict.checks}
    weak = replace(good, challenger={**good.challenger, "d2": 0.1})
    assert failed(weak, demands) == {"beats_linear", "not_worse_than_champion"}
    assert failed(replace(good, baselines={"naive": {"d2": 0.0}}), demands) == {"beats_linear"}
    assert failed(replace(good, challenger={"d2": 0.3}), demands) == {"metrics_measured"}
    below = replace(good, challenger={**good.challenger, "d2": -0.1}, champion=None)
    assert "min_d2" in failed(below, demands)


def test_the_decision_is_told_with_every_check():
    refused = replace(GOOD, latency_ms_per_1k=300.0)
    lines = render_promotion(refused, decide_promotion(refused, DEMANDS)).splitlines()
    assert lines[0] == "Version 4, trained for 2026-03-01: **refuse**."
    assert [line for line in lines if line.startswith("- FAILED max_latency: latency in ms")]
    assert len(lines) == 10


maybe = st.none() | st.floats(0, 1) | st.just(math.nan)
metrics = st.dictionaries(st.sampled_from(sorted(DEMANDS.possible)), maybe)
evidences = st.builds(
    PromotionEvidence,
    day=st.just(GOOD.day),
    use_case=st.just("churn"),
    version=st.integers(1, 9),
    holdout_as_of=st.just(GOOD.holdout_as_of),
    counts=st.dictionaries(st.sampled_from(["rows", "minority_rows"]), st.integers(0, 1_000)),
    challenger=metrics,
    latency_ms_per_1k=st.none() | st.floats(0, 500),
    baselines=st.dictionaries(st.sampled_from([*BASELINES, "other"]), metrics),
    champion=st.none() | st.builds(MeasuredChampion, st.integers(1, 9), metrics),
    ledger_sequence=st.integers(0, 3),
)
demands_ = st.builds(
    lambda auc, logloss, margin, deficit: replace(
        DEMANDS,
        limits={"min_auc": auc, "max_logloss": logloss},
        min_baseline_margin=margin,
        max_champion_deficit=deficit,
    ),
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.floats(0, 0.1),
    st.floats(0, 0.1),
)
# Evidence near the line, where a promotion is possible at all.
hopeful = st.builds(
    lambda auc, logloss, latency, base, other: replace(
        GOOD,
        challenger={"auc": auc, "logloss": logloss, "brier": 0.2},
        latency_ms_per_1k=latency,
        baselines={name: {"auc": base} for name in BASELINES},
        champion=champion(other),
    ),
    st.floats(0.6, 1),
    st.floats(0.4, 0.7),
    st.floats(0, 300),
    st.floats(0.5, 0.8),
    st.floats(0.6, 0.9),
)


@settings(deadline=None)
@given(hopeful | evidences, demands_ | st.just(DEMANDS), st.floats(0, 0.3), st.floats(0, 0.3))
def test_improving_the_challenger_never_turns_promote_into_refuse(evidence, demands, up, down):
    if decide_promotion(evidence, demands).decision == "refuse":
        return
    found = evidence.challenger
    improved = replace(
        evidence,
        challenger={
            **found,
            "auc": min(1.0, found["auc"] + up),
            "logloss": max(0.0, found["logloss"] - down),
        },
        latency_ms_per_1k=evidence.latency_ms_per_1k * (1 - down),
        counts={what: count + 10 for what, count in evidence.counts.items()},
    )
    assert decide_promotion(improved, demands).decision == "promote"


@settings(deadline=None)
@given(evidences, demands_)
def test_promotion_means_every_number_was_measured_and_every_baseline_beaten(evidence, demands):
    if decide_promotion(evidence, demands).decision == "promote":
        assert set(DEMANDS.possible) <= set(evidence.challenger)
        assert None not in (*evidence.challenger.values(), evidence.latency_ms_per_1k)
        assert set(BASELINES) <= set(evidence.baselines)
        reached = evidence.challenger["auc"]
        assert all(reached > baseline["auc"] for baseline in evidence.baselines.values())


@settings(deadline=None)
@given(evidences | hopeful, demands_)
def test_evidence_and_verdict_survive_json_and_decide_the_same(evidence, demands):
    text = json.dumps(evidence.to_dict(), allow_nan=False)
    assert PromotionEvidence.from_dict(json.loads(text)) == evidence
    verdict = decide_promotion(evidence, demands)
    stored = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert PromotionVerdict.from_dict(stored) == verdict
    table = record_promotion_decision(evidence, demands, verdict)
    assert table.schema == DECISIONS
    row = table.to_pylist()[0]
    assert (row["day"], row["kind"], row["version"]) == (GOOD.day, "gate", evidence.version)
    assert replay_promotion(row["evidence"]) == verdict


def test_unreadable_evidence_says_what_is_wrong():
    with pytest.raises(PermanentError, match="holdout_as_of"):
        PromotionEvidence.from_dict({"day": "2026-03-01"})
