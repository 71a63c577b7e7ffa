"""Gradient-boosted trees that give the same bytes for the same rows, seed and thread count."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from evergreen.contract import UseCase
from evergreen.errors import PermanentError
from evergreen.targets import TargetModel
from evergreen.training.frame import LabelledFrame, LabelledSplit
from evergreen.training.inputs import Inputs, Matrix

Vector = NDArray[np.float64]

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
    inputs
        What it reads.
    rounds
        Number of boosting rounds.
    early_stopped
        Whether `rounds` was chosen on validation days, or is the configured default.
    validation_loss
        The trial model's loss there (its `eval_metric`); None without validation days.
    importances
        Share of the total gain per feature, summing to 1 (all 0 for a model without a split).
    parameters
        What XGBoost was told.
    """

    ubj: bytes
    booster: xgb.Booster = field(repr=False, compare=False)
    inputs: Inputs
    rounds: int
    early_stopped: bool
    validation_loss: float | None
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
    inputs
        What it reads.
    version, run_id
        Registered version, and the MLflow run that made it.
    importances
        As in `FittedModel`.
    reference
        The drift reference that was frozen with the model.
    tags
        Tags of the version (`day`, `request_key`, ...).
    reads
        The dtype that was declared for each feature.
    """

    booster: xgb.Booster = field(repr=False, compare=False)
    inputs: Inputs
    version: int
    run_id: str
    importances: dict[str, float]
    reference: dict[str, Any] = field(repr=False)
    tags: dict[str, str]
    reads: dict[str, str]


def fit_booster(split: LabelledSplit, use_case: UseCase, *, threads: int, seed: int) -> FittedModel:
    """Choose the number of rounds on the validation days, then fit on everything known.

    Parameters
    ----------
    split
        Rows of the plan; the holdout is not read.
    use_case
        Its target, settings of the booster and monotone directions of the features.
    threads
        Fixed number of threads; part of what makes the bytes reproducible.
    seed
        Seed of row and column sampling.

    Raises
    ------
    NotReadyError
        The rows to fit on hold one label only.

    Notes
    -----
    The final model is fitted on the validation days too, because they are the newest and
    behaviour moves. It keeps the number of rounds of the trial model: with more rows the best
    number would be a little higher, so this errs on the side of the simpler model.
    """
    target, settings = use_case.target, use_case.training.booster
    columns = use_case.features.columns
    directions = [str(_DIRECTION[columns[name].monotone]) for name in split.inputs.names]
    parameters: dict[str, Any] = {
        **target.booster_parameters(),
        "tree_method": "hist",
        "learning_rate": settings.learning_rate,
        "max_depth": settings.max_depth,
        "min_child_weight": settings.min_child_weight,
        "subsample": settings.subsample,
        "colsample_bytree": settings.colsample_bytree,
        "reg_lambda": settings.reg_lambda,
        "monotone_constraints": f"({','.join(directions)})",
        "nthread": threads,
        "seed": seed,
        "verbosity": 0,
    }
    rounds, validation_loss = settings.default_rounds, None
    if split.fit is not None and split.validation is not None:
        target.require_learnable(split.fit.labels, "fit")
        target.require_learnable(split.validation.labels, "validation")
        fit_rows = _quantiles(split.fit, threads)
        validation_rows = _quantiles(split.validation, threads, fit_rows)
        trial = xgb.train(
            parameters,
            fit_rows,
            num_boost_round=settings.max_rounds,
            evals=[(validation_rows, "validation")],
            early_stopping_rounds=settings.early_stopping_rounds,
            verbose_eval=False,
        )
        rounds, validation_loss = trial.best_iteration + 1, float(trial.best_score)
    target.require_learnable(split.refit.labels, "refit")
    final = xgb.train(parameters, _quantiles(split.refit, threads), rounds, verbose_eval=False)
    split.inputs.keep_in(final)
    ubj = bytes(final.save_raw("ubj"))
    return FittedModel(
        ubj=ubj,
        booster=load_booster(ubj),
        inputs=split.inputs,
        rounds=rounds,
        early_stopped=validation_loss is not None,
        validation_loss=validation_loss,
        importances=_importances(final, split.inputs.names),
        parameters=parameters,
    )


def load_booster(ubj: bytes) -> xgb.Booster:
    """Load a booster from the bytes of a UBJ file; nothing in it is executed."""
    booster = xgb.Booster()
    booster.load_model(bytearray(ubj))
    return booster


def predict(
    booster: xgb.Booster, matrix: Matrix, target: TargetModel, *, threads: int
) -> dict[str, Vector]:
    """Predict the columns that are published of every row.

    Parameters
    ----------
    booster
        Its thread count is set; nothing else changes.
    matrix
        float32 `[n, k]` from `Inputs.prepare`, columns in the booster's order.
    target
        What the booster was fitted to.

    Returns
    -------
    dict of numpy.ndarray
        float64 `[n]` per column of `target.score_columns`.
    """
    booster.set_param({"nthread": threads})
    if matrix.shape[1] != booster.num_features():
        raise PermanentError(
            f"The matrix has {matrix.shape[1]} columns; the model reads {booster.num_features()}. "
            "Prepare it with the model's own inputs."
        )
    if len(matrix) == 0:
        return {name: np.empty(0) for name in target.score_columns}
    raw = booster.inplace_predict(matrix, missing=np.nan)
    return target.to_columns(np.asarray(raw, dtype=np.float64))


def _quantiles(
    frame: LabelledFrame, threads: int, reference: xgb.QuantileDMatrix | None = None
) -> xgb.QuantileDMatrix:
    return xgb.QuantileDMatrix(
        frame.matrix,
        label=frame.labels,
        feature_names=list(frame.inputs.names),
        feature_types=frame.inputs.types,
        enable_categorical=True,
        missing=np.nan,
        nthread=threads,
        ref=reference,
    )


def _importances(booster: xgb.Booster, names: tuple[str, ...]) -> dict[str, float]:
    gains = booster.get_score(importance_type="total_gain")
    total = sum(gains.values())
    return {name: float(gains.get(name, 0.0) / total) if total else 0.0 for name in names}
