"""A chain of steps on an object store that fails, is slow, or goes away in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tiny_shop
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.errors import ServiceDownError, TransientError
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
    yield store
    store.stop()


class _Retried:
    """The steps, each tried again as Airflow does when it ends with something that may pass."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            for _ in range(3):
                try:
                    return getattr(steps, name)(*arguments)
                except (OSError, TransientError) as error:
                    self.failed.append(f"{name}: {error}")
            return getattr(steps, name)(*arguments)

        return run


def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_shop, "steps", _Retried())
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


@pytest.mark.parametrize(("nth", "seconds"), [(10, 0.0), (0, 0.05)], ids=["fails", "is slow"])
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
    assert content() == through


@pytest.mark.parametrize("after", [0, 3, 7, 20])
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
    with pytest.raises((OSError, ServiceDownError), match=r"SLOW_DOWN|503|Service Unavailable"):
        tiny_shop.steps.publish_features(computed)
    proxy.fail_from(None)
    assert lake.read(tiny_shop.NAME, "orders").equals(before)
    assert set(lake.partitions(tiny_shop.NAME, "features")) in (set(), set(tiny_shop.DAYS))
    tiny_shop.steps.publish_features(computed)
    assert set(lake.partitions(tiny_shop.NAME, "features")) == set(tiny_shop.DAYS)
    assert verify(load_use_case(tiny_shop.NAME), "features") == {}
