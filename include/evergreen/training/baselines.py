"""What a model must beat before anyone should trust it, fitted on the same rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evergreen.training.fit import Fitter
from evergreen.training.frame import LabelledRows
from evergreen.training.model import Family
from evergreen.training.split import Fold
from evergreen.training.tune import declare_recipe

Vector = NDArray[np.float64]

NAIVE = "naive"
LINEAR = "linear"


def score_baselines(rows: LabelledRows, fold: Fold, fitter: Fitter) -> dict[str, Vector]:
    """Fit the baselines on a fold, and score its test day.

    Returns
    -------
    dict
        float64 `[n]` per baseline: `naive`, the best constant; each feature of
        `training.baselines` alone, in a linear model (where the target has none, in trees); and
        `linear`, of all features.
    """
    use_case, target = fitter.use_case, fitter.use_case.target
    fit = rows.to_fit(fold.fit)
    test = rows.frame([fold.test], fit.inputs)
    family: Family = "linear" if target.is_linear else "trees"
    recipe = declare_recipe(family, use_case)

    def scored(names: tuple[str, ...]) -> Vector:
        others = {*fit.inputs.names} - {*names}
        model = fitter.fit(recipe, fit.without(others), "fit")
        matrix = test.without(others).matrix
        return model.predict(matrix, target, threads=fitter.threads)["score"]

    scores = {NAIVE: np.full(test.rows, target.constant(fit.labels))}
    scores |= {name: scored((name,)) for name in use_case.training.baselines}
    return scores | ({LINEAR: scored(fit.inputs.names)} if target.is_linear else {})
