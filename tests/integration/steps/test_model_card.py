"""The card of a version: begun by training, completed by the gate, found through the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evergreen import steps
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.errors import NotReadyError, PermanentError
from evergreen.provenance.replay import replay
from evergreen.settings import Settings
from evergreen.training.tracking import load_version
from registry import client
from tiny_shop import DAYS, FEATURES, NAME, apply, compute, declare, label, open_shop, score

pytestmark = pytest.mark.timeout(600)


def card(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["card", NAME, *arguments])


def test_a_card_is_completed_by_the_gate_and_found_by_the_ledger(
    home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = open_shop(tmp_path, monkeypatch)
    # One feature says nothing. Without sampling, the trees do not notice that it is gone.
    booster = {"max_rounds": 20, "min_child_weight": 1.0, "subsample": 1.0, "colsample_bytree": 1.0}
    training = {"drop_features": True, "models": ["trees"], "booster": booster}
    declare(folder, FEATURES | {"nothing": "1.0::DOUBLE"}, training=training)
    apply()
    label(compute())
    assert isinstance(card().exception, NotReadyError)
    request = steps.accept_request(NAME, str(DAYS[-1]), "somebody | asked")
    staged = steps.assemble_training_set(request)
    challenger = steps.train_challenger(steps.choose_recipe(staged))
    with pytest.raises(NotReadyError, match="the gate has not judged it yet"):
        raise card("--version", str(challenger["version"])).exception
    judged = steps.judge_challenger(challenger)
    metrics = judged["evidence"]["challenger"]
    # What an approver reads; the card itself stays out of what tasks hand on.
    assert f"| auc | {metrics['auc']:.4g} |" in judged["summary"]
    assert f"evergreen card {NAME} --version 1" in judged["summary"]
    assert len(json.dumps(judged)) < len(json.dumps(challenger)) + 15_000
    text = card("--version", "1").output
    assert f"The gate said {judged['decision']}" in text
    assert "because: somebody \\| asked" in text
    for reason in judged["reasons"]:
        assert reason.replace("<", "\\<") in text
    for table, snapshot in staged["inputs"].items():
        assert f"| {table} | {snapshot or '-'} |" in text
    assert "Declared, but left out of the model: " in text
    assert judged["version"] == 1
    assert "nothing" not in load_version(load_use_case(NAME), 1).inputs.names
    # Judged again, as by a retry: the same card.
    steps.judge_challenger(challenger)
    assert card("--version", "1").output == text

    steps.promote_challenger(judged)
    assert card().output == text
    # What is left out is neither needed to score nor to make the model again.
    assert score(DAYS[-1])["version"] == 1
    assert replay(f"{NAME}/1").equal
    # Nor need it be declared any more, to score; the search that left it out would be another.
    declare(folder, FEATURES, training=training)
    assert score(DAYS[-1])["version"] == 1
    with pytest.raises(PermanentError, match=r"nothing.*Check out the commit"):
        replay(f"{NAME}/1")
    page = tmp_path / "card.html"
    assert card("--html", str(page)).exit_code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    run_id = client().get_model_version(NAME, "1").run_id
    kept = {found.path for found in client().list_artifacts(run_id)}
    assert {"card.json", "card.md", "card.html", "permutation_importances.json"} <= kept
