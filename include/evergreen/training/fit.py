"""Gradient-boosted trees that give the same bytes for the same rows, seed and thread count."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xgboost as xgb

from evergreen.contract import UseCase
from evergreen.errors import NotReadyError, PermanentError
from evergreen.training.frame import LabelledFrame, LabelledSplit, Matrix

_DIRECTION = {"increasing": 1, "decreasing": -1, "none": 0}


@dataclass(frozen=True)
class FittedModel:
    """A model that was just fitted.

    Parameters
    ----------
    ubj
        The booster in XGBoost's UBJSON format: the model, byte for byte.
    booster
        The same, loaded from `ubj`.
    feature_names
        Inputs, in order.
    rounds
        Number of boosting rounds.
    early_stopped
        Whether `rounds` was chosen on validation days, or is the configured default.
    validation_logloss
        The trial model's log loss there; None without validation days.
    importances
        Share of the total gain per feature, summing to 1 (all 0 for a model without a split).
    parameters
        What XGBoost was told.
    """

    ubj: bytes
    booster: xgb.Booster = field(repr=False, compare=False)
    feature_names: tuple[str, ...]
    rounds: int
    early_stopped: bool
    validation_logloss: float | None
    importances: dict[str, float]
    parameters: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, hexadecimal."""
        return hashlib.sha256(self.ubj).hexdigest()


@dataclass(frozen=True)
class LoadedModel:
    """A registered version, resolved once per run and passed on.

    Parameters
    ----------
    booster
        The trees.
    feature_names
        Inputs, in order.
    version, run_id
        Registered version, and the MLflow run that made it.
    importances
        As in `FittedModel`.
    reference
        The drift reference that was frozen with the model.
    metrics
        Everything that was measured in training, by name (`holdout_auc`, ...).
    tags
        Tags of the version (`day`, `request_key`, ...).
    reads
        The dtype that was declared for each feature; None if that was not recorded.
    """

    booster: xgb.Booster = field(repr=False, compare=False)
    feature_names: tuple[str, ...]
    version: int
    run_id: str
    importances: dict[str, float]
    reference: dict[str, Any] = field(repr=False)
    metrics: dict[str, float]
    tags: dict[str, str]
    reads: dict[str, str | None]


def fit_booster(split: LabelledSplit, use_case: UseCase, *, threads: int, seed: int) -> FittedModel:
    """Choose the number of rounds on the validation days, then fit on everything known.

    Parameters
    ----------
    split
        Rows of the plan; the holdout is not read.
    use_case
        Settings of the booster and monotone directions of the features.
    threads
        Fixed number of threads; part of what makes the bytes reproducible.
    seed
        Seed of row and column sampling.

    Raises
    ------
    NotReadyError
        The rows to fit on hold one class only.

    Notes
    -----
    The final model is fitted on the validation days too, because they are the newest and
    behaviour moves. It keeps the number of rounds of the trial model: with more rows the best
    number would be a little higher, so this errs on the side of the simpler model.
    """
    settings = use_case.training.booster
    parameters: dict[str, Any] = {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "learning_rate": settings.learning_rate,
        "max_depth": settings.max_depth,
        "min_child_weight": settings.min_child_weight,
        "subsample": settings.subsample,
        "colsample_bytree": settings.colsample_bytree,
        "reg_lambda": settings.reg_lambda,
        "monotone_constraints": "("
        + ",".join(
            str(_DIRECTION[feature.monotone]) for feature in use_case.features.columns.values()
        )
        + ")",
        "nthread": threads,
        "seed": seed,
        "verbosity": 0,
    }
    rounds, validation_logloss = settings.default_rounds, None
    if split.fit is not None and split.validation is not None:
        fit_rows = _quantiles(split.fit, "fit", threads)
        validation_rows = _quantiles(split.validation, "validation", threads, fit_rows)
        trial = xgb.train(
            parameters,
            fit_rows,
            num_boost_round=settings.max_rounds,
            evals=[(validation_rows, "validation")],
            early_stopping_rounds=settings.early_stopping_rounds,
            verbose_eval=False,
        )
        rounds, validation_logloss = trial.best_iteration + 1, float(trial.best_score)
    final = xgb.train(
        parameters, _quantiles(split.refit, "refit", threads), rounds, verbose_eval=False
    )
    ubj = bytes(final.save_raw("ubj"))
    return FittedModel(
        ubj=ubj,
        booster=load_booster(ubj),
        feature_names=split.refit.feature_names,
        rounds=rounds,
        early_stopped=validation_logloss is not None,
        validation_logloss=validation_logloss,
        importances=_importances(final, split.refit.feature_names),
        parameters=parameters,
    )


def load_booster(ubj: bytes) -> xgb.Booster:
    """Load a booster from the bytes of a UBJ file; nothing in it is executed."""
    booster = xgb.Booster()
    booster.load_model(bytearray(ubj))
    return booster


def predict(booster: xgb.Booster, matrix: Matrix, *, threads: int) -> np.ndarray[Any, Any]:
    """Probability that the label is true.

    Parameters
    ----------
    booster
        Its thread count is set; nothing else changes.
    matrix
        float32 `[n, k]` from `prepare`, columns in the booster's order.

    Returns
    -------
    numpy.ndarray
        float64 `[n]` in [0, 1].
    """
    booster.set_param({"nthread": threads})
    if matrix.shape[1] != booster.num_features():
        raise PermanentError(
            f"The matrix has {matrix.shape[1]} columns; the model reads {booster.num_features()}. "
            "Prepare it with the model's own feature names."
        )
    if len(matrix) == 0:
        return np.empty(0, dtype=np.float64)
    return np.asarray(booster.inplace_predict(matrix, missing=np.nan), dtype=np.float64)


def _quantiles(
    frame: LabelledFrame, part: str, threads: int, reference: xgb.QuantileDMatrix | None = None
) -> xgb.QuantileDMatrix:
    if frame.positives in (0, frame.rows):
        raise NotReadyError(
            f"The {part} rows hold one class only: {frame.positives} of {frame.rows} labels are "
            "true. A model needs both; check labels.sql and the horizon, or wait for more days."
        )
    return xgb.QuantileDMatrix(
        frame.matrix,
        label=frame.target,
        feature_names=list(frame.feature_names),
        missing=np.nan,
        nthread=threads,
        ref=reference,
    )


def _importances(booster: xgb.Booster, feature_names: tuple[str, ...]) -> dict[str, float]:
    gains = booster.get_score(importance_type="total_gain")
    total = sum(gains.values())
    return {name: float(gains.get(name, 0.0) / total) if total else 0.0 for name in feature_names}
