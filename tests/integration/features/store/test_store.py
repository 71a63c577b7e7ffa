import runpy
import threading
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView
from feast.data_source import DataSource
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import load_repo_config

from evergreen import lake
from evergreen.contract import as_of
from evergreen.errors import ConfigError, NotReadyError
from evergreen.features import store
from evergreen.features.store import online_rows
from evergreen.features.store.definitions import definitions
from evergreen.features.store.lake_source import LakeSource
from evergreen.features.store.online_store import ForwardPostgresOnlineStore
from evergreen.settings import PROJECT_ROOT

SUNDAY, MONDAY, TUESDAY, WEDNESDAY = (date(2026, 1, n) for n in (4, 5, 6, 7))
EARLY, LATE = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC)


def totals(use_case, *buyers):
    return store.read_online(use_case, buyers)["total_orders"].to_pylist()


# --- online --------------------------------------------------------------------------------------


def test_materialized_features_are_read_back_exactly(applied, publish):
    snapshot = publish(applied, MONDAY, {"a": 3, "b": None})
    assert store.materialize(applied, MONDAY) == store.Materialized(2, snapshot)

    found = store.read_online(applied, ["b", "nobody", "a", "a"])
    a = {
        "buyer": "a",
        "as_of": as_of(MONDAY),
        "total_orders": 3,
        "total_spent": 31.5,
        "recency_days": 0.25,
    }
    nothing = {"as_of": None, "total_orders": None, "total_spent": None, "recency_days": None}
    b = {"buyer": "b", "total_orders": None, "total_spent": None, "as_of": as_of(MONDAY)}
    assert found.to_pylist() == [{**a, **b}, {"buyer": "nobody", **nothing}, a, a]
    assert store.read_online(applied, []).schema == found.schema


def test_an_older_day_never_replaces_a_newer_one(applied, publish):
    publish(applied, TUESDAY, {"a": 2})
    # Created later, but about an earlier as_of.
    publish(applied, MONDAY, {"a": 1, "only_monday": 1}, created_at=LATE)
    store.materialize(applied, TUESDAY)
    store.materialize(applied, MONDAY)
    assert totals(applied, "a", "only_monday") == [2, 1]

    publish(applied, WEDNESDAY, {"a": 3})
    store.materialize(applied, WEDNESDAY)
    assert totals(applied, "a") == [3]


def test_a_correction_of_the_same_day_lands_and_its_original_does_not_return(applied, publish):
    original = publish(applied, MONDAY, {"a": 1}, created_at=EARLY)
    store.materialize(applied, MONDAY)
    publish(applied, MONDAY, {"a": 7}, created_at=LATE)
    store.materialize(applied, MONDAY)
    assert totals(applied, "a") == [7]

    store.materialize(applied, MONDAY, snapshot_id=original)
    assert totals(applied, "a") == [7]


def test_a_pinned_snapshot_is_what_is_materialized(applied, publish):
    original = publish(applied, MONDAY, {"a": 1}, created_at=EARLY)
    publish(applied, MONDAY, {"a": 7}, created_at=LATE)
    assert store.materialize(applied, MONDAY, original) == store.Materialized(1, original)
    assert totals(applied, "a") == [1]


def test_materializing_twice_changes_nothing(applied, publish):
    publish(applied, MONDAY, {"a": 1, "b": 2})
    store.materialize(applied, MONDAY)
    before = store.read_online(applied, ["a", "b"])
    store.materialize(applied, MONDAY)
    assert store.read_online(applied, ["a", "b"]).equals(before)


def test_customers_that_left_keep_the_day_they_left_on(applied, publish):
    publish(applied, MONDAY, {"a": 1, "gone": 1})
    publish(applied, TUESDAY, {"a": 2})
    store.materialize(applied, MONDAY)
    store.materialize(applied, TUESDAY)
    found = store.read_online(applied, ["a", "gone"])
    assert found["as_of"].to_pylist() == [as_of(TUESDAY), as_of(MONDAY)]


def test_days_written_at_the_same_time_end_with_the_newest(applied, publish):
    buyers = [f"b{n}" for n in range(300)]
    days = [MONDAY, TUESDAY, WEDNESDAY]
    for number, day in enumerate(days):
        publish(applied, day, dict.fromkeys(buyers[:: -1 if number % 2 else 1], number))
    failures = []

    def work(day):
        try:
            store.materialize(applied, day)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(day,)) for day in reversed(days)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert totals(applied, *buyers) == [2] * 300


