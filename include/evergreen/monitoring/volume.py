"""Volume: whether the rows of a table's newest day are as many as weeks before lead one to expect.

A day is held against the same weekday of the four weeks before it, and how far it lies from them
against how far 26 earlier days, a week apart, lay from theirs; on logarithms. So growth, season,
weekdays and how counts of this table scatter are in what is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from scipy.stats import t as student

from evergreen.monitoring.expected import WEEKS, distances, expect, weeks_before
from evergreen.monitoring.reference import Floats

Verdict = Literal["usual", "unusual", "extreme"]

# A factor, whichever way, and the chance of a day that lies as far or farther. `make bench-volume`
# shows how often tables in which nothing happens get there.
_BOUNDS: dict[Verdict, tuple[float, float]] = {
    "extreme": (1.5, 1e-4),
    "unusual": (1.2, 1e-3),
}
# With fewer earlier days, what is usual is not known; their weeks overlap, so they count half.
_FEWEST, _PER_INDEPENDENT = 8, 2
# Of the distribution of a standard normal variable: its deviation by the median of its distance.
_MAD = 1.4826
# Days have been alike as eggs before, and will not be for ever.
_LEAST_SPREAD = 0.02


@dataclass(frozen=True)
class Volume:
    """How many rows a day has, and whether that is usual.

    Parameters
    ----------
    usual_rows
        What the weeks before lead one to expect; None with fewer than two of the four days.
    p_value
        The chance of a day that lies as far or farther; None if too few days lie before it.
    verdict
        None where there is no p-value.
    """

    rows: int
    usual_rows: float | None = None
    p_value: float | None = None
    verdict: Verdict | None = None


def measure_volume(rows: Mapping[date, int], day: date) -> Volume:
    """Hold the rows of a day against the same weekday of the weeks before it.

    Parameters
    ----------
    rows
        Rows per day: of the day itself, and of those before it as far as they are known.

    Notes
    -----
    Student's t of the distance, by median and median absolute deviation of the earlier ones: a
    holiday among them changes neither. They scatter at least as Poisson counts do.
    """
    counts = [rows.get(of) for of in (day, *weeks_before(day))]
    logs = [None if count is None else np.log1p(np.array([count], float)) for count in counts]
    expected = expect(logs)
    found = dict(distances(logs, _distance))
    if expected is None or len(found) <= _FEWEST:
        return Volume(rows[day], None if expected is None else float(np.expm1(expected[0])))
    distance, earlier = found.pop(0), np.array([*found.values()])
    middle = float(np.median(earlier))
    usual = float(np.expm1(expected[0] + middle))
    poisson = np.sqrt((1 + 1 / WEEKS) / (max(usual, 0.0) + 1))
    spread = max(_MAD * float(np.median(np.abs(earlier - middle))), poisson, _LEAST_SPREAD)
    beyond = abs(distance - middle) / spread
    p_value = float(2 * student.sf(beyond, len(earlier) / _PER_INDEPENDENT))
    return Volume(rows[day], usual, p_value, _judge(abs(distance - middle), p_value))


def _judge(distance: float, p_value: float) -> Verdict:
    for verdict, (factor, chance) in _BOUNDS.items():
        if distance >= np.log(factor) and p_value < chance:
            return verdict
    return "usual"


def _distance(found: Floats, expected: Floats) -> float:
    return float((found - expected)[0])
