"""A shop that counts instead of guessing, with a category: the whole chain, kind-blind."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.errors import NotReadyError
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.settings import Settings
from evergreen.training.tracking import load_version
from tiny_shop import (
    DAYS,
    FEATURES,
    NAME,
    apply,
    compute,
    declare,
    ingest,
    label,
    night,
    score,
    train,
    write_labels,
    write_shop,
)

pytestmark = pytest.mark.timeout(300)

LAST = DAYS[-1]
SIZE = "CASE arg_max(o.amount, (o.ordered_at, o.order_id)) WHEN 10 THEN 'S' WHEN 40 THEN 'L' END"
LABELS = """
SELECT o.customer_id, d.as_of,
    coalesce(sum(o.amount) FILTER (o.ordered_at >= d.as_of), 0)::DOUBLE AS label
FROM as_of_days AS d INNER JOIN orders AS o ON o.ordered_at < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING max(o.ordered_at) FILTER (o.ordered_at < d.as_of) >= d.as_of - INTERVAL 72 HOUR
"""


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = write_shop(tmp_path)
    size = {"dtype": "category", "nullable": True}
    declare(folder, FEATURES | {"size": SIZE}, {"size": size})
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    spent = {"kind": "number", "name": "spent", "distribution": "tweedie", "interval": 0.8}
    declared["target"] |= spent
    for limit in ("min_auc", "max_logloss"):
        del declared["gate"][limit]
    declared["gate"] |= {"min_d2": -1.0, "min_coverage": 0.5}
    # To a linear model an unknown category is no reason at all.
    declared["training"]["models"] = ["trees"]
    bands = {"much": 30.0, "little": 0.0}
    declared["scoring"] = {"bands": bands, "reasons_for": [*bands]}
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    write_labels(folder, LABELS)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    apply()
    ingest()
    label(compute())
    return folder


def test_a_number_and_a_category_go_all_the_way(shop: Path) -> None:
    judged = train()
    names = {check["name"] for check in judged["verdict"]["checks"]}
    assert {"min_d2", "min_coverage", "beats_naive", "not_below_linear", "champion"} <= names
    measured = judged["evidence"]["challenger"]["coverage"]
    low, high = judged["evidence"]["intervals"]["coverage"]
    assert 0.6 < low < measured < high < 1
    steps.release_version(NAME, "promote", str(judged["version"]), "a test", "ann")
    model = load_version(load_use_case(NAME), judged["version"])
    assert model.inputs.categories == {"size": ("L", "S")}
    assert replay(f"{NAME}/{judged['version']}").equal

    for day in (DAYS[-3], LAST):
        score(day)
    receipt = receipts.latest(NAME, "publish_predictions")[LAST]
    assert receipt.counts["unseen"] == 0
    assert replay(str(receipt.sequence)).equal
    predictions = lake.read_day(NAME, "predictions", LAST).to_pylist()
    assert {row["band"] for row in predictions} == {"much", "little"}
    assert all(0 <= row["lower"] <= row["score"] < row["upper"] for row in predictions)
    assert any(reason.startswith("size=") for row in predictions for reason in row["reasons"])

    verdict = night(LAST)
    assert verdict["incidents"] == []
    drift = {row["feature"]: row["test"] for row in lake.read_day(NAME, "drift", LAST).to_pylist()}
    told = {"all columns": "classifier", "label": "ks"}
    assert drift == {**dict.fromkeys(FEATURES, "ks"), "size": "chi2", "score": "ks", **told}
    performance = lake.read_day(NAME, "performance", DAYS[-3]).to_pylist()
    whole = {row["metric"]: row for row in performance if row["slice"] == "all"}
    of_intervals = ["coverage", "interval_width"]
    means = ["mean_label", "mean_score"]
    assert list(whole) == ["d2", "deviance", "mae", "rmse", *of_intervals, *means]
    assert all(whole[name]["value"] > 0 for name in of_intervals)
    assert whole["d2"]["holdout"] == judged["evidence"]["challenger"]["d2"]
    # Fewer rows than say anything.
    assert "too little to judge" in whole["d2"]["reason"]


def test_a_category_nobody_has_seen_is_counted_and_told(shop: Path) -> None:
    judged = train()
    steps.release_version(NAME, "promote", str(judged["version"]), "a test", "ann")
    # From now on, the small size is called extra small.
    features = shop / "features.sql"
    features.write_text(features.read_text().replace("'S'", "'XS'"))
    compute(LAST)
    sizes = lake.read_day(NAME, "features", LAST)["size"].to_pylist()
    score(LAST)
    receipt = receipts.latest(NAME, "publish_predictions")[LAST]
    assert receipt.counts["unseen"] == sizes.count("XS") > 0
    reasons = lake.read_day(NAME, "predictions", LAST)["reasons"].to_pylist()
    told = {reason.split(" ")[0] for row in reasons for reason in row}
    assert "size=XS" not in told
    assert "size=missing" in told
    night(LAST)
    rows = lake.read_day(NAME, "drift", LAST).to_pylist()
    (told,) = [r for r in rows if (r["feature"], r["reference"]) == ("size", "training")]
    assert told["statistic"] > 0.2


@pytest.mark.slow
def test_a_version_of_before_gives_no_interval_and_is_replaced(shop: Path) -> None:
    path = shop / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    asked = declared["target"].pop("interval")
    del declared["gate"]["min_coverage"]
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    before = train()
    steps.release_version(NAME, "promote", str(before["version"]), "a test", "ann")
    score(DAYS[-3])
    assert "lower" not in lake.read_day(NAME, "predictions", DAYS[-3]).column_names
    declared["target"]["interval"] = asked
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    with pytest.raises(NotReadyError, match=r"version 1 has learned no interval of 0\.8.* Train"):
        score(LAST)
    judged = train(reason="an interval")
    assert "no interval" in judged["evidence"]["champion"]["unfit"]
    steps.release_version(NAME, "promote", str(judged["version"]), "a test", "ann")
    score(LAST)
    rows = lake.read(NAME, "predictions").to_pylist()
    assert {row["day"] for row in rows if row["upper"] is None} == {DAYS[-3]}
