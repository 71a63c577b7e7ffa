"""Use cases whose features are published straight into the lake; no order is ever read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import yaml

from evergreen.contract import UseCase, load_use_case_file


def write_use_case(folder: Path, features: Mapping[str, str]) -> UseCase:
    """Write a use case named as its folder, keyed by `customer_id`.

    Parameters
    ----------
    folder
        Made, and must not exist.
    features
        Dtype per feature; all may be null.
    """
    folder.mkdir(parents=True)
    names = {"order_id": "string", "customer_id": "string", "ordered_at": "timestamp"}
    columns = {
        name: {"source": name, "dtype": dtype, "description": ""}
        for name, dtype in (names | {"amount": "float64"}).items()
    }
    contract = {
        "name": folder.name,
        "title": folder.name,
        "first_day": date(2026, 1, 1),
        "entity": {"name": "customer", "key": "customer_id"},
        "events": {
            "orders": {
                "source": {"kind": "files", "path": "orders.csv"},
                "key": "order_id",
                "timestamp": "ordered_at",
                "columns": columns,
            }
        },
        "features": {
            "ttl_days": 10,
            "columns": {
                name: {"dtype": dtype, "description": "", "nullable": True}
                for name, dtype in features.items()
            },
        },
        "target": {"name": "left", "description": "Gone.", "horizon_days": 30},
    }
    path = folder / "use_case.yaml"
    path.write_text(yaml.safe_dump(contract, sort_keys=False))
    # The contract asks for them; they are not run.
    for file in ("features.sql", "labels.sql"):
        (folder / file).write_text("SELECT 1\n")
    return load_use_case_file(path)
