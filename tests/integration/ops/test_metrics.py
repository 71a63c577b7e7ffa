"""What Prometheus is told is what the tables say."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families as parse

import watched_shop
from embedded import Build
from evergreen import lake, steps
from evergreen.contract import UseCase, load_all, load_use_case
from evergreen.erasure.run import erase, find_subject
from evergreen.ops.backup import manifest
from evergreen.ops.metrics import METRICS, render
from evergreen.provenance import receipts
from evergreen.release import ledger
from evergreen.settings import load_settings
from evergreen.training.tracking import set_champion
from shop_nights import cut
from watched_shop import ADDRESS, NAME, NEXT, NIGHTS, SPOILT, TRAINED, build_watched_shop

# The shop that is watched takes half a minute to build.
pytestmark = pytest.mark.slow

Told = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def folder(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_watched_shop)


@pytest.fixture
def shop(folder: Path) -> UseCase:
    return load_use_case(NAME)


def told() -> Told:
    text = render(*load_all(), load_settings()).decode()
    assert ADDRESS not in text
    assert "c0-00" not in text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def value(found: Told, name: str, **labels: str) -> float | None:
    return found.get((f"evergreen_{name}", frozenset({"use_case": NAME, **labels}.items())))


def test_rows_nights_models_and_decisions_are_those_of_the_tables(shop: UseCase) -> None:
    found = told()

    last = NIGHTS[-1]
    for table in ("orders", "features", "labels", "predictions", "drift", "performance"):
        held = lake.partitions(NAME, table)
        assert value(found, "rows", table=table) == sum(held.values())
        assert value(found, "days", table=table) == len(held)
        assert value(found, "newest_day_rows", table=table) == held[max(held)]
        end = value(found, "newest_day_end_timestamp_seconds", table=table)
        assert end == shop.as_of(max(held)).timestamp()
    counts = receipts.latest(NAME, "publish_orders")[last].counts
    spoilt = SPOILT["amount_out_of_range"] + SPOILT["not_a_test"] + SPOILT["malformed_row"]
    assert value(found, "delivered_rows", table="orders", outcome="quarantined") == spoilt
    assert value(found, "quarantined_ratio", table="orders") == spoilt / counts["rows_in"]
    assert value(found, "unaccounted_rows", table="orders") == 0

    drift = lake.read_day(NAME, "drift", last).to_pylist()
    score = next(
        row
        for row in drift
        if (row["feature"], row["slice"], row["reference"]) == ("score", "all", "expected")
        and row["test"] == "ks"
    )
    assert value(found, "drift_effect_ratio", feature="score") == score["statistic"]
    assert value(found, "drifted", feature="score") == score["drifted"]
    performance = lake.rows(NAME, "performance", None, None, ("metric", "slice", "value"))
    newest = [row for row in performance if row["slice"] == "all" and row["metric"] == "auc"][-1]
    assert value(found, "realised_performance", metric="auc") == newest["value"]
    assert value(found, "champion_version") == 1
    assert value(found, "approval_pending") == 1
    decisions = lake.read(NAME, "decisions").to_pylist()
    for kind, decision in {(row["kind"], row["decision"]) for row in decisions}:
        expected = sum((r["kind"], r["decision"]) == (kind, decision) for r in decisions)
        assert value(found, "decisions", kind=kind, decision=decision) == expected
    assert value(found, "ledger_entries") == 1
    assert value(found, "ledger_problems") == value(found, "registry_problems") == 0
    assert value(found, "readable") == 1


def test_rows_of_whoever_was_erased_are_accounted_for(
    shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An erasure looks there, too.
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", load_settings().database_url("ledger"))
    last = NIGHTS[-1]
    customers = lake.read_day(NAME, "orders", last)["customer_id"].to_pylist()
    who = customers[0]
    erased = erase(find_subject(NAME, who), "ann", "request 17", load_settings())
    assert erased.left == ()

    found = told()

    assert value(found, "unaccounted_rows", table="orders") == 0
    outcomes = ("accepted", "quarantined", "duplicates", "erased")
    rows = [value(found, "delivered_rows", table="orders", outcome=name) for name in outcomes]
    assert sum(map(float, rows)) == receipts.latest(NAME, "publish_orders")[last].counts["rows_in"]
    assert rows[-1] == customers.count(who)


def test_work_counts_runs_and_their_seconds_once(shop: UseCase) -> None:
    found = told()

    # A history of many days is one run, and each of the nights' days another.
    assert value(found, "step_runs_total", step="publish_orders") == 1 + len(NIGHTS)
    by_run = {
        (receipt.run, receipt.basis): receipt.seconds
        for receipt in receipts.latest(NAME, "publish_orders").values()
    }
    seconds = value(found, "step_seconds_total", step="publish_orders")
    assert seconds == pytest.approx(sum(by_run.values()))


def test_the_next_day_is_due_until_the_data_end(shop: UseCase) -> None:
    due = value(told(), "due_timestamp_seconds", table="predictions")
    assert due == (shop.as_of(NEXT) + timedelta(days=1)).timestamp()

    for day in (NEXT, NEXT + timedelta(days=1)):
        watched_shop.new_day(day)

    assert value(told(), "due_timestamp_seconds", table="predictions") is None


def test_what_is_told_follows_what_happens(shop: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    before = told()
    assert value(before, "unfinished_training_timestamp_seconds") is None
    steps.accept_request(NAME, str(NIGHTS[1]), "by hand", "as_known")
    cut("orders", TRAINED)
    watched_shop.deliver(
        shop.folder, NEXT, [f"x{n}/1,c0-01,{NEXT}T12:00:00Z,-1,a" for n in range(50)]
    )
    with pytest.raises(Exception, match="max_quarantined_ratio"):
        watched_shop.ingest(NEXT)
    set_champion(shop, None)

    found = told()

    started = value(found, "unfinished_training_timestamp_seconds")
    assert started == shop.as_of(NIGHTS[1]).timestamp()
    assert value(before, "stale_days", table="features") == 0
    assert value(found, "stale_days", table="features") > 0
    assert value(found, "refused_days", table="orders") == 1
    assert value(found, "registry_problems") == 1


def test_a_ledger_that_was_changed_is_told_and_does_not_hide_the_rest(shop: UseCase) -> None:
    told()
    with ledger.engine().begin() as connection:
        connection.execute(sa.text("ALTER TABLE release_ledger DISABLE TRIGGER ALL"))
        connection.execute(sa.text("UPDATE release_ledger SET reason = 'another'"))

    found = told()

    assert value(found, "ledger_problems") == 1
    assert value(found, "rows", table="orders") > 0


def test_a_declaration_that_is_broken_is_told_and_the_others_are_shown(shop: UseCase) -> None:
    torn = shop.folder.parent / "torn"
    torn.mkdir()
    (torn / "use_case.yaml").write_text("name: torn\n")

    found = told()

    assert found["evergreen_readable", frozenset({("use_case", "torn")})] == 0
    assert value(found, "readable") == 1


def test_the_newest_backup_is_told(shop: UseCase) -> None:
    name = ("evergreen_backup_timestamp_seconds", frozenset())
    assert name not in told()
    made = ["2026-01-04T03:00:00+00:00", "2026-01-11T03:00:00+00:00"]
    for n, at in enumerate(made):
        folder = load_settings().backups / str(n)
        folder.mkdir(parents=True)
        whole = dict.fromkeys(manifest.Manifest.__dataclass_fields__) | {"made_at": at, "format": 2}
        (folder / "manifest.json").write_text(json.dumps(whole))

    assert told()[name] == datetime.fromisoformat(made[-1]).timestamp()


def test_everything_that_is_announced_is_told_of_a_lived_shop(shop: UseCase) -> None:
    names = {name for name, _ in told()}

    assert {*METRICS} - names == {
        # Nothing waits, and nothing was saved.
        "evergreen_unfinished_training_timestamp_seconds",
        "evergreen_backup_timestamp_seconds",
    }
    assert names <= {*METRICS}
