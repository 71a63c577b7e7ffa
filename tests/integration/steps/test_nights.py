"""Nights of a small shop through its tables: repeated, out of order, at once, with data missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from embedded import Build
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.databases import ledger_engine
from evergreen.decisions.governor import RetrainingVerdict, replay_retraining
from evergreen.errors import IncidentError
from evergreen.ops import deploy
from evergreen.provenance.staleness import find_stale, mend_commands
from evergreen.settings import load_settings
from shop_nights import cut, measure, night, release
from small_shop import FIRST_DAY, load, write_small_shop
from tiny_shop import score, train

pytestmark = pytest.mark.timeout(900)

HORIZON = 7
TRAINED = FIRST_DAY + timedelta(days=45)


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop with a champion; its governor is short of patience, its champion of life."""
    folder = write_small_shop(
        root / "use_cases",
        monitoring={
            "max_model_age_days": 1,
            "cooldown_days": 2,
            "weekly_budget": 5,
            "request_expires_days": 3,
            # A shop that grows drifts; here only age calls for retraining.
            "min_ks": 1.0,
            "psi_bands": [98.0, 99.0],
        },
    )
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["target"]["horizon_days"] = HORIZON
    orders = declared["events"]["orders"]
    orders["batch"]["row_count_ratio"] = [0.0, 100.0]
    orders["source"] |= {"customers": 300, "acquisition_days": 20}
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    assert list(deploy.initialise(load_settings()))
    load(FIRST_DAY, TRAINED)
    release(train(TRAINED))
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def after(days: int) -> date:
    """So many days after the champion was trained."""
    return TRAINED + timedelta(days=days)


def new_day(day: date) -> None:
    load(day)
    score(day)


def owed() -> list[date]:
    return [s.day for s in find_stale(load_use_case("shop")) if s.table == "performance"]


def decided(day: date) -> dict[str, Any]:
    rows = lake.read_day("shop", "decisions", day).to_pylist()
    (row,) = [row for row in rows if row["kind"] == "governor"]
    return row


def blocks(day: date) -> list[str]:
    return json.loads(decided(day)["verdict"])["blocks"]


@pytest.mark.slow
def test_a_request_lives_and_ends(shop: Path) -> None:
    load(after(1), after(2))
    for n in (1, 2):
        score(after(n))
    asked = night(after(2))
    assert (asked["decision"], asked["trigger"], asked["wanted"]) == ("retrain", "schedule", True)
    row = decided(after(2))
    # Nobody has taken it up (the train DAG is paused, say), so a repeated night asks again.
    assert night(after(2)) == asked
    request = steps.request_retraining(asked)
    steps.accept_request("shop", request["period"], request["reason"])
    # While the training runs, the same night says the same and starts no second one.
    assert night(after(2)) == asked | {"wanted": False}
    assert not steps.is_retraining_wanted(night(after(2)))

    new_day(after(3))
    assert night(after(3))["decision"] == "wait"
    assert blocks(after(3)) == ["in_progress", "cooldown"]
    assert "has not ended" in decided(after(3))["reasons"][0]
    steps.fail_request("shop", str(after(2)), "a_run")
    night(after(3))
    assert blocks(after(3)) == ["cooldown"]
    # The night that asked is past by now; it was made, and cannot be unmade.
    assert night(after(2)) == asked | {"wanted": False}
    assert decided(after(2)) == row

    # A failed training is not the end of all retraining.
    new_day(after(4))
    assert night(after(4))["wanted"]
    # The failed run is cleared, and runs again; nobody takes up the other request.
    steps.accept_request("shop", str(after(2)), request["reason"])
    assert night(after(4))["wanted"]
    new_day(after(5))
    night(after(5))
    assert blocks(after(5)) == ["in_progress", "cooldown"]
    assert f"{after(4)} was requested and has not started" in decided(after(5))["reasons"][0]
    load(after(6), after(7))
    for n in (6, 7):
        score(after(n))
    expired = night(after(7))
    assert expired["wanted"]
    assert (
        f"no longer waited for: the training of {after(2)} has not ended; the training of "
        in (expired["reasons"][-1])
    )

    # Trained by hand for the day that was asked for: taken up, judged, over.
    release(train(after(7)))
    assert night(after(7)) == expired | {"wanted": False}
    new_day(after(8))
    calm = night(after(8))
    assert (calm["decision"], blocks(after(8))) == ("wait", ["cooldown"])
    assert calm["reasons"][-1] == "nothing calls for retraining"

    rows = lake.read("shop", "decisions").to_pylist()
    life = {(r["day"], r["decision"]) for r in rows if r["kind"] == "request"}
    assert life == {
        (after(0), "started"),
        (after(2), "started"),
        (after(2), "failed"),
        (after(7), "started"),
    }
    nights = [row for row in rows if row["kind"] == "governor"]
    assert len(nights) == 6
    for row in nights:
        assert replay_retraining(row["evidence"]) == RetrainingVerdict.from_dict(
            json.loads(row["verdict"])
        )


NIGHT_TABLES = ("drift", "performance", "freshness", "staleness", "decisions")


def outcome() -> dict[str, list[str]]:
    """What nights have left in the tables."""
    found = {}
    for table in NIGHT_TABLES:
        rows = lake.read("shop", table).to_pylist()
        of_nights = [row for row in rows if row.get("kind", "governor") == "governor"]
        found[table] = sorted(json.dumps(row, default=str, sort_keys=True) for row in of_nights)
    return found


