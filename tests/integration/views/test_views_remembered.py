"""What pages remember is forgotten as soon as it is no longer so, in one and the same process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
import yaml

from evergreen import lake, steps
from evergreen.contract import UseCase, load_use_case
from evergreen.databases import ledger_engine
from evergreen.decisions.governor import (
    Change,
    decide_retraining,
    read_retraining,
    record_retraining_decision,
)
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.release import ledger
from evergreen.views import days
from evergreen.views.calendar import calendar
from evergreen.views.drift import drift, feature_night
from evergreen.views.entity import entity
from evergreen.views.lineage import lineage
from evergreen.views.overview import overview
from evergreen.views.performance import performance
from evergreen.views.plan import plan_backfill
from evergreen.views.quality import quality
from evergreen.views.reading import read_rows
from evergreen.views.releases import releases
from shop_nights import cut
from tiny_shop import ingest
from watched_shop import NAME, NIGHTS, TRAINED, deliver, read_delivery

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TONIGHT = NIGHTS[-1]


def publish(table: str, step: str, rows: pa.Table, day: date, part: dict[str, str] | None) -> None:
    batch = Staged(NAME, str(day), "", basis=receipts.newest_sequence())
    publish_chunk(batch, step, table, rows, [day], part=part)


def test_a_day_that_is_published_again(shop: UseCase, folder: Path) -> None:
    before = quality(shop).days[0].published, calendar(shop).tables[0].rows[-1]
    assert len(set(before)) == 1
    deliver(folder, TONIGHT, read_delivery(folder, TONIGHT)[10:])
    ingest(TONIGHT)
    rows = lake.partitions(NAME, "orders")[TONIGHT]
    assert rows < before[0]
    assert (quality(shop).days[0].published, calendar(shop).tables[0].rows[-1]) == (rows, rows)
    orders, *_ = overview(shop).tables
    assert orders.rows == sum(lake.partitions(NAME, "orders").values())


def content(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)


def test_rows_of_files_that_were_read_before_are_those_of_the_table(shop: UseCase) -> None:
    tables = ("decisions", "drift", "performance", "estimates", "freshness", "quarantine")
    for _ in range(2):
        for table in tables:
            assert content(read_rows(shop, table)) == content(lake.rows(NAME, table)) != []
            some = (NIGHTS[0], TONIGHT, ("day",))
            assert content(read_rows(shop, table, *some)) == content(lake.rows(NAME, table, *some))
        whole = {"slice": "all", "reference": "expected"}
        asked = (NIGHTS[0], NIGHTS[1], ("feature", "slice", "reference"), whole)
        assert content(read_rows(shop, "drift", *asked)) == content(
            lake.rows(NAME, "drift", *asked)
        )
        # Again, when other files have taken the place of some.
        cut("drift", TONIGHT)
        cut("performance", max(lake.partitions(NAME, "performance")))
    assert read_rows(shop, "nothing") == []


def test_a_night_that_says_something_else(shop: UseCase) -> None:
    assert drift(shop).features[1].drifted == [False] * 3
    assert not any(t.drifted for t in feature_night(shop, TONIGHT, "last_amount").tests)
    told = lake.read_day(NAME, "drift", TONIGHT)
    drifted = [
        row | {"drifted": True, "reason": "it moved"}
        if (row["feature"], row["reference"], row["test"]) == ("last_amount", "expected", "ks")
        else row
        for row in told.to_pylist()
    ]
    publish("drift", "measure_drift", pa.Table.from_pylist(drifted, told.schema), TONIGHT, None)
    moved = drift(shop).features[1]
    assert (moved.feature, moved.drifted) == ("last_amount", [False, False, True])
    assert moved.worst == ["", "", "it moved"]
    assert any(t.drifted for t in feature_night(shop, TONIGHT, "last_amount").tests)
    night = overview(shop).night
    assert night is not None
    assert night.drifted == ["last_amount"]


def test_a_change_that_can_be_learned_later(shop: UseCase) -> None:
    night = overview(shop).night
    assert night is not None
    assert night.learnable_from is None
    assert drift(shop).alarmed[-1] is False
    (row,) = [
        row
        for row in lake.read_day(NAME, "decisions", TONIGHT).to_pylist()
        if row["kind"] == "governor"
    ]
    evidence, _ = read_retraining(row)
    learnable = TONIGHT + timedelta(days=5)
    evidence = replace(evidence, changes=(Change(TONIGHT, TONIGHT, learnable, ("last_amount",)),))
    verdict = decide_retraining(evidence, shop.monitoring)
    decision = record_retraining_decision(evidence, shop.monitoring, verdict)
    publish("decisions", "decide_retraining", decision, TONIGHT, {"kind": "governor"})
    night = overview(shop).night
    assert night is not None
    assert night.learnable_from == learnable
    (event,) = [e for e in performance(shop).events if e.kind == "learnable_from"]
    assert (event.day, str(TONIGHT) in event.text) == (learnable, True)


def test_a_commit_that_nobody_has_receipted(shop: UseCase) -> None:
    customer = lake.read_day(NAME, "predictions", TONIGHT)["customer_id"][0].as_py()
    assert overview(shop).stale == []
    assert not any(link.notes for link in lineage(shop, TONIGHT, customer).links)
    newest = receipts.newest_sequence()
    cut("features", TONIGHT)
    # As if the process had died between the two.
    with ledger_engine().begin() as connection:
        connection.execute(
            sa.text("DELETE FROM receipts WHERE sequence > :newest"), {"newest": newest}
        )
    why = "committed by a run that died before its receipt"
    found = {of.table: of for of in calendar(shop).tables}["features"]
    assert (found.states[-1], found.reasons) == ("stale", {TONIGHT: why})
    assert (overview(shop).stale[0].table, overview(shop).stale[0].reason) == ("features", why)
    assert any(
        why in note for link in lineage(shop, TONIGHT, customer).links for note in link.notes
    )


def in_charge(shop: UseCase) -> tuple[int, str, str]:
    champion = overview(shop).champion
    assert champion is not None
    (entry,) = ledger.entries(ledger.engine(), NAME)[-1:]
    assert (champion.since, champion.version) == (entry.recorded_at, entry.version)
    return champion.version, champion.action, champion.actor


def planned(shop: UseCase) -> str:
    return plan_backfill(shop, "shop_ingest", TONIGHT, TONIGHT, 1).steps[-1].because


def test_a_release_and_a_roll_back(shop: UseCase) -> None:
    assert in_charge(shop) == (1, "promote", "ann")
    assert overview(shop).pending is not None
    assert planned(shop).endswith("version 1")
    steps.release_version(NAME, "promote", "2", "it waits", "bob")
    assert in_charge(shop) == (2, "promote", "bob")
    told = overview(shop)
    assert told.pending is None
    assert told.champion is not None
    # Nothing that it has scored has labels.
    assert told.champion.realised is None
    assert planned(shop).endswith("version 2")
    states = {version.version: version.state for version in releases(shop).versions}
    assert states == {2: "champion", 1: "former"}
    steps.release_version(NAME, "roll_back", "1", "it was worse", "eve")
    assert in_charge(shop) == (1, "roll_back", "eve")
    assert overview(shop).champion is not None
    assert planned(shop).endswith("version 1")
    found = releases(shop)
    assert {version.version: version.state for version in found.versions} == {
        2: "former",
        1: "champion",
    }
    made = ledger.entries(ledger.engine(), NAME)[::-1]
    assert [(e.sequence, e.version, e.previous_version, e.hash) for e in found.entries] == [
        (e.sequence, e.version, e.previous_version, e.hash) for e in made
    ]
    # A term ends where the next begins.
    assert [e.until for e in found.entries] == [None, *(e.recorded_at for e in made[:-1])]
    assert [e.kind for e in performance(shop).events if e.version and e.kind[0] in "pr"][-3:] == [
        *("promotion", "promotion", "roll_back"),
    ]
    # An entry that somebody changed leaves no other trace.
    assert found.damage == []
    with ledger.engine().begin() as connection:
        connection.execute(sa.text("ALTER TABLE release_ledger DISABLE TRIGGER ALL"))
        connection.execute(sa.text("UPDATE release_ledger SET reason = 'none' WHERE sequence = 1"))
    (damage,) = releases(shop).damage
    assert "entry 1: its content" in damage


def test_a_feature_that_has_another_name(shop: UseCase, folder: Path) -> None:
    customer = lake.read_day(NAME, "predictions", TONIGHT)["customer_id"][0].as_py()
    before = entity(shop, customer)
    assert [f.feature for f in before.features] == ["days_since_last_order", "last_amount"]
    assert calendar(shop).tables[1].states[-1] == "present"
    for file in ("use_case.yaml", "features.sql"):
        text = (folder / file).read_text()
        assert "last_amount" in text
        (folder / file).write_text(text.replace("last_amount", "newest_amount"))
    renamed = load_use_case(NAME)
    after = entity(renamed, customer)
    assert [f.feature for f in after.features] == ["days_since_last_order", "newest_amount"]
    # The tables do not have it yet, and say so.
    assert (before.features[1].value is None, after.features[1].value) == (False, None)
    assert after.features[0].value == before.features[0].value
    assert (after.scores, after.events) == (before.scores, before.events)
    features = calendar(renamed).tables[1]
    assert set(features.states) == {"stale"}
    assert "has changed what features are" in features.reasons[TONIGHT]
    assert overview(renamed).stale[0].table == "features"


def test_a_feature_that_is_computed_otherwise(shop: UseCase, folder: Path) -> None:
    assert overview(shop).stale == []
    sql = folder / "features.sql"
    sql.write_text(sql.read_text().replace("/ 86400.0", "/ 43200.0"))
    changed = overview(load_use_case(NAME))
    assert [(s.table, s.first_day, s.last_day) for s in changed.stale[:1]] == [
        ("features", shop.first_day, TONIGHT)
    ]


def test_a_use_case_that_builds_on_it(shop: UseCase, folder: Path) -> None:
    def dags() -> list[str]:
        plan = plan_backfill(shop, "shop_ingest", TONIGHT, TONIGHT, 1)
        return [step.dag_id for step in plan.steps]

    assert dags() == ["shop_ingest", "shop_features", "shop_score"]
    other = folder.parent / "shop_again"
    other.mkdir()
    declared = yaml.safe_load((folder / "use_case.yaml").read_text())
    of_it = {"name": other.name, "features": {"of": NAME}}
    kept = {name: declared[name] for name in ("title", "target", "training", "gate")}
    (other / "use_case.yaml").write_text(yaml.safe_dump(of_it | kept))
    shutil.copy(folder / "labels.sql", other)
    assert dags() == [
        *("shop_ingest", "shop_features", "shop_score"),
        *("shop_again_labels", "shop_again_score"),
    ]
    last = plan_backfill(shop, "shop_ingest", TONIGHT, TONIGHT, 1).steps[-1]
    assert "no champion" in last.because


def test_what_others_publish_is_none_of_its_business(shop: UseCase) -> None:
    before = calendar(shop), days.published(shop), performance(shop)
    rows = pa.table({"day": pa.array([TRAINED], pa.date32()), "n": [1]})
    lake.publish("another", "orders", rows, [TRAINED])
    after = calendar(shop), days.published(shop), performance(shop)
    # Not only equal: nothing was worked out again.
    assert all(now is then for now, then in zip(after, before, strict=True))
