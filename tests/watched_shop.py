"""The shop of two features with what people look at: bad rows every day, addresses of customers, a
champion, three nights, and a second version that waits for approval."""

from __future__ import annotations

import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_shop
from evergreen import steps
from shop_nights import night, release
from tiny_shop import NAME, compute, ingest, label, score, train

# A night's drift is measured against the same weekday of the two weeks before it.
DAYS = [tiny_shop.DAYS[0] + timedelta(days=n) for n in range(22)]
# Version 1 knows the days up to here, and scores it and what follows.
TRAINED = DAYS[16]
NIGHTS = DAYS[17:20]
# Delivered, and not loaded.
NEXT, LAST = DAYS[20:]
HORIZON = timedelta(days=2)
# In every address, and in nothing else.
ADDRESS = "@private.example"
# What each day's file holds beside good rows.
SPOILT = {"duplicates": 2, "amount_out_of_range": 3, "not_a_test": 2, "malformed_row": 1}


def build_watched_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_watched_shop(root, monkeypatch)
    history = f"{DAYS[0]}..{TRAINED}"
    ingest(history)
    label(compute(history))
    release(train(TRAINED))
    score(TRAINED)
    for day in NIGHTS:
        new_day(day)
        asked = watch(day)
    train(NIGHTS[-1], steps.request_retraining(asked)["reason"])
    return folder


def write_watched_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write data and use case, and let everybody know of it; nothing is loaded."""
    folder = tiny_shop.write_shop(root, DAYS)
    for day in DAYS:
        deliver(folder, day, spoil(day, blur(day, read_delivery(folder, day))))
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["last_day"] = LAST
    orders = declared["events"]["orders"]
    orders["columns"]["amount"]["range"] = [0, 1000]
    orders["columns"]["email"] = {"source": "mail", "dtype": "string", "personal": True}
    orders["rules"] = [
        {"name": "not_a_test", "sql": "amount <> 13", "because": "The till is tested with 13."}
    ]
    orders["batch"] = {
        "row_count_ratio": [0.0, 100.0],
        "max_quarantined_ratio": 0.2,
        "quarantined_min_rows": 10,
    }
    declared["gate"]["mode"] = "approve"
    declared["monitoring"] = {"max_model_age_days": 2, "cooldown_days": 2, "weekly_budget": 3}
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    tiny_shop.apply()
    return folder


def read_delivery(folder: Path, day: date) -> list[str]:
    """Return the lines of a day's file but the first."""
    return _file(folder, day).read_text().splitlines()[1:]


def deliver(folder: Path, day: date, lines: list[str]) -> None:
    _file(folder, day).write_text("\n".join(["id,customer,at,value,mail", *lines]) + "\n")


def blur(day: date, lines: list[str]) -> list[str]:
    """Make a fifth of the amounts say nothing of who leaves, or all models would be perfect."""
    chance = random.Random(str(day))
    return [
        f"{line.rpartition(',')[0]},{chance.randrange(14, 45)}" if chance.random() < 0.2 else line
        for line in lines
    ]


def spoil(day: date, good: list[str]) -> list[str]:
    """Give rows their customers' addresses, and add rows that are not accepted; see `SPOILT`."""
    rows = [f"{line},{line.split(',')[1]}{ADDRESS}" for line in good]
    at = f"{day}T12:00:00Z"
    bad = [f"bad{n}/{day},c0-00,{at},{-1 - n},bad{n}{ADDRESS}" for n in range(3)]
    tests = [f"test{n}/{day},c0-01,{at},13,test{n}{ADDRESS}" for n in range(2)]
    return [*rows, *rows[:2], *bad, *tests, f"torn/{day},c0-02,{at},1,torn{ADDRESS},more"]


def new_day(day: date) -> None:
    ingest(day)
    label(compute(day))
    score(day)


def watch(day: date) -> dict[str, Any]:
    steps.measure_estimates(NAME, str(day))
    return night(day)


def _file(folder: Path, day: date) -> Path:
    return folder.parents[1] / "data" / f"{day}.csv"
