"""What the online store serves, held against features, through the real tables and stores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from feast.protos.feast.types.Value_pb2 import Value

import tiny_shop
from embedded import Build
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.features import store
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.settings import load_settings
from evergreen.sql.shards import Shard
from tiny_shop import DAYS, NAME

pytestmark = pytest.mark.timeout(300)

LAST = DAYS[-1]
TABLE = "evergreen_shop_features"


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tiny_shop.open_shop(root, monkeypatch)
    tiny_shop.compute()
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def demand(folder: Path, **monitoring: Any) -> None:
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["monitoring"] = monitoring
    path.write_text(yaml.safe_dump(declared, sort_keys=False))


def measure(day: date = LAST) -> dict[str, Any]:
    return steps.measure_skew(NAME, str(day))


def online(statement: str, *values: Any) -> int:
    """Change the online store behind everybody's back; say how many values that changed."""
    url = load_settings().database_url("feast").replace("+psycopg2", "")
    with psycopg.connect(url) as connection:
        return connection.execute(statement.format(TABLE), values).rowcount


def key_of(name: str) -> str:
    return f"%{name.encode().hex()}%"


def found(reference: str = "features") -> dict[str, dict[str, Any]]:
    rows = lake.read_day(NAME, "skew", LAST).to_pylist()
    return {row["feature"]: row for row in rows if row["reference"] == reference}


