"""A version that somebody deleted in MLflow: what still works, and how to go on."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from evergreen import lake, steps
from evergreen.errors import NotReadyError
from evergreen.release import ledger
from evergreen.settings import Settings
from registry import aliases, client, tags
from tiny_shop import DAYS, NAME, compute, label, open_shop, score, train

pytestmark = pytest.mark.timeout(600)

SCORED, NEXT = DAYS[-3], DAYS[-2]


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shop whose second champion has scored a day."""
    open_shop(tmp_path, monkeypatch)
    label(compute())
    first = train(DAYS[-3], reason="the first")
    assert tags(NAME, "lifecycle") == {1: "challenger"}
    steps.promote_challenger(first)
    steps.promote_challenger(train(DAYS[-2], reason="the second"))
    assert tags(NAME, "lifecycle") == {1: "former", 2: "champion"}
    assert score(SCORED)["version"] == 2


def follow(error: pytest.ExceptionInfo[NotReadyError]) -> dict[str, object]:
    """Do what the command at the end of a message does."""
    words = shlex.split(str(error.value).partition(": ")[2])
    assert words[:3] == ["evergreen", "trigger", f"{NAME}_release"]
    conf = dict(word.split("=", 1) for word in words if "=" in word)
    released = steps.release_version(NAME, conf["action"], conf["version"], conf["reason"], "ann")
    day = words[words.index("--day") + 1] if "--day" in words else ""
    resolved = steps.resolve_release(released, day)
    if steps.has_day(resolved):
        scored = steps.score_customers(resolved)
        steps.publish_predictions(steps.validate_predictions(scored))
    return resolved


@pytest.mark.slow
def test_scoring_goes_on_after_the_command_that_its_error_names(shop: None) -> None:
    client().delete_model_version(NAME, "2")
    with pytest.raises(NotReadyError, match=r"Version 2 of shop.*deleted.*entry 2 of") as lost:
        steps.resolve_model(NAME, str(NEXT))
    assert follow(lost)["day"] is None
    assert aliases(NAME) == {"champion": 1}
    assert score(NEXT)["version"] == 1
    # A day keeps its version; one that is gone cannot score it again, and another may.
    with pytest.raises(NotReadyError, match=r"Go on with the champion.*--conf version=1") as lost:
        steps.resolve_model(NAME, str(SCORED))
    assert follow(lost)["day"] == str(SCORED)
    assert score(SCORED)["version"] == 1
    assert [entry.version for entry in ledger.entries(ledger.engine(), NAME)] == [1, 2, 1]


@pytest.mark.slow
def test_what_a_lost_version_scored_is_measured_and_not_judged(shop: None) -> None:
    steps.release_version(NAME, "roll_back", "1", "worse on Mondays", "ann")
    client().delete_model_version(NAME, "2")
    assert steps.measure_performance(NAME, str(DAYS[-1]))["incidents"] == []
    rows = lake.read_day(NAME, "performance", SCORED).to_pylist()
    assert {row["model_version"] for row in rows} == {2}
    assert {(row["holdout"], row["degraded"]) for row in rows} == {(None, False)}
    # A training compares with the champion, and does not miss the other one.
    steps.promote_challenger(train(reason="the third"))
    assert tags(NAME, "lifecycle") == {1: "former", 3: "champion"}
