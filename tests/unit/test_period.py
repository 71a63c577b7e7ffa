from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.errors import ConfigError
from evergreen.period import Period

DAYS = st.dates(min_value=date(2000, 1, 1), max_value=date(2100, 1, 1))


@given(DAYS, st.integers(0, 400), st.integers(1, 90))
def test_chunks_partition_the_period(start: date, length: int, size: int) -> None:
    period = Period(start, start + timedelta(days=length + 1))
    chunks = period.chunks(size)
    assert [day for chunk in chunks for day in chunk.days] == period.days
    assert all(len(chunk.days) <= size for chunk in chunks)


@given(DAYS, st.integers(0, 400))
def test_label_parses_back(start: date, length: int) -> None:
    period = Period(start, start + timedelta(days=length + 1))
    assert Period.parse(period.label) == period
    assert period.days[-1] == period.last


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no day"),
        ("None", "no day"),
        ("2026-1-5", "YYYY-MM-DD"),
        ("2026-02-30", "YYYY-MM-DD"),
        ("yesterday", "YYYY-MM-DD"),
        ("2026-01-05T00:00:00", "YYYY-MM-DD"),
        ("2026-01-05..", "YYYY-MM-DD"),
        ("2026-01-05..2026-01-04", "ends before it starts"),
    ],
)
def test_bad_periods_say_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Period.parse(text)
