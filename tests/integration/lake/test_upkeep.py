"""Upkeep frees the disk and keeps what the tables hold, also beside publishing steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from evergreen import lake
from evergreen.errors import BusyError, NotReadyError, PermanentError
from evergreen.lake import compaction, iceberg, snapshots, upkeep
from evergreen.settings import Settings

pytestmark = pytest.mark.usefixtures("home")

FIRST = date(2026, 1, 1)
SCHEMA = pa.schema([("kind", pa.string()), ("value", pa.int64()), ("day", pa.date32())])
NEVER = datetime(2000, 1, 1, tzinfo=UTC)


def rows(*values: tuple[str, int, date]) -> pa.Table:
    columns = list(zip(*values, strict=True)) or [[], [], []]
    return pa.table([list(column) for column in columns], schema=SCHEMA)


def publish(value: int, day: date = FIRST, table: str = "orders", kind: str = "") -> int:
    part = {"kind": kind} if kind else None
    published = lake.publish("churn", table, rows((kind, value, day)), [day], part=part)
    return published.snapshot_id


def content(table: str = "orders", snapshot_id: int | None = None) -> list[tuple[Any, ...]]:
    found = lake.read("churn", table, snapshot_id=snapshot_id).to_pylist()
    return sorted((row["day"], row["kind"], row["value"]) for row in found)


def soon() -> datetime:
    """Return an instant at which everything done so far is old."""
    return datetime.now(UTC) + timedelta(seconds=1)


def files_of(home: Settings, table: str = "orders") -> set[str]:
    root = Path(home.warehouse) / "churn" / table
    return {str(path) for path in root.rglob("*") if path.is_file()}


# --- tags and expiry -----------------------------------------------------------------------------


def test_a_tagged_snapshot_survives_and_an_untagged_one_goes() -> None:
    first, second, third = publish(1), publish(2), publish(3)
    lake.tag("churn", "orders", first, "training-7")
    lake.tag("churn", "orders", first, "training-7")
    assert lake.tags("churn", "orders") == {"training-7": first}
    assert upkeep.expire_snapshots("churn", "orders", soon()) > 0
    upkeep.remove_orphan_files("churn", "orders", soon())
    assert content(snapshot_id=first) == [(FIRST, "", 1)]
    assert content() == content(snapshot_id=third) == [(FIRST, "", 3)]
    with pytest.raises(NotReadyError, match="expired"):
        content(snapshot_id=second)
    with pytest.raises(NotReadyError, match="expired"):
        lake.tag("churn", "orders", second, "too-late")
    # Nothing left to forget.
    assert upkeep.expire_snapshots("churn", "orders", soon()) == 0


def test_every_state_since_the_limit_stays_readable() -> None:
    """What counts is when a snapshot was replaced: it was current until then."""
    old = publish(1)
    time.sleep(0.05)
    limit = datetime.now(UTC)
    time.sleep(0.05)
    publish(2)
    assert upkeep.expire_snapshots("churn", "orders", limit) == 0
    assert content(snapshot_id=old) == [(FIRST, "", 1)]


def test_a_tag_set_while_snapshots_expire_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    first = publish(1)
    publish(2)
    planned = upkeep._replaced_before
    raced = []

    def plan_then_tag(*arguments: Any) -> list[int]:
        doomed = planned(*arguments)
        if not raced:
            raced.append(doomed)
            lake.tag("churn", "orders", first, "just-in-time")
        return doomed

    monkeypatch.setattr(upkeep, "_replaced_before", plan_then_tag)
    upkeep.expire_snapshots("churn", "orders", soon())
    assert first in raced[0]
    assert lake.tags("churn", "orders") == {"just-in-time": first}
    assert content(snapshot_id=first) == [(FIRST, "", 1)]


def test_tables_without_snapshots_or_without_existence_are_fine() -> None:
    lake.publish("churn", "empty", rows(), [FIRST])
    for table in ("empty", "nothing"):
        assert upkeep.expire_snapshots("churn", table, soon()) == 0
        assert compaction.compact("churn", table).files == (0, 0)
    assert upkeep.remove_orphan_files("churn", "nothing", soon()) == upkeep.Removed(0, 0)
    upkeep.remove_orphan_files("churn", "empty", soon())
    publish(1, table="empty")
    assert content("empty") == [(FIRST, "", 1)]


# --- orphan files --------------------------------------------------------------------------------


def test_expiry_and_removal_free_the_disk_down_to_what_is_referred_to(home: Settings) -> None:
    for value in range(5):
        publish(value)
    crowded = files_of(home)
    upkeep.expire_snapshots("churn", "orders", soon())
    # Forgetting alone frees nothing.
    assert crowded < files_of(home)
    removed = upkeep.remove_orphan_files("churn", "orders", soon())
    left = files_of(home)
    assert removed.files == len(crowded - left) and removed.bytes > 0
    data = [path for path in left if path.endswith(".parquet")]
    assert len(data) == 1
    assert content() == [(FIRST, "", 4)]
    publish(9)
    assert content() == [(FIRST, "", 9)]


def test_what_a_killed_commit_left_goes_once_it_is_old(home: Settings) -> None:
    publish(1)
    stray = Path(home.warehouse) / "churn" / "orders" / "data" / "day=2026-01-01" / "stray.parquet"
    stray.write_bytes(b"half a file")
    day_ago = datetime.now(UTC) - timedelta(days=1)
    assert upkeep.remove_orphan_files("churn", "orders", day_ago).files == 0
    old = time.time() - 2 * 86_400
    os.utime(stray, (old, old))
    assert upkeep.remove_orphan_files("churn", "orders", day_ago) == upkeep.Removed(1, 11)
    assert not stray.exists()
    assert content() == [(FIRST, "", 1)]


def test_nothing_is_removed_from_a_table_with_missing_files(home: Settings) -> None:
    publish(1)
    publish(2, FIRST + timedelta(days=1))
    root = Path(home.warehouse) / "churn" / "orders" / "data"
    (lost, kept) = sorted(root.rglob("*.parquet"))
    stray = root / "stray.parquet"
    stray.touch()
    lost.unlink()
    with pytest.raises(PermanentError, match=r"1 files of churn\.orders are missing.*restore"):
        upkeep.remove_orphan_files("churn", "orders", soon())
    assert stray.exists() and kept.exists()


def test_a_commit_between_listing_and_removal_keeps_its_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(1)
    listing = upkeep.files_under

    def publish_then_list(*arguments: Any) -> list[Any]:
        publish(2, FIRST + timedelta(days=1))
        listed = listing(*arguments)
        publish(3, FIRST + timedelta(days=2))
        return listed

    monkeypatch.setattr(upkeep, "files_under", publish_then_list)
    upkeep.remove_orphan_files("churn", "orders", soon())
    assert [value for *_, value in content()] == [1, 2, 3]


# --- compaction ----------------------------------------------------------------------------------


def test_files_of_one_day_become_one_and_rows_stay() -> None:
    for day in (FIRST, FIRST + timedelta(days=1)):
        for value, kind in enumerate(("gate", "governor", "other")):
            publish(value, day, "decisions", kind)
    publish(7, FIRST + timedelta(days=2), "decisions", "gate")
    before = content("decisions")
    old = lake.snapshot_id("churn", "decisions")
    assert compaction.compact("churn", "decisions").files == (7, 3)
    assert content("decisions") == content("decisions", old) == before
    current = lake.snapshot_id("churn", "decisions")
    assert current is not None and current != old
    assert lake.summaries_since("churn", "decisions", ())[0]["evergreen.step"] == "compact"
    # Nothing to do: no commit.
    assert compaction.compact("churn", "decisions").files == (3, 3)
    assert lake.snapshot_id("churn", "decisions") == current
    # A writer's part can still be replaced on its own.
    publish(8, FIRST, "decisions", "gate")
    assert (FIRST, "gate", 8) in content("decisions")
    assert len(content("decisions")) == len(before)


def test_large_files_stay_as_they_are() -> None:
    for kind in ("gate", "governor"):
        publish(1, FIRST, "decisions", kind)
    assert compaction.compact("churn", "decisions", target_bytes=10).files == (2, 2)


def test_manifests_of_many_commits_become_few_and_hold_neighbouring_days(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compaction, "_FILES_PER_MANIFEST", 5)
    monkeypatch.setattr(compaction, "_SPARE_MANIFESTS", 0)
    days = [FIRST + timedelta(days=n) for n in (3, 9, 1, 11, 0, 7, 5, 2, 10, 4, 8, 6)]
    for value, day in enumerate(days):
        publish(value, day)
    # Replacing days one by one is what splits manifests.
    for day in days[::2]:
        publish(99, day)
    before = content()
    old = lake.snapshot_id("churn", "orders")
    compacted = compaction.compact("churn", "orders")
    assert compacted.manifests[0] == 12 and compacted.manifests[1] == 3
    assert content() == content(snapshot_id=old) == before
    assert lake.partitions("churn", "orders") == dict.fromkeys(sorted(days), 1)
    manifests = compaction._manifests(lake.catalog().load_table(("churn", "orders")))
    bounds = [m.partitions[0] for m in manifests]
    assert [bound.upper_bound < after.lower_bound for bound, after in pairwise(bounds)] == [
        True
    ] * 2
    # Nothing to do: no commit.
    current = lake.snapshot_id("churn", "orders")
    assert compaction.compact("churn", "orders").manifests == (3, 3)
    assert lake.snapshot_id("churn", "orders") == current
    publish(5, FIRST)
    assert (FIRST, "", 5) in content() and len(content()) == 12


def test_a_publish_while_manifests_are_rewritten_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        publish(number, FIRST + timedelta(days=number))
    rewrite = compaction._ClusterManifests._existing_manifests
    raced = []

    def publish_then_rewrite(self: Any) -> list[Any]:
        written = rewrite(self)
        if not raced:
            raced.append(publish(99, FIRST))
        return written

    monkeypatch.setattr(compaction._ClusterManifests, "_existing_manifests", publish_then_rewrite)
    assert compaction.compact("churn", "orders").manifests[1] == 1
    assert raced
    assert [value for *_, value in content()] == [99, *range(1, 12)]


@pytest.mark.parametrize("replaced", [FIRST, FIRST + timedelta(days=1)])
def test_a_publish_during_a_compaction_wins(
    replaced: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it replaces a day that is being merged or another: no old row comes back."""
    for kind in ("gate", "governor"):
        publish(1, FIRST, "decisions", kind)
    publish(1, FIRST + timedelta(days=1), "decisions", "gate")
    write = compaction._dataframe_to_data_files
    raced = []

    def publish_then_write(*arguments: Any) -> Any:
        if not raced:
            raced.append(publish(2, replaced, "decisions", "gate"))
        return write(*arguments)

    monkeypatch.setattr(compaction, "_dataframe_to_data_files", publish_then_write)
    compacted = compaction.compact("churn", "decisions")
    assert raced
    assert compacted.files[1] == 2
    expected = {(FIRST, "gate"): 1, (FIRST, "governor"): 1, (FIRST + timedelta(days=1), "gate"): 1}
    expected[replaced, "gate"] = 2
    assert content("decisions") == sorted((d, k, v) for (d, k), v in expected.items())


