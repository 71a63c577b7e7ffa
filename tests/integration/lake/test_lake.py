"""The lake replaces whole days, in one commit, whatever the order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from multiprocessing import get_context

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

from evergreen import lake
from evergreen.errors import ConfigError, NotReadyError
from evergreen.lake import iceberg, publishing
from evergreen.lake.publishing import Published

FIRST = date(2026, 1, 1)
SCHEMA = pa.schema([("customer_id", pa.string()), ("value", pa.int64()), ("day", pa.date32())])


def rows(*values: tuple[str, int, date]) -> pa.Table:
    columns = list(zip(*values, strict=True)) or [[], [], []]
    return pa.table([list(column) for column in columns], schema=SCHEMA)


def content(table: str, namespace: str = "churn") -> dict[date, list[tuple[str, int]]]:
    found: dict[date, list[tuple[str, int]]] = {}
    for row in lake.read(namespace, table).to_pylist():
        found.setdefault(row["day"], []).append((row["customer_id"], row["value"]))
    return {day: sorted(values) for day, values in found.items()}


@pytest.mark.usefixtures("home")
def test_publishing_a_day_again_replaces_it_and_nothing_else() -> None:
    second = FIRST + timedelta(days=1)
    lake.publish("churn", "orders", rows(("a", 1, FIRST), ("b", 2, second)), [FIRST, second])
    lake.publish("churn", "orders", rows(("c", 3, FIRST)), [FIRST])
    assert content("orders") == {FIRST: [("c", 3)], second: [("b", 2)]}
    assert lake.partitions("churn", "orders") == {FIRST: 1, second: 1}


@pytest.mark.usefixtures("home")
def test_a_day_can_become_empty_and_days_need_not_be_adjacent() -> None:
    days = [FIRST, FIRST + timedelta(days=1), FIRST + timedelta(days=5)]
    lake.publish("churn", "orders", rows(*(("a", n, day) for n, day in enumerate(days))), days)
    lake.publish("churn", "orders", rows(), [days[0], days[2]])
    assert content("orders") == {days[1]: [("a", 1)]}


@pytest.mark.usefixtures("home")
def test_rows_of_other_days_are_refused() -> None:
    with pytest.raises(ValueError, match="2026-01-02"):
        lake.publish("churn", "orders", rows(("a", 1, FIRST + timedelta(days=1))), [FIRST])
    assert not lake.exists("churn", "orders")


@pytest.mark.usefixtures("home")
def test_old_snapshots_stay_readable_and_carry_their_properties() -> None:
    first = lake.publish("churn", "orders", rows(("a", 1, FIRST)), [FIRST], {"receipt": "one"})
    lake.publish("churn", "orders", rows(("a", 2, FIRST)), [FIRST], {"receipt": "two"})
    old = lake.read_day("churn", "orders", FIRST, snapshot_id=first.snapshot_id)
    assert old["value"].to_pylist() == [1]
    *_, summary = lake.summaries_since("churn", "orders", ())
    assert summary["evergreen.receipt"] == "one"


@pytest.mark.usefixtures("home")
def test_metadata_that_others_have_just_replaced_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake.publish("churn", "orders", rows(("a", 1, FIRST)), [FIRST])
    ask, misses = SqlCatalog.load_table, iter(range(5))

    def removed_meanwhile(catalog: SqlCatalog, identifier: tuple[str, ...]) -> Table:
        if next(misses, None) is not None:
            raise FileNotFoundError(identifier)
        return ask(catalog, identifier)

    monkeypatch.setattr(SqlCatalog, "load_table", removed_meanwhile)
    assert content("orders") == {FIRST: [("a", 1)]}
    found = lake.load("churn", "orders")
    assert found is not None
    misses = iter(range(5))
    assert found.refresh().metadata == found.metadata


@pytest.mark.usefixtures("home")
def test_a_new_column_is_null_in_old_days() -> None:
    lake.publish("churn", "orders", rows(("a", 1, FIRST)), [FIRST])
    second = FIRST + timedelta(days=1)
    wider = rows(("b", 2, second)).append_column("channel", pa.array(["web"]))
    lake.publish("churn", "orders", wider, [second])
    found = {r["customer_id"]: r["channel"] for r in lake.read("churn", "orders").to_pylist()}
    assert found == {"a": None, "b": "web"}
    lake.publish("churn", "orders", rows(("c", 3, FIRST)), [FIRST])
    assert lake.read_day("churn", "orders", FIRST)["channel"].to_pylist() == [None]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", [pa.string(), pa.float64()])
def test_a_column_keeps_its_type(kind: pa.DataType) -> None:
    lake.publish("churn", "orders", rows(("a", 1, FIRST)), [FIRST])
    retyped = rows(("a", 1, FIRST))
    retyped = retyped.set_column(1, "value", retyped["value"].cast(kind))
    with pytest.raises(ConfigError, match=rf"value as {kind}, which is int64 there.*another name"):
        lake.publish("churn", "orders", retyped, [FIRST])
    assert content("orders") == {FIRST: [("a", 1)]}


@pytest.mark.usefixtures("home")
def test_scans_plan_only_the_files_of_the_days_asked_for() -> None:
    days = [FIRST + timedelta(days=n) for n in range(4)]
    lake.publish("churn", "orders", rows(*(("a", n, day) for n, day in enumerate(days))), days)
    assert len(lake.scan("churn", "orders").paths) == 4
    planned = lake.scan("churn", "orders", days[1], days[3]).paths
    assert [path.split("day=")[1][:10] for path in planned] == [str(days[1]), str(days[2])]
    assert lake.scan("churn", "orders", end=days[0]).paths == ()


@pytest.mark.usefixtures("home")
def test_files_by_day_are_those_of_one_snapshot_and_change_with_their_day_only() -> None:
    days = [FIRST + timedelta(days=n) for n in range(3)]
    lake.publish("churn", "orders", rows(*(("a", n, day) for n, day in enumerate(days))), days)
    before = lake.files("churn", "orders")
    assert list(before.by_day) == days
    assert sorted(before.paths()) == list(lake.scan("churn", "orders").paths)
    assert before.paths(days[1], days[2]) == before.by_day[days[1]]
    lake.publish("churn", "orders", rows(("b", 7, days[1])), [days[1]])
    after = lake.files("churn", "orders", end=days[2])
    assert list(after.by_day) == days[:2]
    assert after.by_day[days[0]] == before.by_day[days[0]]
    assert after.by_day[days[1]] != before.by_day[days[1]]
    assert lake.files("churn", "orders", snapshot_id=before.snapshot_id) == before
    assert lake.files("churn", "nothing") == lake.Files({}, None)
    with pytest.raises(NotReadyError, match="it was expired"):
        lake.files("churn", "orders", snapshot_id=1)


@pytest.mark.usefixtures("home")
def test_snapshots_tell_whether_early_days_were_replaced_between_them() -> None:
    days = [FIRST + timedelta(days=n) for n in range(4)]

    def publish(value: int, *published: date) -> int:
        table = rows(*(("a", value, day) for day in published))
        return lake.publish("churn", "orders", table, published).snapshot_id

    def unchanged(day: date, since: int, until: int) -> bool:
        return lake.is_unchanged_before("churn", "orders", day, since, until)

    first = publish(1, *days[:3])
    second = publish(2, days[1], days[2])
    third = publish(1, days[3])
    assert unchanged(days[1], first, third)
    assert not unchanged(days[2], first, third)
    assert unchanged(days[3], second, third)
    assert unchanged(days[3], third, third)
    assert publish(1, days[3]) == third
    # What cannot be told is not certain: the other direction, and what was never there.
    assert not unchanged(days[0], third, first)
    assert not unchanged(days[0], 1, third)
    assert not lake.is_unchanged_before("churn", "nothing", days[0], first, third)


@pytest.mark.usefixtures("home")
def test_a_table_that_does_not_exist_has_no_files_and_cannot_be_read() -> None:
    assert lake.scan("churn", "nothing").paths == ()
    assert lake.partitions("churn", "nothing") == {}
    with pytest.raises(NotReadyError, match=r"churn\.nothing does not exist"):
        lake.read("churn", "nothing")


@pytest.mark.usefixtures("home")
def test_a_commit_copies_the_history_of_its_table_a_few_times_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each copy takes time in proportion to the number of snapshots; stock takes about fifteen."""
    lake.publish("churn", "orders", rows(("a", 1, FIRST)), [FIRST])
    work_out = publishing.update_table_metadata
    copies = []

    def counted(*arguments: object) -> object:
        copies.append(arguments)
        return work_out(*arguments)

    monkeypatch.setattr(publishing, "update_table_metadata", counted)
    lake.publish("churn", "orders", rows(("a", 2, FIRST)), [FIRST])
    assert 1 <= len(copies) <= 4
    assert content("orders") == {FIRST: [("a", 2)]}


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=6))
@pytest.mark.usefixtures("home")
def test_the_last_publish_of_each_day_is_what_the_table_holds(
    publishes: list[tuple[int, int]],
) -> None:
    table = f"t{abs(hash(tuple(publishes)))}"
    expected: dict[date, list[tuple[str, int]]] = {}
    for number, (offset, length) in enumerate(publishes):
        days = [FIRST + timedelta(days=offset + n) for n in range(length)]
        lake.publish("churn", table, rows(*(("k", number, day) for day in days)), days)
        expected |= {day: [("k", number)] for day in days}
    assert content(table) == expected


