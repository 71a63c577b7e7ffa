import json
from datetime import date

import pytest

from evergreen.decisions.effect import EffectEvidence, EffectVerdict, judge_effect, record_effect
from evergreen.decisions.gate import Difference
from evergreen.decisions.stored import DECISIONS

DAY = date(2026, 2, 3)


def evidence(difference, **more):
    return EffectEvidence(
        use_case="churn",
        version=2,
        former_version=1,
        trained_on=DAY,
        sequence=2,
        run_id="a_run",
        day=date(2026, 2, 5),
        rows=4_000,
        metric="auc",
        **({"realised": 0.82, "former": 0.79, "promised": 0.81} | more),
        difference=difference,
    )


@pytest.mark.parametrize(
    ("lower", "upper", "decision"),
    [
        (0.01, 0.05, "better"),
        (0.0, 0.05, "unclear"),
        (-0.01, 0.05, "unclear"),
        (-0.05, 0.0, "unclear"),
        (-0.05, -0.01, "worse"),
    ],
)
def test_the_whole_interval_decides(lower, upper, decision):
    verdict = judge_effect(evidence(Difference((lower + upper) / 2, lower, upper)))
    assert verdict.decision == decision
    assert "realised auc 0.8200 over 4000 rows" in verdict.reasons[0]
    assert "version 1 would have reached 0.7900" in verdict.reasons[0]
    assert verdict.reasons[1] == "its holdout had promised 0.8100"


def test_what_cannot_be_compared_is_unclear():
    found = judge_effect(evidence(Difference(None, None, None), realised=None, former=None))
    assert found == EffectVerdict(
        "unclear", ("auc of 4000 labelled rows of 2026-02-05 does not exist",)
    )


def test_it_is_kept_with_the_day_of_its_training():
    found = evidence(Difference(0.03, 0.01, 0.05))
    table = record_effect(found, judge_effect(found))
    assert table.schema == DECISIONS
    (row,) = table.to_pylist()
    assert (row["day"], row["kind"], row["decision"], row["version"]) == (
        DAY,
        "effect",
        "better",
        2,
    )
    assert EffectEvidence.from_dict(json.loads(row["evidence"])["evidence"]) == found
