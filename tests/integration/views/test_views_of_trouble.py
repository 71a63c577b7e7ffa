"""What pages show of days that are missing, late, refused, repeated, and of what mends them."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.errors import ConfigError, ValidationError
from evergreen.provenance.staleness import find_stale, mend_commands
from evergreen.views.calendar import calendar
from evergreen.views.lineage import lineage
from evergreen.views.overview import overview
from evergreen.views.performance import performance
from evergreen.views.plan import BackfillPlan, plan_backfill
from evergreen.views.quality import quality
from tiny_shop import compute, ingest, label, score
from watched_shop import (
    ADDRESS,
    LAST,
    NAME,
    NEXT,
    NIGHTS,
    TRAINED,
    deliver,
    new_day,
    read_delivery,
    watch,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DELIVERED = ("orders", "features", "labels", "predictions")


def cells(shop: UseCase, state: str) -> dict[str, list[date]]:
    """Return the days of tables that are in this state."""
    shown = calendar(shop)
    found = {
        of.table: [day for day, is_in in zip(shown.days, of.states, strict=True) if is_in == state]
        for of in shown.tables
    }
    return {table: days for table, days in found.items() if days}


def reason(shop: UseCase, table: str, day: date) -> str:
    (found,) = [of.reasons[day] for of in calendar(shop).tables if of.table == table]
    return found


def found_stale(shop: UseCase) -> dict[str, list[date]]:
    found: dict[str, list[date]] = {}
    for stale in find_stale(shop):
        found.setdefault(stale.table, []).append(stale.day)
    return found


def test_a_day_that_never_came_is_shown_until_it_comes(shop: UseCase) -> None:
    ingest(LAST)
    completed = [NEXT - timedelta(days=2), LAST - timedelta(days=2)]
    assert cells(shop, "missing") == {
        "orders": [NEXT],
        "features": [NEXT],
        "labels": completed,
        "predictions": [NEXT],
    }
    # One day behind is allowed, and the newest of all may still come.
    assert cells(shop, "owed") == {"features": [LAST], "predictions": [LAST]}
    assert reason(shop, "orders", NEXT) == "never published"
    assert "1 days behind are allowed" in reason(shop, "features", NEXT)
    told = overview(shop)
    assert told.mend == mend_commands(shop, find_stale(shop))
    assert told.mend == [f"evergreen backfill shop {NEXT} {LAST} --reprocess completed"]
    assert {(s.table, s.first_day, s.last_day) for s in told.stale} == {
        ("orders", NEXT, NEXT),
        ("features", NEXT, LAST),
        ("labels", *completed),
    }
    # Once it has come, the day is whole as if it had never been late.
    for day in (NEXT, LAST):
        new_day(day)
    # Two days more have scores and labels by now, which nights are to look at.
    assert cells(shop, "missing") == {"performance": completed}
    watch(LAST)
    assert [cells(shop, state) for state in ("missing", "owed", "stale")] == [{}] * 3
    assert (overview(shop).stale, overview(shop).mend) == ([], [])
    shown = calendar(shop, NEXT, LAST)
    assert {of.table: of.states for of in shown.tables if of.table in DELIVERED} == {
        "orders": ["present"] * 2,
        "features": ["present"] * 2,
        "labels": ["none"] * 2,
        "predictions": ["present"] * 2,
    }


def test_a_day_that_came_anew_makes_stale_what_followed_from_it(
    shop: UseCase, folder: Path
) -> None:
    day, tonight = NIGHTS[1], NIGHTS[-1]
    customer = lake.read_day(NAME, "predictions", tonight)["customer_id"][0].as_py()
    deliver(folder, day, read_delivery(folder, day)[20:])
    ingest(day)
    expected = found_stale(shop)
    assert expected == {
        "features": [day, tonight],
        "labels": [day - timedelta(days=2), day - timedelta(days=1)],
        "predictions": [day, tonight],
        "drift": [day, tonight],
        "performance": [TRAINED, NIGHTS[0]],
    }
    assert cells(shop, "stale") == expected
    assert reason(shop, "features", tonight) == f"orders of {day} changed"
    told = overview(shop)
    assert told.mend == mend_commands(shop, find_stale(shop))
    assert told.mend == [
        f"evergreen backfill shop {day} {tonight} --reprocess completed",
        f"evergreen backfill shop_monitor {day} {tonight} --reprocess completed",
    ]
    assert [s.reason for s in told.stale if s.table == "features"] == [f"orders of {day} changed"]
    # Who looks where a score came from is told, too.
    notes = {
        link.kind: [*link.notes]
        for link in lineage(shop, tonight, customer).links
        if any("since then" in note for note in link.notes)
    }
    assert notes == {
        "scoring": [f"since then: features of {tonight} changed"],
        "features": [f"since then: orders of {day} changed"],
    }
    # What the commands run.
    for again in (day, tonight):
        new_day(again)
    for again in (day, tonight):
        watch(again)
    assert cells(shop, "stale") == found_stale(shop) == {}
    assert (overview(shop).stale, overview(shop).mend) == ([], [])


def test_a_refused_day_is_told_with_its_rule_until_it_is_accepted(
    shop: UseCase, folder: Path
) -> None:
    good = read_delivery(folder, NEXT)
    at = f"{NEXT}T12:00:00Z"
    bad = [f"x{n}/{NEXT},c0-00,{at},-{n + 1},x{n}{ADDRESS}" for n in range(60)]
    deliver(folder, NEXT, [*good, *bad])
    with pytest.raises(ValidationError):
        ingest(NEXT)
    assert cells(shop, "refused") == {}
    # Nothing of the day is there, but a calendar that has it says why.
    (orders,) = [of for of in calendar(shop, NEXT, NEXT).tables if of.table == "orders"]
    assert (orders.states, orders.rows) == (["refused"], [None])
    rule = (
        f"66 of {len(good) + 60} rows are quarantined, a share of at most 0.2 may be "
        "(max_quarantined_ratio)"
    )
    assert orders.reasons == {NEXT: rule}
    found = quality(shop, NIGHTS[-1], NEXT)
    (refusal,) = found.refused
    assert (refusal.day, refusal.table) == (NEXT, "orders")
    assert (refusal.rules, refusal.found) == (["batch_quarantined_ratio"], rule)
    # Rows of a day that is not in the table are no rejected rows of it.
    assert {counted.day for counted in found.days} == {NIGHTS[-1]}
    assert {of.newest_day for of in found.rules} == {NIGHTS[-1]}
    deliver(folder, NEXT, good)
    ingest(NEXT)
    (orders,) = [of for of in calendar(shop, NEXT, NEXT).tables if of.table == "orders"]
    assert (orders.states, orders.reasons) == (["present"], {})
    assert quality(shop, NIGHTS[-1], NEXT).refused == []
    # A correction that is refused leaves the day as it was, and says so.
    deliver(folder, NEXT, [*good, *bad])
    with pytest.raises(ValidationError):
        ingest(NEXT)
    (orders,) = [of for of in calendar(shop, NEXT, NEXT).tables if of.table == "orders"]
    assert (orders.states, orders.reasons) == (["refused"], {NEXT: rule})
    assert orders.rows == [lake.partitions(NAME, "orders")[NEXT]]
    assert [r.day for r in quality(shop, NEXT, NEXT).refused] == [NEXT]
    assert quality(shop, NEXT, NEXT).days[0].published == orders.rows[0]


def test_a_repeated_night_doubles_nothing(shop: UseCase) -> None:
    before = calendar(shop), overview(shop), performance(shop), quality(shop)
    new_day(NIGHTS[-1])
    watch(NIGHTS[-1])
    again = calendar(shop), overview(shop), performance(shop), quality(shop)
    assert again == before


def test_the_cooldown_that_the_overview_tells_is_the_governors(shop: UseCase) -> None:
    told = overview(shop).budget
    assert told is not None
    assert told.next_day == LAST
    new_day(NEXT)
    watch(NEXT)
    held = overview(shop)
    assert held.night is not None
    assert held.night.day == NEXT
    assert any(reason.startswith("blocked, cooldown: ") for reason in held.night.reasons)
    new_day(LAST)
    watch(LAST)
    free = overview(shop)
    assert free.night is not None
    assert free.budget is not None
    assert (free.night.decision, free.budget.asked) == ("retrain", 2)


def by_dag(plan: BackfillPlan) -> list[tuple[str, int]]:
    return [(step.dag_id, step.runs) for step in plan.steps]


def test_a_plan_says_which_later_days_it_leaves_stale(shop: UseCase, folder: Path) -> None:
    first, *later = NIGHTS
    (left, nights) = plan_backfill(shop, "shop_ingest", first, first, 1).notes
    assert f"Features of {later[0]} to {later[-1]} rest on these days" in left
    assert "Nights are not run again" in nights
    deliver(folder, first, read_delivery(folder, first)[20:])
    ingest(str(first))
    label(compute(first))
    score(first)
    assert found_stale(shop)["features"] == later


def test_a_planned_backfill_mends_what_it_makes_stale(shop: UseCase, folder: Path) -> None:
    first, last = NIGHTS[0], NIGHTS[-1]
    plan = plan_backfill(shop, "shop_ingest", first, last, 2)
    days = len(NIGHTS)
    assert by_dag(plan) == [("shop_ingest", days), ("shop_features", days), ("shop_score", days)]
    assert "keep their version, others get version 1" in plan.steps[-1].because
    assert plan.seconds is not None
    assert plan.seconds == pytest.approx(sum(step.seconds or 0 for step in plan.steps))
    assert all(step.seconds for step in plan.steps)
    assert (plan.request["from_date"], plan.request["to_date"]) == (
        f"{first}T00:00:00Z",
        f"{last}T23:59:59Z",
    )
    for day in NIGHTS:
        deliver(folder, day, read_delivery(folder, day)[20:])
    ingest(f"{first}..{last}")
    # In the order of the plan: what its first DAG makes stale, its others make anew.
    made_by = {"features": "shop_features", "labels": "shop_features", "predictions": "shop_score"}
    stale = found_stale(shop)
    assert list(dict.fromkeys(made_by[table] for table in stale if table in made_by)) == [
        step.dag_id for step in plan.steps[1:]
    ]
    assert stale["features"] == stale["predictions"] == list(NIGHTS)
    backfill, nights = mend_commands(shop, find_stale(shop))
    assert backfill == f"evergreen backfill shop {first} {last} --reprocess completed"
    assert nights.startswith(f"evergreen backfill shop_monitor {first} {last}")
    for day in NIGHTS:
        label(compute(day))
        score(day)
    # Nights follow no ingestion; their own backfill is what is left.
    assert set(found_stale(shop)) == {"drift", "performance"}
    assert mend_commands(shop, find_stale(shop)) == [nights]
    assert "backfill shop_monitor afterwards" in plan.notes[-1]
    watched = plan_backfill(shop, "shop_monitor", first, last, 1)
    assert by_dag(watched) == [("shop_monitor", days)]
    assert "never ask for retraining" in watched.notes[0]
    for day in NIGHTS:
        watch(day)
    assert found_stale(shop) == {}
    for dag_id in ("shop_features", "shop_train"):
        with pytest.raises(ConfigError, match="cannot be backfilled"):
            plan_backfill(shop, dag_id, first, last, 1)
    with pytest.raises(ConfigError, match="is after"):
        plan_backfill(shop, "shop_ingest", last, first, 1)
