"""How the values of one column were distributed on several nights, made comparable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa

from evergreen.monitoring.expected import WEEKS, expect
from evergreen.monitoring.reference import (
    CategoryReference,
    ColumnReference,
    Floats,
    bin_edges,
    bin_shares,
    count_values,
    sorted_values,
)

Test = Literal["ks", "chi2", "missing", "unseen", "classifier"]
Nights = Sequence[pa.Table | None]
Distance = Callable[[Floats, Floats], float]

# Chi-square is an approximation for cells that are expected to hold a few rows.
_LEAST_EXPECTED = 5
# Order statistics of either side at which distributions are held against each other.
_GRID = 500


@dataclass(frozen=True)
class Shapes:
    """What nights say of one column by one test.

    Parameters
    ----------
    of_nights
        Distributions over the same places, the night first; None of nights that say nothing.
    expected
        The distribution that was expected of the first.
    bins
        Shares of rows per bin, as expected and as they are, for a stability index.
    effect
        The greatest difference between two shares of rows.
    distance
        What the test looks at, if not the effect.
    places
        Where a distribution of numbers was measured, in their own unit; None of categories.
    """

    test: Test
    of_nights: list[Floats | None]
    expected: Floats
    bins: tuple[Floats, Floats]
    effect: Distance
    distance: Distance | None = None
    places: Floats | None = None

    @property
    def moved(self) -> float | None:
        """How far the values moved in the mean, in their own unit (Wasserstein's distance)."""
        # Infinite values stand at the ends of what floats can hold, which is no distance.
        if self.places is None or np.abs(self.places).max() == np.finfo(np.float64).max:
            return None
        if (shape := self.of_nights[0]) is None:
            return None
        apart = np.abs(shape[1] - self.expected[1])
        return float((apart[:-1] * np.diff(self.places)).sum())


def shapes_of(column: ColumnReference, nights: Nights) -> Iterator[Shapes]:
    """Make nights comparable in one column, by every test that can say something.

    Parameters
    ----------
    column
        As it was in training.
    nights
        The night, and those of `weeks_before` it; None, or without rows, for nights that are not
        there. With the column. Not modified.

    Raises
    ------
    NotReadyError
        A night lacks the column.
    """
    if isinstance(column, CategoryReference):
        yield from _of_categories(column, nights)
    else:
        yield from _of_numbers(column.name, nights)


def greatest_difference(shape: Floats, expected: Floats) -> float:
    """Return the greatest difference of two distributions in one place."""
    return float(np.abs(shape - expected).max())


def total_variation(shape: Floats, expected: Floats) -> float:
    """Return the greatest difference of two vectors of shares in a set of places."""
    return float(np.abs(shape - expected).sum() / 2)


def chi_square(shape: Floats, expected: Floats, rows: int) -> float:
    """Return chi-square by row of two vectors of shares.

    Places that are expected to hold fewer than 5 of `rows` are pooled, the rarest first, so that as
    little as possible is (Cochran 1954).
    """
    cells: list[Floats] = []
    both, pooled = np.stack([shape, expected], axis=1), np.zeros(2)
    for place in np.argsort(expected, kind="stable"):
        pooled = pooled + both[place]
        if pooled[1] * rows >= _LEAST_EXPECTED:
            cells.append(pooled)
            pooled = np.zeros(2)
    if not cells:
        return 0.0
    cells[-1] = cells[-1] + pooled
    ours, theirs = np.array(cells).T
    return float(((ours - theirs) ** 2 / theirs).sum())


def distribution(values: Floats, grid: Floats) -> Floats:
    """Return the shares of ascending `values` below, and at or below, each place: `[2, g]`.

    Both one-sided limits: differences are exact with ties, and right outside the range.
    """
    ends = [np.searchsorted(values, grid, side=side) for side in ("left", "right")]
    return np.stack(ends) / len(values)


def _of_numbers(name: str, nights: Nights) -> Iterator[Shapes]:
    found = [sorted_values(name, night) if night else None for night in nights]
    present = [part[0] if part and len(part[0]) else None for part in found]
    tonight, *before = present
    pooled = [values for values in before[:WEEKS] if values is not None]
    if tonight is not None and pooled:
        pool = np.sort(np.concatenate(pooled))
        grid = np.union1d(_order_statistics(tonight), _order_statistics(pool))
        shapes = [None if part is None else distribution(part, grid) for part in present]
        edges, expected = bin_edges(pool), expect(shapes)
        bins = bin_shares(pool, 0, edges), bin_shares(tonight, 0, edges)
        if expected is not None:
            yield Shapes("ks", shapes, expected, bins, greatest_difference, places=grid)
    yield from _of_share("missing", [part and (part[1], len(part[0])) for part in found])


def _of_categories(column: CategoryReference, nights: Nights) -> Iterator[Shapes]:
    found = [count_values(column.name, night) if night else None for night in nights]
    values = sorted({value for part in found if part for value in part[0]})
    counts = [part and [part[0].get(value, 0) for value in values] for part in found]
    shapes = [_shares(part) if part and any(part) else None for part in counts]
    expected = expect(shapes)
    if counts[0] and shapes[0] is not None and expected is not None:
        rows = sum(counts[0])
        # Which of the rare values a sample has is chance, so they are one bin.
        common = expected * rows >= _LEAST_EXPECTED
        bins = [np.append(part[common], part[~common].sum()) for part in (expected, shapes[0])]
        distance = partial(chi_square, rows=rows)
        yield Shapes("chi2", shapes, expected, (bins[0], bins[1]), total_variation, distance)
    yield from _of_share("missing", [part and (part[1], sum(part[0].values())) for part in found])
    known = np.isin(values, column.values)
    of_known = [int(np.array(part)[known].sum()) if part else 0 for part in counts]
    yield from _of_share(
        "unseen",
        [(sum(part) - n, n) if part else None for part, n in zip(counts, of_known, strict=True)],
    )


def _of_share(test: Test, counts: Sequence[tuple[int, int] | None]) -> Iterator[Shapes]:
    """Compare the shares of rows with and without something, if any night had such rows."""
    shapes = [_shares(part) if part and sum(part) else None for part in counts]
    expected = expect(shapes)
    if shapes[0] is not None and expected is not None and any(part and part[0] for part in counts):
        yield Shapes(test, shapes, expected, (expected, shapes[0]), greatest_difference)


def _shares(counts: Sequence[int]) -> Floats:
    found = np.array(counts, np.float64)
    shares: Floats = found / found.sum()
    return shares


def _order_statistics(values: Floats) -> Floats:
    """Return evenly spaced ones of ascending values, with the least and the greatest."""
    places = np.linspace(0, len(values) - 1, min(_GRID, len(values))).round().astype(np.int64)
    return values[places]
