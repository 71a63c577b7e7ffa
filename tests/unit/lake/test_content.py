from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.lake import content
from evergreen.lake.content import ORIGINS, STAMPS, digest_by_day

A, B, C = (date(2026, 1, n) for n in (1, 2, 3))

ROWS = pa.table(
    {
        "day": [A, A, B],
        "key": ["x", "y", "x"],
        "value": [1.5, None, float("nan")],
        "rules": [["a", "b"], [], None],
        "at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("us", tz="UTC")),
        "created_at": [1, 2, 3],
        "row_id": ["r", "s", "t"],
    }
)


def test_a_day_without_rows_says_nothing():
    found = digest_by_day(ROWS, [A, C])
    assert found[C] == ""
    assert len(found[A]) == 32
    assert digest_by_day(ROWS.slice(0, 0), [A]) == {A: ""}


@settings(deadline=None)  # opening DuckDB takes its time on a busy machine
@given(st.permutations(range(3)), st.permutations(ROWS.column_names))
def test_order_of_rows_and_columns_does_not_matter(rows: list[int], columns: list[str]):
    shuffled = ROWS.take(rows).select(columns)
    assert digest_by_day(shuffled, [A, B]) == digest_by_day(ROWS, [A, B])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("key", ["x", "z", "x"]),
        ("value", [1.5, 0.0, float("nan")]),
        ("value", [1.5000000000000002, None, float("nan")]),
        ("rules", [["a, b"], [], None]),
        ("rules", [["a", "b"], None, None]),
        ("row_id", ["r", "r", "t"]),
    ],
)
def test_any_other_value_is_another_digest(column: str, values: list[object]):
    index = ROWS.column_names.index(column)
    field = ROWS.schema.field(column)
    other = ROWS.set_column(index, field, pa.array(values, field.type))
    before, after = digest_by_day(ROWS, [A, B]), digest_by_day(other, [A, B])
    assert before[A] != after[A]
    assert before[B] == after[B]


def test_repeated_rows_count():
    assert digest_by_day(pa.concat_tables([ROWS, ROWS]), [A]) != digest_by_day(ROWS, [A])


def test_stamps_and_origins_are_left_out_on_demand():
    later = ROWS.set_column(5, "created_at", pa.array([7, 8, 9]))
    moved = later.set_column(6, "row_id", pa.array(["u", "v", "w"]))
    assert digest_by_day(later, [A]) == digest_by_day(ROWS, [A])
    assert digest_by_day(moved, [A]) != digest_by_day(ROWS, [A])
    both = STAMPS | ORIGINS
    assert digest_by_day(moved, [A], both) == digest_by_day(ROWS, [A], both)


def test_many_rows_are_digested_in_spans_of_days(monkeypatch: pytest.MonkeyPatch) -> None:
    days = [A + timedelta(days=n) for n in range(5)]
    rows = pa.table({"day": [day for n, day in enumerate(days) for _ in range(n + 1)]})
    rows = rows.append_column("n", pa.array(range(rows.num_rows)))
    at_once = digest_by_day(rows, days)
    monkeypatch.setattr(content, "_ROWS_AT_ONCE", 4)
    assert list(content._spans(rows)) == [(days[0], days[1]), *((d, d) for d in days[2:])]
    assert digest_by_day(rows, days) == at_once
    assert len(set(at_once.values())) == 5
