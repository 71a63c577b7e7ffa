"""Pages without what is personal, without the online store, without a champion, without any day."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from evergreen import lake
from evergreen.contract import UseCase, load_use_case
from evergreen.contract.masking import MASK
from evergreen.errors import NotReadyError, ValidationError
from evergreen.settings import Settings
from evergreen.views.calendar import calendar
from evergreen.views.drift import drift, feature_night
from evergreen.views.entity import entity, suggest
from evergreen.views.lineage import lineage
from evergreen.views.overview import overview
from evergreen.views.performance import performance
from evergreen.views.plan import plan_backfill
from evergreen.views.quality import quality, samples
from evergreen.views.releases import releases
from evergreen.views.runs import run_receipts
from tiny_shop import compute, ingest, label
from watched_shop import (
    ADDRESS,
    DAYS,
    NAME,
    NEXT,
    NIGHTS,
    SPOILT,
    TRAINED,
    deliver,
    read_delivery,
    watch,
    write_watched_shop,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TONIGHT = NIGHTS[-1]
STAGES = ("ingest", "features", "labels", "history", "train", "score", "monitor", "release")


@pytest.fixture
def empty(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """Nothing has ever been loaded."""
    write_watched_shop(tmp_path, monkeypatch)
    return load_use_case(NAME)


def answers(shop: UseCase, customers: list[str]) -> Iterator[Any]:
    """Give all that pages are answered."""
    yield overview(shop)
    yield calendar(shop, last=NEXT)
    yield drift(shop)
    yield performance(shop)
    yield releases(shop)
    yield quality(shop, last=NEXT)
    yield from (samples(shop, "orders", rule) for rule in SPOILT)
    yield from (feature_night(shop, TONIGHT, f) for f in ("score", *shop.features.columns))
    yield suggest(shop)
    for customer in customers:
        yield entity(shop, customer)
        yield lineage(shop, TONIGHT, customer)
    yield plan_backfill(shop, "shop_ingest", DAYS[0], TONIGHT, 1)
    for day in (TONIGHT, NEXT):
        yield from (run_receipts(shop, f"shop_{stage}", "run", str(day)) for stage in STAGES)


def test_no_answer_holds_what_is_personal(shop: UseCase, folder: Path) -> None:
    lines = read_delivery(folder, NEXT)
    bad = [line.replace("T", "T99:", 1) for line in lines]
    tested = [re.sub(r",[^,]*,([^,]*)$", r",13,\1", line) for line in lines]
    deliver(folder, NEXT, lines[:20] + bad[20:-2] + tested[-2:])
    with pytest.raises(ValidationError) as refused:
        ingest(NEXT)
    # What is told of them ends up in the log of the task, and perhaps in somebody's mail.
    assert "not_a_test: 2 row(s), for example" in str(refused.value)
    assert ADDRESS not in str(refused.value)
    # It is in all of these, and was torn in one row of a day.
    for table in ("orders", "quarantine", "refused"):
        assert ADDRESS in str(lake.read(NAME, table).to_pylist())
    customers = lake.read_day(NAME, "predictions", TONIGHT)["customer_id"].to_pylist()[:5]
    found = list(answers(shop, customers))
    assert len(found) > 30
    for answer in found:
        # As it goes over the wire.
        text = TypeAdapter(type(answer)).dump_json(answer).decode()
        assert ADDRESS not in text, text[:2000]
    assert MASK in str(found)


def test_what_is_not_personal_of_a_rejected_row_is_shown(shop: UseCase) -> None:
    shown = samples(shop, "orders", "amount_out_of_range", TONIGHT, TONIGHT)
    assert (shown.rows, shown.masked) == (SPOILT["amount_out_of_range"], ["email"])
    at = f"{TONIGHT}T12:00:00Z"
    assert [s.raw for s in shown.samples] == [
        {"id": f"bad{n}/{TONIGHT}", "customer": "c0-00", "at": at, "value": f"-{n + 1}"}
        | {"mail": MASK}
        for n in reversed(range(3))
    ]
    # Of a line that is no row nobody knows what is where, but why it is none.
    (torn,) = samples(shop, "orders", "malformed_row", TONIGHT, TONIGHT).samples
    assert torn.raw == {"_error": "expected 5 fields, found 6", "_text": MASK}


def test_a_customer_without_the_online_store(
    shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = lake.read_day(NAME, "predictions", TONIGHT)["customer_id"][0].as_py()
    before = entity(shop, customer)
    assert before.problems == []
    # Nobody listens there.
    monkeypatch.setenv(
        "EVERGREEN_FEAST_URL", "postgresql+psycopg2://ada:s3cret@127.0.0.1:1/nothing"
    )
    found = entity(shop, customer)
    (problem,) = found.problems
    assert problem.startswith("The online store cannot be read: ")
    assert "s3cret" not in problem
    assert (found.online_as_of, {f.online for f in found.features}) == (None, {None})
    assert replace(found, problems=[]) == replace(
        before,
        online_as_of=None,
        features=[replace(feature, online=None) for feature in before.features],
    )
    # Who is unknown is not taken for somebody the store would know.
    with pytest.raises(NotReadyError, match="Nothing is known of customer_id 'nobody'"):
        entity(shop, "nobody")


def test_a_customer_that_nobody_knows(shop: UseCase) -> None:
    with pytest.raises(NotReadyError, match="Nothing is known of customer_id 'nobody'"):
        entity(shop, "nobody")
    with pytest.raises(NotReadyError, match="'nobody' was not scored"):
        lineage(shop, TONIGHT, "nobody")
    assert suggest(shop, "nobody") == []
    # Nobody was anybody before the first day.
    somebody = suggest(shop)[0]
    first = entity(shop, somebody, TONIGHT)
    assert (first.scores, first.events) != ([], [])
    past = entity(shop, somebody, DAYS[0] - timedelta(days=1))
    assert (past.scores, past.events, past.features_day) == ([], [], None)
    assert past.online_as_of is not None


def test_a_use_case_without_any_day(empty: UseCase) -> None:
    found = overview(empty)
    assert (found.champion, found.pending, found.night, found.budget) == (None,) * 4
    assert {(s.days, s.rows, s.first_day, s.newest_day) for s in found.tables} == {
        (0, 0, None, None)
    }
    assert (found.stale, found.mend, found.data_docs) == ([], [], False)
    shown = calendar(empty)
    assert (shown.days, shown.newest_day) == ([DAYS[0]], None)
    assert {state for of in shown.tables for state in of.states} == {"none"}
    measured = performance(empty)
    assert [len(series.points) for series in measured.series] == [0]
    assert (measured.estimates, measured.events, measured.reliability) == ([], [], None)
    assert (drift(empty).nights, drift(empty).features) == ([], [])
    assert (releases(empty).entries, releases(empty).versions) == ([], [])
    told = quality(empty)
    assert (told.days, told.refused, told.rules, told.data_docs) == ([], [], [], False)
    assert samples(empty, "orders", "not_a_test").samples == []
    assert suggest(empty) == []
    with pytest.raises(NotReadyError):
        entity(empty, "c0-00")
    with pytest.raises(NotReadyError):
        lineage(empty, DAYS[0], "c0-00")
    with pytest.raises(NotReadyError):
        feature_night(empty, DAYS[0], "score")
    plan = plan_backfill(empty, "shop_ingest", DAYS[0], DAYS[1], 1)
    assert [(step.dag_id, step.seconds) for step in plan.steps] == [
        *(("shop_ingest", None), ("shop_features", None), ("shop_score", None)),
    ]
    assert plan.seconds is None
    assert run_receipts(empty, "shop_ingest", "a_run", str(DAYS[0])).receipts == []


def test_a_use_case_without_a_champion(empty: UseCase) -> None:
    history = f"{DAYS[0]}..{TRAINED}"
    ingest(history)
    label(compute(history))
    asked = watch(TRAINED)
    found = overview(empty)
    assert (found.champion, found.pending) == (None, None)
    assert found.night is not None
    assert (found.night.day, found.night.decision) == (TRAINED, asked["decision"])
    assert any(reason.startswith("blocked, no_champion: ") for reason in found.night.reasons)
    assert {s.table: s.days for s in found.tables} == {
        **dict.fromkeys(("orders", "features"), len(lake.partitions(NAME, "orders"))),
        "labels": len(lake.partitions(NAME, "labels")),
        **dict.fromkeys(("predictions", "drift", "performance"), 0),
    }
    assert (found.stale, found.mend) == ([], [])
    states = {of.table: {*of.states} for of in calendar(empty).tables}
    assert (states["features"], states["predictions"]) == ({"present"}, {"none"})
    assert releases(empty).versions == []
    assert drift(empty).nights == []
    assert suggest(empty) == []
    customer = lake.read_day(NAME, "features", TRAINED)["customer_id"][0].as_py()
    known = entity(empty, customer)
    assert (known.scores, known.features_day) == ([], TRAINED)
    assert known.events
    assert all(feature.same and feature.value is not None for feature in known.features)
    plan = plan_backfill(empty, "shop_ingest", TRAINED, TRAINED, 1)
    assert plan.steps[-1].because.endswith("skipped: there is no champion")
    # What was never scored has no time that it takes.
    assert plan.seconds is None
