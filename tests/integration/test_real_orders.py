"""The whole chain on a real, messy order history that nobody here wrote."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from evergreen import lake, steps
from evergreen.ops import deploy
from evergreen.provenance import receipts
from evergreen.settings import Settings

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(900)]

FIRST, LAST = date(2010, 12, 1), date(2011, 12, 8)
USE_CASE = "online_retail"


def test_one_year_of_a_real_shop(
    home: Settings, online_retail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_ONLINE_RETAIL", str(online_retail))
    assert list(deploy.initialise(home))
    period = f"{FIRST}..{LAST}"

    staged = steps.stage_rows(USE_CASE, period, "orders")
    orders = steps.publish_rows(steps.validate_rows(staged))
    rows = orders["rows"]
    delivered = sum(
        len(path.read_text().splitlines()) - 1
        for path in online_retail.glob("by-day/*.csv")
        if path.stem <= str(LAST)
    )
    # No field holds a line break in this data, so lines are rows.
    assert rows["rows_in"] == delivered
    assert rows["rows_in"] == rows["accepted"] + rows["quarantined"] + rows["duplicates"]
    assert sum(lake.partitions(USE_CASE, "quarantine").values()) == rows["quarantined"]
    assert set(orders["broken_rules"]) >= {
        "customer_id_missing",
        "not_cancelled",
        "positive_price",
        "positive_quantity",
    }
    # Days without trade are recorded as such: every day has its receipt.
    assert list(receipts.latest(USE_CASE, "publish_orders")) == lake.days_between(
        FIRST, date(2011, 12, 9)
    )

    computed = steps.validate_features(steps.compute_features(USE_CASE, period))
    features = steps.publish_features(computed)
    steps.materialize_online(features)
    steps.publish_labels(features)

    training_set = steps.assemble_training_set(
        steps.accept_request(USE_CASE, str(LAST), "real data")
    )
    judged = steps.judge_challenger(steps.train_challenger(steps.choose_recipe(training_set)))
    evidence = judged["evidence"]
    assert evidence["holdout_as_of"].startswith("2011-09-10")
    assert evidence["counts"]["rows"] == 3370
    auc = evidence["challenger"]["auc"]
    recency = evidence["baselines"]["days_since_last_order"]["auc"]
    # Recency alone ranks by one number and has no settings: it must come out as published.
    assert recency == pytest.approx(0.683, abs=0.002)
    assert auc > evidence["baselines"]["linear"]["auc"] > recency
    assert 0.73 < auc < 0.80, "far above is a leak, far below a broken feature"
    assert judged["decision"] == "promote", judged["reasons"]
    steps.promote_challenger(judged)

    scored = steps.score_customers(steps.resolve_model(USE_CASE, str(LAST)))
    published = steps.publish_predictions(steps.validate_predictions(scored))
    assert published["rows"] == lake.partitions(USE_CASE, "features")[LAST]
