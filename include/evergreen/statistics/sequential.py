"""Intervals that may be looked at every night."""

from __future__ import annotations

import math


def always_valid(
    estimate: float, error: float, tuned_for: float, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a mean that holds the truth at all looks at once, however many there are.

    The asymptotic confidence sequence of Waudby-Smith et al. (arXiv 2103.06476, eq. 6), in the time
    of information: what counts is by how much the error has shrunk, not how many rows or nights
    that took. So rows of one customer may depend on each other, if `error` allows for that.

    Parameters
    ----------
    estimate, error
        The mean so far and its standard error; an error of zero or less is no information.
    tuned_for
        The error at which the interval is narrowest beside one for a single look; it holds at all.
    level
        How surely.
    """
    if not (error > 0 and math.isfinite(error)):
        return -math.inf, math.inf
    alpha = 1 - level
    odds = -2 * math.log(alpha)
    progress = (odds + math.log(odds + 1)) * (tuned_for / error) ** 2
    radius = error * math.sqrt((1 + 1 / progress) * math.log((progress + 1) / alpha**2))
    return estimate - radius, estimate + radius
