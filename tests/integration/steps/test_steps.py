"""The steps of one use case, one after the other, without Airflow: what ends in the tables."""

from __future__ import annotations

import threading
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daily_shop import DAY, HEADER, deliver, features, ingest, order, write_daily_shop
from evergreen import lake, steps
from evergreen.contract import Period
from evergreen.errors import (
    ConfigError,
    DamagedError,
    GapError,
    LookAheadError,
    NotReadyError,
    SourceMissingError,
    StagingError,
    ValidationError,
)
from evergreen.ops.status import show_status
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, new_staging
from evergreen.settings import Settings, load_settings


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return write_daily_shop(home, monkeypatch, tmp_path)


def staging_is_empty() -> bool:
    return not list(load_settings().staging.glob("*/*"))


def test_every_row_is_accounted_for(shop: Path) -> None:
    deliver(
        shop,
        DAY,
        order(1, DAY),
        order(1, DAY),
        order(2, DAY, value='"1,234.5"'),
        order(3, DAY, value="nan"),
        order(4, DAY, customer=""),
        order(5, DAY, value="12.5"),
        order(6, DAY + timedelta(days=1)),
        "o7,a,whenever,1",
        HEADER,
        "o8,a",
        *(order(number, DAY, customer="b") for number in range(10, 20)),
    )
    published = ingest(str(DAY))
    assert published["rows"] == {
        "rows_in": 20,
        "accepted": 12,
        "quarantined": 7,
        "duplicates": 1,
        "published": 12,
    }
    rules = {
        rule
        for row in lake.read_day("shop", "quarantine", DAY).to_pylist()
        for rule in row["rules"]
    }
    assert rules == {
        "amount_not_finite",
        "amount_out_of_range",
        "customer_id_missing",
        "malformed_row",
        "ordered_at_unparsable",
        "outside_day",
    }
    receipt = receipts.latest("shop", "publish_orders")[DAY]
    assert receipt.counts["rows_in"] == 20
    assert staging_is_empty()


def test_a_batch_that_breaks_a_batch_rule_publishes_nothing(shop: Path) -> None:
    deliver(shop, DAY, *(order(n, DAY) for n in range(4)))
    ingest(str(DAY))
    before = lake.snapshot_id("shop", "orders")
    deliver(shop, DAY, order(1, DAY), *(order(n, DAY, value="-1") for n in range(2, 9)))
    with pytest.raises(ValidationError, match="quarantined_ratio"):
        ingest(str(DAY))
    assert lake.snapshot_id("shop", "orders") == before
    assert lake.partitions("shop", "orders") == {DAY: 4}
    assert lake.partitions("shop", "quarantine") == {}


def test_a_day_with_no_accepted_row_is_refused_unless_declared(shop: Path) -> None:
    deliver(shop, DAY, order(1, DAY, value="-1"))
    with pytest.raises(ValidationError, match="accepted"):
        ingest(str(DAY))
    assert not lake.exists("shop", "orders")


def test_a_missing_file_may_come_later_and_a_future_day_never(shop: Path) -> None:
    with pytest.raises(SourceMissingError, match=str(DAY)):
        steps.stage_rows("shop", str(DAY), "orders")
    with pytest.raises(ConfigError, match="has not ended yet"):
        steps.stage_rows("shop", "2999-01-01", "orders")
    with pytest.raises(ConfigError, match="from 2025-03-10 on"):
        steps.stage_rows("shop", "2025-03-09", "orders")
    with pytest.raises(ConfigError, match="no use case 'shopp'"):
        steps.stage_rows("shopp", str(DAY), "orders")


def test_one_run_over_a_range_equals_the_days_one_by_one(shop: Path) -> None:
    days = [DAY + timedelta(days=n) for n in range(4)]
    for n, day in enumerate(days):
        deliver(shop, day, *(order(10 * n + i, day, "ab"[i % 2]) for i in range(3)))
    period = f"{days[0]}..{days[-1]}"
    ingest(period)
    steps.publish_labels(features(period))
    whole = _content()
    for day in reversed(days):
        ingest(str(day))
    for day in reversed(days):
        steps.publish_labels(features(str(day)))
    assert _content() == whole
    assert len(whole["labels"]) == 4


