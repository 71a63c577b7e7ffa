"""Every path is understood once; what is written under it is found by every reader."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from evergreen import lake
from evergreen.lake import compaction, upkeep
from evergreen.lake.opening import open_files
from evergreen.settings import Settings, load_settings

DAY = date(2026, 1, 1)
NAMES = (
    st.lists(
        st.sampled_from([*"aZ0 %#?&=+;:'\"[]*{}()~é漢.-_", "%20", "%2F", "..", "day="]),
        min_size=1,
        max_size=10,
    )
    .map("".join)
    .filter(lambda name: name.strip() not in ("", ".", "..", "~"))
)


def rows(value: int, day: date) -> pa.Table:
    return pa.table({"value": [value], "day": pa.array([day], pa.date32())})


@pytest.mark.slow
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=NAMES, relative=st.booleans())
@example(name="50% of it%20#1?x=[a]*", relative=False)
@example(name="a b/", relative=True)
@example(name="~ü", relative=True)
def test_what_is_written_under_an_odd_path_is_found_by_every_reader(
    home: Settings, tmp_path: Path, name: str, relative: bool
) -> None:
    root = tmp_path / f"{abs(hash(name))}"
    (root / "home").mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("EVERGREEN_HOME", str(root / "home"))
        patch.setenv("EVERGREEN_WAREHOUSE", name if relative else str(root / name))
        patch.setenv("EVERGREEN_ARTIFACTS", f"models {name}")
        here = load_settings()
        table = f"t{uuid4().hex}"
        for day in (DAY, DAY + timedelta(days=1)):
            lake.publish("odd", table, rows(1, day), [day])
            lake.publish("odd", table, rows(2, day), [day])
        folder = Path(os.path.abspath(root / Path(name))) / "odd" / table  # noqa: PTH100
        assert len(list((folder / "data").rglob("*.parquet"))) == 4
        # A process that was started somewhere else.
        patch.chdir(root / "home")
        patch.setenv("EVERGREEN_WAREHOUSE", here.warehouse)
        require_readable(table)
        compaction.compact("odd", table)
        upkeep.expire_snapshots("odd", table, datetime.now(UTC) + timedelta(seconds=1))
        removed = upkeep.remove_orphan_files("odd", table, datetime.now(UTC) + timedelta(seconds=1))
        assert removed.files > 0
        require_readable(table)
        assert lake.damaged_days("odd", table) == {}


def require_readable(table: str) -> None:
    assert lake.read("odd", table)["value"].to_pylist() == [2, 2]
    found = lake.scan("odd", table)
    assert [len(piece) for piece in lake.stream(found, ["value"], 10)] == [1, 1]
    with duckdb.connect() as connection:
        assert open_files(connection, found.paths).sum("value").fetchall() == [(4,)]
