"""What becomes of a rollout, night by night."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.contract import Rollout
from evergreen.decisions.rollout import (
    Agreement,
    Paired,
    RolloutEvidence,
    RolloutVerdict,
    decide_rollout,
    record_rollout,
)

DAY = date(2026, 3, 1)
DEMANDS = Rollout(shadow_nights=2, shares=(0.1, 1.0), nights_per_share=3, require="nothing")
ALIKE = Agreement(rows=1000, correlation=0.9, shift=0.1, band_change=0.05, slowdown=1.2)


def paired(lower: float, upper: float, champion: float = 0.2) -> Paired:
    return Paired(
        days=4,
        rows=4000,
        entities=1000,
        champion=champion,
        difference=(lower + upper) / 2,
        lower=lower,
        upper=upper,
    )


def night(share: float = 0.0, stage: int = 1, **more: Any) -> RolloutEvidence:
    known = {
        "use_case": "churn",
        "day": DAY,
        "newest_day": DAY,
        "sequence": 4,
        "champion": 1,
        "challenger": 2,
        "share": share,
        "stage_nights": stage,
        "nights": stage,
        "horizon_days": 28,
        "published": {"champion": 900, "challenger": 100},
        "agreement": ALIKE,
        **more,
    }
    return RolloutEvidence(**known)


def decide(evidence: RolloutEvidence, **demands: Any) -> RolloutVerdict:
    return decide_rollout(evidence, DEMANDS.model_copy(update=demands))


def test_it_goes_from_shadow_over_all_shares_into_charge() -> None:
    steps = [(0.0, 1, "hold", 0.0), (0.0, 2, "advance", 0.1), (0.1, 2, "hold", 0.1)]
    steps += [(0.1, 3, "advance", 1.0), (1.0, 2, "hold", 1.0), (1.0, 3, "finish", 1.0)]
    for share, stage, decision, following in steps:
        verdict = decide(night(share, stage))
        assert (verdict.decision, verdict.share) == (decision, following), (share, stage)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"failure": "its file is gone"}, "its file is gone"),
        ({"mismatch": 1e-5}, "10.00% of the entities get its scores"),
        ({"agreement": replace(ALIKE, correlation=0.1)}, "correlate 0.10"),
        ({"agreement": replace(ALIKE, shift=-1.5)}, "-1.50 standard deviations"),
        ({"agreement": replace(ALIKE, band_change=0.6)}, "60% more or fewer"),
        ({"agreement": replace(ALIKE, slowdown=11.0)}, "11.0 times as long"),
        ({"paired": paired(0.001, 0.002)}, "labels show that it is worse"),
        ({"nights": 89}, "rolled out for 89 nights"),
    ],
)
def test_what_speaks_against_it_stops_it_on_any_night(what: dict[str, Any], said: str) -> None:
    for share, stage in ((0.0, 1), (0.1, 3), (1.0, 3)):
        verdict = decide(night(share, stage, **what))
        assert (verdict.decision, verdict.share) == ("stop", 0.0)
        assert said in "; ".join(verdict.reasons)


@pytest.mark.parametrize(
    ("require", "found", "decision"),
    [
        ("nothing", None, "finish"),
        ("nothing", paired(-0.1, 0.1), "finish"),
        ("equivalent", None, "hold"),
        ("equivalent", paired(-0.005, 0.001), "hold"),
        ("equivalent", paired(-0.003, 0.003), "finish"),
        ("equivalent", paired(-0.009, -0.001), "finish"),
        ("better", paired(-0.003, 0.003), "hold"),
        ("better", paired(-0.009, -0.001), "finish"),
    ],
)
def test_labels_must_have_shown_what_is_required(
    require: str, found: Paired | None, decision: str
) -> None:
    assert decide(night(1.0, 3, paired=found), require=require).decision == decision


def test_only_so_many_get_unproven_scores() -> None:
    demands = {"require": "equivalent", "unproven_share": 0.1}
    proven = paired(-0.009, -0.001)
    for found, decision, share in ((None, "hold", 0.1), (proven, "advance", 1.0)):
        verdict = decide(night(0.1, 9, paired=found), **demands)
        assert (verdict.decision, verdict.share) == (decision, share)
    assert decide(night(0.0, 2), **demands).share == 0.1
    # Of nobody, it stays in the shadow until labels have shown enough.
    assert decide(night(0.0, 9), **demands | {"unproven_share": 0.0}).decision == "hold"
    waiting = decide(night(0.1, 9), **demands)
    assert "labels are required to show that it is equivalent; so far it is unclear" in (
        waiting.reasons
    )


def test_only_the_newest_night_that_both_have_scored_decides() -> None:
    bad = {"failure": "its file is gone"}
    assert decide(night(0.0, 9, newest_day=date(2026, 3, 2), **bad)).decision == "hold"
    assert decide(night(0.0, 9, newest_day=None)).decision == "hold"
    assert decide(night(0.0, 9, published={})).decision == "hold"


def test_the_record_holds_all_that_is_needed_to_decide_again() -> None:
    import json

    evidence = night(0.1, 3, paired=paired(-0.2, 0.1), estimated={"champion": 0.7})
    verdict = decide(evidence)
    (row,) = record_rollout(evidence, DEMANDS, verdict).to_pylist()
    assert (row["kind"], row["decision"], row["version"]) == ("rollout", "advance", 2)
    kept = json.loads(row["evidence"])
    again = decide_rollout(
        RolloutEvidence.from_dict(kept["evidence"]), Rollout.model_validate(kept["demands"])
    )
    assert again == verdict == RolloutVerdict.from_dict(json.loads(row["verdict"]))


@given(
    share=st.sampled_from([0.0, 0.1, 1.0]),
    stage=st.integers(0, 9),
    lower=st.floats(-0.1, 0.1),
    width=st.floats(0, 0.1),
    require=st.sampled_from(["nothing", "equivalent", "better"]),
)
def test_a_share_never_falls_but_to_nothing_and_grows_by_one_step(
    share: float, stage: int, lower: float, width: float, require: str
) -> None:
    verdict = decide(night(share, stage, paired=paired(lower, lower + width)), require=require)
    if verdict.decision == "stop":
        assert verdict.share == 0
    elif verdict.decision == "advance":
        assert verdict.share == {0.0: 0.1, 0.1: 1.0}[share]
    else:
        assert verdict.share == share
