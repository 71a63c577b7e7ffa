"""A model: trees or a linear one, with everything that scoring needs, in one file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from evergreen.errors import PermanentError
from evergreen.targets import TargetModel
from evergreen.training.calibrate import Calibration
from evergreen.training.conformal import Interval
from evergreen.training.design import Design
from evergreen.training.inputs import Inputs, Matrix

Vector = NDArray[np.float64]

Family = Literal["linear", "trees"]

# Where the booster's file keeps what is not XGBoost's.
_DESIGN, _CALIBRATION, _INTERVAL = "design", "calibration", "interval"


@dataclass(frozen=True)
class Model:
    """A fitted model.

    Parameters
    ----------
    booster
        XGBoost's: of trees, which reads the features, or linear, which reads a design of them.
    inputs
        What it reads.
    design
        How a linear model sees the features; None for trees.
    calibration
        Applied to every score.
    interval
        What makes an interval of every prediction; None where none was asked for, or too few rows
        were there to learn it from.
    """

    booster: xgb.Booster = field(repr=False, compare=False)
    inputs: Inputs
    design: Design | None = None
    calibration: Calibration = field(default_factory=Calibration)
    interval: Interval | None = None

    @property
    def family(self) -> Family:
        """What kind of model it is."""
        return "trees" if self.design is None else "linear"

    @cached_property
    def ubj(self) -> bytes:
        """The file, in XGBoost's UBJSON format: the model, byte for byte, nothing to execute."""
        kept = self.booster.copy()
        self.inputs.keep_in(kept)
        if self.design is not None:
            kept.set_attr(**{_DESIGN: json.dumps(self.design.to_dict())})
        kept.set_attr(**{_CALIBRATION: json.dumps(self.calibration.to_dict())})
        # Absent, as in the files of before, so that those come out the same.
        if self.interval is not None:
            kept.set_attr(**{_INTERVAL: json.dumps(self.interval.to_dict())})
        return bytes(kept.save_raw("ubj"))

    def at(self, rounds: int) -> Model:
        """Return the model of the first rounds, or of all if there are fewer."""
        made = self.booster.num_boosted_rounds()
        if self.design is not None or rounds >= made:
            return self
        return replace(self, booster=self.booster[:rounds])

    @property
    def digest(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.ubj).hexdigest()

    @classmethod
    def load(cls, ubj: bytes) -> Self:
        """Load a model from the bytes of its file."""
        booster = xgb.Booster()
        booster.load_model(bytearray(ubj))
        design, calibration = booster.attr(_DESIGN), booster.attr(_CALIBRATION)
        interval = booster.attr(_INTERVAL)
        return cls(
            booster,
            Inputs.of(booster),
            Design.from_dict(json.loads(design)) if design else None,
            Calibration.from_dict(json.loads(calibration)) if calibration else Calibration(),
            Interval.from_dict(json.loads(interval)) if interval else None,
        )

    def predict(self, matrix: Matrix, target: TargetModel, *, threads: int) -> dict[str, Vector]:
        """Predict the columns that are published of every row.

        Parameters
        ----------
        matrix
            float32 `[n, k]` from `inputs.prepare`.
        target
            What the model was fitted to.
        threads
            Of the prediction; they do not change it.

        Returns
        -------
        dict of numpy.ndarray
            float64 `[n]` per column of `target.score_columns`; without `lower` and `upper` if the
            model has learned no interval.
        """
        if matrix.shape[1] != len(self.inputs.names):
            raise PermanentError(
                f"The matrix has {matrix.shape[1]} columns; the model reads "
                f"{len(self.inputs.names)}. Prepare it with the model's own inputs."
            )
        if len(matrix) == 0:
            return {name: np.empty(0) for name in target.score_columns}
        self._run_on(threads)
        if self.design is None:
            raw = self.booster.inplace_predict(matrix, missing=np.nan)
        else:
            raw = self.booster.predict(self._data(matrix, threads))
        columns = target.to_columns(np.asarray(raw, dtype=np.float64))
        columns |= {"score": self.calibration.apply(columns["score"])}
        if target.level is None or self.interval is None:
            return columns
        return columns | self.interval.apply(columns, target)

    def explain(self, matrix: Matrix, output: int = 0, *, threads: int) -> Matrix:
        """Return what each feature adds to the score before calibration, float32 `[n, k]`.

        In what the model adds up: log-odds of a probability, the logarithm of a count or amount,
        else the score itself. Of trees SHAP values (Lundberg et al. 2018), of a linear model its
        terms; both relative to a typical row. Of several outputs one is explained.
        """
        self._run_on(threads)
        return self._by_feature(added(self.booster, self._data(matrix, threads), output))

    def _run_on(self, threads: int) -> None:
        # Setting a parameter, even to what it is, lets XGBoost configure itself anew, which takes
        # several times as long as scoring a row.
        if self.__dict__.get("_threads") != threads:
            self.booster.set_param({"nthread": threads})
            self.__dict__["_threads"] = threads

    @cached_property
    def importances(self) -> dict[str, float]:
        """Share per feature, summing to 1 (all 0 for a model that reads nothing).

        Of trees their total gain, of a linear model the absolute coefficients per standard
        deviation.
        """
        kind = "total_gain" if self.design is None else "weight"
        found = self.booster.get_score(importance_type=kind)
        columns = self.booster.feature_names or []
        values = np.array([[found.get(name, 0.0) for name in columns]], np.float32)
        shares = self._by_feature(np.abs(values))[0].astype(np.float64)
        total = shares.sum()
        return {
            name: float(share / total) if total else 0.0
            for name, share in zip(self.inputs.names, shares, strict=True)
        }

    def _by_feature(self, columns: Matrix) -> Matrix:
        """Add up the columns of a design by feature."""
        if self.design is None:
            return columns
        summed = np.zeros((len(columns), len(self.inputs.names)), np.float32)
        for column, place in enumerate(self.design.places):
            summed[:, place] += columns[:, column]
        return summed

    def _data(self, matrix: Matrix, threads: int) -> xgb.DMatrix:
        return to_data(matrix, self.inputs, self.design, threads=threads)


