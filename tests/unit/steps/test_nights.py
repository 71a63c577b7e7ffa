"""Nights of a small shop through its tables: repeated, out of order, at once, with data missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen import deploy, lake, steps
from evergreen.monitoring.governor import Verdict, replay_retraining
from evergreen.settings import Settings
from small_shop import FIRST_DAY, write_small_shop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

HORIZON = 7
TRAINED = FIRST_DAY + timedelta(days=45)


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A shop with a champion; its governor is short of patience, its champion of life."""
    folder = write_small_shop(
        tmp_path / "use_cases",
        monitoring={
            "max_model_age_days": 1,
            "cooldown_days": 2,
            "weekly_budget": 5,
            "request_expires_days": 3,
        },
    )
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["label"]["horizon_days"] = HORIZON
    declared["source"] |= {"customers": 250, "acquisition_days": 20}
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    assert list(deploy.initialise(home))
    load(f"{FIRST_DAY}..{TRAINED}")
    release(train(TRAINED))
    yield folder


def after(days: int) -> date:
    """So many days after the champion was trained."""
    return TRAINED + timedelta(days=days)


def load(period: Any, *, labels: bool = True) -> None:
    steps.publish_orders(steps.validate_orders(steps.stage_orders("shop", str(period))))
    computed = steps.validate_features(steps.compute_features("shop", str(period)))
    features = steps.publish_features(computed)
    if labels:
        steps.publish_labels(features)


def score(day: date) -> None:
    scored = steps.score_customers(steps.resolve_model("shop", str(day)))
    steps.publish_predictions(steps.validate_predictions(scored))


def train(day: date, reason: str = "by hand") -> dict[str, Any]:
    request = steps.accept_request("shop", str(day), reason)
    return steps.judge_challenger(steps.train_challenger(steps.assemble_training_set(request)))


def release(judged: dict[str, Any]) -> None:
    steps.release_version("shop", "promote", str(judged["version"]), "a test", "ann")


def night(day: date) -> dict[str, Any]:
    measured = [
        steps.measure_drift("shop", str(day)),
        steps.measure_performance("shop", str(day)),
        steps.measure_freshness("shop", str(day)),
    ]
    steps.measure_staleness("shop", str(day))
    return steps.decide_retraining("shop", str(day), measured)


def new_day(day: date) -> None:
    load(day)
    score(day)


def decided(day: date) -> dict[str, Any]:
    rows = lake.read_day("shop", "decisions", day).to_pylist()
    (row,) = [row for row in rows if row["kind"] == "governor"]
    return row


def blocks(day: date) -> list[str]:
    return json.loads(decided(day)["verdict"])["blocks"]


def test_a_request_lives_and_ends(shop: Path) -> None:
    load(f"{after(1)}..{after(2)}")
    for n in (1, 2):
        score(after(n))
    asked = night(after(2))
    assert (asked["decision"], asked["trigger"], asked["wanted"]) == ("retrain", "schedule", True)
    row = decided(after(2))
    # Nobody has taken it up (the train DAG is paused, say), so a repeated night asks again.
    assert night(after(2)) == asked
    request = steps.request_retraining(asked)
    steps.accept_request("shop", request["period"], request["reason"])
    # While the training runs, the same night says the same and starts no second one.
    assert night(after(2)) == asked | {"wanted": False}
    assert not steps.is_retraining_wanted(night(after(2)))

    new_day(after(3))
    assert night(after(3))["decision"] == "wait"
    assert blocks(after(3)) == ["in_progress", "cooldown"]
    assert "has not ended" in decided(after(3))["reasons"][0]
    steps.fail_request("shop", str(after(2)), "a_run")
    night(after(3))
    assert blocks(after(3)) == ["cooldown"]
    # The night that asked is past by now; it was made, and cannot be unmade.
    assert night(after(2)) == asked | {"wanted": False}
    assert decided(after(2)) == row

    # A failed training is not the end of all retraining.
    new_day(after(4))
    assert night(after(4))["wanted"]
    # The failed run is cleared, and runs again; nobody takes up the other request.
    steps.accept_request("shop", str(after(2)), request["reason"])
    assert night(after(4))["wanted"]
    new_day(after(5))
    night(after(5))
    assert blocks(after(5)) == ["in_progress", "cooldown"]
    assert f"{after(4)} was requested and has not started" in decided(after(5))["reasons"][0]
    load(f"{after(6)}..{after(7)}")
    for n in (6, 7):
        score(after(n))
    expired = night(after(7))
    assert expired["wanted"]
    assert f"no longer waited for: the training of {after(2)} has not ended; the training of " in (
        expired["reasons"][-1]
    )

    # Trained by hand for the day that was asked for: taken up, judged, over.
    release(train(after(7)))
    assert night(after(7)) == expired | {"wanted": False}
    new_day(after(8))
    calm = night(after(8))
    assert (calm["decision"], blocks(after(8))) == ("wait", ["cooldown"])
    assert calm["reasons"][-1] == "nothing calls for retraining"

    rows = lake.read("shop", "decisions").to_pylist()
    life = {(r["day"], r["decision"]) for r in rows if r["kind"] == "request"}
    assert life == {
        (after(0), "started"),
        (after(2), "started"),
        (after(2), "failed"),
        (after(7), "started"),
    }
    nights = [row for row in rows if row["kind"] == "governor"]
    assert len(nights) == 6
    for row in nights:
        assert replay_retraining(row["evidence"]) == Verdict.from_dict(json.loads(row["verdict"]))
