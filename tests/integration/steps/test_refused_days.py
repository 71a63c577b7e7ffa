"""Days that break a batch rule: kept where they can be looked at, told in one message, mended."""

from __future__ import annotations

import itertools
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from daily_shop import DAY, deliver, features, ingest, order, write_daily_shop
from evergreen import lake, steps
from evergreen.contract import Period
from evergreen.errors import GapError, ValidationError
from evergreen.provenance import receipts
from evergreen.settings import PROJECT_ROOT, Settings, load_settings

ONE = timedelta(days=1)


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return write_daily_shop(home, monkeypatch, tmp_path)


def declare(**batch: Any) -> None:
    file = load_settings().use_cases / "shop" / "use_case.yaml"
    declared = yaml.safe_load(file.read_text())
    declared["events"]["orders"]["batch"] = batch
    file.write_text(yaml.safe_dump(declared))


def deliver_many(data: Path, day: date, rows: int) -> None:
    deliver(data, day, *(order(f"{day}-{n}", day, f"c{n % 7}") for n in range(rows)))


def look_up() -> dict[tuple[str, str], tuple[int, str]]:
    """Run the query of the page on troubleshooting, on this shop."""
    page = (PROJECT_ROOT / "docs" / "troubleshooting.md").read_text()
    section = page.split("**A batch was refused", 1)[1]
    code = section.split("```python\n", 1)[1].split("```", 1)[0].replace("churn", "shop")
    found: list[tuple[str, str, int, str]] = []
    names: dict[str, Any] = {"print": lambda rows: found.extend(rows.fetchall())}
    exec(compile(code, "troubleshooting.md", "exec"), names)
    return {(table, rule): (rows, example) for table, rule, rows, example in found}


def test_a_wrong_date_format_is_named_with_rule_count_and_example(shop: Path) -> None:
    rows = [f"o{n},a,{n + 1}/14/2025 08:30,10" for n in range(9)]
    deliver(shop, DAY, *rows, f"x,,{DAY}T08:00:00Z,3")
    with pytest.raises(ValidationError) as caught:
        ingest(str(DAY))
    message = str(caught.value)
    assert (
        "1 of 1 day(s) of shop.orders broke a batch rule and were refused; nothing was" in message
    )
    assert "2025-03-10: none of its 10 rows was accepted" in message
    assert "10 of 10 rows are quarantined, a share of at most 0.5" in message
    assert re.search(
        r"ordered_at_unparsable: 9 row\(s\), for example \S*2025-03-10.csv, row 1: "
        r"at='1/14/2025 08:30'",
        message,
    )
    assert re.search(r"customer_id_missing: 1 row\(s\), .*, row 10: customer=None", message)
    assert len(message) < 1500
    assert not lake.exists("shop", "orders")
    assert not lake.exists("shop", "quarantine")
    found = look_up()
    assert found["refused", "ordered_at_unparsable"][0] == 9
    assert "1/14/2025 08:30" in found["refused", "ordered_at_unparsable"][1]
    assert found["refused", "batch_none_accepted"][0] == 1


def test_a_refusal_ends_when_a_delivery_is_accepted(shop: Path) -> None:
    deliver(shop, DAY, *(order(n, DAY, value="-1") for n in range(5)))
    for _ in range(2):
        with pytest.raises(ValidationError):
            ingest(str(DAY))
        assert lake.partitions("shop", "refused") == {DAY: 6}
    with pytest.raises(GapError, match=r"2025-03-10.*refused"):
        steps.compute_features("shop", str(DAY))
    deliver(shop, DAY, *(order(n, DAY) for n in range(5)), order(9, DAY, value="-1"))
    ingest(str(DAY))
    assert lake.partitions("shop", "refused") == {}
    assert look_up() == {("quarantine", "amount_out_of_range"): (1, found_example())}
    features(str(DAY))


def found_example() -> str:
    (row,) = lake.read_day("shop", "quarantine", DAY).to_pylist()
    return str(row["raw"])


def standing() -> tuple[Any, Any]:
    return lake.read_day("shop", "orders", DAY), lake.read_day("shop", "quarantine", DAY)


def test_a_refused_correction_leaves_the_day_as_it_was(shop: Path) -> None:
    deliver(shop, DAY, *(order(n, DAY) for n in range(5)), order(9, DAY, value="-1"))
    ingest(str(DAY))
    before = standing()
    receipt = receipts.latest("shop", "publish_orders")[DAY]
    deliver(shop, DAY, *(order(n, DAY, value="-1") for n in range(7)))
    with pytest.raises(ValidationError):
        ingest(str(DAY))
    assert standing() == before
    assert receipts.latest("shop", "publish_orders")[DAY] == receipt
    assert lake.partitions("shop", "refused") == {DAY: 8}


