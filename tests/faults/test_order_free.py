"""Any order, overlap and repetition of days, one by one, in bulk or at once: the same tables."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pytest
from effort import FEW_AND_MANY, MANY, Effort
from fault_shop import (
    DAYS,
    NAME,
    Run,
    Shop,
    clear,
    deliver,
    online_values,
    require_sound,
    run_all,
    run_once,
    staged_leftovers,
    tables,
)
from hypothesis import HealthCheck, example, given, note, seed, settings
from hypothesis import strategies as st
from killer import Nursery

from evergreen import lake, steps
from evergreen.provenance import staleness

pytestmark = pytest.mark.timeout(7200)

WHOLE = f"{DAYS[0]}..{DAYS[-1]}"
# Two of the five are enough to see whether scores follow the order.
SCORED = (DAYS[1], DAYS[-1])


@dataclass(frozen=True)
class Plan:
    """Two backfills that work at once, and what is done afterwards about days they left out."""

    first: tuple[Run, ...]
    second: tuple[Run, ...]
    rest: tuple[Run, ...]
    validate: bool

    def __repr__(self) -> str:
        parts = {"first": self.first, "second": self.second, "then": self.rest}
        lines = [
            f"  {name}: {', '.join(f'{k} {p}' for k, p in runs)}" for name, runs in parts.items()
        ]
        return "\n".join(["plan" + (" with validation" if self.validate else ""), *lines])


@dataclass(frozen=True)
class Correction:
    """A day's file is replaced by another version, and sooner or later ingested again."""

    day: int
    version: int


def periods() -> st.SearchStrategy[str]:
    bounds = st.tuples(*[st.integers(0, len(DAYS) - 1)] * 2).map(sorted)
    return bounds.map(lambda b: _label(DAYS[b[0]], DAYS[b[1]]))


def runs() -> st.SearchStrategy[Run]:
    loads = st.tuples(st.sampled_from(["ingest", "features"]), periods())
    scores = st.sampled_from(SCORED).map(lambda day: ("score", str(day)))
    return st.one_of(loads, loads, loads, scores)


@st.composite
def plans(draw: Any) -> Plan:
    first = tuple(draw(st.lists(runs(), min_size=1, max_size=6)))
    second = tuple(draw(st.one_of(st.just([]), st.lists(runs(), min_size=1, max_size=4))))
    return Plan(first, second, _rest(draw, first + second), draw(st.booleans()))


def _rest(draw: Any, done: tuple[Run, ...]) -> tuple[Run, ...]:
    """Return what remains to be run so that every day is there, in any order."""
    remaining = []
    for kind in ("ingest", "features"):
        covered = {d for k, period in done if k == kind for d in _days(period)}
        left = [str(day) for day in DAYS if day not in covered]
        if len(left) > 2 and draw(st.booleans()):
            left = [_label(date.fromisoformat(left[0]), date.fromisoformat(left[-1]))]
        remaining += [(kind, period) for period in left]
    remaining += [("score", str(day)) for day in SCORED if ("score", str(day)) not in done]
    return tuple(draw(st.permutations(remaining)))


def _days(period: str) -> list[date]:
    first, _, last = period.partition("..")
    start, end = date.fromisoformat(first), date.fromisoformat(last or first)
    return lake.days_between(start, end + timedelta(days=1))


def _label(first: date, last: date) -> str:
    return str(first) if first == last else f"{first}..{last}"


