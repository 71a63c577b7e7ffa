import re
from datetime import date, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evergreen.contract import Period, as_of, parse_day
from evergreen.errors import ConfigError

DAYS = st.dates(min_value=date(2000, 1, 1), max_value=date(2100, 1, 1))


# Every way a run's key may be written: digits of all scripts, separators, ranges, dates, anything.
_TEXTS = st.one_of(
    st.text(),
    st.dates().map(str),
    st.from_regex(r"\d{1,4}-?W?\d{1,2}-?\d{0,2}(\.\.|\n| )?(\d{4}-\d{2}-\d{2})?", fullmatch=True),
)


@given(_TEXTS)
@example("9999-12-31")
@example("0001-01-01")
def test_a_day_is_parsed_from_its_one_spelling_only(text: str) -> None:
    try:
        day = parse_day(text, "shop")
    except ConfigError as error:
        assert ("shop_history" in str(error)) == (".." in text)
        return
    assert text.isascii() and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text)
    assert str(day) == text
    # What follows from a day stays within the calendar.
    assert as_of(day) and Period.parse(text).days == [day]
    assert day - timedelta(days=36_500) < day < day + timedelta(days=36_500)


@given(_TEXTS)
def test_a_period_parses_or_is_refused_in_a_sentence(text: str) -> None:
    try:
        period = Period.parse(text)
    except ConfigError:
        return
    assert text in (period.label, f"{period.start}..{period.last}")


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
        ("..2026-01-05", "YYYY-MM-DD"),
        ("2026-01-05..2026-01-06..2026-01-07", "a range"),
        ("2026-W01-1", "YYYY-MM-DD"),
        ("20260105", "YYYY-MM-DD"),
        ("\uff12\uff10\uff12\uff16-\uff10\uff11-\uff10\uff15", "ASCII"),
        ("9999-12-31", "years 1900 to 2999"),
        ("2026-01-05..9999-12-31", "years 1900 to 2999"),
        ("0001-01-01", "years 1900 to 2999"),
        ("2026-01-05..2026-01-04", "ends before it starts"),
    ],
)
def test_bad_periods_say_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Period.parse(text)
