"""What the online table holds after any writes; tests/unit/features/test_store.py reads it back."""

import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import psycopg
import pyarrow as pa
import pytest
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _convert_arrow_to_proto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergreen.features import store
from evergreen.features.compute.run import feature_schema
from evergreen.features.store.definitions import definitions
from evergreen.features.store.online_store import ForwardPostgresOnlineStore

START = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = "entity_key, feature_name, value, event_ts, created_ts"

# (buyer, event hour, created hour or none); small ranges, so that most writes meet another one.
ROWS = st.tuples(
    st.sampled_from(["a", "b", "cc", "é"]),
    st.integers(0, 3),
    st.none() | st.integers(0, 2),
)
# (which of two connections, its batch, whether it is written as Feast or as we do)
WRITES = st.lists(
    st.tuples(st.integers(0, 1), st.lists(ROWS, min_size=1, max_size=6), st.booleans()), max_size=8
)
per_example = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)


def value_of(row):
    """Derive the value from the instants, so that the order of equal pairs does not matter."""
    _, event, created = row
    return 10 * event + (0 if created is None else created + 1)


def newest(rows):
    found = {}
    for row in rows:
        buyer, event, created = row
        rank = (event, -1 if created is None else created)
        found[buyer] = max(found.get(buyer, (rank, 0)), (rank, value_of(row)))
    return {buyer: value for buyer, (_, value) in found.items()}


@pytest.fixture
def online(applied, home):
    """Two connections to one online table, and a look into it."""
    config = store.repo_config(home)
    config.online_store.write_batch_values = 9
    _, view, _ = definitions(applied)
    stores = (ForwardPostgresOnlineStore(), ForwardPostgresOnlineStore())
    watcher = psycopg.connect(home.database_url("feast").replace("+psycopg2", ""), autocommit=True)
    schema = feature_schema(applied).append(pa.field("created_at", pa.timestamp("us", tz="UTC")))
    table = f"evergreen_{view.name}"

    def arrow(rows):
        columns = {
            "buyer": [buyer for buyer, _, _ in rows],
            "as_of": [START + timedelta(hours=event) for _, event, _ in rows],
            "created_at": [
                None if created is None else START + timedelta(days=9, hours=created)
                for _, _, created in rows
            ],
            "total_orders": [value_of(row) for row in rows],
            "total_spent": [None if value_of(row) % 2 else value_of(row) / 3 for row in rows],
            "recency_days": [value_of(row) / 7 for row in rows],
            "day": [START.date()] * len(rows),
        }
        return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)

    def protos(rows):
        kinds = {"buyer": view.entity_columns[0].dtype.to_value_type()}
        return _convert_arrow_to_proto(arrow(rows), view, kinds)

    def write(number, rows, as_feast=False):
        if as_feast:
            stores[number].online_write_batch(config, view, protos(rows), None)
        else:
            stores[number].write_tables(config, view, [arrow(rows)])

    def values():
        buyers = ["a", "b", "cc", "é"]
        keys = [EntityKey(join_keys=["buyer"], entity_values=[Value(string_val=b)]) for b in buyers]
        found = stores[0].online_read(config, view, keys, applied.feature_names)
        return {
            buyer: row["total_orders"].int64_val
            for buyer, (_, row) in zip(buyers, found, strict=True)
            if row is not None
        }

    yield SimpleNamespace(
        config=config,
        view=view,
        stores=stores,
        write=write,
        values=values,
        protos=protos,
        empty=lambda: watcher.execute(f"TRUNCATE {table}"),
        stored=lambda: watcher.execute(f"SELECT {COLUMNS} FROM {table} ORDER BY 1, 2").fetchall(),
        watcher=watcher,
    )
    watcher.close()
    for each in stores:
        each.close()


@per_example
@given(writes=WRITES)
def test_any_order_and_any_batching_ends_with_the_newest_values(online, writes):
    online.empty()
    for number, rows, as_feast in writes:
        online.write(number, rows, as_feast)
    written = [row for _, rows, _ in writes for row in rows]
    assert online.values() == newest(written)
    # Doing it all again, backwards and in one batch, changes nothing.
    before = online.stored()
    if written:
        online.write(0, written[::-1])
    assert online.stored() == before


@settings(per_example, max_examples=12)
@given(writes=WRITES)
def test_two_writers_at_once_end_with_the_newest_values(online, writes):
    online.empty()
    failures, start = [], threading.Barrier(2)

    def work(number):
        try:
            start.wait(10)
            for wanted, rows, as_feast in writes:
                if wanted == number:
                    online.write(number, rows, as_feast)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert online.values() == newest([row for _, rows, _ in writes for row in rows])


def test_a_first_load_that_is_no_longer_the_first_merges(online, monkeypatch):
    newer, older = [("a", 3, 1)], [("a", 1, 1), ("b", 1, 1)]
    copied = []
    copy = ForwardPostgresOnlineStore._write

    def overtaken(self, config, view, batches):
        def late():
            # The table was seen empty; now somebody else is faster.
            online.write(1, newer)
            copied.extend(batches)
            yield from copied

        copy(self, config, view, late() if self is online.stores[0] else batches)

    monkeypatch.setattr(ForwardPostgresOnlineStore, "_write", overtaken)
    online.write(0, older)
    assert copied
    assert online.values() == newest(newer + older)


def test_what_is_stored_is_what_the_stock_store_stores(online, applied, home):
    rows = [("a", 2, 1), ("é", 0, 0), ("b", 3, 0), ("cc", 1, 2)]
    online.write(0, rows)
    ours = online.stored()
    online.empty()
    online.write(0, rows, as_feast=True)
    assert online.stored() == ours

    config = store.repo_config(home)
    config.project, config.online_store.type = "stock", "postgres"
    stock = PostgreSQLOnlineStore()
    stock.update(config, [], [online.view], [], [], partial=False)
    stock.online_write_batch(config, online.view, online.protos(rows), None)
    stock._conn.close()
    query = f"SELECT {COLUMNS} FROM stock_{online.view.name} ORDER BY 1, 2"
    assert online.watcher.execute(query).fetchall() == ours


def test_one_reader_sees_what_is_written_while_it_is_open(online, applied):
    with store.OnlineReader(applied) as reader:
        assert reader.read(["a"])["total_orders"].to_pylist() == [None]
        for row in (("a", 1, 0), ("a", 2, 0)):
            online.write(0, [row])
            found = reader.read(["a"])
            assert found["total_orders"].to_pylist() == [value_of(row)]
            assert found.equals(store.read_online(applied, ["a"]))
