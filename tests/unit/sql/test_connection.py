"""DuckDB under limits; see also tests/test_architecture.py, which keeps every other one out."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import duckdb
import pytest

from evergreen.errors import LimitError
from evergreen.settings import load_settings
from evergreen.sql.connection import limited, opened


def setting(connection, name):
    return connection.execute(f"SELECT current_setting('{name}')").fetchall()[0][0]


def test_limits_are_those_of_the_settings(monkeypatch):
    monkeypatch.setenv("EVERGREEN_THREADS", "1")
    monkeypatch.setenv("EVERGREEN_MEMORY_MB", "256")
    monkeypatch.setenv("EVERGREEN_SPILL_MB", "64")
    with opened("test") as connection:
        found = {
            name: setting(connection, name)
            for name in (
                "threads",
                "memory_limit",
                "max_temp_directory_size",
                "temp_directory",
                "TimeZone",
                "enable_progress_bar",
                "autoinstall_known_extensions",
                "autoload_known_extensions",
                "allow_community_extensions",
            )
        }
    folder = found.pop("temp_directory")
    assert folder.startswith(f"{load_settings().scratch}/test-")
    assert not Path(folder).exists()
    assert found == {
        "threads": 1,
        "memory_limit": "244.1 MiB",
        "max_temp_directory_size": "61.0 MiB",
        "TimeZone": "UTC",
        "enable_progress_bar": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
    }


def test_nothing_is_left_in_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with opened("test", threads=1, memory_mb=50) as connection:
        connection.execute("CREATE TABLE t AS SELECT hash(i) AS h FROM range(8000000) AS r(i)")
        assert list(load_settings().scratch.glob("test-*/*"))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert not list(load_settings().scratch.iterdir())


ENDLESS = {
    "recursion": "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) "
    "SELECT max(n) FROM r",
    "cross join": "SELECT count(*) FROM range(1000) a, range(1000) b, range(1000) c, range(1000) d",
}


@pytest.mark.parametrize("sql", ENDLESS.values(), ids=ENDLESS)
def test_a_query_without_end_is_ended(sql, monkeypatch):
    monkeypatch.setenv("EVERGREEN_SQL_TIMEOUT_SECONDS", "1")
    with opened("test") as connection:
        started = time.monotonic()
        with (
            pytest.raises(LimitError, match=r"^a\.sql was ended after 1 seconds.*TIMEOUT_SECON"),
            limited(connection, "a.sql"),
        ):
            connection.sql(sql).to_arrow_table()
        assert time.monotonic() - started < 20
        # The connection can be used again.
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_the_time_out_ends_all_statements_of_the_body():
    with (
        opened("test") as connection,
        pytest.raises(LimitError),
        limited(connection, "a.sql", 0.3),
    ):
        for _ in range(3):
            with pytest.raises(duckdb.InterruptException):
                connection.execute(ENDLESS["recursion"]).fetchall()
        connection.execute(ENDLESS["cross join"]).fetchall()


BULKY = {
    "text": "SELECT length(repeat('x', 4000000000))",
    "list": "SELECT len(range(600000000))",
    "aggregate": "SELECT list(hash(i)) FROM range(60000000) AS t(i)",
}


@pytest.mark.parametrize("sql", BULKY.values(), ids=BULKY)
def test_a_query_that_needs_too_much_memory_is_ended(sql):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with (
        opened("test", memory_mb=200) as connection,
        pytest.raises(LimitError, match=r"a\.sql needs more memory .*EVERGREEN_MEMORY_MB"),
        limited(connection, "a.sql"),
    ):
        connection.sql(sql).to_arrow_table()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_query_that_spills_too_much_is_ended(monkeypatch):
    monkeypatch.setenv("EVERGREEN_SPILL_MB", "20")
    with (
        opened("test", threads=1, memory_mb=60) as connection,
        pytest.raises(LimitError, match=r"more than 20 MB of intermediate.*EVERGREEN_SPILL_MB"),
        limited(connection, "a.sql"),
    ):
        connection.execute("CREATE TABLE t AS SELECT md5(i::VARCHAR) FROM range(3000000) AS r(i)")


def test_other_errors_pass():
    with (
        opened("test") as connection,
        pytest.raises(duckdb.BinderException),
        limited(connection, "a.sql"),
    ):
        connection.execute("SELECT nothing")
