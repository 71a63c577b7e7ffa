"""The days a run works for: one partition key, or a range of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

from evergreen.errors import ConfigError
from evergreen.use_case import parse_day


@dataclass(frozen=True)
class Period:
    """Days `[start, end)`, UTC.

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
        if not separator and text in ("", "None"):
            raise ConfigError(
                "The run has no day. Start it with a partition key (a UTC day, YYYY-MM-DD): by "
                "`airflow backfill create`, or in the trigger form's field for the partition key."
            )
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

    def chunks(self, size: int) -> list[Period]:
        """Split into consecutive periods of at most `size` days."""
        starts = self.days[::size]
        return [Period(s, min(s + timedelta(days=size), self.end)) for s in starts]