def test_a_table_that_changes_all_the_time_is_left_for_the_next_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("gate", "governor"):
        publish(1, FIRST, "decisions", kind)
    before = content("decisions")
    write, raced = compaction._dataframe_to_data_files, []

    def publish_then_write(*arguments: Any) -> Any:
        raced.append(publish(2 + len(raced), FIRST, "decisions", "gate"))
        return write(*arguments)

    monkeypatch.setattr(compaction, "_dataframe_to_data_files", publish_then_write)
    monkeypatch.setattr(lake, "pause", lambda _: None)
    assert compaction.compact("churn", "decisions").files == (2, 2)
    assert len(raced) > 5 and "changes too often" in caplog.text
    assert content("decisions") == [(FIRST, "gate", 1 + len(raced)), before[1]]


# --- all of it together --------------------------------------------------------------------------

ACTIONS = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 3), st.sampled_from(["gate", "governor"])),
    st.tuples(st.sampled_from(["expire", "orphans", "compact", "tag"]), st.none(), st.none()),
)


@pytest.mark.slow
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(ACTIONS, min_size=3, max_size=10))
def test_upkeep_in_any_order_changes_nothing_that_can_be_read(
    actions: list[tuple[str, int, str]],
) -> None:
    table = f"t{abs(hash(tuple(actions)))}"
    expected: dict[tuple[date, str], int] = {}
    tagged: dict[int, list[tuple[Any, ...]]] = {}
    for number, (action, offset, kind) in enumerate(actions):
        if action == "publish":
            day = FIRST + timedelta(days=offset)
            publish(number, day, table, kind)
            expected[day, kind] = number
        elif action == "expire":
            upkeep.expire_snapshots("churn", table, soon())
        elif action == "orphans":
            upkeep.remove_orphan_files("churn", table, soon())
        elif action == "compact":
            compaction.compact("churn", table)
        elif current := lake.snapshot_id("churn", table):
            lake.tag("churn", table, current, f"run-{number}")
            tagged[current] = content(table)
        if expected:
            assert content(table) == sorted((d, k, v) for (d, k), v in expected.items())
        for snapshot, known in tagged.items():
            assert content(table, snapshot) == known