def test_a_bulk_load_names_all_refused_days_and_publishes_the_others(shop: Path) -> None:
    days = [DAY + n * ONE for n in range(70)]
    spoilt = {days[12]: 3, days[40]: 400, days[65]: 2}
    for day in days:
        deliver_many(shop, day, spoilt.get(day, 40))
    deliver(shop, days[20], *(order(n, days[20], value="-1") for n in range(40)))
    spoilt[days[20]] = 40
    whole = f"{days[0]}..{days[-1]}"
    staged = steps.validate_rows(steps.stage_rows("shop", whole, "orders"))
    with pytest.raises(ValidationError) as caught:
        steps.publish_rows(staged)
    # A publish that is tried again finds nothing staged, and says the same.
    with pytest.raises(ValidationError) as again:
        steps.publish_rows(staged)
    assert str(again.value) == str(caught.value)
    message = str(caught.value)
    assert "4 of 70 day(s)" in message
    assert "the others were published" in message
    assert re.search(rf"{days[12]}: 3 rows in, 0.075 of the usual 40; \d+ to \d+ would", message)
    assert f"{days[40]}: 400 rows in, 10 of the usual 40" in message
    assert f"unusual_days: [{days[12]}, {days[40]}, {days[65]}]" in message
    assert set(lake.partitions("shop", "orders")) == set(days) - set(spoilt)
    assert set(receipts.latest("shop", "publish_orders")) == set(days) - set(spoilt)
    assert set(lake.partitions("shop", "refused")) == set(spoilt)
    with pytest.raises(GapError, match=r"4 of these days are not published.*4 of them.*refused"):
        steps.compute_features("shop", whole)
    # They were right, all but one, which is delivered again.
    declare(unusual_days=[days[12], days[40], days[65]])
    deliver_many(shop, days[20], 35)
    ingest(whole)
    assert lake.partitions("shop", "refused") == {}
    assert set(lake.partitions("shop", "orders")) == set(days)
    features(whole)


@pytest.mark.parametrize("order_of_days", itertools.permutations(range(3)))
def test_whether_features_use_a_day_does_not_depend_on_when_it_came(
    shop: Path, order_of_days: tuple[int, ...]
) -> None:
    days = [DAY + n * ONE for n in range(10)]
    bad = days[8]
    for day in days:
        deliver_many(shop, day, 3 if day == bad else 40)
    parts = [Period(days[0], bad), Period(bad, days[9]), Period(days[9], days[9] + ONE)]
    refused_at_once = False
    for number in order_of_days:
        try:
            ingest(parts[number].label)
        except ValidationError as error:
            assert str(bad) in str(error)
            refused_at_once = True
    # It is refused when the days before it are there, and only then.
    assert refused_at_once == (order_of_days.index(0) < order_of_days.index(1))
    assert (bad in lake.partitions("shop", "orders")) is not refused_at_once
    features(f"{days[0]}..{days[7]}")
    for day in days[8:]:
        with pytest.raises((GapError, ValidationError), match=str(bad)):
            steps.compute_features("shop", str(day))
    declare(unusual_days=[bad])
    ingest(str(bad))
    features(f"{days[8]}..{days[9]}")


def test_a_day_nothing_is_compared_with_yet_is_told_before_features_use_it(shop: Path) -> None:
    days = [DAY + n * ONE for n in range(9)]
    for day in days:
        deliver_many(shop, day, 3 if day == days[8] else 40)
    ingest(str(days[8]))
    ingest(f"{days[0]}..{days[7]}")
    with pytest.raises(ValidationError) as caught:
        steps.compute_features("shop", str(days[8]))
    assert f"{days[8]}: 3 rows in, 0.075 of the usual 40" in str(caught.value)
    assert f"orders.batch.unusual_days: [{days[8]}]" in str(caught.value)
    # Delivered whole, it passes.
    deliver_many(shop, days[8], 44)
    ingest(str(days[8]))
    features(str(days[8]))


def test_the_query_of_the_readme_works_before_anything_was_refused(shop: Path) -> None:
    deliver(shop, DAY, order(1, DAY))
    ingest(str(DAY))
    assert look_up() == {}


def test_a_row_of_parquet_that_is_not_utf8_goes_to_quarantine(shop: Path) -> None:
    file = load_settings().use_cases / "shop" / "use_case.yaml"
    declared = yaml.safe_load(file.read_text())
    declared["events"]["orders"]["source"] |= {
        "path": str(shop / "{day}.parquet"),
        "format": "parquet",
    }
    file.write_text(yaml.safe_dump(declared))
    names = pa.array([b"a", b"b\xe9", b"c"], pa.binary()).view(pa.string())
    at = [f"{DAY}T12:00:00Z"] * 3
    rows = {"id": ["1", "2", "3"], "customer": names, "at": at, "value": [1.0, 2.0, 3.0]}
    pq.write_table(pa.table(rows), shop / f"{DAY}.parquet")
    published = ingest(str(DAY))
    assert published["rows"]["accepted"] == 2
    (row,) = lake.read_day("shop", "quarantine", DAY).to_pylist()
    assert (row["row"], row["rules"]) == (2, ["malformed_row"])
    assert "not UTF-8: customer" in row["raw"]
    assert r"b\\\\xe9" in row["raw"]
