"""A use case small enough for tests: the churn use case with few customers and short horizons."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from evergreen import steps
from evergreen.settings import PROJECT_ROOT

FIRST_DAY = date(2025, 1, 1)
LAST_DAY = date(2025, 6, 30)
GATE = {
    "min_auc": 0.5,
    "max_logloss": 1.0,
    "min_holdout_rows": 50,
    "min_baseline_margin": 0.0,
}


def write_small_shop(root: Path, **changes: Any) -> Path:
    """Write the folder `root/<name>`; `changes` replace top-level keys of its
    `use_case.yaml`, and the source of the orders."""
    folder = root / changes.get("name", "shop")
    shutil.copytree(PROJECT_ROOT / "include" / "use_cases" / "churn", folder)
    declared = yaml.safe_load((folder / "use_case.yaml").read_text())
    declared |= {
        "name": "shop",
        "first_day": FIRST_DAY,
        "last_day": LAST_DAY,
        "training": {
            "baselines": ["days_since_last_order"],
            "cutoff_every_days": 7,
            "max_cutoffs": 6,
            "min_history_days": 20,
        },
        "gate": GATE,
    }
    orders = declared["events"]["orders"]
    orders["source"] |= {"customers": 900, "acquisition_days": 60}
    orders["source"].pop("regime_change")
    orders["source"] = changes.pop("source", orders["source"])
    declared["target"]["horizon_days"] = 21
    declared |= changes
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    return folder


def load(first: date, last: date | None = None, *, labels: bool = True) -> None:
    """Load days of `shop`, up to the labels they complete."""
    period = f"{first}..{last or first}"
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", period, "orders")))
    features = steps.publish_features(
        steps.validate_features(steps.compute_features("shop", period))
    )
    if labels:
        steps.publish_labels(features)