def test_a_snapshot_that_expires_while_it_is_tagged_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = publish(1)
    publish(2)
    load = snapshots.load

    def expired_since(namespace: str, table: str) -> Table | None:
        found = load(namespace, table)
        monkeypatch.setattr(snapshots, "load", load)
        assert upkeep.expire_snapshots(namespace, table, soon())
        return found

    monkeypatch.setattr(snapshots, "load", expired_since)
    with pytest.raises(NotReadyError, match=f"no snapshot {old}; it was expired"):
        lake.tag("churn", "orders", old, "version-1")


def _publish_often(marker: int) -> None:
    iceberg._catalog.cache_clear()
    for value in range(8):
        publish(value, FIRST + timedelta(days=marker), "raced", "gate")
        publish(value, FIRST + timedelta(days=marker), "raced", "governor")


def _tidy_often(marker: int) -> None:
    iceberg._catalog.cache_clear()
    # Files of running commits are younger than this.
    limit = datetime.now(UTC) - timedelta(minutes=1)
    for number in range(3):
        compaction.compact("churn", "raced")
        upkeep.expire_snapshots("churn", "raced", soon())
        upkeep.remove_orphan_files("churn", "raced", limit)
        current = lake.snapshot_id("churn", "raced")
        assert current is not None
        try:
            lake.tag("churn", "raced", current, f"run-{marker}-{number}")
        except NotReadyError:
            # Another process has replaced and forgotten it since.
            continue