def test_a_range_leaves_what_its_days_one_by_one_would(applied, publish):
    publish(applied, SUNDAY, {"a": 1, "b": 1, "c": 1})
    publish(applied, MONDAY, {"a": 2, "b": 2})
    publish(applied, TUESDAY, {"a": 3})
    assert store.materialize(applied, TUESDAY, since=SUNDAY).rows == 3
    at_once = store.read_online(applied, ["a", "b", "c"])
    assert totals(applied, "a", "b", "c") == [3, 2, 1]
    for day in (SUNDAY, MONDAY, TUESDAY):
        store.materialize(applied, day)
    assert store.read_online(applied, ["a", "b", "c"]).equals(at_once)


def test_who_is_corrected_away_gets_back_an_earlier_day(applied, publish):
    publish(applied, SUNDAY, {"a": 1, "b": 1}, EARLY)
    publish(applied, MONDAY, {"a": 2, "b": 2, "c": 2}, EARLY)
    publish(applied, TUESDAY, {"d": 1}, EARLY)
    store.materialize(applied, TUESDAY, since=SUNDAY)
    assert totals(applied, "a", "b", "c", "d") == [2, 2, 2, 1]
    # The orders that brought b and c into Monday turn out to be none.
    publish(applied, MONDAY, {"a": 2}, LATE)
    store.materialize(applied, MONDAY)
    assert totals(applied, "a", "b", "c", "d") == [2, 1, None, 1]
    assert store.read_online(applied, ["b"])["as_of"].to_pylist() == [as_of(SUNDAY)]
    # Monday altogether; repeating it changes nothing.
    publish(applied, MONDAY, {}, LATE)
    for _ in range(2):
        store.materialize(applied, MONDAY, since=MONDAY)
        assert totals(applied, "a", "b", "c", "d") == [1, 1, None, 1]


def test_what_is_missing_is_said(applied, publish, make_use_case):
    with pytest.raises(NotReadyError, match="has no rows for 2026-01-05"):
        store.materialize(applied, MONDAY)
    unknown = make_use_case()
    publish(unknown, MONDAY, {"a": 1})
    with pytest.raises(NotReadyError, match="Feast does not know"):
        store.materialize(unknown, MONDAY)
    with pytest.raises(NotReadyError, match="Feast does not know"):
        store.read_online(unknown, ["a"])


# --- Feast's own paths through our stores --------------------------------------------------------


def feast_store(home):
    return FeatureStore(config=store.repo_config(home))


def test_the_stock_store_reads_what_the_fast_path_wrote(applied, publish, home):
    publish(applied, MONDAY, {"a": 3})
    store.materialize(applied, MONDAY)
    config = store.repo_config(home)
    config.online_store.type = "postgres"
    _, view, _ = definitions(applied)
    stock = PostgreSQLOnlineStore()
    key = EntityKey(join_keys=["buyer"], entity_values=[Value(string_val="a")])
    ((instant, values),) = stock.online_read(config, view, [key], applied.feature_names)
    stock._conn.close()
    assert instant == as_of(MONDAY)
    assert values["total_orders"] == Value(int64_val=3)
    assert values["total_spent"] == Value(double_val=31.5)


def test_feasts_materialization_agrees_and_moves_forward_too(applied, publish, home):
    publish(applied, MONDAY, {"a": 1, "b": 1})
    publish(applied, TUESDAY, {"a": 2})
    feast = feast_store(home)
    name = f"{applied.name}_features"
    feast.materialize(as_of(TUESDAY), as_of(TUESDAY), feature_views=[name])
    assert totals(applied, "a", "b") == [2, None]
    feast.materialize(as_of(MONDAY), as_of(MONDAY), feature_views=[name])
    assert totals(applied, "a", "b") == [2, 1]
    # Byte for byte what the fast path writes.
    fast = store.read_online(applied, ["a", "b"])
    store.materialize(applied, TUESDAY)
    store.materialize(applied, MONDAY)
    assert store.read_online(applied, ["a", "b"]).equals(fast)


