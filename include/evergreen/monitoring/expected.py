"""What a night should look like, and how far nights usually lie from that.

A night should look like the same weekday of the four weeks before it. Nights never quite do: bases
grow and age, seasons turn, and customers come and go. How far is usual is measured on the nights of
half a year, each held against its own four weeks. So nothing is assumed of rows, which are not
independent (nearly all customers of a night were there in the nights before it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from scipy.stats import t as student

from evergreen.monitoring.reference import Floats

WEEKS = 4
"""So many nights, a week apart, make up what is expected of the next."""

_BACKTESTS = 26
BACKTESTED = (0, *range(WEEKS, WEEKS + _BACKTESTS))
"""The night itself, and the earlier ones it is judged by, in weeks before it."""

# With fewer, what is usual is not known.
_FEWEST = 8
# Nights a week apart share three of their four weeks: about every second one says something new.
_PER_INDEPENDENT = 2
# Nights have been alike as eggs before, and will not be for ever.
_LEAST_SPREAD = 0.25
LEAST_WEEKS = 2
"""With one of its four nights a night is held against the chance of that one."""


@dataclass(frozen=True)
class Departure:
    """How far a night lies from what was expected of it.

    Parameters
    ----------
    value
        The distance; None where nothing was there to be held against.
    usual
        What nights before it lead one to expect; None if there are too few of them.
    p_value
        The chance of a night that lies as far or farther; None if there are too few before it.
    """

    value: float | None
    usual: float | None = None
    p_value: float | None = None


def weeks_before(night: date) -> list[date]:
    """Return the nights that a night is held against and judged by, the newest first."""
    return [night - timedelta(weeks=n) for n in range(1, 2 * WEEKS + _BACKTESTS)]


def expect(shapes: Sequence[Floats | None], week: int = 0) -> Floats | None:
    """Return what is expected of a night.

    Parameters
    ----------
    shapes
        Distributions, all over the same places: of the night itself, and of those before it, as
        `weeks_before` lists them; None for nights that are not there.
    week
        Which of them is looked at.
    """
    before = [shape for shape in shapes[week + 1 : week + 1 + WEEKS] if shape is not None]
    return np.mean(before, axis=0) if len(before) >= LEAST_WEEKS else None


def measure_departure(
    shapes: Sequence[Floats | None],
    distance: Callable[[Floats, Floats], float],
    least: float,
) -> Departure:
    """Measure how far a night lies from what was expected of it, and whether that is usual.

    Parameters
    ----------
    shapes
        See `expect`.
    distance
        Of a distribution from the expected one; not negative.
    least
        Distances below it are all the same, zero among them.

    Notes
    -----
    Distances are about log-normal, and fall while a base grows. The p-value is that of a
    prediction: Student's t of the logarithm, by the straight line through those of earlier
    nights. Nights of the last three weeks are not among them: a change that has begun would hide
    itself.
    """
    return judge_distances(dict(distances(shapes, distance)), least)


def judge_distances(measured: Mapping[int, float], least: float) -> Departure:
    """Judge the distance of a night, week 0, by those of earlier ones; see `measure_departure`.

    Parameters
    ----------
    measured
        By week before the night, those of `BACKTESTED` that are known.
    """
    found = dict(measured)
    value = found.pop(0, None)
    if value is None or len(found) < _FEWEST:
        return Departure(value)
    weeks, logs = np.array([*found], np.float64), np.log(np.maximum([*found.values()], least))
    size, apart = len(logs) / _PER_INDEPENDENT, weeks - weeks.mean()
    slope = float(apart @ logs / (apart @ apart))
    rest = logs - logs.mean() - slope * apart
    spread = max(float(np.sqrt(rest @ rest / (len(logs) - 2))), _LEAST_SPREAD)
    usual = float(logs.mean() - slope * weeks.mean())
    # Of the line where it is extended to: this night.
    reach = 1 + 1 / size + _PER_INDEPENDENT * weeks.mean() ** 2 / (apart @ apart)
    beyond = (np.log(max(value, least)) - usual) / (spread * np.sqrt(reach))
    return Departure(value, float(np.exp(usual)), float(student.sf(beyond, size - 2)))


def distances(
    shapes: Sequence[Floats | None], distance: Callable[[Floats, Floats], float]
) -> Iterator[tuple[int, float]]:
    """Yield how far the night (week 0) lies from what was expected, and how far earlier ones did.

    Without nights of the last three weeks: a change that has begun would hide itself.
    """
    for week in BACKTESTED:
        expected = expect(shapes, week)
        if week < len(shapes) and (shape := shapes[week]) is not None and expected is not None:
            yield week, distance(shape, expected)
