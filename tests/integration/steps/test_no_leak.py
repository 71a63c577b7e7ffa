"""What lies at or after `as_of` does not matter: deleted, changed or poisoned, nothing moves.

The same shop is loaded several times: once as it was known at the end of the day, once for each way
of spoiling the days after it. Features, training set, model and scores of the day must come out
byte for byte the same, whether the day is computed alone or among the spoiled ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from csv_shop import Row, deliver, read_day, write_csv_shop, write_day
from evergreen import lake, steps
from evergreen.contract import Period, load_use_case
from evergreen.ops import deploy
from evergreen.provenance.staging import Staged
from evergreen.settings import Settings, load_settings
from evergreen.training.tracking import describe_version
from small_shop import FIRST_DAY

pytestmark = pytest.mark.timeout(600)

KNOWN = FIRST_DAY + timedelta(days=79)
LAST = KNOWN + timedelta(days=21)
Spoil = Callable[[list[Row], random.Random], list[Row]]


def left_alone(rows: list[Row], chance: random.Random) -> list[Row]:
    return rows


def nothing_left(rows: list[Row], chance: random.Random) -> list[Row]:
    return []


def half_deleted(rows: list[Row], chance: random.Random) -> list[Row]:
    return [row for row in rows if chance.random() < 0.5]


def changed(rows: list[Row], chance: random.Random) -> list[Row]:
    customers = [row["customer_id"] for row in rows]
    chance.shuffle(customers)
    return [
        row | {"customer_id": customer, "amount_eur": f"{chance.uniform(1, 9999):.2f}"}
        for row, customer in zip(rows, customers, strict=True)
    ]


def poisoned(rows: list[Row], chance: random.Random) -> list[Row]:
    """Everything at once: huge amounts, repeated orders, new customers; what is past all sense."""
    spoilt = [row | {"amount_eur": "99999.99"} for row in rows for _ in range(2)]
    spoilt += [
        {
            "order_id": f"O9-{chance.randrange(10**9)}",
            "customer_id": chance.choice(["C1", "nobody"]),
            "ordered_at": rows[0]["ordered_at"],
            "amount_eur": chance.choice(["nan", "-1", "1e9", "5.00"]),
            "status": chance.choice(["completed", "cancelled", "?"]),
        }
        for _ in range(50)
        if rows
    ]
    return spoilt


@dataclass(frozen=True)
class Outcome:
    """All that the day came to."""

    features: pa.Table
    training_set: pa.Table
    model_digest: str
    predictions: pa.Table


@pytest.fixture
def deliveries(home: Settings, tmp_path: Path) -> Path:
    """Folder of daily CSV files, as the simulation of the small shop delivers them."""
    deliver(tmp_path / "simulated", tmp_path / "data", LAST)
    return tmp_path / "data"


def load(name: str, tmp_path: Path, data: Path, last: date, monkeypatch: Any) -> Outcome:
    """Load everything up to `last` in one run; then train for, and score, the day `KNOWN`."""
    write_csv_shop(tmp_path / name, data, name, LAST)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path / name))
    assert list(deploy.initialise(load_settings()))
    period = f"{FIRST_DAY}..{last}"
    steps.publish_rows(steps.validate_rows(steps.stage_rows(name, period, "orders")))
    computed = steps.validate_features(steps.compute_features(name, period))
    steps.publish_labels(steps.publish_features(computed))
    request = steps.accept_request(name, str(KNOWN), "by hand")
    staged = steps.assemble_training_set(request)
    training_set = Staged.from_dict(staged).read("training_set", Period.parse(str(KNOWN)))
    version = steps.train_challenger(steps.choose_recipe(staged))["version"]
    facts = describe_version(load_use_case(name), version)
    scored = steps.score_customers({"use_case": name, "day": str(KNOWN), "version": version})
    steps.publish_predictions(steps.validate_predictions(scored))
    return Outcome(
        lake.read_day(name, "features", KNOWN).drop_columns(["created_at"]),
        training_set,
        facts.tags["model_digest"],
        lake.read_day(name, "predictions", KNOWN),
    )


@pytest.mark.slow
def test_what_comes_later_changes_nothing(
    deliveries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = load("honest", tmp_path, deliveries, KNOWN, monkeypatch)
    assert honest.features.num_rows > 100
    assert honest.training_set.num_rows > 100
    whole = {day: read_day(deliveries, day) for day in lake.days_between(KNOWN, LAST)[1:]}
    for number, spoil in enumerate((left_alone, nothing_left, half_deleted, changed, poisoned)):
        chance = random.Random(number)
        for day, rows in whole.items():
            write_day(deliveries, day, spoil(rows, chance))
        spoilt = load(spoil.__name__, tmp_path, deliveries, LAST, monkeypatch)
        for column in honest.features.column_names:
            assert spoilt.features[column].equals(honest.features[column]), (spoil, column)
        for column in honest.training_set.column_names:
            assert spoilt.training_set[column].equals(honest.training_set[column]), (spoil, column)
        assert spoilt.model_digest == honest.model_digest, spoil
        for column in honest.predictions.column_names:
            assert spoilt.predictions[column].equals(honest.predictions[column]), (spoil, column)