@pytest.mark.slow
def test_publishing_and_upkeep_at_once_lose_nothing() -> None:
    publish(0, table="raced", kind="seed")
    iceberg._catalog.cache_clear()
    jobs: list[tuple[Callable[[int], None], int]] = [(_publish_often, 1), (_publish_often, 2)]
    jobs += [(_tidy_often, 3), (_tidy_often, 4)]
    with ProcessPoolExecutor(len(jobs), mp_context=get_context("fork")) as pool:
        # What fails in a child comes back with its traceback.
        for running in [pool.submit(job, marker) for job, marker in jobs]:
            running.result()
    written = [
        (FIRST + timedelta(days=m), kind, 7) for m in (1, 2) for kind in ("gate", "governor")
    ]
    assert content("raced") == [(FIRST, "seed", 0), *written]
    for snapshot in lake.tags("churn", "raced").values():
        assert content("raced", snapshot)


def test_upkeep_takes_turns() -> None:
    publish(1)
    busy = pytest.raises(BusyError, match=r"upkeep or backup of the lake.*pg_locks")
    with upkeep.exclusive(), busy, upkeep.exclusive(wait_seconds=1):
        pass
    with upkeep.exclusive(wait_seconds=1):
        pass


def test_a_tag_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = publish(1)
    monkeypatch.setattr(iceberg.time, "sleep", lambda _: None)

    def lose(*_: Any, **__: Any) -> None:
        raise CommitFailedException("somebody was faster")

    monkeypatch.setattr(type(lake.catalog()), "commit_table", lose)
    with pytest.raises(CommitFailedException):
        lake.tag("churn", "orders", snapshot, "never")
