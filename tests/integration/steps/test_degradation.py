"""Scores that turn out worthless, through the tables: measured, waited for, learned, told."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedded import Build
from evergreen import lake, steps
from evergreen.ops import deploy
from evergreen.settings import load_settings
from small_shop import FIRST_DAY, GATE, load, write_small_shop
from tiny_shop import score, train

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

HORIZON = 7
TRAINED = FIRST_DAY + timedelta(days=60)
# From this day on, who is expected to leave stays, and who is expected to stay leaves.
TURNED = TRAINED + timedelta(days=3)


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_small_shop(
        root / "use_cases",
        # The model that serves has seen less of the old world than the one that was measured.
        gate={**GATE, "max_refit_shift": 100.0, "min_refit_correlation": -1.0},
        monitoring={
            "max_model_age_days": None,
            "cooldown_days": 2,
            "learnable_share": 0.75,
            # What is asked about here is not drift.
            "min_ks": 1.0,
            "psi_bands": [98.0, 99.0],
        },
    )
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["target"]["horizon_days"] = HORIZON
    declared["training"] |= {"cutoff_every_days": 1, "max_cutoffs": 4, "baselines": []}
    # What holds for good could not be learned to be otherwise.
    for feature in declared["features"]["columns"].values():
        feature.pop("monotone", None)
    orders = declared["events"]["orders"]
    orders["batch"]["row_count_ratio"] = [0.0, 100.0]
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    labels = folder / "labels.sql"
    says, turned = "count(*) FILTER (c.day >= d.as_of) = 0", f"d.as_of > TIMESTAMP '{TURNED}'"
    assert says in labels.read_text()
    labels.write_text(labels.read_text().replace(says, f"({says}) <> ({turned})"))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    assert list(deploy.initialise(load_settings()))
    load(FIRST_DAY, TRAINED)
    release(train(TRAINED))
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def release(judged: dict[str, Any]) -> None:
    steps.release_version("shop", "promote", str(judged["version"]), "a test", "ann")


def night(day: date) -> dict[str, Any]:
    measured = [
        steps.measure_drift("shop", str(day)),
        steps.measure_performance("shop", str(day)),
        steps.measure_freshness("shop", str(day)),
        steps.measure_skew("shop", str(day)),
    ]
    steps.measure_estimates("shop", str(day))
    return steps.decide_retraining("shop", str(day), measured)


def estimated(day: date) -> dict[str, Any]:
    """What was expected of the scores of a day, by what scores have meant before."""
    rows = lake.read_day("shop", "estimates", day).to_pylist()
    (row,) = [row for row in rows if (row["method"], row["metric"]) == ("pape", "auc")]
    found: dict[str, Any] = row
    return found


def new_day(day: date) -> dict[str, Any]:
    load(day)
    score(day)
    return night(day)


def rows_of(day: date, kind: str) -> list[dict[str, Any]]:
    return [r for r in lake.read_day("shop", "decisions", day).to_pylist() if r["kind"] == kind]


def verdict_of(day: date) -> dict[str, Any]:
    (row,) = rows_of(day, "governor")
    verdict: dict[str, Any] = json.loads(row["verdict"])
    return verdict


def test_worthless_scores_are_told_learned_and_what_came_of_it_is_recorded(shop: Path) -> None:
    day = TRAINED + timedelta(days=1)
    first_alarm = None
    while first_alarm is None:
        new_day(day)
        if "degradation" in verdict_of(day)["triggers"]:
            first_alarm = day
        assert day <= TURNED + timedelta(days=HORIZON + 2)
        day += timedelta(days=1)
    # One bad day is none: labels of the first come a horizon after it, and two are asked for.
    assert first_alarm == TURNED + timedelta(days=HORIZON + 1)
    # Three of the four days that a challenger is fitted on lie after it.
    learnable = TURNED + timedelta(days=2 * HORIZON + 2)
    verdict = verdict_of(first_alarm)
    assert (verdict["decision"], verdict["blocks"]) == ("wait", ["not_learnable"])
    assert verdict["learnable_from"] == str(learnable)
    assert f"realised auc changed about {TURNED}" in verdict["reasons"][0]
    found = {
        row["metric"]: row
        for row in lake.read_day("shop", "performance", TURNED).to_pylist()
        if row["slice"] == "all"
    }
    assert found["auc"]["degraded"]
    assert found["auc"]["lower"] < found["auc"]["value"] < found["auc"]["upper"] < 0.5
    # On the night itself nobody could know.
    assert estimated(TURNED)["lower"] > 0.5
    assert estimated(TURNED)["reference_rows"] > 0

    # The same night again says the same; so do later ones, until it can be learned.
    assert night(first_alarm)["decision"] == "wait"
    while day < learnable:
        told = new_day(day)
        assert (told["decision"], verdict_of(day)["learnable_from"]) == ("wait", str(learnable))
        day += timedelta(days=1)
    asked = new_day(learnable)
    assert (asked["decision"], asked["trigger"]) == ("retrain", "degradation")

    judged = train(learnable, asked["reasons"][0])
    assert judged["decision"] == "promote", judged["reasons"]
    release(judged)
    assert rows_of(learnable, "effect") == []
    for n in range(1, HORIZON + 3):
        told = new_day(learnable + timedelta(days=n))
        assert told["decision"] == "wait"
    # Who asked, what was judged and what came of it lie on one day.
    kinds = {row["kind"] for row in lake.read_day("shop", "decisions", learnable).to_pylist()}
    assert kinds == {"governor", "request", "gate", "effect"}
    (effect,) = rows_of(learnable, "effect")
    assert (effect["decision"], effect["version"]) == ("better", judged["version"])
    evidence = json.loads(effect["evidence"])["evidence"]
    assert evidence["day"] == str(learnable + timedelta(days=1))
    assert evidence["realised"] > 0.5 > evidence["former"]
    # Nights that run again leave it as it is, also the one that measured it first.
    for n in (HORIZON + 2, HORIZON + 1):
        night(learnable + timedelta(days=n))
    assert rows_of(learnable, "effect") == [effect]
