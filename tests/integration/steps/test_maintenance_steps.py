"""The weekly steps, over the tables of all use cases."""

from __future__ import annotations

import time
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from evergreen import lake, steps
from evergreen.settings import Settings
from evergreen.steps import maintenance
from small_shop import write_small_shop

DAY = date(2025, 1, 1)


def test_a_week_of_upkeep_keeps_rows_and_tagged_snapshots_and_frees_the_rest(
    home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_small_shop(tmp_path / "use_cases")
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    snapshots = []
    for value in range(4):
        rows = pa.table({"value": [value], "day": pa.array([DAY], pa.date32())})
        snapshots.append(lake.publish("shop", "features", rows, [DAY]).snapshot_id)
    lake.tag("shop", "features", snapshots[1], "training-1")

    # Nothing is old yet.
    assert steps.expire_snapshots("30") == {"shop.features": 0}
    assert steps.remove_orphan_files()["shop.features"] == {"files": 0, "bytes": 0}
    assert steps.compact_tables()["shop.features"]["files"] == [1, 1]

    monkeypatch.setattr(maintenance, "_ORPHAN_AGE", timedelta(0))
    time.sleep(0.01)
    assert steps.expire_snapshots("0")["shop.features"] > 0
    assert steps.remove_orphan_files()["shop.features"]["files"] > 0
    stored = list(Path(home.warehouse).rglob("*.parquet"))
    assert len(stored) == 2
    kept = lake.read("shop", "features", snapshot_id=snapshots[1])
    assert kept["value"].to_pylist() == [1]
    assert lake.read("shop", "features")["value"].to_pylist() == [3]
