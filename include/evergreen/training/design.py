"""The columns of a linear model: every feature on one scale, and what is missing said apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergreen.decisions.stored import Stored
from evergreen.training.inputs import Inputs, Matrix

# Share of the fitted rows below which a category has no column of its own.
_INFREQUENT = 0.001


@dataclass(frozen=True)
class Number(Stored):
    """A feature on the scale its model was fitted on.

    Parameters
    ----------
    place
        Column of the features' matrix.
    median
        What a missing value counts as, after the logarithm.
    mean, deviation
        After the logarithm and with medians for missing values.
    has_missing
        Whether a column of its own says that the value is missing.
    """

    place: int
    median: float
    mean: float
    deviation: float
    has_missing: bool


@dataclass(frozen=True)
class Design(Stored):
    """From features to the columns of a linear model, frozen when it is fitted.

    Parameters
    ----------
    numbers
        As signed logarithms, because money and counts are skewed, standardised.
    categories
        Place of a feature and one of its codes, per column that says so.
    """

    numbers: tuple[Number, ...]
    categories: tuple[tuple[int, int], ...]

    @property
    def places(self) -> NDArray[np.intp]:
        """Per column, the place of the feature it is made of."""
        numbers = [n.place for n in self.numbers for _ in range(1 + n.has_missing)]
        return np.array([*numbers, *(place for place, _ in self.categories)], dtype=np.intp)

    def expand(self, features: Matrix) -> Matrix:
        """Turn features, float32 `[n, k]`, into columns, float32 `[n, m]`, none missing."""
        columns = []
        for number in self.numbers:
            values, missing = _logarithm(features[:, number.place])
            values = np.where(missing, np.float32(number.median), values)
            columns.append((values - np.float32(number.mean)) / np.float32(number.deviation))
            if number.has_missing:
                columns.append(missing.astype(np.float32))
        columns.extend(features[:, place] == code for place, code in self.categories)
        return np.column_stack(columns).astype(np.float32)


def design(features: Matrix, inputs: Inputs) -> Design:
    """Freeze a design from the features a model is fitted on, float32 `[n, k]`.

    A feature that is always missing or always the same has a column of zeros; rare categories have
    none.
    """
    numbers, categories = [], []
    for place, name in enumerate(inputs.names):
        column = features[:, place]
        if name in inputs.categories:
            found = Counter(column[~np.isnan(column)].astype(int).tolist())
            enough = _INFREQUENT * len(column)
            categories += [(place, code) for code in sorted(found) if found[code] >= enough]
            continue
        values, missing = _logarithm(column)
        median = float(np.median(values[~missing])) if not missing.all() else 0.0
        filled = np.where(missing, median, values).astype(np.float64)
        deviation = float(filled.std())
        numbers.append(
            Number(place, median, float(filled.mean()), deviation or 1.0, bool(missing.any()))
        )
    return Design(tuple(numbers), tuple(categories))


def _logarithm(values: Matrix) -> tuple[Matrix, NDArray[np.bool_]]:
    return np.sign(values) * np.log1p(np.abs(values)), np.isnan(values)