def test_more_days_than_fit_into_memory_are_loaded_a_few_at_a_time(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [DAY + timedelta(days=n) for n in range(7)]
    for number, day in enumerate(days):
        rows = [order(n, day) for n in range(10 if number < 5 else 100)]
        deliver(shop, day, *rows, order(999, day, value="nan"))

    def delivered() -> dict[str, list[Any]]:
        tables = ("orders", "quarantine")
        return {name: sorted(lake.read("shop", name).to_pylist(), key=repr) for name in tables}

    period = Period(days[0], days[-1] + timedelta(days=1)).label
    whole = steps.stage_rows("shop", period, "orders")
    assert len(whole["chunks"]) == 1
    steps.publish_rows(steps.validate_rows(whole))
    expected = delivered()

    # Three of the small days fit, and not one of the great ones.
    monkeypatch.setattr("evergreen.quality.delivery._KIB_A_ROW", load_settings().memory_mb * 25)
    parts = steps.stage_rows("shop", period, "orders")
    assert [len(Period.parse(chunk).days) for chunk in parts["chunks"]] == [3, 1, 1, 1, 1]
    assert parts["counts"] == whole["counts"]
    steps.publish_rows(steps.validate_rows(parts))
    assert delivered() == expected


def test_features_that_read_the_future_are_caught(shop: Path) -> None:
    days = [DAY, DAY + timedelta(days=1), DAY + timedelta(days=2)]
    for n, day in enumerate(days):
        deliver(shop, day, order(n, day))
    ingest(f"{days[0]}..{days[-1]}")
    sql = load_settings().use_cases / "shop" / "features.sql"
    sql.write_text(sql.read_text().replace("ON o.ordered_at < d.as_of", "ON true"))
    with pytest.raises(LookAheadError):
        steps.compute_features("shop", f"{days[0]}..{days[-1]}")
    assert not lake.exists("shop", "features")


def test_features_wait_until_no_earlier_day_is_missing(shop: Path) -> None:
    days = [DAY, DAY + timedelta(days=1), DAY + timedelta(days=2)]
    for n, day in enumerate(days):
        deliver(shop, day, order(n, day))
    ingest(str(days[2]))
    ingest(str(days[0]))
    features(str(days[0]))
    with pytest.raises(GapError, match=r"1 of these days are not published: 2025-03-11"):
        steps.compute_features("shop", str(days[2]))
    ingest(str(days[1]))
    features(str(days[2]))
    (row,) = lake.read_day("shop", "features", days[2]).to_pylist()
    assert row["total_orders"] == 3


def test_wrong_sql_names_the_file(shop: Path) -> None:
    deliver(shop, DAY, order(1, DAY))
    ingest(str(DAY))
    sql = load_settings().use_cases / "shop" / "features.sql"
    sql.write_text("SELECT nonsense FROM orders, as_of_days")
    with pytest.raises(ConfigError, match=r"features\.sql"):
        steps.compute_features("shop", str(DAY))


def test_the_same_day_twice_at_once_leaves_one_whole_partition(shop: Path) -> None:
    deliver(shop, DAY, *(order(n, DAY) for n in range(5)))
    staged = [steps.validate_rows(steps.stage_rows("shop", str(DAY), "orders")) for _ in range(3)]
    failures: list[BaseException] = []

    def publish(one: dict[str, Any]) -> None:
        try:
            steps.publish_rows(one)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(one,)) for one in staged]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert lake.partitions("shop", "orders") == {DAY: 5}
    assert staging_is_empty()


def test_without_a_champion_scoring_says_what_to_do(shop: Path) -> None:
    with pytest.raises(NotReadyError, match="Trigger shop_train"):
        steps.resolve_model("shop", str(DAY))


def _content() -> dict[str, list[Any]]:
    found = {}
    for table in ("orders", "features", "labels"):
        rows = lake.read("shop", table).to_pylist()
        for row in rows:
            # The one audit stamp; it says when the row was made, not what it is.
            row.pop("created_at", None)
        found[table] = sorted(rows, key=repr)
    return found


@pytest.mark.parametrize("table", ["orders", "quarantine"])
def test_only_what_was_validated_is_published(shop: Path, table: str) -> None:
    days = [DAY, DAY + timedelta(days=1)]
    for number, day in enumerate(days):
        good = [order(100 * number + n, day) for n in range(20)]
        deliver(shop, day, *good, *(order(900 + n, day, value="-1") for n in range(3)))
    # Two loads of one day each, so that the second finds rows to replace.
    ingest(str(days[0]))
    before = lake.read("shop", table).num_rows
    staged = steps.validate_rows(steps.stage_rows("shop", f"{days[0]}..{days[1]}", "orders"))
    (file,) = Path(staged["folder"]).glob(f"{table}-*.parquet")
    whole = pq.read_table(file)
    pq.write_table(whole.slice(0, 3), file)
    with pytest.raises(StagingError, match=r"not what was staged and validated.*Clear the run"):
        steps.publish_rows(staged)
    assert lake.read("shop", table).num_rows == before
    assert receipts.missing_days("shop", "publish_orders_quarantine", *_span(days)) == [days[1]]
    # The run, cleared from its first task on.
    ingest(f"{days[0]}..{days[1]}")
    assert lake.read("shop", table).num_rows == 2 * before