@dataclass(frozen=True)
class LoadedModel:
    """A registered version, resolved once per run and passed on.

    Parameters
    ----------
    model
        The model that serves.
    measured
        The model of the same recipe that its evidence was measured on.
    version, run_id
        Registered version, and the MLflow run that made it.
    importances
        Share of each feature, as in `Model.importances`.
    reference
        The drift reference that was frozen with the model.
    tags
        Tags of the version (`day`, `request_key`, ...).
    reads
        The dtype that was declared for each feature.
    """

    model: Model
    measured: Model
    version: int
    run_id: str
    importances: dict[str, float]
    reference: dict[str, Any] = field(repr=False)
    tags: dict[str, str]
    reads: dict[str, str]

    @property
    def inputs(self) -> Inputs:
        """What it reads."""
        return self.model.inputs


def added(booster: xgb.Booster, data: xgb.DMatrix, output: int) -> Matrix:
    """Return what each column adds to one output; the bias, which is nobody's, is left out."""
    found: Matrix = booster.predict(data, pred_contribs=True)
    return (found[:, output] if found.ndim == 3 else found)[:, :-1]


def to_data(
    matrix: Matrix,
    inputs: Inputs,
    design: Design | None,
    *,
    threads: int,
    labels: Vector | None = None,
) -> xgb.DMatrix:
    """Give features to XGBoost as a model's booster reads them."""
    told: dict[str, Any] = {"label": labels, "missing": np.nan, "nthread": threads}
    if design is not None:
        columns = design.expand(matrix)
        return xgb.DMatrix(
            columns, feature_names=[f"c{i}" for i in range(columns.shape[1])], **told
        )
    return xgb.DMatrix(
        matrix,
        feature_names=list(inputs.names),
        feature_types=inputs.types,
        enable_categorical=True,
        **told,
    )
