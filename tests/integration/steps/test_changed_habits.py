"""A change of habits through the tables: seen, dated, waited for, learned once."""

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
from small_shop import FIRST_DAY, load, write_small_shop
from tiny_shop import train

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

HORIZON = 7
CHANGED = date(2025, 6, 3)
TRAINED = CHANGED - timedelta(days=12)


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop of five months with a champion; soon its customers will buy less."""
    folder = write_small_shop(
        root / "use_cases", monitoring={"max_model_age_days": None, "cooldown_days": 2}
    )
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["last_day"] = date(2025, 8, 31)
    declared["target"]["horizon_days"] = HORIZON
    orders = declared["events"]["orders"]
    orders["batch"]["row_count_ratio"] = [0.0, 100.0]
    orders["source"] |= {
        "customers": 2_500,
        "acquisition_days": 300,
        "regime_change": {"day": CHANGED, "purchase_rate": 0.2, "drop_out": 2.0, "spend": 0.7},
    }
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    assert list(deploy.initialise(load_settings()))
    load(FIRST_DAY, CHANGED - timedelta(days=3))
    judged = train(TRAINED)
    steps.release_version("shop", "promote", str(judged["version"]), "a test", "ann")
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def night(day: date) -> dict[str, Any]:
    # No day is scored here, and nothing is owed.
    calm: dict[str, Any] = {"performance": None, "incidents": [], "bad": []}
    measured = [steps.measure_drift("shop", str(day)), calm, calm, calm]
    return steps.decide_retraining("shop", str(day), measured)


def decided(day: date) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = lake.read_day("shop", "decisions", day).to_pylist()
    (row,) = [row for row in rows if row["kind"] == "governor"]
    return json.loads(row["verdict"]), json.loads(row["evidence"])["evidence"]


def test_a_change_is_seen_dated_waited_for_and_learned_once(shop: Path) -> None:
    # A champion fresh from training is quiet, though its base has grown and aged since.
    for days in (-4, -3):
        calm = night(CHANGED + timedelta(days=days))
        assert (calm["decision"], calm["drifted"]) == ("wait", [])
    day = CHANGED - timedelta(days=2)
    seen = None
    while seen is None:
        load(day)
        told = night(day)
        verdict, evidence = decided(day)
        assert told["decision"] == "wait"
        if "drift" in verdict["triggers"]:
            seen = day
        else:
            assert evidence["changes"] == []
        assert day < CHANGED + timedelta(days=9)
        day += timedelta(days=1)

    assert seen > CHANGED
    (change,) = evidence["changes"]
    began = date.fromisoformat(change["began"])
    assert abs((began - CHANGED).days) <= 3
    # A week later than the first day that is, two of six days that are fitted on lie after it.
    learnable = began + timedelta(days=2 * HORIZON + 7)
    assert verdict["blocks"] == ["not_learnable"]
    assert verdict["learnable_from"] == change["learnable_from"] == str(learnable)
    assert any(f"retraining is asked for on {learnable}" in reason for reason in told["reasons"])
    # The same night again says the same.
    assert night(seen) == told
    page = Path(steps.report_night("shop", str(seen))["file"]).read_text()
    assert "Wait, though drift calls for retraining: " in page
    assert f"asked for on {learnable}" in page
    for name in told["drifted"]:
        assert f"<h3>{name}: drifted</h3>" in page
    # Tonight beside the expected night and the training; the nights before, with their alarms.
    assert ">expected</text>" in page
    assert ">drifted</text>" in page
    assert len(page) < 300_000

    # Until then it is waited for, and remains one change, though nights show it worse and worse.
    load(day, learnable - timedelta(days=1))
    night(learnable - timedelta(days=1))
    verdict, evidence = decided(learnable - timedelta(days=1))
    assert evidence["changes"] == [change]
    assert verdict["decision"] == "wait"

    load(learnable)
    asked = night(learnable)
    assert (asked["decision"], asked["trigger"], asked["wanted"]) == ("retrain", "drift", True)
    assert f"changed about {began}" in asked["reasons"][0]
    judged = train(learnable, asked["reasons"][0])
    assert judged["version"] == 2

    # It has been learned as well as it can be. Nights still show it, and ask for nothing.
    after = learnable + timedelta(days=3)
    load(learnable + timedelta(days=1), after)
    late = night(after)
    assert late["reasons"][-1] == "nothing calls for retraining"
    assert decided(after)[0]["triggers"] == []
    # A night that is made up for later does not know what later nights knew.
    night(seen - timedelta(days=1))
    assert decided(seen - timedelta(days=1))[0]["decision"] == "wait"


def test_a_training_that_failed_is_asked_for_again(shop: Path) -> None:
    seen = CHANGED + timedelta(days=8)
    load(CHANGED - timedelta(days=2), seen)
    night(seen)
    (change,) = decided(seen)[1]["changes"]
    learnable = date.fromisoformat(change["learnable_from"])
    load(seen + timedelta(days=1), learnable)
    asked = night(learnable)
    assert asked["decision"] == "retrain"
    steps.accept_request("shop", str(learnable), "; ".join(asked["reasons"]))
    steps.fail_request("shop", str(learnable), "a_run")
    again = learnable + timedelta(days=8)
    load(learnable + timedelta(days=1), again)
    assert night(again)["decision"] == "retrain"
