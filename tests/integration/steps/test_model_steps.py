"""Training, release, scoring and monitoring of a small shop, step by step, without Airflow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from embedded import Build
from evergreen import lake, steps
from evergreen.errors import (
    ConfigError,
    IncidentError,
    NotReadyError,
    PermanentError,
)
from evergreen.ops import deploy
from evergreen.provenance import receipts
from evergreen.release import ledger
from evergreen.settings import load_settings
from registry import aliases
from small_shop import FIRST_DAY, write_small_shop

pytestmark = pytest.mark.timeout(300)

KNOWN = FIRST_DAY + timedelta(days=89)
SCORED = KNOWN - timedelta(days=21)


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop with ninety days of orders, features and the labels that have matured."""
    folder = write_small_shop(root / "use_cases")
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    assert list(deploy.initialise(load_settings()))
    period = f"{FIRST_DAY}..{KNOWN}"
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", period, "orders")))
    computed = steps.validate_features(steps.compute_features("shop", period))
    features = steps.publish_features(computed)
    steps.materialize_online(features)
    steps.publish_labels(features)
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def train(day: Any = KNOWN, reason: str = "by hand") -> dict[str, Any]:
    request = steps.accept_request("shop", str(day), reason)
    return steps.judge_challenger(
        steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    )


def score(resolved: dict[str, Any]) -> dict[str, Any]:
    return steps.publish_predictions(steps.validate_predictions(steps.score_customers(resolved)))


def night(day: Any) -> dict[str, Any]:
    measured = [
        steps.measure_drift("shop", str(day)),
        steps.measure_performance("shop", str(day)),
        steps.measure_freshness("shop", str(day)),
        steps.measure_skew("shop", str(day)),
    ]
    return steps.decide_retraining("shop", str(day), measured)


def demand(folder: Path, old: str, new: str) -> None:
    path = folder / "use_case.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_champion_is_made_scores_and_is_watched(shop: Path) -> None:
    judged = train()
    assert steps.is_promotable(judged), judged["reasons"]
    promoted = steps.promote_challenger(judged)
    # A retried promotion appends nothing.
    assert steps.promote_challenger(judged)["sequence"] == promoted["sequence"]
    assert aliases("shop") == {"champion": promoted["version"]}

    published = score(steps.resolve_model("shop", str(SCORED)))
    assert published["rows"] == lake.partitions("shop", "features")[SCORED]
    score(steps.resolve_model("shop", str(KNOWN)))
    verdict = night(KNOWN)
    assert verdict["incidents"] == []
    assert not steps.is_retraining_wanted(verdict), verdict["reasons"]

    # The labels of the day that was scored a horizon ago have matured tonight.
    (overall,) = [
        row
        for row in lake.read_day("shop", "performance", SCORED).to_pylist()
        if (row["slice"], row["metric"]) == ("all", "auc")
    ]
    assert overall["rows"] == published["rows"]
    assert 0.5 < overall["value"] < 1
    assert overall["holdout"] == judged["evidence"]["challenger"]["auc"]
    decisions = lake.read_day("shop", "decisions", KNOWN).to_pylist()
    assert sorted(row["kind"] for row in decisions) == ["gate", "governor", "request"]


def test_a_refused_challenger_changes_nothing(shop: Path) -> None:
    demand(shop, "min_auc: 0.5", "min_auc: 0.99")
    judged = train()
    assert judged["decision"] == "refuse"
    assert not steps.is_promotable(judged)
    assert any("0.99" in reason for reason in judged["reasons"])
    with pytest.raises(PermanentError, match="the gate refused"):
        steps.promote_challenger(judged)
    assert ledger.entries(ledger.engine(), "shop") == []
    assert aliases("shop") == {}


@pytest.mark.slow
def test_a_day_keeps_its_version_unless_a_release_scores_it_again(shop: Path) -> None:
    first = train()
    steps.promote_challenger(first)
    score(steps.resolve_model("shop", str(KNOWN)))
    demand(shop, "max_cutoffs: 6", "max_cutoffs: 4")
    second = train(reason="another look")
    assert second["version"] != first["version"]
    released = steps.release_version("shop", "promote", str(second["version"]), "a test", "ann")
    # Scored before: the recorded version stays.
    assert steps.resolve_model("shop", str(KNOWN))["version"] == first["version"]
    resolved = steps.resolve_release(released, str(KNOWN))
    assert steps.has_day(resolved)
    score(resolved)
    predictions = lake.read_day("shop", "predictions", KNOWN)
    assert set(predictions["model_version"].to_pylist()) == {second["version"]}

    back = steps.release_version("shop", "roll_back", str(first["version"]), "worse", "ann")
    assert not steps.has_day(steps.resolve_release(back, ""))
    history = [(e.action, e.version, e.actor) for e in ledger.entries(ledger.engine(), "shop")]
    assert history == [
        ("promote", first["version"], "shop_train"),
        ("promote", second["version"], "ann"),
        ("roll_back", first["version"], "ann"),
    ]
    assert ledger.verify(ledger.engine(), "shop") == ()
    with pytest.raises(NotReadyError, match="version 99 of shop"):
        steps.release_version("shop", "promote", "99", "a test", "ann")
    with pytest.raises(ConfigError, match="no reason"):
        steps.release_version("shop", "promote", str(first["version"]), " ", "ann")


def test_a_range_of_days_is_for_the_history_dag(shop: Path) -> None:
    days = f"{KNOWN - timedelta(days=1)}..{KNOWN}"
    for step in (
        lambda: steps.accept_request("shop", days, "by hand"),
        lambda: steps.resolve_model("shop", days),
        lambda: steps.score_customers({"use_case": "shop", "day": days, "version": 1}),
        lambda: steps.resolve_release({"use_case": "shop", "version": 1, "sequence": 1}, days),
    ):
        with pytest.raises(
            ConfigError, match=r"a range; .*shop_history, the DAG that takes ranges"
        ):
            step()
    with pytest.raises(ConfigError, match="a range"):
        steps.measure_drift("shop", days)
    for version in (str(2**70), "0", "99"):
        with pytest.raises(PermanentError, match=f"version {version} of shop"):
            steps.release_version("shop", "promote", version, "a test", "ann")
    for version in ("\uff11", "one", "-1"):
        with pytest.raises(ConfigError, match="expected a number of the registry"):
            steps.release_version("shop", "promote", version, "a test", "ann")
    with pytest.raises(ConfigError, match="years 1900 to 2999"):
        steps.accept_request("shop", "9999-12-31", "by hand")


def test_missing_data_is_an_incident_and_never_a_reason_to_retrain(shop: Path) -> None:
    steps.promote_challenger(train())
    late = KNOWN + timedelta(days=3)
    verdict = night(late)
    assert verdict["decision"] == "wait"
    assert any("orders ends on" in incident for incident in verdict["incidents"])
    with pytest.raises(IncidentError, match="no reason to retrain"):
        steps.is_retraining_wanted(verdict)
    # The decision is on record although the night failed.
    assert lake.read_day("shop", "decisions", late).num_rows == 1


def test_training_without_labels_says_what_to_load(shop: Path) -> None:
    with pytest.raises(PermanentError, match="shop_history from"):
        train(KNOWN + timedelta(days=40))


def test_receipts_name_what_a_day_was_made_from(shop: Path) -> None:
    features = receipts.latest("shop", "publish_features")[KNOWN]
    orders = receipts.latest("shop", "publish_orders")[KNOWN]
    assert features.inputs["orders"] == orders.output_snapshot
    (summary, *_) = lake.summaries_since("shop", "features", ())
    assert features.code_digest in summary["evergreen.receipt"]
