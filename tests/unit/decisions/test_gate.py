import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.contract import Gate
from evergreen.decisions.gate import (
    REQUIRED_BASELINES,
    Baseline,
    Champion,
    Evidence,
    Metrics,
    Verdict,
    decide_promotion,
    record_promotion_decision,
    replay_promotion,
)
from evergreen.decisions.stored import DECISIONS
from evergreen.errors import PermanentError

GATE = Gate(min_auc=0.7, max_logloss=0.6, min_baseline_margin=0.01, max_champion_deficit=0.0)

GOOD = Evidence(
    day=date(2026, 3, 1),
    use_case="churn",
    version=4,
    holdout_as_of=datetime(2025, 12, 1, tzinfo=UTC),
    rows=5_000,
    minority_rows=1_500,
    challenger=Metrics(auc=0.8, logloss=0.5, brier=0.17, latency_ms_per_1k=3.0),
    baselines={"recency": Baseline(0.74, 0.58), "logistic_regression": Baseline(0.78, 0.55)},
    champion=Champion(3, 0.79, 0.51),
    ledger_sequence=2,
)


def with_metrics(**metrics):
    return replace(GOOD, challenger=replace(GOOD.challenger, **metrics))


def failed(evidence, gate=GATE):
    return {check.name for check in decide_promotion(evidence, gate).failed}


def test_a_good_challenger_is_promoted_with_all_reasons():
    verdict = decide_promotion(GOOD, GATE)
    assert verdict.decision == "promote"
    assert not verdict.failed
    assert len(verdict.reasons) == len(verdict.checks) == 9


def test_a_champion_that_cannot_be_measured_excuses_nothing_else():
    unfit = replace(GOOD, champion=Champion(3, None, unfit="it reads x, which is gone"))
    verdict = decide_promotion(unfit, GATE)
    assert verdict.decision == "promote"
    assert any("champion 3 cannot be measured" in reason for reason in verdict.reasons)
    assert Evidence.from_dict(json.loads(json.dumps(unfit.to_dict()))) == unfit
    weak = replace(unfit, challenger=replace(GOOD.challenger, auc=0.69))
    assert failed(weak) == {"min_auc", "beats_recency", "beats_logistic_regression"}


@pytest.mark.parametrize(
    ("evidence", "names"),
    [
        (
            replace(with_metrics(auc=0.69), champion=Champion(3, 0.6)),
            {"min_auc", "beats_recency", "beats_logistic_regression"},
        ),
        (with_metrics(logloss=0.61), {"max_logloss"}),
        (with_metrics(latency_ms_per_1k=251.0), {"max_latency"}),
        (with_metrics(auc=0.785), {"beats_logistic_regression", "not_worse_than_champion"}),
        (replace(GOOD, rows=199), {"holdout_rows"}),
        (replace(GOOD, minority_rows=29), {"holdout_minority"}),
        (replace(GOOD, champion=Champion(3, 0.801)), {"not_worse_than_champion"}),
        (replace(GOOD, champion=Champion(3, math.nan)), {"not_worse_than_champion"}),
        (replace(GOOD, baselines={}), {"beats_recency", "beats_logistic_regression"}),
        (with_metrics(brier=None), {"metrics_measured"}),
        (with_metrics(latency_ms_per_1k=math.inf), {"metrics_measured", "max_latency"}),
        (with_metrics(logloss=-0.1), {"metrics_measured"}),
    ],
)
def test_each_demand_refuses_by_its_own_name(evidence, names):
    verdict = decide_promotion(evidence, GATE)
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
    unmeasured = {**GOOD.baselines, "recency": Baseline(None)}
    assert failed(replace(GOOD, baselines=unmeasured)) == {"beats_recency"}
    extra = {**GOOD.baselines, "yesterday": Baseline(0.81)}
    assert failed(replace(GOOD, baselines=extra)) == {"beats_yesterday"}


def test_no_champion_passes_only_on_an_empty_ledger():
    assert failed(replace(GOOD, champion=None, ledger_sequence=0)) == set()
    assert failed(replace(GOOD, champion=None, ledger_sequence=1)) == {"not_worse_than_champion"}


