"""A day without data is somebody's decision: recorded, shown, and undone by a delivery."""

from __future__ import annotations

import asyncio
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from csv_shop import read_day, write_csv_shop, write_day
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.databases import ledger_engine
from evergreen.errors import ConfigError, GapError, SourceMissingError, ValidationError
from evergreen.ops.status import show_status
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.provenance.staleness import find_stale, mend_commands
from evergreen.release.ledger_table import create_tables
from evergreen.settings import Settings, load_settings
from small_shop import FIRST_DAY

pytestmark = pytest.mark.timeout(300)

DAYS = [FIRST_DAY + timedelta(days=n) for n in range(12)]
GAP, NEXT, LAST = DAYS[9], DAYS[10], DAYS[11]
WHY = ("No delivery: stocktaking", "ada", "2025-01-13T08:00:00+00:00")


@pytest.fixture
def data(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Twelve days of files, one of them missing; the days before it are loaded."""
    folder = tmp_path / "data"
    folder.mkdir()
    root = tmp_path / "use_cases"
    file = write_csv_shop(root, folder, "shop", LAST) / "use_case.yaml"
    declared = yaml.safe_load(file.read_text())
    # An empty day breaks every one of these rules.
    declared["events"]["orders"]["batch"] = {"row_count_ratio": [0.5, 2.0], "row_count_min_days": 3}
    file.write_text(yaml.safe_dump(declared, sort_keys=False))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(root))
    lake.catalog(home).create_tables()
    receipts.create_tables()
    create_tables(ledger_engine())
    for day in DAYS:
        write_day(folder, day, orders_of(day))
    ingest(f"{DAYS[0]}..{DAYS[8]}")
    features(f"{DAYS[0]}..{DAYS[8]}")
    (folder / f"{GAP}.csv").rename(folder / "late.csv")
    return folder


def orders_of(day: date) -> list[dict[str, str]]:
    """Thirty orders a day, so that the row counts say something."""
    return [
        {
            "order_id": f"O{n}-{day:%Y%m%d}",
            "customer_id": f"c{n}",
            "ordered_at": f"{day}T{n % 24:02}:00:00Z",
            "amount_eur": "10.0",
            "status": "completed",
        }
        for n in range(30)
    ]


def ingest(period: str, *decision: str) -> dict[str, Any]:
    staged = steps.stage_rows("shop", period, "orders", "a run", *decision)
    return steps.publish_rows(steps.validate_rows(staged))


def features(period: str) -> None:
    staged = steps.validate_features(steps.compute_features("shop", period))
    steps.publish_labels(steps.publish_features(staged))


def decisions() -> list[dict[str, Any]]:
    if not lake.exists("shop", "decisions"):
        return []
    return lake.read("shop", "decisions").to_pylist()


def test_the_gap_names_its_days_and_both_ways_out(data: Path) -> None:
    with pytest.raises(SourceMissingError, match=f"no file for {GAP}"):
        ingest(str(GAP))
    ingest(str(NEXT))
    with pytest.raises(GapError) as gap:
        features(str(NEXT))
    message = str(gap.value)
    assert f"1 of these days are not published: {GAP}" in message
    assert f"\n  evergreen backfill shop {GAP} {GAP}\n" in message
    assert f"evergreen trigger shop_ingest --day {GAP} --conf without_data=" in message


def test_a_declared_day_closes_the_gap_and_is_on_record(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest(str(NEXT))
    published = ingest(str(GAP), *WHY)
    assert published["rows"]["rows_in"] == 0
    assert lake.read_day("shop", "orders", GAP).num_rows == 0
    assert receipts.latest("shop", "publish_orders")[GAP].counts["without_data"] == 1
    (decision,) = decisions()
    assert (decision["day"], decision["kind"], decision["decision"]) == (
        GAP,
        "delivery",
        "without_data",
    )
    assert decision["reasons"] == ["No delivery: stocktaking (ada)"]
    assert json.loads(decision["evidence"])["evidence"] == {
        "day": str(GAP),
        "table": "orders",
        "reason": WHY[0],
        "decided_by": WHY[1],
        "decided_at": WHY[2],
    }
    features(str(GAP))
    features(str(NEXT))
    assert lake.read_day("shop", "features", NEXT).num_rows
    assert find_stale(load_use_case("shop")) == []
    show_status(load_settings())
    shown = capsys.readouterr().out
    assert (
        f"days without data, by decision:\n  {GAP}, orders: No delivery: stocktaking (ada)\n"
        in shown
    )
    receipt = receipts.latest("shop", "publish_orders")[GAP].sequence
    assert replay(str(receipt)).equal


def test_it_is_the_same_in_any_order_and_however_often(data: Path) -> None:
    ingest(str(GAP), *WHY)
    receipt = receipts.latest("shop", "publish_orders")[GAP]
    ingest(str(GAP), *WHY)
    # Without the reason, alone and among others: the decision stands.
    ingest(str(GAP))
    ingest(f"{DAYS[7]}..{LAST}")
    assert receipts.latest("shop", "publish_orders")[GAP].counts == receipt.counts
    assert len(decisions()) == 1
    # It is no measure for the days after it, which are judged by those with data.
    ingest(str(LAST))
    write_day(data, LAST, orders_of(LAST)[:2])
    with pytest.raises(ValidationError):
        ingest(str(LAST))


def test_a_late_file_replaces_it_and_says_what_became_stale(data: Path) -> None:
    ingest(str(GAP), *WHY)
    ingest(str(NEXT))
    for day in (GAP, NEXT):
        features(str(day))
    (data / "late.csv").rename(data / f"{GAP}.csv")
    ingest(str(GAP))
    assert lake.read_day("shop", "orders", GAP).num_rows == 30
    assert "without_data" not in receipts.latest("shop", "publish_orders")[GAP].counts
    use_case = load_use_case("shop")
    stale = find_stale(use_case)
    assert [(item.table, item.day) for item in stale] == [("features", GAP), ("features", NEXT)]
    assert mend_commands(use_case, stale) == [
        f"evergreen backfill shop {GAP} {NEXT} --reprocess completed"
    ]
    # The decision is history, and history stays.
    assert len(decisions()) == 1
    # The file is gone again: what was decided before it came no longer counts.
    (data / f"{GAP}.csv").unlink()
    with pytest.raises(SourceMissingError):
        ingest(str(GAP))


def test_a_day_with_data_cannot_be_declared_without(data: Path) -> None:
    with pytest.raises(ConfigError, match="its source has 30 rows for it"):
        ingest(str(NEXT), *WHY)
    (data / f"{DAYS[3]}.csv").unlink()
    with pytest.raises(ConfigError, match="30 source rows of it are published"):
        ingest(str(DAYS[3]), *WHY)
    assert lake.read_day("shop", "orders", DAYS[3]).num_rows == 30
    assert decisions() == []


def test_an_empty_file_may_be_declared_too(data: Path) -> None:
    write_day(data, GAP, [])
    with pytest.raises(ValidationError):
        ingest(str(GAP))
    ingest(str(GAP), *WHY)
    assert lake.read_day("shop", "orders", GAP).num_rows == 0


def test_one_file_of_all_days_is_read_once(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [line for day in DAYS if day != GAP for line in read_day(data, day)]
    file = load_use_case("shop").folder / "use_case.yaml"
    declared = yaml.safe_load(file.read_text())
    write_day(data, FIRST_DAY.replace(year=1999), rows)
    declared["events"]["orders"]["source"]["path"] = str(data / "1999-01-01.csv")
    file.write_text(yaml.safe_dump(declared, sort_keys=False))
    ingest(str(GAP), *WHY)
    published = ingest(f"{DAYS[7]}..{LAST}")
    assert published["rows"]["rows_in"] == published["rows"]["accepted"] == 4 * 30


def test_a_run_that_is_late_is_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    run = {
        "dag_id": "shop_ingest",
        "dag_run_id": "scheduled__1",
        "partition_key": str(GAP),
        "state": "running",
    }
    asyncio.run(steps.tell_late_run({"dag_run": run, "deadline": {"deadline_time": "04:00"}}))
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert f"shop_ingest of {GAP} is late: it is running at its deadline, 04:00" in record.message
    assert f"evergreen trigger shop_ingest --day {GAP}" in record.message
