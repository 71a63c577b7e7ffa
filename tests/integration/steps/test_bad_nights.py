"""Nights on data that no night should see, through the tables: told, waited for, never learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from embedded import Build
from evergreen import lake, steps
from evergreen.errors import PermanentError
from evergreen.ops import deploy
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.settings import load_settings
from small_shop import load, write_small_shop
from tiny_shop import night, score, train

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

OPENED, TRAINED = date(2024, 5, 1), date(2025, 4, 30)
BAD = TRAINED + timedelta(days=2)
COLUMN = "recency_to_gap_ratio"
Spoil = Callable[[pa.Array], pa.Array]


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop with a champion, and two nights after it."""
    folder = write_small_shop(
        root / "use_cases",
        monitoring={"max_model_age_days": None, "persistence": [2, 3]},
        # Steady by the time the champion is trained, and for half a year before.
        first_day=OPENED,
        training={"cutoff_every_days": 7, "max_cutoffs": 4, "min_history_days": 60},
    )
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    assert list(deploy.initialise(load_settings()))
    load(OPENED, TRAINED)
    judged = train(TRAINED)
    steps.release_version("shop", "promote", str(judged["version"]), "a test", "ann")
    load(TRAINED + timedelta(days=1), BAD)
    score(BAD)
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def spoil(day: date, change: Callable[[pa.Table], pa.Table]) -> None:
    """Publish the features of a day again, otherwise."""
    rows = change(lake.read_day("shop", "features", day))
    batch = Staged("shop", str(day), "", basis=receipts.newest_sequence())
    publish_chunk(batch, "publish_features", "features", rows, [day])


def spoil_column(day: date, change: Spoil) -> None:
    def changed(rows: pa.Table) -> pa.Table:
        place = rows.column_names.index(COLUMN)
        column = rows[COLUMN].combine_chunks()
        return rows.set_column(place, rows.schema.field(COLUMN), change(column))

    spoil(day, changed)


def decided(day: date) -> tuple[dict[str, Any], dict[str, Any]]:
    (row,) = (
        row
        for row in lake.read_day("shop", "decisions", day).to_pylist()
        if row["kind"] == "governor"
    )
    return json.loads(row["verdict"]), json.loads(row["evidence"])["evidence"]


def drifted(day: date) -> set[str]:
    rows = lake.read_day("shop", "drift", day).to_pylist()
    return {row["feature"] for row in rows if row["drifted"] and row["slice"] == "all"}


def nulls(column: pa.Array) -> pa.Array:
    return pa.nulls(len(column), column.type)


def constant(column: pa.Array) -> pa.Array:
    return pa.array(np.full(len(column), 3.0))


def infinite(column: pa.Array) -> pa.Array:
    half = np.arange(len(column)) % 2 == 0
    return pc.if_else(pa.array(half), pa.scalar(np.inf), column)


def test_a_night_like_others_is_calm(shop: Path) -> None:
    told = night(BAD)
    assert (told["decision"], told["incidents"], told["drifted"]) == ("wait", [], [])
    assert decided(BAD)[0]["reasons"] == ["nothing calls for retraining"]


@pytest.mark.parametrize("change", [nulls, constant])
def test_a_broken_column_is_told_at_once_and_forgotten_once_it_is_mended(
    shop: Path, change: Spoil
) -> None:
    good = lake.read_day("shop", "features", BAD)
    spoil_column(BAD, change)
    told = night(BAD)
    verdict, evidence = decided(BAD)
    assert told["drifted"] == [COLUMN]
    assert (verdict["decision"], verdict["triggers"]) == ("wait", ["drift"])
    # Nobody could have learned from what broke tonight.
    assert verdict["blocks"] == ["not_learnable"]
    (known,) = evidence["changes"]
    assert (known["seen"], known["what"]) == (str(BAD), [COLUMN])
    assert Path(steps.report_night("shop", str(BAD))["file"]).exists()
    assert night(BAD) == told

    # Mended after that night; the next ones are calm, and nothing is left to be learned.
    spoil(BAD, lambda _: good)
    for n in (1, 2):
        load(BAD + timedelta(days=n))
        score(BAD + timedelta(days=n))
        assert night(BAD + timedelta(days=n))["decision"] == "wait"
    verdict, evidence = decided(BAD + timedelta(days=2))
    assert (verdict["triggers"], verdict["learnable_from"]) == ([], None)
    assert evidence["changes"] == []


def test_infinite_values_are_an_incident_of_the_night_and_of_no_other(shop: Path) -> None:
    spoil_column(BAD, infinite)
    told = night(BAD)
    verdict, _ = decided(BAD)
    assert (verdict["decision"], verdict["triggers"]) == ("wait", [])
    assert "incident" in verdict["blocks"]
    assert any("infinite" in incident and COLUMN in incident for incident in told["incidents"])
    with pytest.raises(PermanentError, match=COLUMN):
        score(BAD)
    after = BAD + timedelta(days=1)
    load(after)
    score(after)
    assert (night(after)["incidents"], drifted(after)) == ([], set())


def test_one_wrong_value_changes_nothing(shop: Path) -> None:
    def one(column: pa.Array) -> pa.Array:
        return pa.concat_arrays([pa.array([1e300]), column.slice(1)])

    spoil_column(BAD, one)
    assert (night(BAD)["drifted"], decided(BAD)[0]["triggers"]) == ([], [])


def test_a_day_without_rows_is_an_incident_and_no_drift(shop: Path) -> None:
    spoil(BAD, lambda rows: rows.slice(0, 0))
    told = night(BAD)
    verdict, _ = decided(BAD)
    assert (verdict["decision"], verdict["triggers"]) == ("wait", [])
    assert "incident" in verdict["blocks"]
    assert any(f"no rows for {BAD}" in incident for incident in told["incidents"])
    assert any(str(BAD) in command for command in told["mend"])
    # Neither does it speak against the next night, or stay with it.
    after = BAD + timedelta(days=1)
    load(after)
    score(after)
    assert (night(after)["decision"], drifted(after)) == ("wait", set())


def test_a_night_before_its_data_is_an_incident(shop: Path) -> None:
    early = BAD + timedelta(days=5)
    told = night(early)
    verdict, _ = decided(early)
    assert verdict["decision"] == "wait"
    assert "incident" in verdict["blocks"]
    assert any(f"no rows for {early}" in incident for incident in told["incidents"])
    # The nights in between come later all the same.
    assert night(BAD)["incidents"] == []