def test_equal_to_the_champion_passes_and_equal_to_a_baseline_does_not():
    gate = GATE.model_copy(update={"min_baseline_margin": 0.0})
    assert failed(replace(GOOD, champion=Champion(3, 0.8)), gate) == set()
    tied = {**GOOD.baselines, "recency": Baseline(0.8)}
    assert failed(replace(GOOD, baselines=tied), gate) == {"beats_recency"}


maybe = st.none() | st.floats(0, 1) | st.just(math.nan)
metrics = st.builds(Metrics, maybe, maybe, maybe, st.none() | st.floats(0, 500))
evidences = st.builds(
    Evidence,
    day=st.just(GOOD.day),
    use_case=st.just("churn"),
    version=st.integers(1, 9),
    holdout_as_of=st.just(GOOD.holdout_as_of),
    rows=st.integers(0, 1_000),
    minority_rows=st.integers(0, 100),
    challenger=metrics,
    baselines=st.dictionaries(
        st.sampled_from([*REQUIRED_BASELINES, "other"]), st.builds(Baseline, maybe, maybe)
    ),
    champion=st.none() | st.builds(Champion, st.integers(1, 9), maybe, maybe),
    ledger_sequence=st.integers(0, 3),
)
gates = st.builds(
    Gate,
    min_auc=st.floats(0, 1),
    max_logloss=st.floats(0.01, 1),
    min_baseline_margin=st.floats(0, 0.1),
    max_champion_deficit=st.floats(0, 0.1),
)
# Evidence near the line, where a promotion is possible at all.
hopeful = st.builds(
    lambda auc, logloss, latency, base, champion: replace(
        GOOD,
        challenger=Metrics(auc, logloss, 0.2, latency),
        baselines={name: Baseline(base) for name in REQUIRED_BASELINES},
        champion=Champion(3, champion),
    ),
    st.floats(0.6, 1),
    st.floats(0.4, 0.7),
    st.floats(0, 300),
    st.floats(0.5, 0.8),
    st.floats(0.6, 0.9),
)


@settings(deadline=None)
@given(hopeful | evidences, gates | st.just(GATE), st.floats(0, 0.3), st.floats(0, 0.3))
def test_improving_the_challenger_never_turns_promote_into_refuse(evidence, gate, up, down):
    if decide_promotion(evidence, gate).decision == "refuse":
        return
    found = evidence.challenger
    better = Metrics(
        min(1.0, found.auc + up),
        max(0.0, found.logloss - down),
        found.brier,
        found.latency_ms_per_1k * (1 - down),
    )
    improved = replace(evidence, challenger=better, rows=evidence.rows + 10)
    assert decide_promotion(improved, gate).decision == "promote"


@settings(deadline=None)
@given(evidences, gates)
def test_promotion_means_every_number_was_measured_and_every_baseline_beaten(evidence, gate):
    if decide_promotion(evidence, gate).decision == "promote":
        found = evidence.challenger
        assert None not in (found.auc, found.logloss, found.brier, found.latency_ms_per_1k)
        assert set(REQUIRED_BASELINES) <= set(evidence.baselines)
        assert all(found.auc > baseline.auc for baseline in evidence.baselines.values())


@settings(deadline=None)
@given(evidences | hopeful, gates)
def test_evidence_and_verdict_survive_json_and_decide_the_same(evidence, gate):
    text = json.dumps(evidence.to_dict(), allow_nan=False)
    assert Evidence.from_dict(json.loads(text)) == evidence
    verdict = decide_promotion(evidence, gate)
    stored = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert Verdict.from_dict(stored) == verdict
    table = record_promotion_decision(evidence, gate, verdict)
    assert table.schema == DECISIONS
    row = table.to_pylist()[0]
    assert (row["day"], row["kind"], row["version"]) == (GOOD.day, "gate", evidence.version)
    assert replay_promotion(row["evidence"]) == verdict


def test_unreadable_evidence_says_what_is_wrong():
    with pytest.raises(PermanentError, match="holdout_as_of"):
        Evidence.from_dict({"day": "2026-03-01"})
