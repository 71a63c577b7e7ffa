"""Days: the instant that ends one, and what a run works for: one partition key, or a range."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from evergreen.errors import ConfigError

_ONE_DAY = timedelta(days=1)


def as_of(day: date, zone: str = "UTC") -> datetime:
    """Return the instant up to which features of `day` may know: the next local midnight, in UTC.

    Where clocks skip that midnight it is the instant of the change; where it comes twice, the
    first. So what lies before it has the local date `day` or an earlier one, and nothing else has.

    >>> as_of(date(2026, 3, 28), "Europe/Berlin"), as_of(date(2026, 3, 29), "Europe/Berlin")
    (datetime.datetime(2026, 3, 28, 23, 0, tzinfo=datetime.timezone.utc), \
datetime.datetime(2026, 3, 29, 22, 0, tzinfo=datetime.timezone.utc))
    """
    return datetime.combine(day + _ONE_DAY, time(), ZoneInfo(zone)).astimezone(UTC)


def day_of(instant: datetime, zone: str = "UTC") -> date:
    """Return the local day that lies before an instant: of an as-of, its day.

    >>> day_of(as_of(date(2026, 3, 29), "Europe/Berlin"), "Europe/Berlin")
    datetime.date(2026, 3, 29)
    """
    return (instant - timedelta(microseconds=1)).astimezone(ZoneInfo(zone)).date()


def day_at(instant: datetime, zone: str = "UTC") -> date:
    """Return the local day that an instant lies in; an as-of lies in the day that it begins.

    >>> day_at(as_of(date(2026, 3, 29), "Europe/Berlin"), "Europe/Berlin")
    datetime.date(2026, 3, 30)
    """
    return instant.astimezone(ZoneInfo(zone)).date()


def parse_day(text: str, use_case: str | None = None) -> date:
    """Parse a partition key, which is one day.

    Parameters
    ----------
    use_case
        Whose run it is; for the message.

    Raises
    ------
    ConfigError
        The text is not `YYYY-MM-DD` in ASCII, it is a range, or there is no text.

    >>> parse_day("2026-03-01")
    datetime.date(2026, 3, 1)
    """
    if text in ("", "None"):
        raise ConfigError(
            "The run has no day. Start it with a partition key (a day, YYYY-MM-DD): with "
            "`evergreen trigger <dag> --day`, or in the form's field for the partition key."
        )
    if ".." in text:
        raise ConfigError(
            f"The day is {text!r}, a range; runs of this DAG work for one day each. Give one "
            f"day (YYYY-MM-DD), or load the range with {use_case or '<use case>'}_history, the DAG "
            "that takes ranges (fields `from` and `to`)."
        )
    try:
        day = date.fromisoformat(text)
    except (TypeError, ValueError):
        day = None
    if day is None or day.isoformat() != text or not 1900 <= day.year < 3000:
        # Beyond those years, windows and horizons would leave the calendar.
        raise ConfigError(
            f"The day is {text!r}; expected a day written YYYY-MM-DD in ASCII digits, of the "
            "years 1900 to 2999."
        )
    return day


def parse_instant(text: str, zone: str) -> datetime:
    """Parse a date and a time; without an offset they are of the zone, and a date is its midnight.

    Of a time that clocks show twice, the first is meant.

    Returns
    -------
    datetime
        In the zone.

    Raises
    ------
    ConfigError
        The text is no date and time of ISO 8601.

    >>> parse_instant("2026-03-03", "Europe/Berlin").isoformat()
    '2026-03-03T00:00:00+01:00'
    >>> parse_instant("2026-03-03T00:00Z", "Europe/Berlin").isoformat()
    '2026-03-03T01:00:00+01:00'
    """
    try:
        given = datetime.fromisoformat(text)
        local = given if given.tzinfo else given.replace(tzinfo=ZoneInfo(zone))
        return local.astimezone(UTC).astimezone(ZoneInfo(zone))
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"The instant is {text!r}; expected a date and time such as 2026-03-03T00:00 (of "
            f"{zone}) or 2026-03-03T00:00+01:00."
        ) from error


@dataclass(frozen=True)
class Period:
    """Days `[start, end)`.

    >>> Period.parse("2026-01-05")
    Period(start=datetime.date(2026, 1, 5), end=datetime.date(2026, 1, 6))
    >>> Period.parse("2026-01-05..2026-01-07").label
    '2026-01-05..2026-01-07'
    """

    start: date
    end: date

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `YYYY-MM-DD` or `YYYY-MM-DD..YYYY-MM-DD` (both ends included).

        Raises
        ------
        ConfigError
            The text is neither, or the range ends before it starts.
        """
        first_text, separator, last_text = text.partition("..")
        if separator and "" in (first_text, last_text):
            raise ConfigError(f"The period is {text!r}; expected YYYY-MM-DD..YYYY-MM-DD.")
        first = parse_day(first_text)
        last = parse_day(last_text) if separator else first
        if last < first:
            raise ConfigError(f"The period is {text}: it ends before it starts. Swap the two days.")
        return cls(first, last + timedelta(days=1))

    @property
    def last(self) -> date:
        """The newest day of the period."""
        return self.end - timedelta(days=1)

    @property
    def label(self) -> str:
        """The text that parses to this period."""
        if self.start == self.last:
            return self.start.isoformat()
        return f"{self.start}..{self.last}"

    @property
    def days(self) -> list[date]:
        """All days, oldest first."""
        return [self.start + timedelta(days=n) for n in range((self.end - self.start).days)]

    def without(self, days: Container[date]) -> list[Period]:
        """Split into the consecutive periods that are left when some days are taken out.

        >>> [p.label for p in Period.parse("2026-01-05..2026-01-08").without([date(2026, 1, 6)])]
        ['2026-01-05', '2026-01-07..2026-01-08']
        """
        return join_days(day for day in self.days if day not in days)

    def chunks(self, size: int) -> list[Period]:
        """Split into consecutive periods of at most `size` days."""
        starts = self.days[::size]
        return [Period(s, min(s + timedelta(days=size), self.end)) for s in starts]


def join_days(days: Iterable[date]) -> list[Period]:
    """Join neighbouring days, oldest first.

    >>> [found.label for found in join_days([date(2026, 3, 4), date(2026, 3, 1), date(2026, 3, 2)])]
    ['2026-03-01..2026-03-02', '2026-03-04']
    """
    joined: list[Period] = []
    for day in sorted(set(days)):
        end = day + timedelta(days=1)
        if joined and joined[-1].end == day:
            joined[-1] = Period(joined[-1].start, end)
        else:
            joined.append(Period(day, end))
    return joined
