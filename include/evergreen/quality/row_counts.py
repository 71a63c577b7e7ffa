"""Whether the number of rows of a day is one that the table could have had.

A band around what is usual on that weekday, as wide as counts of this table scatter: at least as
Poisson counts do, and more where the days before did. A day is unusual when it leaves the band and
is off by a factor that matters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from evergreen.contract import AnyTable

# How many standard deviations the band reaches. Days are not independent draws of a textbook
# distribution; `make bench-batch-rules` shows what other values do.
BAND = 4.5
# Median of the square of a standard normal variable.
_MEDIAN_CHI2 = 0.4549


class Usual(NamedTuple):
    """What is usual on a day, and how few and how many rows would pass."""

    rows: float
    least: float
    most: float


def usual_row_counts(
    table: AnyTable, known: Mapping[date, int], days: Iterable[date]
) -> dict[date, Usual]:
    r"""Return what was to be expected of those of the days that can be judged.

    Parameters
    ----------
    table
        Its `batch` says against how many weeks a day is held, and from which factor on a deviation
        matters.
    known
        Rows in per day. Only the weeks before a day matter for it.
    days
        The days in question, each in `known`.

    Notes
    -----
    Judged are events only: attributes and references change as they like.
    Not judged are days without rows (`allow_empty` is about those), `unusual_days`, days with
    fewer than `row_count_min_days` days with rows in the weeks before, and days of whose weeks any
    day since `first_day` is unknown: a verdict must not depend on which days happened to come
    first.

    The median :math:`m` of the weekday is what is usual; variance is :math:`m + \varphi m^2`
    (negative binomial), :math:`\varphi` the median of what all days of the weeks show, and the
    ends of the band are quantiles of the gamma distribution with these two moments
    (Wilson-Hilferty). While fewer than half of the weeks have that weekday, all days are compared
    with, and counts near the smallest and the greatest of them are usual, too. Where the last seven
    days lay above or below what was usual, the band reaches as far: a shop that has changed is
    judged by what it has become once four of its days are accepted. Cost is O(days).
    """
    rules = table.batch
    if table.kind != "events":
        return {}
    judged = sorted(d for d in days if known[d] and d not in rules.unusual_days)
    if not judged:
        return {}
    width = 7 * rules.row_count_weeks
    begin = judged[0] - timedelta(days=width)
    span = [begin + timedelta(days=n) for n in range((judged[-1] - begin).days)]
    counts = np.array([known.get(day) or np.nan for day in span])
    lacking = np.array([day >= table.setting.first_day and day not in known for day in span])
    at = np.array([(day - judged[0]).days for day in judged])
    complete = ~sliding_window_view(lacking, width)[at].any(axis=1)
    weeks = sliding_window_view(counts, width)[at].reshape(len(at), rules.row_count_weeks, 7)
    with warnings.catch_warnings():
        # Weekdays without any rows have no median.
        warnings.simplefilter("ignore", RuntimeWarning)
        rows, least, most = _bands(weeks, rules.row_count_ratio)
    enough = (~np.isnan(weeks)).sum(axis=(1, 2)) >= rules.row_count_min_days
    return {
        day: Usual(float(rows[n]), float(least[n]), float(most[n]))
        for n, day in enumerate(judged)
        if complete[n] and enough[n]
    }


def unusual_row_counts(table: AnyTable, known: Mapping[date, int]) -> dict[date, str]:
    """Return the days whose row count does not pass, and why, oldest first."""
    return {
        day: describe_unusual(known[day], usual)
        for day, usual in usual_row_counts(table, known, known).items()
        if not usual.least <= known[day] <= usual.most
    }


def describe_unusual(rows_in: int, usual: Usual) -> str:
    """Say in words why a row count does not pass."""
    return (
        f"{rows_in:,} rows in, {rows_in / usual.rows:.2g} of the usual {usual.rows:,.0f}; "
        f"{np.ceil(usual.least):,.0f} to {np.floor(usual.most):,.0f} would pass (row_count_ratio)"
    )


def _bands(
    weeks: np.ndarray, ratio: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bands of days, from the weeks before each: (days, weeks, 7), the day's weekday first."""
    present = ~np.isnan(weeks)
    same = present[:, :, 0].sum(axis=1)
    weekly = 2 * same >= weeks.shape[1]
    norm = np.where(
        weekly[:, None, None],
        np.nanmedian(weeks, axis=1, keepdims=True),
        np.nanmedian(weeks, axis=(1, 2), keepdims=True),
    )
    excess = ((weeks - norm) ** 2 / _MEDIAN_CHI2 - norm) / norm**2
    dispersion = np.maximum(np.nanmedian(excess, axis=(1, 2)), 0)
    rows = norm[:, 0, 0]
    compared = np.where(weekly, same, present.sum(axis=(1, 2)))
    # The median of n counts is itself uncertain by pi/2n of their variance.
    variance = (rows + dispersion * rows**2) * (1 + np.pi / 2 / compared)
    shape = rows**2 / variance
    lower, upper = (
        rows * np.maximum(1 - 1 / (9 * shape) + sign * BAND / (3 * np.sqrt(shape)), 0) ** 3
        for sign in (-1, 1)
    )
    smallest = np.where(weekly, rows, np.nanmin(weeks, axis=(1, 2)))
    greatest = np.where(weekly, rows, np.nanmax(weeks, axis=(1, 2)))
    least, most = np.minimum(lower, ratio[0] * smallest), np.maximum(upper, ratio[1] * greatest)
    level = np.nanmedian(weeks[:, -1] / norm[:, 0], axis=1)
    level = np.where(np.isnan(level), 1, level)
    return rows, least * np.minimum(level, 1), most * np.maximum(level, 1)
