"""Two models of one recipe: one that is measured, and one that has learned everything and serves.

The measured model knows no label that reaches beyond the holdout's as-of. What is measured on it
is true of the recipe, and so of the model that serves: that one is made the same way, a horizon
later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evergreen.decisions.gate import Agreement
from evergreen.training.calibrate import calibrate, choose_kind, pool
from evergreen.training.conformal import learn_interval
from evergreen.training.fit import Fitter, Recipe
from evergreen.training.frame import LabelledRows
from evergreen.training.model import Model
from evergreen.training.split import Fold, SplitPlan

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """What came of a recipe.

    Parameters
    ----------
    measured
        Fitted on what was known at the holdout's as-of.
    final
        Fitted on everything known, the holdout included.
    calibration_losses
        Mean log loss by kind of calibration; see `choose_kind`.
    """

    measured: Model
    final: Model
    calibration_losses: Mapping[str, float]


def fit_pair(rows: LabelledRows, plan: SplitPlan, recipe: Recipe, fitter: Fitter) -> Pair:
    """Fit, calibrate, and fit again on everything known.

    Calibration and intervals are learned from the scores of test days, each by a model of the
    recipe that had not seen the day; for the model that serves, the holdout is one more of them.
    """
    target = fitter.use_case.target

    def test(fold: Fold) -> tuple[Model, tuple[Vector, Mapping[str, Vector]]]:
        """Fit on a fold; the model, and labels and predicted columns of the test day."""
        frame = rows.to_fit(fold.fit)
        model = fitter.fit(recipe.for_rows(frame.rows), frame, f"fit for {fold.test}")
        tested = rows.frame([fold.test], model.inputs)
        columns = model.predict(tested.matrix, target, threads=fitter.threads)
        return model, (tested.labels, columns)

    measured, held_out = test(plan.evaluation)
    everything = rows.to_fit(plan.final)
    final = fitter.fit(recipe.for_rows(everything.rows), everything, "final fit")
    if target.level is not None:
        before = [test(fold)[1] for fold in plan.folds[:-1]]
        return Pair(
            replace(measured, interval=learn_interval(target, before)),
            replace(final, interval=learn_interval(target, [*before, held_out])),
            {},
        )
    if plan.calibration is None or not target.is_probability:
        return Pair(measured, final, {})
    tested = [test(fold)[1] for fold in (*plan.tuning, plan.calibration)]
    *days, newest = [(labels, columns["score"]) for labels, columns in (*tested, held_out)]
    if any(target.too_few(target.count(labels)) for labels, _ in (*days, newest)):
        return Pair(measured, final, {})
    kind, losses = choose_kind(days)
    return Pair(
        replace(measured, calibration=calibrate(kind, *pool(days))),
        replace(final, calibration=calibrate(kind, *pool([*days, newest]))),
        losses,
    )


def measure_agreement(measured: Vector, final: Vector) -> Agreement:
    """Hold the scores of both models of one recipe against each other, row by row.

    Parameters
    ----------
    measured, final
        Scores of the same rows, whose labels nobody knows yet.
    """
    spread = float(measured.std())
    shift = float(final.mean() - measured.mean())
    constant = not spread or not final.std()
    correlation = float(not spread and not final.std()) if constant else _ranks(measured, final)
    return Agreement(correlation, shift / spread if spread else shift)


def _ranks(first: Vector, second: Vector) -> float:
    return float(stats.spearmanr(first, second).statistic)
