"""When a change began that tonight shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evergreen.monitoring.expected import WEEKS
from evergreen.monitoring.reference import ColumnReference, Floats
from evergreen.monitoring.shapes import Test, shapes_of

# Days; after so many a change has become what is expected.
_WITHIN = 7 * WEEKS
_DAY, _WEEK = timedelta(days=1), timedelta(weeks=1)


def nights_around(night: date) -> list[date]:
    """Return the nights that tell when a change began that this one shows, the newest first.

    The last four weeks, in which it is looked for, and the four weeks before them.
    """
    return [night - n * _DAY for n in range(2 * _WITHIN)]


def estimate_onset(
    drifted: Iterable[tuple[ColumnReference, Test]], nights: Mapping[date, pa.Table], night: date
) -> date:
    """Estimate on which of the last 28 nights a change could be seen first.

    Parameters
    ----------
    drifted
        What the night shows: columns and tests by which they drifted.
    nights
        Those of `nights_around` that are there, the night itself among them. Not modified.

    Returns
    -------
    date
        The first night that was otherwise, hence the day on which habits changed: a night's
        features know its own day.

    Notes
    -----
    How much of tonight's departure each night shows already is its projection on that, held against
    the same weekdays of the four weeks before: 0 before the change, and 1 tonight. A step and a
    ramp that begins on any of the nights are fitted by least squares; the best one tells. Values
    that are replaced move in a step, and windows over the past in a ramp.
    """
    days = [night - n * _DAY for n in range(_WITHIN)]
    shown = [found for column, test in drifted if (found := _shown(column, test, nights, days))]
    # Of a night that is not there, no column says anything.
    known = np.ma.masked_invalid(np.array(shown, np.float64).reshape(-1, _WITHIN)[:, ::-1])
    series, places = known.mean(axis=0).compressed(), np.flatnonzero(known.count(axis=0))
    if len(places) < 3:
        return night
    first = min(
        places[1:],
        key=lambda begin: min(
            _unexplained(series, shape)
            for shape in (places >= begin, np.maximum(places - begin + 1, 0))
        ),
    )
    return days[-1] + int(first) * _DAY


def _unexplained(series: Floats, shape: NDArray[np.int64] | NDArray[np.bool_]) -> float:
    """Return what a constant and a multiple of a shape leave of a series, in squares."""
    columns: Floats = np.stack([np.ones(len(shape)), shape.astype(np.float64)], axis=1)
    fitted, *_ = np.linalg.lstsq(columns, series)
    return float(((series - columns @ fitted) ** 2).sum())


def _shown(
    column: ColumnReference, test: Test, nights: Mapping[date, pa.Table], days: Sequence[date]
) -> list[float] | None:
    """Return how much of the departure of the first day each of the days shows."""
    night = days[0]
    order = [night, *_weeks_before(night, night)]
    order += [day for day in nights_around(night) if day not in order]
    for shapes in shapes_of(column, [nights.get(day) for day in order]):
        if shapes.test == test:
            found = dict(zip(order, shapes.of_nights, strict=True))
            apart = [_apart(found, day, night) for day in days]
            tonight = apart[0]
            if tonight is None or not (length := float((tonight**2).sum())):
                return None
            return [np.nan if x is None else float((x * tonight).sum()) / length for x in apart]
    return None


def _weeks_before(day: date, night: date) -> list[date]:
    """Return the nights of the same weekday before those in which the change is looked for."""
    newest = day - -(-(_WITHIN - (night - day).days) // 7) * _WEEK
    return [newest - n * _WEEK for n in range(WEEKS)]


def _apart(found: Mapping[date, Floats | None], day: date, night: date) -> Floats | None:
    shape = found[day]
    before = [part for b in _weeks_before(day, night) if (part := found.get(b)) is not None]
    return None if shape is None or not before else shape - np.mean(before, axis=0)