def test_the_latest_of_a_batch_wins_and_no_created_time_is_the_oldest(applied, home):
    online, config = ForwardPostgresOnlineStore(), store.repo_config(home)
    _, view, _ = definitions(applied)
    key = EntityKey(join_keys=["buyer"], entity_values=[Value(string_val="a")])

    def write(*rows):
        batch = [(key, {"total_orders": Value(int64_val=n)}, at, made) for n, at, made in rows]
        online.online_write_batch(config, view, batch, None)
        ((_, values),) = online.online_read(config, view, [key], ["total_orders"])
        return values["total_orders"].int64_val

    monday, tuesday = as_of(MONDAY), as_of(TUESDAY)
    assert write((1, monday, None), (3, tuesday, EARLY), (2, tuesday, None)) == 3
    assert write((4, tuesday, None)) == 3
    # Naive instants are UTC.
    assert write((5, tuesday.replace(tzinfo=None), LATE.replace(tzinfo=None))) == 5
    assert write((6, tuesday, LATE)) == 6
    online.close()


def test_many_small_batches_write_every_row(applied, publish, home):
    publish(applied, MONDAY, {f"b{n:03}": n for n in range(50)})
    online, config = ForwardPostgresOnlineStore(), store.repo_config(home)
    config.online_store.write_batch_values = 7
    _, view, _ = definitions(applied)
    online.write_tables(config, view, [lake.read_day(applied.name, "features", MONDAY)])
    online.close()
    assert totals(applied, *(f"b{n:03}" for n in range(50))) == list(range(50))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("double_val", [0.0, -0.0, 1.5, float("inf"), 5e-324, -1e308]),
        ("int64_val", [0, -1, 2**62, 1]),
        ("bool_val", [False, True]),
        ("string_val", ["", "é"]),
    ],
)
def test_values_are_encoded_as_feast_encodes_them(field, values):
    column = pa.chunked_array([[*values, None], []], pa.array(values).type)
    expected = [Value(**{field: value}).SerializeToString() for value in values]
    assert online_rows.encoded_values(column) == [*expected, Value().SerializeToString()]


# --- definitions and configuration ---------------------------------------------------------------


def test_definitions_follow_from_the_contract(make_use_case):
    use_case = make_use_case()
    entity, view, service = definitions(use_case)
    assert (entity.join_key, service.name) == ("buyer", use_case.name)
    assert [field.name for field in view.features] == use_case.feature_names
    total = view.features[0]
    assert (str(total.dtype), total.description, total.tags) == (
        "Int64",
        "Orders.",
        {"unit": "orders"},
    )
    assert DataSource.from_proto(view.batch_source.to_proto()) == view.batch_source
    assert isinstance(view.batch_source, LakeSource)


def test_the_repository_of_the_feast_command_holds_every_use_case():
    found = runpy.run_path(str(PROJECT_ROOT / "feature_repo" / "definitions.py"))
    for kind in (Entity, FeatureView, FeatureService):
        # Feast, too, counts objects and not the names they are found under.
        objects = {id(value): value for value in found.values() if isinstance(value, kind)}
        names = [value.name for value in objects.values()]
        assert any(name.startswith("churn") for name in names)
        assert len(names) == len(set(names))


def test_the_feast_command_sees_the_configuration_of_the_tasks(home, monkeypatch):
    for variable, value in store.environment(home).items():
        monkeypatch.setenv(variable, value)
    folder = PROJECT_ROOT / "feature_repo"
    read = load_repo_config(folder, folder / "feature_store.yaml")
    built = store.repo_config(home)
    assert read.online_store == built.online_store
    assert type(read.offline_store) is type(built.offline_store)
    assert (read.project, read.registry.path) == (built.project, built.registry.path)


def test_a_managed_server_is_taken_from_its_url(home, monkeypatch):
    awkward = 'p"a\\ss@word'
    url = "postgresql+psycopg2://me:p%22a%5Css%40word@db.example:6543/features?sslmode=require"
    monkeypatch.setitem(home.urls, "feast", url)
    online = store.repo_config(home).online_store
    assert (online.host, online.port, online.database) == ("db.example", 6543, "features")
    assert (online.user, online.password, online.sslmode) == ("me", awkward, "require")
    for variable, value in store.environment(home).items():
        monkeypatch.setenv(variable, value)
    folder = PROJECT_ROOT / "feature_repo"
    assert load_repo_config(folder, folder / "feature_store.yaml").online_store == online

    monkeypatch.setitem(home.urls, "feast", "sqlite:///x.db")
    with pytest.raises(ConfigError, match="expected postgresql"):
        store.repo_config(home)
