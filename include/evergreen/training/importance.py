"""What each feature is worth to a recipe, and whether that holds from one test day to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evergreen.decisions.stored import Stored
from evergreen.statistics import clustered_mean
from evergreen.training.fit import Fitter, Recipe
from evergreen.training.folds import SURE, FoldFrames, number_entities
from evergreen.training.frame import Frame
from evergreen.training.inputs import Matrix

Vector = NDArray[np.float64]

# Values of fitted rows that are loaded to draw from.
_KNOWN_VALUES = 1_000_000


@dataclass(frozen=True)
class Importance(Stored):
    """What is lost when one feature says nothing.

    Parameters
    ----------
    loss
        By how much the mean loss of the test rows rises when the feature's column is permuted.
    error
        Its standard error; rows of one entity count as one cluster.
    helps_in, folds
        In how many of the test days the loss rises, and how many there are.
    """

    feature: str
    loss: float
    error: float
    helps_in: int
    folds: int

    @property
    def helps(self) -> bool:
        """Whether the feature helps with 95 % confidence."""
        return self.loss - SURE * self.error > 0


def measure_importances(
    recipe: Recipe, folds: Sequence[FoldFrames], fitter: Fitter
) -> tuple[Importance, ...]:
    """Permute one feature after the other on test days that the recipe's models had not seen.

    Parameters
    ----------
    folds
        Of `prepare_folds`: those a recipe is chosen by, never the holdout. Not modified.

    Returns
    -------
    tuple of Importance
        One per feature that the recipe reads, the most important first; empty without folds.

    Notes
    -----
    Breiman (2001), on later days instead of left-out rows. What is the same for all on a test day,
    such as the time of year, is drawn from the fitted rows instead. Features that say the same each
    look useless beside the other. Cost: one fit per fold, one prediction per fold and feature.
    """
    if not folds:
        return ()
    rises: dict[str, list[Vector]] = {}
    for number, fold in enumerate(fold.without(recipe.left_out) for fold in folds):
        model = fitter.fit(recipe.for_rows(fold.fit.rows), fold.fit, "fit")
        usual = fitter.losses(model, fold.test)
        for place, feature in enumerate(model.inputs.names):
            # Seeded by place, so that what one feature gets depends on no other.
            chance = np.random.default_rng([fitter.seed, number, place])
            permuted = fold.test.matrix.copy()
            permuted[:, place] = _silence(permuted[:, place], fold.fit, place, chance)
            rise = fitter.losses(model, replace(fold.test, matrix=permuted)) - usual
            rises.setdefault(feature, []).append(rise)
    entities = number_entities(folds)
    found = (
        Importance(
            feature,
            *clustered_mean(np.concatenate(by_fold), entities),
            helps_in=sum(bool(rise.mean() > 0) for rise in by_fold),
            folds=len(folds),
        )
        for feature, by_fold in rises.items()
    )
    return tuple(sorted(found, key=lambda one: (-one.loss, one.feature)))


def _silence(column: Matrix, fit: Frame, place: int, chance: np.random.Generator) -> Matrix:
    """Return values that tell no row of a test day from another, nor the day from the fitted."""
    order = chance.permutation(len(column))
    if not np.array_equal(column, np.broadcast_to(column[0], column.shape), equal_nan=True):
        return column[order]
    known = fit.load(_KNOWN_VALUES).matrix[:, place]
    return chance.choice(known, len(column))


def tell_importances(found: Sequence[Importance]) -> str:
    """Say in one line which features help, and which cannot be told from useless."""
    if not found:
        return "no feature was tried for importance: the history is too short"
    useless = [one.feature for one in found if not one.helps]
    told = f"{len(found) - len(useless)} of {len(found)} features help on later days"
    return f"{told}; not to be told from useless: {', '.join(useless)}" if useless else told
