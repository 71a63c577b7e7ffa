"""Features that are further behind than they may be: named, and started by the night if allowed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_shop
from embedded import Build
from evergreen import lake, steps
from tiny_shop import DAYS, NAME

pytestmark = pytest.mark.timeout(300)

LAST = DAYS[-1]
HOLE = DAYS[4]


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All orders, and features of all days but one."""
    folder = tiny_shop.open_shop(root, monkeypatch)
    tiny_shop.compute(f"{DAYS[0]}..{DAYS[3]}")
    tiny_shop.compute(f"{DAYS[5]}..{LAST}")
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def allow(folder: Path, days: int, **declared_of_features: Any) -> None:
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["monitoring"] = {"max_recomputed_days": days}
    declared["features"] |= declared_of_features
    path.write_text(yaml.safe_dump(declared, sort_keys=False))


def measure(day: date = LAST) -> dict[str, Any]:
    return steps.measure_freshness(NAME, str(day))


def start(day: date, run: str) -> list[str]:
    return steps.choose_owed_features(NAME, str(day), run, measure(day))


def told(table: str, day: date = LAST) -> dict[str, Any]:
    rows = lake.read_day(NAME, "freshness", day).to_pylist()
    return next(row for row in rows if row["table"] == table)


def test_a_day_that_is_missing_in_the_middle_is_named_and_started(shop: Path) -> None:
    night = measure()
    assert night["incidents"] == [
        f"features ends on {LAST}, 0 days before {LAST}; within the allowed 1; days before that "
        f"are missing: {HOLE}"
    ]
    assert night["bad"] == [["features", str(HOLE)]]
    assert night["owed"] == [str(HOLE)]
    assert (told("features")["owed"], told("features")["stale"]) == ([HOLE], True)
    assert (told("orders")["owed"], told("orders")["stale"]) == ([], False)
    calm = {"incidents": [], "bad": []}
    verdict = steps.decide_retraining(NAME, str(LAST), [calm, calm, night, calm])
    assert verdict["mend"][0] == f"evergreen backfill shop {HOLE} {HOLE} --reprocess completed"

    # Nothing is started by itself unless the contract says so.
    assert start(LAST, "a") == []
    allow(shop, 3)
    assert start(LAST, "a") == [str(HOLE)]
    (row,) = lake.read_day(NAME, "decisions", HOLE).to_pylist()
    assert (row["kind"], row["decision"], row["trigger"]) == (
        "recomputation",
        "started",
        "freshness",
    )
    assert row["reasons"] == [
        f"features of {HOLE} were owed on the night of {LAST}, more than the allowed 1 days behind"
    ]
    # The same run, tried again, says the same; another run of this night starts nothing twice.
    assert start(LAST, "a") == [str(HOLE)]
    assert start(LAST, "b") == []
    # By the next night that run has ended, without features.
    assert start(LAST + timedelta(days=1), "c") == [str(HOLE)]
    assert start(LAST, "b") == []

    tiny_shop.compute(HOLE)
    assert measure()["incidents"] == []
    assert start(LAST, "a") == []


def test_a_night_that_is_past_starts_nothing(shop: Path) -> None:
    allow(shop, 3)
    assert measure(DAYS[-2])["owed"] == [str(HOLE)]
    assert start(DAYS[-2], "a") == []
    # Nor does it see days that come after it.
    assert measure(DAYS[3])["incidents"] == []


def test_days_whose_source_is_not_there_are_not_started(
    home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_shop.write_shop(tmp_path)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    tiny_shop.apply()
    allow(folder, 2)
    tiny_shop.ingest(f"{DAYS[0]}..{DAYS[3]}")
    tiny_shop.compute(f"{DAYS[0]}..{DAYS[2]}")
    owed = [str(day) for day in DAYS[3:7]]
    assert measure(DAYS[6])["owed"] == owed
    assert told("orders", DAYS[6])["owed"] == DAYS[4:7]
    assert start(DAYS[6], "a") == owed[:1]
    # A day whose predecessors lack orders could not be computed, and would only wait.
    tiny_shop.ingest(DAYS[5])
    assert start(DAYS[6], "b") == []
    tiny_shop.ingest(DAYS[4])
    tiny_shop.ingest(DAYS[6])
    assert start(DAYS[6], "b") == owed[1:3]
    assert start(DAYS[6], "c") == owed[3:]


def test_a_table_may_have_a_limit_of_its_own(shop: Path) -> None:
    allow(shop, 3, max_staleness_days=7)
    assert measure()["incidents"] == []
    assert told("features")["allowed_days"] == 7
    # Still owed, and listed; nothing is started before it is too late.
    assert told("features")["owed"] == [HOLE]
    assert start(LAST, "a") == []
