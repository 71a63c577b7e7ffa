"""Promotions that may not be: of a comparison that is out of date, and that nobody has approved."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evergreen import steps
from evergreen.errors import LedgerConflictError, PermanentError
from evergreen.release import ledger
from evergreen.settings import Settings
from tiny_shop import DAYS, NAME, compute, label, open_shop, train

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shop that can be trained."""
    open_shop(tmp_path, monkeypatch)
    label(compute())


@pytest.mark.slow
def test_a_verdict_about_a_former_champion_is_reached_again(shop: None) -> None:
    steps.promote_challenger(train(DAYS[-3], reason="the first"))
    waiting = train(reason="a challenger that waits for approval")
    steps.promote_challenger(train(DAYS[-2], reason="another challenger"), "ben")
    assert [entry.actor for entry in ledger.entries(ledger.engine(), NAME)] == ["shop_train", "ben"]
    steps.release_version(NAME, "roll_back", "1", "worse on Mondays", "ann")
    with pytest.raises(LedgerConflictError) as conflict:
        steps.promote_challenger(waiting)
    # Trying again cannot help, so the DAG does not.
    assert isinstance(conflict.value, PermanentError)
    for part in (
        "cannot promote version 2 after entry 1",
        "entry 3: version 1 was put in charge (roll_back) by ann, because: worse on Mondays",
        "Clear this run of shop_train from its first task on",
    ):
        assert part in str(conflict.value)

    # What clearing the run does.
    again = train(reason="a challenger that waits for approval")
    assert again["version"] == waiting["version"] == 2
    assert waiting["evidence"]["ledger_sequence"] == 1
    assert again["evidence"]["ledger_sequence"] == 3
    assert again["evidence"]["champion"]["version"] == 1
    promoted = {"use_case": NAME, "version": 2, "sequence": 4, "previous_version": 1}
    assert steps.promote_challenger(again) == promoted
    # A retry of the task appends nothing, also when somebody went on from there.
    steps.release_version(NAME, "roll_back", "1", "still worse", "ann")
    assert steps.promote_challenger(again) == promoted
    # Only a run that is cleared once more decides once more.
    anew = train(reason="a challenger that waits for approval")
    assert steps.promote_challenger(anew)["sequence"] == 6
    assert ledger.verify(ledger.engine(), NAME) == ()


@pytest.mark.slow
def test_an_approval_that_was_passed_over_promotes_nobody(shop: None, tmp_path: Path) -> None:
    """Whoever may mark tasks as successful can skip the question, not the answer."""
    judged = train(reason="a challenger that waits for approval")
    # In the mode `auto` nobody is asked.
    declaration = tmp_path / "use_cases" / NAME / "use_case.yaml"
    declared = yaml.safe_load(declaration.read_text())
    declared["gate"]["mode"] = "approve"
    declaration.write_text(yaml.safe_dump(declared))

    with pytest.raises(PermanentError, match="Nobody has approved version 1 of shop"):
        steps.promote_challenger(judged, "")
    assert ledger.entries(ledger.engine(), NAME) == []

    steps.promote_challenger(judged, "ann")
    assert [entry.actor for entry in ledger.entries(ledger.engine(), NAME)] == ["ann"]
