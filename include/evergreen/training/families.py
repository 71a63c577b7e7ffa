"""The kinds of models that compete: trees and a linear one, both XGBoost's, in one interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import xgboost as xgb

from evergreen.contract import UseCase
from evergreen.training.design import Design, design
from evergreen.training.external import StoredFrame
from evergreen.training.frame import Frame
from evergreen.training.inputs import Inputs
from evergreen.training.model import Family, to_data

if TYPE_CHECKING:
    import optuna

Settings = Mapping[str, float | int]

# Of rows on disk, a linear model, which would hold them in memory several times over, is fitted on
# so many values: its few dozen coefficients do not move with more.
_LINEAR_VALUES = 5_000_000

_DIRECTION = {"increasing": 1, "decreasing": -1, "none": 0}


class Learner(Protocol):
    """One kind of model. All boost in rounds; each says how many are right without a search."""

    family: Family
    # Whether the right number of rounds is found by early stopping.
    stops_early: bool

    def settings(self, use_case: UseCase) -> Settings:
        """Return what the use case declares."""

    def propose(self, trial: optuna.Trial) -> Settings:
        """Draw settings from the space that is searched."""

    def rounds(self, use_case: UseCase) -> int:
        """Return how many rounds are boosted where the number is not searched for."""

    def parameters(self, use_case: UseCase, inputs: Inputs, settings: Settings) -> dict[str, Any]:
        """Return what XGBoost is told, beside the target, threads and seed."""

    def design(self, frame: Frame) -> Design | None:
        """Freeze how the model sees the features of the rows it is fitted on."""

    def data(
        self,
        frame: Frame,
        design: Design | None,
        *,
        threads: int,
        reference: xgb.DMatrix | None = None,
    ) -> xgb.DMatrix:
        """Give rows to XGBoost; those of a test beside the `reference` that is fitted on."""


class Trees:
    """Gradient-boosted trees, held to the declared monotone directions."""

    family: Family = "trees"
    stops_early = True

    def settings(self, use_case: UseCase) -> Settings:
        """Return `training.booster`."""
        booster = use_case.training.booster
        return {
            "learning_rate": booster.learning_rate,
            "max_depth": booster.max_depth,
            "min_child_weight": booster.min_child_weight,
            "subsample": booster.subsample,
            "colsample_bytree": booster.colsample_bytree,
            "reg_lambda": booster.reg_lambda,
        }

    def propose(self, trial: optuna.Trial) -> Settings:
        """Draw from around what holds on small, noisy tables."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.1, log=True),
            "max_depth": trial.suggest_int("max_depth", 2, 7),
            "min_child_weight": trial.suggest_float("min_child_weight", 1.0, 200.0, log=True),
            "subsample": trial.suggest_float("subsample", 0.5, 1.0),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.3, 1.0),
            "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 100.0, log=True),
        }

    def rounds(self, use_case: UseCase) -> int:
        """Return the declared default."""
        return use_case.training.booster.default_rounds

    def parameters(self, use_case: UseCase, inputs: Inputs, settings: Settings) -> dict[str, Any]:
        """Return histogram trees in the declared directions."""
        columns = use_case.features.columns
        directions = [str(_DIRECTION[columns[name].monotone]) for name in inputs.names]
        return {
            "tree_method": "hist",
            **settings,
            "monotone_constraints": f"({','.join(directions)})",
        }

    def design(self, frame: Frame) -> None:
        """Trees read the features themselves."""
        return

    def data(
        self,
        frame: Frame,
        design: Design | None,
        *,
        threads: int,
        reference: xgb.DMatrix | None = None,
    ) -> xgb.DMatrix:
        """Give XGBoost the features in quantiles."""
        if isinstance(frame, StoredFrame):
            return frame.to_data(threads=threads)
        return xgb.QuantileDMatrix(
            frame.load().matrix,
            label=frame.labels,
            feature_names=list(frame.inputs.names),
            feature_types=frame.inputs.types,
            enable_categorical=True,
            missing=float("nan"),
            nthread=threads,
            ref=reference,
        )


class Linear:
    """A regularised generalised linear model, by coordinate descent until it stands still."""

    family: Family = "linear"
    stops_early = False

    def settings(self, use_case: UseCase) -> Settings:
        """Return `training.linear`."""
        return {"reg_lambda": use_case.training.linear.reg_lambda}

    def propose(self, trial: optuna.Trial) -> Settings:
        """Draw from around what holds on small, noisy tables."""
        return {"reg_lambda": trial.suggest_float("reg_lambda", 1e-6, 1.0, log=True)}

    def rounds(self, use_case: UseCase) -> int:
        """Return enough for the descent to stand still."""
        return 60

    def parameters(self, use_case: UseCase, inputs: Inputs, settings: Settings) -> dict[str, Any]:
        """Return coordinate descent in whole steps."""
        return {
            "booster": "gblinear",
            "updater": "coord_descent",
            # To arrive, not to be stopped on its way.
            "learning_rate": 1.0,
            "tolerance": 1e-4,
            **settings,
        }

    def design(self, frame: Frame) -> Design:
        """Freeze the scale of every feature."""
        return design(frame.load(_LINEAR_VALUES).matrix, frame.inputs)

    def data(
        self,
        frame: Frame,
        design: Design | None,
        *,
        threads: int,
        reference: xgb.DMatrix | None = None,
    ) -> xgb.DMatrix:
        """Give XGBoost the columns of the design."""
        known = frame.load(_LINEAR_VALUES)
        return to_data(known.matrix, known.inputs, design, threads=threads, labels=known.labels)


LEARNERS: dict[Family, Learner] = {"linear": Linear(), "trees": Trees()}
"""The simpler first: of models that are equally good it wins."""
