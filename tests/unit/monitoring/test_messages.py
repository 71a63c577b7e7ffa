from dataclasses import replace
from datetime import date, timedelta

import pytest

from evergreen.contract import Monitoring, load_use_case
from evergreen.decisions.alarm import Night as DriftOfNight
from evergreen.decisions.alerts import News, Night, Training
from evergreen.decisions.governor import (
    Champion,
    Change,
    Performance,
    RetrainingEvidence,
    decide_retraining,
)
from evergreen.monitoring.messages import render_change, render_training

DAY = date(2026, 1, 9)
CHURN = load_use_case("churn")
SEEN = DriftOfNight(DAY, 3, 9, ("orders_30d", "spent_30d"), (), True, 0.42, True, ("orders_30d",))
CHANGE = Change(DAY, date(2026, 1, 5), date(2026, 7, 4), ("orders_30d", "the score"))
EVIDENCE = RetrainingEvidence(
    "churn",
    DAY,
    DAY,
    (SEEN,),
    Performance(date(2025, 10, 11), 3, 5_000, "auc", 0.7, 0.8, False),
    Champion(3, date(2025, 12, 31)),
)


def told(concern, evidence, event="begun"):
    night = Night(evidence, decide_retraining(evidence, Monitoring()))
    news = News(concern, event, DAY - timedelta(days=1))
    return render_change(CHURN, news, night, ["mend", "again"], "http://a")


def test_drift_that_cannot_be_learned_yet_says_from_when_on_it_can():
    title, text = told("drift", replace(EVIDENCE, changes=(CHANGE,)))
    assert title == "churn, night of 2026-01-09: drift"
    assert text.splitlines() == [
        "What: 1 of the last 3 nights drifted (so far that one is enough); on 2026-01-09: "
        "orders_30d, spent_30d, the score",
        "What: orders_30d, the score changed about 2026-01-05",
        "How bad: 2 of 9 columns drifted, 42% of the importance",
        "Since: the night of 2026-01-08",
        "What follows: the champion goes on; retraining is asked for on 2026-07-04, the first day "
        "on which the change can be learned",
        "What to do: if it is a fault of the data, mend it at its source and load the days again:",
        "  evergreen backfill churn 2026-01-05 2026-01-09 --reprocess completed",
        "Where: http://a",
    ]


def test_degradation_says_how_bad_it_is_and_what_is_asked_for():
    degraded = replace(
        EVIDENCE, nights=(), performance=replace(EVIDENCE.performance, degraded=True)
    )
    title, text = told("degradation", degraded)
    assert title == "churn, night of 2026-01-09: the champion has become worse"
    assert text.splitlines() == [
        "What: realised auc of 2025-10-11 is 0.7000 over 5000 rows, against 0.8000 on the holdout",
        "Since: the night of 2026-01-08",
        "What follows: retraining is requested",
        "What to do: look at the slices in the night's report; to train now, by hand:",
        "  evergreen trigger churn_train --day 2026-01-09",
        "Where: http://a",
    ]
    blocked = replace(degraded, requests=(DAY - timedelta(days=2),))
    assert "nothing is retrained yet (cooldown, budget)" in told("degradation", blocked)[1]


@pytest.mark.parametrize("concern", ["incident", "drift", "degradation"])
def test_an_end_says_what_is_over(concern):
    title, text = told(concern, EVIDENCE, "over")
    assert title.startswith("churn, night of 2026-01-09: ")
    assert text == "It had lasted since the night of 2026-01-08.\nWhere: http://a"


@pytest.mark.parametrize(
    ("mode", "decision", "follows"),
    [
        ("auto", "promote", "it becomes the champion"),
        ("approve", "promote", "it waits for a person's approval, in the run of churn_train"),
        ("shadow", "promote", "nothing. To put it in charge: evergreen trigger churn_release"),
        ("auto", "refuse", "the champion stays in charge"),
    ],
)
def test_a_training_says_what_follows(mode, decision, follows):
    use_case = CHURN.model_copy(update={"gate": CHURN.gate.model_copy(update={"mode": mode})})
    title, text = render_training(use_case, Training(DAY, 4, decision, ("auc is fine",)))
    verb = "passes" if decision == "promote" else "is refused by"
    assert title == f"churn, training of 2026-01-09: version 4 {verb} the gate"
    assert text.startswith("What: auc is fine\nWhat follows: " + follows)
    assert text.endswith("evergreen card churn --version 4")
