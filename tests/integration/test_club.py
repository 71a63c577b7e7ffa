"""Any tables, a local zone, a category, and a number beside churn: the chain, step by step."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import club
from club import CLUB, DAYS, HORIZON, SPEND
from evergreen import lake
from evergreen.contract import load_use_case
from evergreen.lake.content import ORIGINS, STAMPS, digest_by_day
from evergreen.ops.check import find_problems
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.provenance.staleness import find_stale, mend_commands
from evergreen.settings import Settings
from evergreen.training.tracking import describe_version

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def data(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = club.write_club(tmp_path)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path / "use_cases"))
    club.apply()
    return folder


def contents() -> dict[str, dict[str, str]]:
    found = {}
    for use_case, tables in ((CLUB, (*club.TABLES, "features", "labels")), (SPEND, ("labels",))):
        for table in tables:
            rows = lake.read(use_case, table)
            said = digest_by_day(rows, DAYS, STAMPS | ORIGINS)
            found[f"{use_case}.{table}"] = {str(day): digest for day, digest in said.items()}
    return found


def test_the_folders_pass_the_check(data: Path) -> None:
    assert find_problems(CLUB) == []
    assert find_problems(SPEND) == []


@pytest.mark.slow
def test_one_run_and_single_days_in_any_order_give_the_same_tables(data: Path) -> None:
    # Clocks go forward on the last but one.
    days = DAYS[:13]
    club.ingest(f"{days[0]}..{days[-1]}")
    club.compute(f"{days[0]}..{days[-1]}")
    whole = contents()
    assert all(whole[f"{CLUB}.features"][str(day)] for day in days)
    assert whole[f"{SPEND}.labels"] != whole[f"{CLUB}.labels"]
    with_rows = {day for day, digest in whole[f"{CLUB}.tariffs"].items() if digest}
    assert with_rows == {str(DAYS[0])}
    for table in (*club.TABLES, "orders_totals", "features", "labels", "quarantine"):
        if lake.exists(CLUB, table):
            lake.catalog().drop_table((CLUB, table))
    lake.catalog().drop_table((SPEND, "labels"))
    for day in [*days[1::2], *days[::2]]:
        club.ingest(day)
    for day in days:
        club.compute(day)
    assert contents() == whole
    assert find_stale(load_use_case(CLUB)) == []
    assert find_stale(load_use_case(SPEND)) == []


@pytest.mark.slow
def test_both_models_learn_score_and_are_watched(data: Path) -> None:
    club.ingest()
    club.compute()
    scored = DAYS[-HORIZON - 3 :]
    for use_case in (CLUB, SPEND):
        judged = club.train(use_case, DAYS[-HORIZON - 3])
        assert judged["decision"] == "promote", judged["reasons"]
        club.score(use_case, scored)
        verdict = club.night(use_case, DAYS[-1])
        assert verdict["incidents"] == []
    churn, spend = (lake.read(name, "predictions") for name in (CLUB, SPEND))
    assert churn.num_rows == spend.num_rows > 0
    assert 0 <= pc.min(churn["score"]).as_py() <= pc.max(churn["score"]).as_py() <= 1
    assert pc.max(spend["score"]).as_py() > 5
    assert set(spend["band"].to_pylist()) == {"high", "low"}
    assert any("plan=" in reason for row in churn["reasons"].to_pylist() for reason in row)

    metrics = describe_version(load_use_case(SPEND), 1).metrics
    for name in ("mae", "rmse", "deviance"):
        assert {f"holdout_{name}", f"naive_{name}", f"linear_{name}"} <= metrics.keys()
    assert metrics["holdout_deviance"] < metrics["naive_deviance"]

    drift = lake.read(CLUB, "drift").to_pylist()
    assert {row["test"] for row in drift if row["feature"] == "plan"} == {"chi2"}
    matured = lake.read_day(SPEND, "performance", DAYS[-1] - timedelta(days=HORIZON))
    assert {"mae", "d2"} <= set(matured["metric"].to_pylist())


@pytest.mark.slow
def test_what_changes_in_one_use_case_makes_days_of_the_other_stale(data: Path) -> None:
    club.ingest()
    club.compute()
    club.put_in_charge(SPEND, DAYS[-HORIZON - 1])
    club.score(SPEND, [DAYS[-2], DAYS[-1]])
    spend = load_use_case(SPEND)
    assert find_stale(spend) == []
    file = data / "orders" / f"{DAYS[-2]}.csv"
    file.write_text(file.read_text() + f"late,m00-00,{DAYS[-2]} 10:00,500\n")
    club.ingest(DAYS[-2], ("orders",))
    stale = {(item.table, item.day) for item in find_stale(spend)}
    assert {("predictions", DAYS[-2]), ("predictions", DAYS[-1])} <= stale
    assert ("labels", DAYS[-2] - timedelta(days=HORIZON)) in stale
    mends = mend_commands(spend, find_stale(spend))
    assert mends
    assert all(f" {CLUB} " in f"{mend} " for mend in mends)
    # What those commands do.
    for day in DAYS[-2:]:
        club.compute(day)
    club.score(SPEND, DAYS[-2:])
    assert find_stale(spend) == []


@pytest.mark.slow
def test_a_late_change_of_an_attribute_does_not_reach_back(data: Path) -> None:
    club.ingest()
    club.compute()
    true_since, last, known_since = DAYS[10], DAYS[19], DAYS[20]
    before = lake.read_day(CLUB, "features", last)
    (member, *_) = sorted(silver(before) & silver(lake.read_day(CLUB, "features", known_since)))
    delivered = data / "plans" / f"{known_since}.csv"
    delivered.write_text(f"{delivered.read_text()}{member},{true_since} 00:00,gold\n")
    club.ingest(known_since, ("plans",))
    for day in (last, known_since):
        club.compute(day)
    again = lake.read_day(CLUB, "features", last)
    assert digest_by_day(again, [last]) == digest_by_day(before, [last])
    later = lake.read_day(CLUB, "features", known_since).to_pylist()
    assert [row["plan"] for row in later if row["customer_id"] == member] == ["gold"]


def silver(features: pa.Table) -> set[str]:
    rows = features.select(["customer_id", "plan"]).to_pylist()
    return {row["customer_id"] for row in rows if row["plan"] == "silver"}


@pytest.mark.slow
def test_every_table_is_replayed_across_the_border(data: Path) -> None:
    club.ingest()
    club.compute()
    club.put_in_charge(SPEND, DAYS[-HORIZON - 1])
    club.score(SPEND, [DAYS[-1]])
    targets = [f"{SPEND}/1"]
    for use_case, step in (
        *((CLUB, f"publish_{table}") for table in club.TABLES),
        (CLUB, "publish_visits_quarantine"),
        (CLUB, "publish_features"),
        (SPEND, "publish_labels"),
        (SPEND, "publish_predictions"),
    ):
        newest = list(receipts.latest(use_case, step).values())[-1]
        targets.append(str(newest.sequence))
    for target in targets:
        outcome = replay(target)
        assert outcome.equal, json.dumps([vars(item) for item in outcome.compared])
