"""Somebody is erased from a shop that has lived: nothing is left, and nobody else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import tiny_shop
from embedded import Build
from erasure_looks import ALL, contents, erase, places
from evergreen import lake, steps
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.errors import ErasedError
from evergreen.features import store
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.provenance.staleness import find_stale
from evergreen.settings import load_settings
from lived_shop import REJECTED, SECOND, WHO, build_lived_shop, new_day
from tiny_shop import NAME
from watched_shop import DAYS, LAST, NEXT, NIGHTS, TRAINED, watch

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture
def shop(begin_with: Callable[[Build], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = begin_with(build_lived_shop)
    # The services of these tests share a database.
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", load_settings().database_url("ledger"))
    return folder


def test_nothing_is_left_and_nobody_else_changes(shop: Path) -> None:
    before, found = contents(), places(WHO)
    for part in ("data/", "metadata/"):
        assert any(part in place for place in found)
    assert {"SQL xcom", "SQL evergreen_shop_features"} <= found
    old = receipts.latest(NAME, "publish_orders")[TRAINED]
    features = receipts.latest(NAME, "publish_features")[TRAINED]
    planned = CliRunner().invoke(cli, ["erase", NAME, WHO, "--plan"])
    assert planned.exit_code == 0 and f"{NAME}.quarantine/orders" in planned.output
    assert f"{SECOND}.predictions" in planned.output
    assert contents() == before and places(WHO) == found

    done = erase()
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert places(WHO) == set()
    assert contents() == before

    # Every table is as its receipts say; nothing is stale because of it.
    steps.verify_tables()
    assert [find_stale(load_use_case(name)) for name in ALL] == [[], []]
    counts = receipts.latest(NAME, "publish_orders")[TRAINED].counts
    assert counts["erased"] == 1 + REJECTED
    assert (
        counts["rows_in"]
        == old.counts["rows_in"]
        == sum(counts[name] for name in ("accepted", "quarantined", "duplicates", "erased"))
    )
    assert counts["accepted"] == lake.read_day(NAME, "orders", TRAINED).num_rows
    assert store.read_online(load_use_case(NAME), [WHO])["as_of"].to_pylist() == [None]

    for target in (str(old.sequence), str(features.sequence), f"{NAME}/1", f"{SECOND}/1"):
        with pytest.raises(ErasedError, match=r"erased on .* by ann: request 17"):
            replay(target)
    told = CliRunner().invoke(cli, ["replay", f"{NAME}/1"])
    assert told.exit_code == 3 and "nothing is damaged" in told.output

    again = erase()
    assert again.exit_code == 0 and "Asked for on" in again.output
    assert "No table holds it now" in again.output
    steps.verify_tables()

    # An old day again, and new ones: the source has the rows still.
    tiny_shop.ingest(TRAINED)
    assert receipts.latest(NAME, "publish_orders")[TRAINED].counts == counts
    assert find_stale(load_use_case(NAME)) == []
    for day in (NEXT, LAST):
        new_day(day)
        watch(day)
    tiny_shop.compute(f"{DAYS[0]}..{LAST}")
    assert places(WHO) == set()
    steps.verify_tables()
    fresh = receipts.latest(NAME, "publish_features")[LAST]
    assert replay(str(fresh.sequence)).equal
    judged = tiny_shop.train(NIGHTS[-1])
    assert replay(f"{NAME}/{judged['version']}").equal
    assert CliRunner().invoke(cli, ["status"]).exit_code == 0