@pytest.mark.parametrize("step", ["features", "predictions"])
def test_a_staged_file_of_the_right_shape_but_other_values_is_not_published(
    shop: Path, step: str
) -> None:
    deliver(shop, DAY, *(order(n, DAY, f"c{n}") for n in range(20)))
    ingest(str(DAY))
    staged = steps.validate_features(steps.compute_features("shop", str(DAY)))
    if step == "predictions":
        batch = Staged("shop", str(DAY), new_staging("shop", step, "x"), (str(DAY),))
        batch.write(step, Period.parse(str(DAY)), pa.table({"day": [DAY], "score": [0.5]}))
        staged = batch.to_dict()
    (file,) = Path(staged["folder"]).glob(f"{step}-*.parquet")
    rows = pq.read_table(file)
    column = "total_orders" if step == "features" else "score"
    other = pa.array([7] * rows.num_rows).cast(rows.schema.field(column).type)
    rows = rows.set_column(rows.column_names.index(column), column, other)
    pq.write_table(rows, file)
    publish = steps.publish_features if step == "features" else steps.publish_predictions
    with pytest.raises(StagingError, match="Clear the run"):
        publish(staged)
    assert not lake.exists("shop", step)


# --- what stands is what was published -----------------------------------------------------------


def status(capsys: pytest.CaptureFixture[str]) -> str:
    show_status(load_settings())
    return capsys.readouterr().out


def three_days(data: Path) -> None:
    for number in range(3):
        day = DAY + timedelta(days=number)
        bad = order(10 * number + 5, day, value="-1")
        deliver(data, day, *(order(10 * number + n, day, f"c{n}") for n in range(3)), bad)
        ingest(str(day))
        steps.publish_labels(features(str(day)))


def flip_a_bit(table: str, day: date) -> None:
    (path,) = lake.scan("shop", table, day, day + timedelta(days=1)).paths
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 3] ^= 1
    Path(path).write_bytes(content)


def test_days_that_are_not_what_was_published_are_found_listed_and_mended(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three_days(shop)
    assert steps.verify_tables() == {
        "shop.features": 3,
        "shop.labels": 1,
        "shop.orders": 3,
        "shop.quarantine": 3,
    }
    assert "Damaged" not in status(capsys)
    flip_a_bit("orders", DAY)
    # Whole files, but of somebody who does not write receipts.
    second = DAY + timedelta(days=1)
    others = lake.read_day("shop", "features", second).slice(1)
    lake.publish("shop", "features", others, [second])
    # Neither can be seen from outside.
    assert "Damaged" not in status(capsys)
    for _ in range(2):
        with pytest.raises(DamagedError, match=r"^2 days or tables are damaged.*evergreen status"):
            steps.verify_tables()
        listed = " ".join(status(capsys).split())
        assert "Damaged in shop" in listed and "checksum" in listed and "not those of" in listed
        assert f"evergreen backfill shop {DAY} {second}" in listed
    # What that command does.
    for day in (DAY, second):
        ingest(str(day))
        features(str(day))
    assert "Damaged" not in status(capsys)
    assert steps.verify_tables()["shop.orders"] == 3
    assert "Damaged" not in status(capsys)


def test_lost_files_are_listed_and_unreadable_tables_do_not_hide_others(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three_days(shop)
    (path,) = lake.scan("shop", "orders", DAY, DAY + timedelta(days=1)).paths
    Path(path).unlink()
    listed = " ".join(status(capsys).split())
    assert "Damaged in shop" in listed and "is missing" in listed
    assert f"evergreen backfill shop {DAY} {DAY}" in listed
    with pytest.raises(
        DamagedError, match=rf"shop.orders of {DAY} cannot be read.*evergreen backfill shop"
    ):
        steps.compute_features("shop", str(DAY))
    lake.load("shop", "labels")
    for file in (Path(load_settings().warehouse) / "shop" / "labels").rglob("*.metadata.json"):
        file.write_bytes(file.read_bytes()[:50])
    shown = " ".join(status(capsys).split())
    assert "unreadable" in shown and "metadata of the table shop.labels" in shown
    assert "shop.orders" not in shown or "Damaged" in shown
    with pytest.raises(DamagedError, match="2 days or tables"):
        steps.verify_tables()


def test_verifying_makes_allowance_for_columns_gained_and_for_publishers_beside(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_days(shop)
    later = DAY + timedelta(days=9)
    gained = pa.table({"order_id": ["x"], "coupon": ["y"], "day": pa.array([later], pa.date32())})
    lake.publish("shop", "orders", gained, [later])
    assert lake.read_day("shop", "orders", DAY)["coupon"].null_count == 3
    read, replaced = lake.read_day, []

    def read_beside_a_publisher(use_case: str, table: str, day: date, *rest: Any) -> pa.Table:
        if (table, day) == ("orders", DAY) and not replaced:
            replaced.append(day)
            deliver(shop, DAY, order(1, DAY, value="99"))
            # Between the receipt that was looked up and the rows.
            ingest(str(DAY))
        return read(use_case, table, day, *rest)

    monkeypatch.setattr(lake, "read_day", read_beside_a_publisher)
    steps.verify_tables()
    assert replaced


def _span(days: list[date]) -> tuple[date, date]:
    return days[0], days[-1] + timedelta(days=1)
