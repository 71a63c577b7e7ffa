"""Training on what says nothing, or with nobody to write it down: champion and tables stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.errors import NotReadyError, ServiceDownError
from evergreen.release import ledger
from evergreen.settings import Settings
from registry import aliases, tags
from tiny_shop import (
    DAYS,
    FEATURES,
    NAME,
    apply,
    compute,
    declare,
    ingest,
    label,
    score,
    train,
    write_labels,
    write_shop,
)

pytestmark = pytest.mark.timeout(300)

LAST = DAYS[-1]


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A shop with a champion, one feature that never changes and one that is never known."""
    folder = write_shop(tmp_path)
    useless = {"always": "1.0::DOUBLE", "never": "NULL::DOUBLE"}
    declare(folder, FEATURES | useless, {"never": {"nullable": True}})
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    apply()
    ingest()
    label(compute())
    steps.promote_challenger(train(DAYS[-2], reason="the first"))
    return folder


def relabel(folder: Path, condition: str) -> None:
    """Let everybody leave on the days of which it is true."""
    sql = (folder / "labels.sql").read_text()
    gone = "count(*) FILTER (o.ordered_at >= d.as_of) = 0"
    assert gone in sql
    write_labels(folder, sql.replace(gone, f"({gone} OR {condition})"))
    steps.publish_labels({"use_case": NAME, "period": f"{DAYS[0]}..{LAST}"})


def unchanged(versions: int) -> None:
    assert [entry.version for entry in ledger.entries(ledger.engine(), NAME)] == [1]
    assert aliases(NAME) == {"champion": 1}
    assert len(tags(NAME, "day")) == versions


def test_features_that_say_nothing_disturb_nothing(shop: Path) -> None:
    path = shop / "use_case.yaml"
    declared = path.read_text()
    for kind in ("linear", "trees"):
        path.write_text(declared.replace("training:", f"training:\n  models: [{kind}]"))
        judged = train(reason=kind)
        assert judged["evidence"]["challenger"]["auc"] > 0.5
        assert judged["evidence"]["refit"]["correlation"] is not None
    assert score(LAST)["version"] == 1
    assert not lake.read_day(NAME, "predictions", LAST)["score"].null_count


def test_what_cannot_be_learned_or_written_down_changes_nothing(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tracking server goes away in the middle, and comes back.
    request = steps.accept_request(NAME, str(LAST), "by hand")
    chosen = steps.choose_recipe(steps.assemble_training_set(request))
    with monkeypatch.context() as away:
        away.setenv("EVERGREEN_TRACKING_URL", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(ServiceDownError):
            steps.train_challenger(chosen)
    unchanged(versions=1)
    assert steps.judge_challenger(steps.train_challenger(chosen))["version"] == 2

    # A holdout of one class is a verdict.
    holdout = load_use_case(NAME).as_of(DAYS[-3])
    relabel(shop, f"d.as_of = TIMESTAMPTZ '{holdout}'")
    judged = train(reason="a holdout of one class")
    assert judged["decision"] == "refuse"
    failed = {check["name"] for check in judged["verdict"]["checks"] if not check["passed"]}
    assert {"metrics_measured", "min_auc", "beats_naive"} <= failed
    assert "not measured or impossible: auc (None)" in judged["summary"]
    unchanged(versions=3)

    # Rows of one class are nothing to learn from.
    relabel(shop, "true")
    with pytest.raises(NotReadyError, match=r"All \d+ labels of the .* rows are 1; .* different"):
        train(reason="one class")
    unchanged(versions=3)
