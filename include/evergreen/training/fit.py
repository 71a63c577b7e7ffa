"""Fitting that gives the same bytes for the same rows, recipe, seed and thread count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import xgboost as xgb

from evergreen.contract import UseCase
from evergreen.decisions.stored import Stored
from evergreen.training.cluster import boost
from evergreen.training.external import StoredFrame
from evergreen.training.families import LEARNERS
from evergreen.training.frame import Frame, LabelledFrame
from evergreen.training.inputs import Inputs
from evergreen.training.model import Family, Model, Vector

# How the best number of rounds grows with the rows, and from which factor on it is not known.
_POWER = 0.5
_MOST = 4.0


@dataclass(frozen=True)
class Recipe(Stored):
    """Everything that makes a model of rows; chosen on folds, kept when it is fitted again.

    Parameters
    ----------
    settings
        What the family is told; see `evergreen.training.families`.
    rounds
        Number of boosting rounds for `rows` rows.
    rows
        Of the rows the number was found on; None where it was not searched for.
    left_out
        Features that the model does not read.
    """

    family: Family
    settings: dict[str, float | int]
    rounds: int
    rows: int | None = None
    left_out: tuple[str, ...] = ()

    def for_rows(self, rows: int) -> Recipe:
        """Return the recipe for another number of rows: more of them bear more rounds."""
        if self.rows is None:
            return self
        factor = min(max(rows / self.rows, 1.0), _MOST) ** _POWER
        return replace(self, rounds=max(1, round(self.rounds * factor)))


@dataclass(frozen=True)
class Fitter:
    """How models of one training are fitted.

    Parameters
    ----------
    threads
        Fixed number of threads; part of what makes the bytes reproducible.
    seed
        Seed of row and column sampling.
    """

    use_case: UseCase
    threads: int
    seed: int

    def parameters(self, recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
        """Return what XGBoost is told."""
        return {
            **self.use_case.target.booster_parameters(),
            **LEARNERS[recipe.family].parameters(self.use_case, inputs, recipe.settings),
            "nthread": self.threads,
            "seed": self.seed,
            "verbosity": 0,
        }

    def fit(self, recipe: Recipe, frame: Frame, part: str) -> Model:
        """Fit a recipe on rows.

        Parameters
        ----------
        part
            What the rows are, for people.

        Raises
        ------
        NotReadyError
            All labels are equal.
        """
        self.use_case.target.require_learnable(frame.labels, part)
        frame = frame.without(recipe.left_out)
        return Model.load(self._boost(recipe, frame, recipe.rounds).ubj)

    def losses(self, model: Model, test: LabelledFrame) -> Vector:
        """Return the loss of every row of a test, `[n]`."""
        target = self.use_case.target
        scores = model.predict(test.matrix, target, threads=self.threads)["score"]
        return target.losses(test.labels, scores)

    def search_rounds(self, recipe: Recipe, frame: Frame, test: LabelledFrame) -> tuple[Model, int]:
        """Fit until more rounds do not make the test's loss less.

        Returns
        -------
        tuple
            A model of all rounds that were made, and how many of them are best.
        """
        learner, booster = LEARNERS[recipe.family], self.use_case.training.booster
        if not learner.stops_early:
            return self.fit(recipe, frame, "fit"), recipe.rounds
        for labels, part in ((frame.labels, "fit"), (test.labels, "validation")):
            self.use_case.target.require_learnable(labels, part)
        model = self._boost(recipe, frame, booster.max_rounds, test)
        return model, model.booster.best_iteration + 1

    def _boost(
        self, recipe: Recipe, frame: Frame, rounds: int, test: LabelledFrame | None = None
    ) -> Model:
        """Boost, here or on a cluster, until the rounds are made or the test's loss is least."""
        learner, told = LEARNERS[recipe.family], self.parameters(recipe, frame.inputs)
        patience = self.use_case.training.booster.early_stopping_rounds
        design = learner.design(frame)
        # A linear model, of a few columns, is fitted here on rows that fit into memory.
        if design is None and isinstance(frame, StoredFrame) and frame.shared:
            return Model(boost(told, frame, rounds, test, patience), frame.inputs)
        data = learner.data(frame, design, threads=self.threads)
        tested = test and learner.data(test, design, threads=self.threads, reference=data)
        booster = xgb.train(
            told,
            data,
            rounds,
            evals=[(tested, "test")] if tested else None,
            early_stopping_rounds=patience if tested else None,
            verbose_eval=False,
        )
        return Model(booster, frame.inputs, design)
