"""What a model must beat before anyone should trust it, fitted on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from evergreen.contract import UseCase
from evergreen.training.evaluate import measure_auc, measure_logloss
from evergreen.training.frame import LabelledSplit, Matrix


@dataclass(frozen=True)
class Baseline:
    """One baseline on the holdout."""

    name: str
    auc: float
    logloss: float


def fit_baselines(split: LabelledSplit, use_case: UseCase) -> tuple[Baseline, Baseline]:
    """Measure recency alone and logistic regression.

    Both are fitted on `split.refit` and measured on `split.holdout`, the rows of the model.

    Parameters
    ----------
    split
        Rows of the plan. Not modified.
    use_case
        Names the recency feature and, if it is monotone, its direction.

    Returns
    -------
    tuple of Baseline
        `recency`, then `logistic_regression`.

    Raises
    ------
    NotReadyError
        The holdout holds one class only.

    Notes
    -----
    Recency ranks by one feature in the direction of the contract or, without one, in the
    direction that held on the fitted rows; its probabilities are those of a logistic regression
    on that feature. Without randomness: the solver starts at zero.
    """
    index = use_case.feature_names.index(use_case.features.recency)
    recency = slice(index, index + 1)
    holdout = split.holdout
    alone = _regression().fit(split.refit.matrix[:, recency], split.refit.target)
    probabilities = _probabilities(alone, holdout.matrix[:, recency])
    declared = use_case.features.columns[use_case.features.recency].monotone
    learnt = "increasing" if alone[-1].coef_[0, 0] >= 0 else "decreasing"
    against = declared not in ("none", learnt)
    every = _regression().fit(split.refit.matrix, split.refit.target)
    scores = _probabilities(every, holdout.matrix)
    return (
        Baseline(
            name="recency",
            auc=measure_auc(holdout.target, -probabilities if against else probabilities),
            logloss=measure_logloss(holdout.target, probabilities),
        ),
        Baseline(
            name="logistic_regression",
            auc=measure_auc(holdout.target, scores),
            logloss=measure_logloss(holdout.target, scores),
        ),
    )


def _regression() -> Pipeline:
    return make_pipeline(
        # A column that is null on all fitted rows stays, or the columns would shift.
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        # Money and counts are skewed; the sign is kept because a feature may be negative.
        FunctionTransformer(_signed_log),
        StandardScaler(),
        LogisticRegression(max_iter=2_000),
    )


def _signed_log(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def _probabilities(model: Pipeline, matrix: Matrix) -> np.ndarray[Any, Any]:
    return np.asarray(model.predict_proba(matrix)[:, 1], dtype=np.float64)
