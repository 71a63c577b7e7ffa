"""A chain of steps on an object store that fails, is slow, or goes away in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

import tiny_shop
from evergreen import lake
from evergreen.contract import load_use_case
from evergreen.provenance.staleness import find_stale
from evergreen.provenance.verification import verify
from evergreen.settings import Settings
from flaky_proxy import FlakyProxy
from object_store import ObjectStore

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

TABLES = ("orders", "features", "predictions")


@pytest.fixture
def store(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path / "store")
    store.declare(monkeypatch)
    store.keep_all(monkeypatch)
    fsspec.filesystem("s3").clear_instance_cache()
    yield store
    fsspec.filesystem("s3").clear_instance_cache()
    store.stop()


def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_shop.open_shop(tmp_path, monkeypatch)
    tiny_shop.label(tiny_shop.compute())
    tiny_shop.steps.promote_challenger(tiny_shop.train())
    for day in tiny_shop.DAYS[-2:]:
        tiny_shop.score(day)


def content() -> dict[str, pa.Table]:
    use_case = load_use_case(tiny_shop.NAME)
    found = {}
    for table in TABLES:
        assert verify(use_case, table) == {}
        rows = lake.read(tiny_shop.NAME, table)
        kept = [name for name in rows.column_names if name not in ("created_at", "scored_at")]
        found[table] = rows.select(kept).sort_by([(kept[0], "ascending"), ("day", "ascending")])
    assert find_stale(use_case) == []
    return found


@pytest.mark.parametrize(("nth", "seconds"), [(10, 0.0), (0, 0.1)], ids=["fails", "is slow"])
def test_a_chain_gets_through_a_store_that_fails_or_is_slow(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nth: int, seconds: float
) -> None:
    proxy = FlakyProxy(store.url, nth, seconds)
    store.declare(monkeypatch, proxy.url)
    chain(tmp_path, monkeypatch)
    assert bool(nth) == (proxy.failed > 20)
    through = content()
    proxy.stop()
    store.declare(monkeypatch)
    fsspec.filesystem("s3").clear_instance_cache()
    assert content() == through


@pytest.mark.parametrize("after", [0, 3, 7, 12, 20, 30])
def test_a_store_that_goes_away_leaves_nothing_half_published(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: int
) -> None:
    """Of a publish, everything from some request on fails; repeated, it is as if nothing was."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    proxy = FlakyProxy(store.url)
    store.declare(monkeypatch, proxy.url)
    tiny_shop.open_shop(tmp_path, monkeypatch)
    before = lake.read(tiny_shop.NAME, "orders")
    computed = tiny_shop.steps.validate_features(
        tiny_shop.steps.compute_features(tiny_shop.NAME, tiny_shop.WHOLE)
    )
    proxy.fail_from(after)
    began = time.monotonic()
    with pytest.raises(OSError, match=r"SlowDown|SLOW_DOWN|reduce your request rate"):
        tiny_shop.steps.publish_features(computed)
    assert time.monotonic() - began < 300
    proxy.fail_from(None)
    assert lake.read(tiny_shop.NAME, "orders").equals(before)
    assert set(lake.partitions(tiny_shop.NAME, "features")) in (set(), set(tiny_shop.DAYS))
    tiny_shop.steps.publish_features(computed)
    assert set(lake.partitions(tiny_shop.NAME, "features")) == set(tiny_shop.DAYS)
    assert verify(load_use_case(tiny_shop.NAME), "features") == {}