@pytest.mark.parametrize("ours", [1, 2])
@pytest.mark.usefixtures("home")
def test_what_others_publish_before_the_commit_is_replaced_whether_or_not_it_was_seen(
    ours: int,
) -> None:
    """`ours` is what stands already (1), or something new (2); then somebody else is faster."""
    second = FIRST + timedelta(days=1)
    lake.publish("churn", "orders", rows(("a", 1, FIRST), ("a", 1, second)), [FIRST, second])
    entered, told = [], []

    @contextmanager
    def committing() -> Iterator[Callable[[Published], None]]:
        entered.append(len(entered))
        if entered == [0]:
            lake.publish("churn", "orders", rows(("b", 7, FIRST)), [FIRST])
        yield told.append

    wanted = rows(("a", ours, FIRST), ("a", 1, second))
    published = lake.publish("churn", "orders", wanted, [FIRST, second], committing=committing)
    assert content("orders") == {FIRST: [("a", ours)], second: [("a", 1)]}
    assert (entered, told) == ([0, 1], [published])
    assert published.changed == (FIRST,)
    assert published.snapshot_id == lake.snapshot_id("churn", "orders")


@pytest.mark.usefixtures("home")
def test_a_publish_beside_others_to_other_days_does_its_work_once() -> None:
    second = FIRST + timedelta(days=1)
    lake.publish("churn", "orders", rows(("a", 1, FIRST)), [FIRST])
    entered = []

    @contextmanager
    def committing() -> Iterator[Callable[[Published], None]]:
        entered.append(len(entered))
        lake.publish("churn", "orders", rows(("b", 7, second)), [second])
        yield lambda _: None

    lake.publish("churn", "orders", rows(("a", 2, FIRST)), [FIRST], committing=committing)
    assert content("orders") == {FIRST: [("a", 2)], second: [("b", 7)]}
    assert entered == [0]


def _publish_often(marker: int) -> None:
    iceberg._catalog.cache_clear()
    own = FIRST + timedelta(days=marker)
    for n in range(4):
        lake.publish("churn", "raced", rows(("own", n, own)), [own])
        shared = rows(*((f"{marker}-{i}", n, FIRST) for i in range(3)))
        lake.publish("churn", "raced", shared, [FIRST])


@pytest.mark.usefixtures("home")
def test_concurrent_writers_lose_nothing_and_never_mix_one_day() -> None:
    lake.publish("churn", "raced", rows(("seed", 0, FIRST)), [FIRST])
    iceberg._catalog.cache_clear()
    writers = [
        get_context("fork").Process(target=_publish_often, args=(marker,)) for marker in (1, 2, 3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    found = content("raced")
    assert all(found[FIRST + timedelta(days=marker)] == [("own", 3)] for marker in (1, 2, 3))
    # One writer's three rows, whole: the later commit won.
    assert len(found[FIRST]) == 3
    assert len({key.split("-")[0] for key, _ in found[FIRST]}) == 1
