"""What a model must beat before anyone should trust it, fitted on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from evergreen.contract import UseCase
from evergreen.training.frame import LabelledSplit
from evergreen.training.inputs import Inputs

# Share of the fitted rows below which a category has no column of its own.
_INFREQUENT = 0.001


def measure_baselines(split: LabelledSplit, use_case: UseCase) -> dict[str, dict[str, float]]:
    """Fit the baselines on `split.refit` and measure them on `split.holdout`.

    Parameters
    ----------
    split
        Rows of the plan. Not modified.
    use_case
        Its target and, in `training.baselines`, the features that each alone are one.

    Returns
    -------
    dict
        Metrics of the target, per baseline: named after the feature that is alone in it, and the
        target's own of all features.

    Notes
    -----
    Without randomness: solvers start at zero. Missing numbers become the median, with a column that
    says so. Each category becomes a column; rare ones share one, unknown ones have none.
    """
    target, names = use_case.target, split.inputs.names
    models: dict[str, tuple[Sequence[str], Any]] = {
        **{name: ([name], target.regression()) for name in use_case.training.baselines},
        **{name: (names, model) for name, model in target.baselines().items()},
    }
    measured = {}
    for name, (columns, model) in models.items():
        fitted = make_pipeline(_preparation(split.inputs, columns), model)
        fitted.fit(split.refit.matrix, split.refit.labels)
        scores = target.predict_baseline(fitted, split.holdout.matrix)
        measured[name] = target.measure(split.holdout.labels, scores)
    return measured


def _preparation(inputs: Inputs, columns: Sequence[str]) -> ColumnTransformer:
    places = {
        is_category: [
            inputs.names.index(name)
            for name in columns
            if (name in inputs.categories) == is_category
        ]
        for is_category in (False, True)
    }
    numbers = make_pipeline(
        # A column that is null on all fitted rows stays, or the columns would shift.
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        # Money and counts are skewed; the sign is kept because a feature may be negative.
        FunctionTransformer(_signed_log),
        StandardScaler(),
    )
    categories = OneHotEncoder(
        handle_unknown="ignore", min_frequency=_INFREQUENT, sparse_output=False
    )
    return ColumnTransformer(
        [("numbers", numbers, places[False]), ("categories", categories, places[True])]
    )


def _signed_log(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))
