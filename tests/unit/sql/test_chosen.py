"""Conditions that name entities, with keys as anybody might send them."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.sql.shards import Chosen

_HOSTILE = ["O'Brien", "' OR '1'='1", "a\\'; DROP TABLE t; --", "", "\u2019", "a\nb", '"']


@pytest.mark.parametrize("key", _HOSTILE)
def test_a_key_is_a_value_whatever_it_holds(key: str) -> None:
    rows = pa.table({"id": [*_HOSTILE, "another"]})
    with duckdb.connect() as connection:
        assert Chosen(keys=(key,)).rows_of(rows, "id", connection)["id"].to_pylist() == [key]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, unique=True))
def test_whoever_is_chosen_is_found_and_nobody_else(keys: list[str]) -> None:
    rows = pa.table({"id": [*keys, *(f"{key}'" for key in keys)]})
    with duckdb.connect() as connection:
        found = Chosen(keys=tuple(keys)).rows_of(rows, "id", connection)["id"].to_pylist()
    assert found == [key for key in rows["id"].to_pylist() if key in set(keys)]
