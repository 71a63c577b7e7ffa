"""The days a run works for: one partition key, or a range of them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import wraps
from typing import Any, Self

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


def one_day(step: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Let a step that takes ranges take one day only.

    For DAGs whose runs are for one day each: the key of a run goes on with its asset events, and
    who receives them expects a day.
    """

    @wraps(step)
    def of_one_day(use_case: str, day: str, *arguments: Any) -> dict[str, Any]:
        return step(use_case, parse_day(day, use_case).isoformat(), *arguments)

    return of_one_day


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
