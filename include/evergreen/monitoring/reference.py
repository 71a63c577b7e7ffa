"""The frozen training distribution that drift is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evergreen.decisions.stored import Stored
from evergreen.errors import ConfigError, NotReadyError

Floats = NDArray[np.float64]

SCORE = "score"
"""Name of the model's output among the columns of a reference."""

_GRID = 1_000
_BINS = 10
# Fewer rows of a value are hardly the same number in another sample.
_COMMON = 5


@dataclass(frozen=True)
class NumberReference(Stored):
    """The frozen distribution of one column of numbers.

    Parameters
    ----------
    rows, missing
        All rows, and those without a value.
    grid
        Ascending values: all distinct ones if they are few, else evenly spaced order statistics,
        always with the least and the greatest.
    below, at_or_below
        How many values lie below, and at or below, each value of `grid`: exact counts.
    edges
        Least value, then the inclusive upper edges of the PSI bins; empty without any value.
    proportions
        Share of all rows per PSI bin: below, the bins of `edges`, above, missing. Sums to 1.
    """

    name: str
    rows: int
    missing: int
    grid: tuple[float, ...]
    below: tuple[int, ...]
    at_or_below: tuple[int, ...]
    edges: tuple[float, ...]
    proportions: tuple[float, ...]


@dataclass(frozen=True)
class CategoryReference(Stored):
    """The frozen distribution of one column of categories.

    Parameters
    ----------
    rows, missing
        All rows, and those without a value.
    values, counts
        The distinct values, ascending, and how many rows have each.
    """

    name: str
    rows: int
    missing: int
    values: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def proportions(self) -> tuple[float, ...]:
        """Share of all rows per PSI bin; see `bin_shares`. Sums to 1."""
        return self.bin_shares(dict(zip(self.values, self.counts, strict=True)), self.missing)

    def bin_shares(self, counts: Mapping[str, int], missing: int) -> tuple[float, ...]:
        """Return the share of all rows per bin: each common value, all others, missing.

        Which of the rare values a sample has is chance, so they are one bin with the unseen ones.
        """
        common = [v for v, n in zip(self.values, self.counts, strict=True) if n >= _COMMON]
        of_common = [counts.get(value, 0) for value in common]
        present = sum(counts.values())
        bins = (*of_common, present - sum(of_common), missing)
        return tuple(count / (present + missing) for count in bins)


ColumnReference = NumberReference | CategoryReference


@dataclass(frozen=True)
class Reference(Stored):
    """The frozen distributions of all monitored columns; about 30 kB of JSON per number."""

    columns: tuple[ColumnReference, ...]

    @property
    def names(self) -> list[str]:
        """The monitored columns, in order."""
        return [column.name for column in self.columns]


def build_reference(frame: pa.Table, columns: Sequence[str]) -> Reference:
    """Freeze the distributions of `columns`.

    Parameters
    ----------
    frame
        Rows the champion was trained on; numbers, bools, and strings, which are categories. Nulls
        and NaN are missing values. Not modified.

    Raises
    ------
    NotReadyError
        There are no rows, or a column is absent.
    ConfigError
        A column is of another type.

    Notes
    -----
    O(n log n) per column. The summary is deterministic, no row is sampled: counts are exact at
    each grid value, so KS D measured against it is exact for columns with up to 1,000 distinct
    values and otherwise at most 0.001 too small, never too large.
    """
    if frame.num_rows == 0:
        raise NotReadyError("The drift reference has no rows; train on at least one row.")
    return Reference(
        tuple(
            _categories(name, frame)
            if _column(name, frame).type in (pa.string(), pa.large_string())
            else _numbers(name, frame)
            for name in columns
        )
    )


def _categories(name: str, frame: pa.Table) -> CategoryReference:
    counts, missing = count_values(name, frame)
    return CategoryReference(
        name=name,
        rows=frame.num_rows,
        missing=missing,
        values=tuple(counts),
        counts=tuple(counts.values()),
    )


def _numbers(name: str, frame: pa.Table) -> NumberReference:
    values, missing = sorted_values(name, frame)
    distinct = np.unique(values)
    if len(distinct) <= _GRID:
        grid = distinct
    else:
        ranks = np.linspace(0, len(values) - 1, _GRID + 1).round().astype(np.int64)
        grid = np.unique(values[ranks])
    edges = bin_edges(values)
    return NumberReference(
        name=name,
        rows=frame.num_rows,
        missing=missing,
        grid=tuple(grid.tolist()),
        below=tuple(np.searchsorted(values, grid, side="left").tolist()),
        at_or_below=tuple(np.searchsorted(values, grid, side="right").tolist()),
        edges=tuple(edges.tolist()),
        proportions=tuple(bin_shares(values, missing, edges).tolist()),
    )


def bin_edges(values: Floats) -> Floats:
    """Return the least of ascending values, then the inclusive upper edges of bins by deciles."""
    distinct = np.unique(values)
    if len(distinct) <= _BINS:
        upper = distinct
    else:
        # Observed values, so that a heap of equal values falls into one bin. In integers, because
        # the 0.3 quantile of 100 values must be the 30th.
        ranks = -(-len(values) * np.arange(1, _BINS + 1) // _BINS) - 1
        upper = np.unique(values[ranks])
    edges: Floats = np.concatenate([values[:1], upper])
    return edges


def sorted_values(name: str, frame: pa.Table) -> tuple[Floats, int]:
    """Return the present values, ascending, and how many are missing."""
    column = _column(name, frame)
    kind = column.type
    if pa.types.is_boolean(kind):
        column = pc.cast(column, pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ConfigError(f"Drift of {name} cannot be measured: found {kind}, expected a number.")
    numbers = pc.cast(column.drop_null(), pa.float64(), safe=False)
    values: Floats = numbers.to_numpy()
    values = values[~np.isnan(values)]
    # Infinite values keep their place at the ends and stay writable as JSON.
    limit = np.finfo(np.float64).max
    return np.sort(np.clip(values, -limit, limit)), frame.num_rows - len(values)


def count_values(name: str, frame: pa.Table) -> tuple[dict[str, int], int]:
    """Count the rows of each value present, ascending by value, and the missing ones."""
    column = _column(name, frame)
    counted = column.drop_null().cast(pa.string()).value_counts().to_pylist()
    return dict(sorted((row["values"], row["counts"]) for row in counted)), column.null_count


def _column(name: str, frame: pa.Table) -> pa.ChunkedArray:
    if name not in frame.column_names:
        raise NotReadyError(
            f"Column {name} is absent (found {', '.join(frame.column_names)}); compute this day "
            "with the columns the champion was trained on."
        )
    return frame[name]


def bin_shares(values: Floats, missing: int, edges: Floats) -> Floats:
    """Return the share of all rows per bin: below, the bins of `edges`, above, missing."""
    if len(edges) == 0:
        counts = np.array([0, len(values), missing])
    else:
        below = np.searchsorted(values, edges[0], side="left")
        ends = np.searchsorted(values, edges[1:], side="right")
        bins = np.diff(np.concatenate([[0, below], ends, [len(values)]]))
        counts = np.append(bins, missing)
    shares: Floats = counts / (len(values) + missing)
    return shares
