"""Point-in-time joins: which value a row gets, and that every row comes back once."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pytest
from feast import FeatureStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergreen import lake
from evergreen.contract import as_of
from evergreen.errors import ConfigError, ConservationError, NotReadyError
from evergreen.features import store
from evergreen.features.compute.run import feature_schema
from evergreen.features.store import newest_day

SUNDAY, MONDAY, TUESDAY, WEDNESDAY = DAYS = [date(2026, 1, n) for n in (4, 5, 6, 7)]
LATE = datetime(2026, 2, 2, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
TTL = timedelta(days=2)

# (buyer, day, hours from as_of to when it was created); few, so that most repeat another one.
FEATURES = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(-1, 1)), max_size=8
)
# (buyer, day, hours after its as_of)
ASKED = st.lists(
    st.tuples(st.sampled_from("abz"), st.integers(0, 3), st.sampled_from([-1, 0, 5, 24, 48])),
    min_size=1,
    max_size=8,
)


def entity_frame(rows, **columns):
    buyers, instants = zip(*rows, strict=True)
    named = {"buyer": list(buyers), "as_of": pa.array(instants, INSTANT), **columns}
    return pa.table(named)


def test_training_sets_take_the_value_of_the_as_of(applied, publish):
    for number, day in enumerate((MONDAY, TUESDAY, WEDNESDAY), start=1):
        publish(applied, day, {"a": number, "b": number * 10})
    frame = entity_frame(
        [("b", as_of(TUESDAY)), ("a", as_of(MONDAY)), ("a", as_of(WEDNESDAY))],
        label=pa.array([True, None, False]),
        weight=pa.array([1, None, 3], pa.int32()),
    )
    found = store.training_set(applied, frame)
    assert found.select(frame.column_names).equals(frame)
    assert found["total_orders"].to_pylist() == [20, 1, 3]
    assert found.schema.names == [*frame.column_names, *applied.feature_names]
    assert found.schema.field("total_orders").type == pa.int64()


def test_repeated_and_unmatched_rows_are_neither_lost_nor_multiplied(applied, publish):
    publish(applied, MONDAY, {"a": 1})
    rows = [("a", as_of(MONDAY)), ("nobody", as_of(MONDAY)), ("a", as_of(MONDAY))]
    found = store.training_set(applied, entity_frame(rows, n=[0, 1, 2]))
    assert found["n"].to_pylist() == [0, 1, 2]
    assert found["total_orders"].to_pylist() == [1, None, 1]


def test_values_are_usable_from_as_of_until_before_as_of_plus_ttl(applied, publish):
    publish(applied, MONDAY, {"a": 1})
    start, second = as_of(MONDAY), timedelta(seconds=1)
    instants = [
        start - second,
        start,
        start + timedelta(days=2) - second,
        start + timedelta(days=2),
    ]
    found = store.training_set(applied, entity_frame([("a", instant) for instant in instants]))
    assert found["total_orders"].to_pylist() == [None, 1, 1, None]


def test_later_days_and_later_corrections_do_not_reach_a_pinned_training_set(applied, publish):
    snapshot = publish(applied, MONDAY, {"a": 1})
    frame = entity_frame([("a", as_of(MONDAY))])
    expected = store.training_set(applied, frame)
    publish(applied, TUESDAY, {"a": 666})
    assert store.training_set(applied, frame).equals(expected)
    publish(applied, MONDAY, {"a": 666}, created_at=LATE)
    assert store.training_set(applied, frame, snapshot_id=snapshot).equals(expected)
    assert store.training_set(applied, frame)["total_orders"].to_pylist() == [666]


def test_a_pinned_day_is_read_as_it_was_and_the_others_as_they_are(applied, publish):
    then = publish(applied, MONDAY, {"a": 1})
    publish(applied, TUESDAY, {"a": 2})
    publish(applied, MONDAY, {"a": 11})
    publish(applied, TUESDAY, {"a": 12})
    frame = entity_frame([("a", as_of(MONDAY)), ("a", as_of(TUESDAY))])

    def joined(pins):
        return store.training_set(applied, frame, pins=pins)["total_orders"].to_pylist()

    assert joined({}) == [11, 12]
    assert joined({MONDAY: then}) == [1, 12]
    # Without rows then: Monday has no value of its own, and none before it.
    assert joined({MONDAY: 0}) == [None, 12]
    with pytest.raises(NotReadyError, match="no snapshot 4711"):
        joined({TUESDAY: 4711})


def test_only_the_days_that_can_be_joined_are_read(applied, publish, monkeypatch):
    for day in (MONDAY, TUESDAY, WEDNESDAY):
        publish(applied, day, {"a": 1})
    planned = []
    scan = lake.scan
    monkeypatch.setattr(lake, "scan", lambda *args: planned.append(scan(*args)) or planned[-1])
    store.training_set(applied, entity_frame([("a", as_of(MONDAY))]))
    assert [len(found.paths) for found in planned] == [1]


def test_before_the_first_day_of_features_there_are_none(applied, publish):
    publish(applied, MONDAY, {"a": 1})
    long_ago = entity_frame([("a", as_of(MONDAY - timedelta(days=4000)))])
    assert store.training_set(applied, long_ago)["total_orders"].to_pylist() == [None]


def test_wrong_entity_frames_are_refused(applied, publish):
    good = entity_frame([("a", as_of(MONDAY))])
    with pytest.raises(NotReadyError, match="does not exist yet"):
        store.training_set(applied, good)
    publish(applied, MONDAY, {"a": 1})
    for frame in (
        good.drop_columns(["as_of"]),
        good.append_column("total_orders", [[1]]),
        good.set_column(0, "buyer", [pa.array([None], pa.string())]),
    ):
        with pytest.raises(ConfigError, match="expected"):
            store.training_set(applied, frame)
    empty = store.training_set(applied, good.slice(0, 0))
    assert (empty.num_rows, empty.schema) == (0, store.training_set(applied, good).schema)


# --- any history, against the rule written down plainly ------------------------------------------


def value_of(day, created):
    """Derive the value from the instants, so that the order of equal rows does not matter."""
    return 10 * day + created


def publish_rows(use_case, rows):
    """Publish all days anew: those without rows become empty."""
    schema = feature_schema(use_case).append(pa.field("created_at", INSTANT))
    table = pa.Table.from_pylist(
        [
            {
                "buyer": buyer,
                "as_of": as_of(DAYS[day]),
                "total_orders": value_of(day, created),
                "total_spent": None,
                "recency_days": 0.25,
                "day": DAYS[day],
                "created_at": as_of(DAYS[day]) + timedelta(hours=created),
            }
            for buyer, day, created in rows
        ],
        schema=schema,
    )
    return lake.publish(use_case.name, "features", table, DAYS).snapshot_id


def newest_usable(rows, buyer, at):
    usable = [
        (day, created)
        for name, day, created in rows
        if name == buyer and as_of(DAYS[day]) <= at < as_of(DAYS[day]) + TTL
    ]
    return value_of(*max(usable)) if usable else None


@pytest.mark.slow
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(then=FEATURES, now=FEATURES, pinned=st.sets(st.integers(0, 3)), asked=ASKED)
def test_every_row_gets_the_newest_value_that_is_usable(applied, then, now, pinned, asked):
    snapshot = publish_rows(applied, then)
    publish_rows(applied, now)
    seen = [row for row in now if row[1] not in pinned]
    seen += [row for row in then if row[1] in pinned]
    had_rows = {day for _, day, _ in then}
    pins = {DAYS[day]: snapshot if day in had_rows else 0 for day in pinned}
    rows = [(buyer, as_of(DAYS[day]) + timedelta(hours=after)) for buyer, day, after in asked]
    frame = entity_frame(rows, n=list(range(len(rows))))
    found = store.training_set(applied, frame, pins=pins)
    assert found.select(frame.column_names).equals(frame)
    assert found["total_orders"].to_pylist() == [newest_usable(seen, *row) for row in rows]


# --- which join ----------------------------------------------------------------------------------


@pytest.fixture
def given_to_feast(monkeypatch):
    """Record the rows that Feast is asked to join."""
    joined = []
    ask = FeatureStore.get_historical_features

    def record(self, entity_df, features):
        joined.extend(zip(entity_df["buyer"], entity_df["event_timestamp"], strict=True))
        return ask(self, entity_df=entity_df, features=features)

    monkeypatch.setattr(FeatureStore, "get_historical_features", record)
    return joined


def test_whom_the_newest_day_has_is_joined_with_it_and_the_others_by_feast(
    applied, publish, given_to_feast, monkeypatch
):
    publish(applied, MONDAY, {"a": 1, "b": 1})
    publish(applied, TUESDAY, {"a": 2})
    opened = []
    open_files = newest_day.open_files

    def record(connection, paths):
        opened.extend(paths)
        return open_files(connection, paths)

    monkeypatch.setattr(newest_day, "open_files", record)
    tuesday, later = as_of(TUESDAY), as_of(TUESDAY) + timedelta(hours=5)
    rows = [("a", tuesday), ("b", later), ("a", later)]
    found = store.training_set(applied, entity_frame(rows))
    assert found["total_orders"].to_pylist() == [2, 1, 2]
    assert given_to_feast == [("b", later)]
    assert [path.partition("day=")[2][:10] for path in opened] == [str(TUESDAY)]


def test_of_several_values_of_one_as_of_feast_takes_the_one_created_last(applied, given_to_feast):
    publish_rows(applied, [("a", 1, 0), ("a", 1, 1), ("b", 1, 0)])
    found = store.training_set(applied, entity_frame([(name, as_of(MONDAY)) for name in "ab"]))
    assert found["total_orders"].to_pylist() == [value_of(1, 1), value_of(1, 0)]
    assert given_to_feast == [("a", as_of(MONDAY))]


def test_a_column_that_the_newest_day_lacks_is_null(applied, publish):
    """It was declared after Monday was computed; Sunday has been computed again since."""
    publish(applied, SUNDAY, {"a": 1})
    lacking = lake.read_day(applied.name, "features", SUNDAY).drop_columns("recency_days")
    lake.catalog().drop_table((applied.name, "features"))
    moved = {"as_of": as_of(MONDAY), "day": MONDAY}
    for name, value in moved.items():
        place = lacking.schema.get_field_index(name)
        column = pa.array([value], lacking.schema.field(name).type)
        lacking = lacking.set_column(place, lacking.schema.field(name), column)
    lake.publish(applied.name, "features", lacking, [MONDAY])
    publish(applied, SUNDAY, {"a": 2})
    found = store.training_set(applied, entity_frame([("a", as_of(MONDAY))]))
    assert found.select(applied.feature_names).to_pylist() == [
        {"total_orders": 1, "total_spent": 10.5, "recency_days": None}
    ]


@pytest.mark.parametrize("numbers", [[], [0, 0], [0, 1]])
def test_a_join_that_loses_or_multiplies_rows_is_refused(applied, publish, monkeypatch, numbers):
    publish(applied, MONDAY, {"a": 1})
    frame = entity_frame([("nobody", as_of(MONDAY)), ("a", as_of(MONDAY))])
    nulls = {name: pa.nulls(len(numbers)) for name in applied.feature_names}
    answer = pa.table({newest_day.ROW: pa.array(numbers, pa.int64()), **nulls})
    careless = SimpleNamespace(to_arrow=lambda: answer)
    monkeypatch.setattr(FeatureStore, "get_historical_features", lambda *_, **__: careless)
    with pytest.raises(ConservationError, match=f"returned {len(numbers) + 1} rows .* for 2 "):
        store.training_set(applied, frame)


def test_feast_can_leave_out_what_was_created_after_the_row(applied, home):
    publish_rows(applied, [("a", 0, 0), ("a", 1, 0), ("a", 1, 1), ("b", 1, 1)])
    frame = entity_frame([(name, as_of(MONDAY)) for name in "ab"]).to_pandas()
    feast = FeatureStore(config=store.repo_config(home))
    features = feast.get_feature_service(applied.name)
    for cut_off, expected in ((False, [value_of(1, 1)] * 2), (True, [value_of(1, 0), None])):
        found = feast.get_historical_features(
            entity_df=frame, features=features, filter_by_created_timestamp=cut_off
        ).to_arrow()
        assert found.sort_by("buyer")["total_orders"].to_pylist() == expected
