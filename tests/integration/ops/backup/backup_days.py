"""What the small shop does day by day."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from evergreen import steps
from small_shop import FIRST_DAY

KNOWN = FIRST_DAY + timedelta(days=89)


def load_days(period: str) -> None:
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", period, "orders")))
    features = steps.publish_features(
        steps.validate_features(steps.compute_features("shop", period))
    )
    steps.materialize_online(features)
    steps.publish_labels(features)


def train(day: date) -> dict[str, Any]:
    """Train and promote on what was known on a day."""
    request = steps.accept_request("shop", str(day), "by hand")
    challenger = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    return steps.promote_challenger(steps.judge_challenger(challenger))
