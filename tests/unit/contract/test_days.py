import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evergreen.contract import Period, as_of, day_of, parse_day
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


ZONES = sorted(set(available_timezones()) - {"localtime", "Factory"})
NONE = timedelta(0)
INSTANTS = st.integers(0, 42 * 366 * 86_400).map(
    lambda seconds: datetime(1995, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@settings(max_examples=2_000, deadline=None)
@given(zone=st.sampled_from(ZONES), instant=INSTANTS)
def test_every_instant_belongs_to_the_one_local_day_that_holds_it(
    zone: str, instant: datetime
) -> None:
    day = instant.astimezone(ZoneInfo(zone)).date()
    # Two islands left out a day when they crossed the date line.
    if day_of(as_of(day, zone), zone) != day:
        assert zone in {"Pacific/Apia", "Pacific/Fakaofo", "Pacific/Kwajalein", "Kwajalein"} | {
            "Pacific/Enderbury",
            "Pacific/Kanton",
            "Pacific/Kiritimati",
        }
        return
    assert as_of(day - timedelta(days=1), zone) <= instant < as_of(day, zone)
    assert day_of(as_of(day, zone), zone) == day


@settings(max_examples=500, deadline=None)
@example("America/Havana", date(1997, 4, 5))
@example("Pacific/Apia", date(2011, 12, 29))
@given(zone=st.sampled_from(ZONES), day=st.dates(date(1995, 1, 1), date(2036, 12, 31)))
def test_days_are_as_long_as_the_clocks_say(zone: str, day: date) -> None:
    length = as_of(day, zone) - as_of(day - timedelta(days=1), zone)
    start, end = (as_of(day - timedelta(days=n), zone).astimezone(ZoneInfo(zone)) for n in (1, 0))
    changed = (start.utcoffset() or NONE) - (end.utcoffset() or NONE)
    # Clocks that are set forward at midnight skip it, and at the date line a whole day.
    skipped = [
        at.replace(tzinfo=None) - datetime.combine(day + timedelta(days=n), datetime.min.time())
        for n, at in enumerate((start, end))
    ]
    assert min(skipped) >= NONE
    assert max(skipped) <= timedelta(days=1)
    assert length == timedelta(days=1) + changed + skipped[1] - skipped[0]


def test_the_days_on_which_clocks_change() -> None:
    lengths = {
        day: as_of(day, "Europe/Berlin") - as_of(day - timedelta(days=1), "Europe/Berlin")
        for day in (date(2026, 3, 29), date(2026, 10, 25), date(2026, 10, 26))
    }
    assert [length.total_seconds() / 3600 for length in lengths.values()] == [23, 25, 24]
