"""Machines whose clocks differ: what is ordered or judged by time is so by the ledger's clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import tiny_shop
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.features.store import read_online
from evergreen.provenance import receipts
from evergreen.settings import Settings
from tiny_shop import DAYS, NAME

DAY = DAYS[-1]


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return tiny_shop.open_shop(tmp_path, monkeypatch)


def compute_with_clock(offset: str) -> None:
    """Compute the day's features in a process whose clock is off, and move the online store."""
    if shutil.which("faketime") is None:
        pytest.skip("no faketime: Debian's package is not here")
    code = f"import tiny_shop; tiny_shop.compute({str(DAY)!r})"
    subprocess.run(
        ["faketime", "-f", offset, sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )


@pytest.mark.slow
def test_a_correction_by_a_machine_that_is_behind_reaches_the_online_store(shop: Path) -> None:
    tiny_shop.compute(DAY)
    before = lake.read_day(NAME, "features", DAY)
    file = shop.parents[1] / "data" / f"{DAY}.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:1] + [f"{line}1" for line in lines[1:]]) + "\n")
    tiny_shop.ingest(DAY)
    compute_with_clock("-3h")
    after = lake.read_day(NAME, "features", DAY)
    assert min(after["created_at"].to_pylist()) > max(before["created_at"].to_pylist())
    keys = after["customer_id"].to_pylist()
    online = read_online(load_use_case(NAME), keys)["last_amount"].to_pylist()
    assert online == after["last_amount"].to_pylist() != before["last_amount"].to_pylist()


def test_whether_a_day_has_ended_is_said_by_the_database(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert abs(receipts.now() - datetime.now(UTC)) < timedelta(minutes=1)
    end = load_use_case(NAME).as_of(DAY)
    monkeypatch.setattr(receipts, "now", lambda: end - timedelta(microseconds=1))
    with pytest.raises(Exception, match="has not ended yet"):
        steps.stage_rows(NAME, str(DAY), "orders")
    monkeypatch.setattr(receipts, "now", lambda: end)
    assert steps.stage_rows(NAME, str(DAY), "orders")