def forget() -> None:
    """Forget all nights, and what followed from them."""
    for table in NIGHT_TABLES:
        lake.catalog().drop_table(("shop", table))
    of_nights = "step LIKE 'measure_%' OR step LIKE 'decide_%'"
    # Of the trainings that nights asked for; the champion's was asked for by nobody.
    of_nights += f" OR (output_table = 'shop.decisions' AND day > '{TRAINED}')"
    with ledger_engine().begin() as connection:
        connection.execute(sa.text(f"DELETE FROM receipts WHERE {of_nights}"))


@pytest.mark.slow
def test_nights_leave_the_same_in_any_order_and_at_once(shop: Path) -> None:
    load(after(1), after(10))
    # Day 2 was never scored; the night of day 0 is never run, so that its performance is owed.
    for n in (0, 1, 3, 10):
        score(after(n))
    cut("orders", after(9))
    nights = [after(n) for n in (8, 9, 10)]
    for day in nights:
        night(day)
    expected = outcome()
    assert {json.loads(row)["day"] for row in expected["performance"]} == {
        str(after(n)) for n in (0, 1, 3)
    }
    assert [json.loads(row)["decision"] for row in expected["decisions"]] == [
        "wait",
        "wait",
        "retrain",
    ]
    assert {json.loads(row)["table"] for row in expected["staleness"]} == {
        "features",
        "labels",
        "predictions",
    }

    eight, nine, ten = nights
    plans: list[Sequence[date]] = [(ten, nine, eight), (nine, ten, nine, eight, ten, eight)]
    for plan in plans:
        forget()
        for day in plan:
            night(day)
        assert outcome() == expected, plan
    forget()
    with ProcessPoolExecutor(2, get_context("spawn")) as at_once:
        list(at_once.map(night, (ten, nine, ten, eight, nine, eight)))
    assert outcome() == expected

    # The newest night asks, its training is judged and promoted, and only then come the others.
    forget()
    asked = night(ten)
    release(train(ten, steps.request_retraining(asked)["reason"]))
    for day in (nine, eight, ten):
        night(day)
    assert outcome() == expected


@pytest.mark.slow
def test_performance_is_owed_until_it_is_measured(shop: Path) -> None:
    use_case = load_use_case("shop")
    load(after(1), after(8), labels=False)
    for n in (1, 2, 8):
        score(after(n))
    assert night(after(8))["incidents"] == []
    assert not lake.exists("shop", "performance")
    assert owed() == []

    # The labels of day 1 come after the night that looked for them.
    load(after(8))
    assert owed() == [after(1)]
    assert mend_commands(
        use_case, [s for s in find_stale(use_case) if s.table == "performance"]
    ) == [f"evergreen backfill shop_monitor {after(8)} {after(8)} --reprocess completed"]
    new_day(after(9))
    cut("labels", after(2))
    broken = night(after(9))
    assert owed() == [after(2)]
    assert list(lake.partitions("shop", "performance")) == [after(1)]

    # The day of this night cannot be measured: that hides nothing else, and says what to do.
    assert "predictions have no label" in broken["incidents"][0]
    assert lake.read_day("shop", "drift", after(9)).num_rows
    assert blocks(after(9))[0] == "incident"
    with pytest.raises(IncidentError) as raised:
        steps.is_retraining_wanted(broken)
    again = f"{after(9)} {after(9)} --reprocess completed"
    assert str(raised.value).endswith(
        f"Mend what is bad, then run this night again: evergreen backfill shop {again}; "
        f"evergreen backfill shop_monitor {again}"
    )
    # A later night goes on without it; it stays owed until its labels are whole.
    new_day(after(10))
    assert night(after(10))["incidents"] == []
    assert owed() == [after(2)]
    load(after(9))
    night(after(10))
    assert owed() == []
    assert list(lake.partitions("shop", "performance")) == [after(1), after(2)]
    # A day that says something else by now is measured again by the next night.
    measured = lake.read_day("shop", "performance", after(1))
    cut("predictions", after(1))
    assert owed() == [after(1)]
    night(after(10))
    assert owed() == []
    assert not lake.read_day("shop", "performance", after(1)).equals(measured)


@pytest.mark.slow
def test_a_chain_that_has_nothing_to_score_yet_is_no_incident(shop: Path) -> None:
    assert night(TRAINED)["incidents"] == []
    load(after(1))
    assert night(after(1))["incidents"] == []
    load(after(2))
    late = night(after(2))
    assert late["incidents"] == [
        f"predictions holds no day yet, and owes those after {TRAINED}, 2 days before {after(2)}; "
        "more than the allowed 1"
    ]
    with pytest.raises(IncidentError, match="run this night again: evergreen backfill"):
        steps.is_retraining_wanted(late)
    score(after(2))
    assert night(after(2))["incidents"] == []
    # A measurement that fails for good hides neither the others nor the night.
    _, *others = measure(after(2))
    failed = steps.decide_retraining("shop", str(after(2)), [None, *others])
    assert failed["decision"] == "retrain"
    load(after(3))
    failed = steps.decide_retraining("shop", str(after(3)), [None, *others])
    assert failed["incidents"] == ["drift was not measured; see measure_drift's log"]
    assert blocks(after(3)) == ["incident", "in_progress", "cooldown"]