def counts(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["mismatch"], row["missing"], row["extra"]


def entities() -> list[str]:
    return sorted(lake.read_day(NAME, "features", LAST)["customer_id"].to_pylist())


def materialize_again() -> None:
    steps.materialize_online({"use_case": NAME, "period": str(LAST), "snapshot": 1})


def test_what_is_served_is_logged_and_agrees(shop: Path) -> None:
    answer = measure()
    assert (answer["incidents"], answer["warnings"], answer["mend"]) == ([], [], [])
    served = lake.read_day(NAME, "served", LAST)
    # Everybody who was ever materialised: those who left keep what they had.
    ever = set(lake.read(NAME, "features")["customer_id"].to_pylist())
    assert set(served["customer_id"].to_pylist()) == ever
    assert len(ever) > len(entities())
    assert served.column_names == ["day", "customer_id", "as_of", *tiny_shop.FEATURES]
    keys = served["customer_id"].to_pylist()
    read = store.read_online(load_use_case(NAME), keys)
    assert served.drop_columns("day").cast(read.schema).equals(read)

    for reference, names in (
        ("features", {"as_of", *tiny_shop.FEATURES}),
        ("recomputed", {*tiny_shop.FEATURES}),
    ):
        rows = found(reference)
        assert set(rows) == names
        assert {counts(row) for row in rows.values()} == {(0, 0, 0)}
        assert {row["served_day"] for row in rows.values()} == {LAST}
    assert found()["as_of"]["keys"] == len(ever)
    assert 0 < found("recomputed")["last_amount"]["keys"] <= 100
    # Repeated, a night says the same.
    before = lake.read_day(NAME, "skew", LAST)
    assert measure() == answer
    assert lake.read_day(NAME, "skew", LAST).equals(before)


def test_a_poisoned_value_is_named_and_mended(shop: Path) -> None:
    demand(shop, max_skew=0.5)
    victim = entities()[3]
    poison = Value(double_val=-1.0).SerializeToString()
    changed = online(
        "UPDATE {} SET value = %s WHERE feature_name = 'last_amount' "
        "AND encode(entity_key, 'hex') LIKE %s",
        poison,
        key_of(victim),
    )
    assert changed == 1
    answer = measure()
    assert answer["incidents"] == []
    total = found()["last_amount"]["keys"]
    assert answer["warnings"][0] == (
        f"last_amount of 1 of {total} served rows is not that of the table features "
        f"(mismatch 1; e.g. {victim})"
    )
    assert answer["mend"] == [f"evergreen trigger shop_features --day {LAST}"]
    assert counts(found()["last_amount"]) == (1, 0, 0)
    assert counts(found()["days_since_last_order"]) == (0, 0, 0)
    served = lake.read_day(NAME, "served", LAST).to_pylist()
    assert {row["customer_id"]: row["last_amount"] for row in served}[victim] == -1.0

    # More than are allowed are an incident, which says how to mend it and does not hide the night.
    demand(shop, max_skew=0.0)
    incident = measure()
    assert incident["incidents"] == answer["warnings"]
    calm = {"incidents": [], "bad": []}
    verdict = steps.decide_retraining(NAME, str(LAST), [calm, calm, calm, incident])
    assert verdict["mend"][0] == f"evergreen trigger shop_features --day {LAST}"
    assert verdict["incidents"] == incident["incidents"]

    materialize_again()
    assert measure()["incidents"] == []
    assert counts(found()["last_amount"]) == (0, 0, 0)


def test_an_entity_that_is_not_served_is_missing(shop: Path) -> None:
    victim = entities()[0]
    width = len(tiny_shop.FEATURES)
    assert online("DELETE FROM {} WHERE encode(entity_key, 'hex') LIKE %s", key_of(victim)) == width
    measure()
    assert {name: counts(row) for name, row in found().items()} == dict.fromkeys(found(), (0, 1, 0))
    assert found()["as_of"]["examples"] == [victim]
    materialize_again()
    measure()
    assert {counts(row) for row in found().values()} == {(0, 0, 0)}


def test_a_served_row_without_features_is_extra(shop: Path) -> None:
    rows = lake.read_day(NAME, "features", LAST)
    batch = Staged(NAME, str(LAST), "", basis=receipts.newest_sequence())
    publish_chunk(batch, "publish_features", "features", rows.slice(1), [LAST])
    measure()
    assert {counts(row) for row in found().values()} == {(0, 0, 1)}
    assert found()["last_amount"]["examples"] == [rows["customer_id"][0].as_py()]
    # The table is what is wrong: events still give the row that is served.
    assert {counts(row) for row in found("recomputed").values()} == {(0, 0, 0)}


def test_served_rows_that_lag_behind_are_told(shop: Path) -> None:
    behind = load_use_case(NAME).as_of(LAST - timedelta(days=2))
    online("UPDATE {} SET event_ts = %s WHERE event_ts > %s", behind, behind)
    measure()
    row = found()["as_of"]
    # Within the allowed day are those who had already left.
    assert row["mismatch"] > 0
    assert row["served_day"] == LAST - timedelta(days=2)
    # Values of one day under the name of another are not those of that day.
    assert found()["days_since_last_order"]["mismatch"] > 0


def test_features_that_are_not_what_events_give_are_told(shop: Path) -> None:
    rows = lake.read_day(NAME, "features", LAST)
    at = rows.column_names.index("last_amount")
    doubled = rows.set_column(at, "last_amount", [[2.0 * v.as_py() for v in rows["last_amount"]]])
    batch = Staged(NAME, str(LAST), "", basis=receipts.newest_sequence())
    publish_chunk(batch, "publish_features", "features", doubled, [LAST])
    materialize_again()
    answer = measure()
    assert counts(found()["last_amount"]) == (0, 0, 0)
    row = found("recomputed")["last_amount"]
    assert row["mismatch"] == row["keys"] > 0
    assert "is not that of what events give" in answer["incidents"][0]


def test_with_shards_one_of_them_is_computed_again_every_night_another(shop: Path) -> None:
    path = shop / "use_case.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"shards": 3}))
    demand(shop, skew_keys=1_000)
    looked: list[set[str]] = []
    for day in DAYS[-3:]:
        rows = lake.read_day(NAME, "features", day)
        with duckdb.connect() as connection:
            shard = Shard(day.toordinal() % 3, 3)
            part = shard.rows_of(rows, "customer_id", connection)
            looked.append({*part["customer_id"].to_pylist()})
    assert not set.intersection(*looked)
    measure()
    in_shard = looked[-1]
    assert found("recomputed")["last_amount"]["keys"] == len(in_shard) < len(entities())
    assert {counts(row) for row in found("recomputed").values()} == {(0, 0, 0)}
    # What events do not give is found there.
    rows = lake.read_day(NAME, "features", LAST)
    wrong = pa.array([key in in_shard for key in rows["customer_id"].to_pylist()])
    at = rows.schema.get_field_index("last_amount")
    amounts = pc.if_else(wrong, -1.0, rows["last_amount"])
    batch = Staged(NAME, str(LAST), "", basis=receipts.newest_sequence())
    changed = rows.set_column(at, rows.schema.field(at), amounts)
    publish_chunk(batch, "publish_features", "features", changed, [LAST])
    materialize_again()
    measure()
    assert found("recomputed")["last_amount"]["mismatch"] == len(in_shard)


def test_a_stale_day_is_not_held_against_events(shop: Path) -> None:
    orders = lake.read_day(NAME, "orders", LAST)
    batch = Staged(NAME, str(LAST), "", basis=receipts.newest_sequence())
    publish_chunk(batch, "publish_orders", "orders", orders.slice(20), [LAST])
    assert measure()["incidents"] == []
    assert found("recomputed") == {}


def test_nights_that_cannot_measure_say_why(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def why(day: date = LAST) -> str:
        answer = measure(day)
        assert answer["incidents"] == []
        return str(answer["not_measured"])

    assert "the night is past" in why(DAYS[-2])
    assert not lake.exists(NAME, "served")
    demand(shop, skew_keys=0)
    assert why() == "monitoring.skew_keys is 0"
    demand(shop)
    online("DELETE FROM {}")
    assert why() == "nothing has been materialised yet"
    assert not lake.exists(NAME, "skew")


def test_a_sample_is_the_same_entities_every_night(shop: Path) -> None:
    demand(shop, skew_keys=20)
    measure()
    first = lake.read_day(NAME, "served", LAST)["customer_id"].to_pylist()
    assert len(first) == 20
    assert found()["as_of"]["keys"] == 20
    measure()
    assert lake.read_day(NAME, "served", LAST)["customer_id"].to_pylist() == first