def _drawn(cases: int) -> settings:
    return settings(
        max_examples=cases,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


@FEW_AND_MANY
def test_every_plan_ends_in_the_same_tables(
    shop: Shop, nursery: Nursery, effort: Effort, report: Callable[[list[str]], None]
) -> None:
    champion(shop)
    scores = [("score", str(day)) for day in SCORED]
    clear(shop)
    run_all([(kind, str(day)) for day in DAYS for kind in ("ingest", "features")] + scores)
    expected, expected_online = tables(), online_values()
    assert all(expected["predictions"][day] for day in SCORED)
    counted = {"cases": 0, "runs": 0, "at once": 0}

    @seed(effort.seed)
    @_drawn(effort.order_free)
    @given(plan=plans())
    def check(plan: Plan) -> None:
        clear(shop)
        run_all([*at_once(nursery, plan), *plan.rest], validate=plan.validate)
        differing = [
            f"{table} of {day}"
            for table, days in tables().items()
            for day, found in days.items()
            if found != expected[table][day]
        ]
        assert differing == []
        assert online_values() == expected_online
        require_healthy(shop)
        counted["cases"] += 1
        counted["runs"] += len(plan.first + plan.second + plan.rest)
        counted["at once"] += bool(plan.second)

    check()
    report([f"{counted}, seed {effort.seed}: 0 partitions differ"])


@MANY
def test_corrections_end_in_the_tables_of_the_corrected_source(
    shop: Shop, effort: Effort, report: Callable[[list[str]], None]
) -> None:
    champion(shop)
    scores = [("score", str(day)) for day in SCORED]
    references: dict[tuple[int, ...], Any] = {}
    counted = {"cases": 0, "corrections": 0, "stale": 0}

    def reference(versions: tuple[int, ...]) -> Any:
        if versions not in references:
            clear(shop)
            for day, version in zip(DAYS, versions, strict=True):
                deliver(shop, day, version)
            run_all([("ingest", WHOLE), ("features", WHOLE), *scores], validate=False)
            references[versions] = tables()
        return references[versions]

    corrections = st.builds(Correction, st.integers(0, len(DAYS) - 1), st.integers(1, 2))

    @seed(effort.seed)
    @_drawn(effort.corrected)
    @given(
        events=st.lists(st.one_of(runs(), corrections), min_size=2, max_size=7),
        again=st.permutations(range(len(DAYS))),
        bulk=st.booleans(),
    )
    @example(
        events=[("ingest", WHOLE), ("features", WHOLE), *scores, Correction(1, 1)],
        again=list(range(len(DAYS))),
        bulk=True,
    )
    def check(events: list[Run | Correction], again: list[int], bulk: bool) -> None:
        versions = [0] * len(DAYS)
        clear(shop)
        waiting: list[Run] = []
        for event in events:
            if isinstance(event, Correction):
                versions[event.day] = event.version
                deliver(shop, DAYS[event.day], event.version)
                counted["corrections"] += 1
            else:
                waiting = run_once([*waiting, event], validate=False)
        loaded = [("ingest", str(DAYS[n])) for n in again]
        features = [("features", WHOLE)] if bulk else [("features", str(d)) for d in DAYS]
        missing = [each for each in [*features, *scores] if each not in events]
        run_all([*waiting, *missing, *loaded], validate=False)
        stale = staleness.find_stale(shop.use_case)
        note(f"stale: {stale}")
        counted["stale"] += len(stale)
        mend(shop, stale)
        require_healthy(shop)
        found = tables()
        assert found == reference(tuple(versions))
        counted["cases"] += 1

    check()
    assert counted["stale"]
    report([f"{counted}, seed {effort.seed}: 0 partitions differ"])


def champion(shop: Shop) -> None:
    """Put one model in charge."""
    run_all([("ingest", WHOLE), ("features", WHOLE)])
    request = steps.accept_request(NAME, str(DAYS[-1]), "a champion")
    challenger = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    steps.promote_challenger(steps.judge_challenger(challenger))


def at_once(nursery: Nursery, plan: Plan) -> list[Run]:
    """Do both backfills, the second in a process of its own; return what has to wait."""
    answers: list[dict[str, Any]] = []
    command = {
        "task": "fault_shop.run_once",
        "arguments": [plan.second, plan.validate],
        "watch": False,
        "environment": {k: v for k, v in os.environ.items() if k.startswith("EVERGREEN_")},
    }
    beside = threading.Thread(target=lambda: answers.append(nursery.fork(command)))
    if plan.second:
        beside.start()
    refused = run_once(plan.first, plan.validate)
    if plan.second:
        beside.join()
        (answer,) = answers
        assert "result" in answer, answer["log"]
        refused += [(kind, period) for kind, period in answer["result"]]
    return refused


def mend(shop: Shop, stale: list[staleness.Stale]) -> None:
    """Run what is named as stale, each day once."""
    horizon = timedelta(days=shop.use_case.target.horizon_days)
    days = {i.day for i in stale if i.table == "features"}
    days |= {i.day + horizon for i in stale if i.table == "labels"}
    scores = {i.day for i in stale if i.table == "predictions"}
    assert not [i for i in stale if i.table == "orders"]
    run_all([("features", str(day)) for day in sorted(days)], validate=False)
    run_all([("score", str(day)) for day in sorted(scores)], validate=False)


def require_healthy(shop: Shop) -> None:
    """Nothing is stale, nothing is left in staging, every row is accounted for."""
    assert staleness.find_stale(shop.use_case) == []
    assert staged_leftovers() == []
    require_sound()
