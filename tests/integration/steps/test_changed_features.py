"""Features are renamed, added and retyped while a model that reads them is in charge."""

from __future__ import annotations

from pathlib import Path

import pytest

from evergreen import lake, steps
from evergreen.errors import NotReadyError, PermanentError
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.settings import Settings
from tiny_shop import (
    DAYS,
    FEATURES,
    NAME,
    apply,
    compute,
    declare,
    label,
    night,
    open_shop,
    score,
    train,
)

pytestmark = pytest.mark.timeout(300)

RENAMED = {
    "days_since_last_order": FEATURES["days_since_last_order"],
    "newest_amount": FEATURES["last_amount"],
}
LAST = DAYS[-1]


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A shop whose first version is in charge and has scored the day before the last."""
    folder = open_shop(tmp_path, monkeypatch)
    label(compute())
    judged = train()
    assert judged["decision"] == "promote", judged["reasons"]
    steps.promote_challenger(judged)
    score(DAYS[-2])
    return folder


@pytest.mark.slow
def test_a_renamed_feature_is_never_scored_as_missing(shop: Path) -> None:
    declare(shop, RENAMED)
    published = steps.publish_features(
        steps.validate_features(steps.compute_features(NAME, f"{DAYS[0]}..{LAST}"))
    )
    with pytest.raises(NotReadyError, match=r"last_amount, newest_amount.*make up"):
        steps.materialize_online(published)
    apply()
    steps.materialize_online(published)
    label(published)
    # The column is still there, and empty.
    newest = lake.read_day(NAME, "features", LAST)
    assert newest["last_amount"].null_count == newest.num_rows > 0

    with pytest.raises(NotReadyError, match=r"version 1 .*last_amount.*shop_train.*use_case\.yaml"):
        steps.resolve_model(NAME, str(LAST))
    with pytest.raises(NotReadyError, match="last_amount"):
        steps.score_customers({"use_case": NAME, "day": str(LAST), "version": 1})
    # Neither is a day that version 1 has scored before.
    with pytest.raises(NotReadyError, match=r"last_amount.*shop_release"):
        steps.resolve_model(NAME, str(DAYS[-2]))
    verdict = night(LAST)
    assert verdict["decision"] == "wait"
    assert any("last_amount" in incident for incident in verdict["incidents"])
    assert not lake.exists(NAME, "drift")
    with pytest.raises(PermanentError, match=r"last_amount.*Check out the commit"):
        replay("shop/1")
    # What was scored was scored on what it said then.
    (scored,) = receipts.latest(NAME, "publish_predictions").values()
    assert replay(str(scored.sequence)).equal

    judged = train(reason="a renamed feature")
    assert judged["version"] == 2
    assert judged["decision"] == "promote", judged["reasons"]
    assert judged["evidence"]["champion"]["metrics"] == {}
    assert any(
        "champion 1, which cannot be measured" in reason and "last_amount" in reason
        for reason in judged["reasons"]
    )
    checks = {check["name"] for check in judged["verdict"]["checks"]}
    assert {"beats_naive", "not_below_linear", "min_auc"} <= checks
    stored = lake.read_day(NAME, "decisions", LAST).to_pylist()
    (gate,) = (row for row in stored if row["kind"] == "gate" and row["version"] == 2)
    assert "last_amount" in gate["evidence"]
    steps.promote_challenger(judged)
    score(LAST)
    assert set(lake.read_day(NAME, "predictions", LAST)["model_version"].to_pylist()) == {2}
    assert night(LAST)["incidents"] == []
    assert replay("shop/2").equal

    # Back to what reads a column that is gone, by hand.
    for action in ("promote", "roll_back"):
        with pytest.raises(NotReadyError, match=r"version 1 .*last_amount"):
            steps.release_version(NAME, action, "1", "a test", "ann")
    # With the column it can.
    declare(shop, FEATURES)
    with pytest.raises(NotReadyError, match="newest_amount"):
        steps.resolve_model(NAME, str(LAST))
    steps.release_version(NAME, "roll_back", "1", "a test", "ann")
    # A feature of another kind is another feature; whole numbers and fractions are one kind.
    declare(shop, FEATURES, {"last_amount": {"dtype": "bool"}})
    with pytest.raises(NotReadyError, match=r"last_amount \(float64 when it was trained, now bool"):
        steps.resolve_model(NAME, str(DAYS[-3]))
    declare(shop, FEATURES, {"last_amount": {"dtype": "int64"}})
    assert steps.resolve_model(NAME, str(DAYS[-3]))["version"] == 1


@pytest.mark.slow
def test_a_day_computed_before_a_feature_was_declared_is_not_used(shop: Path) -> None:
    added = FEATURES | {"orders_so_far": "count(*)", "spent": "sum(o.amount)"}
    kinds = {"orders_so_far": {"dtype": "int64"}, "spent": {"nullable": True}}
    declare(shop, added, kinds)
    apply()
    with pytest.raises(NotReadyError, match="orders_so_far"):
        train(reason="new features")
    compute(LAST)
    # The champion reads neither: old days are scored as before.
    score(DAYS[-3])
    with pytest.raises(NotReadyError) as refused:
        train(reason="new features")
    for part in ("orders_so_far", "spent", f"evergreen backfill shop {DAYS[0]}"):
        assert part in str(refused.value)
    compute(f"{DAYS[0]}..{DAYS[-2]}")
    judged = train(reason="new features")
    steps.release_version(NAME, "promote", str(judged["version"]), "a test", "ann")
    score(LAST)

    # Now by a model that does read them: the day is computed without, and they are declared again.
    declare(shop, FEATURES)
    steps.publish_features(steps.validate_features(steps.compute_features(NAME, str(LAST))))
    declare(shop, added, kinds)
    with pytest.raises(NotReadyError, match=rf"of {LAST} lack orders_so_far .*spent .*backfill"):
        steps.score_customers(steps.resolve_model(NAME, str(LAST)))
    assert any("orders_so_far" in incident for incident in night(LAST)["incidents"])
    steps.publish_features(steps.validate_features(steps.compute_features(NAME, str(LAST))))
    score(LAST)
