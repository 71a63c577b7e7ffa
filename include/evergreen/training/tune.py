"""Which kind of model, with which settings: chosen on days between those fitted on and the holdout.

The simplest that is as good as any is chosen: the linear model before the trees, what is declared
before what was found, unless the loss on the test days says otherwise with confidence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from evergreen.contract import UseCase
from evergreen.decisions.stored import Stored
from evergreen.statistics import clustered_mean
from evergreen.training.families import LEARNERS
from evergreen.training.fit import Fitter, Recipe
from evergreen.training.folds import SURE, FoldFrames, number_entities, prepare_folds
from evergreen.training.frame import LabelledRows
from evergreen.training.importance import measure_importances
from evergreen.training.model import Family
from evergreen.training.split import SplitPlan

Vector = NDArray[np.float64]

# The linear model has one setting; more trials would find nothing new.
_LINEAR_TRIALS = 8

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Tried(Stored):
    """A recipe and its mean loss on the test days; None where it was given up early."""

    recipe: Recipe
    loss: float | None
    declared: bool


@dataclass(frozen=True)
class Choice(Stored):
    """The recipe that goes on, and everything that was tried.

    Parameters
    ----------
    trials
        Searches per family, so that a replay makes as many.
    """

    recipe: Recipe
    reason: str
    tried: tuple[Tried, ...] = ()
    trials: dict[str, int] = field(default_factory=dict)


def choose_recipe(
    rows: LabelledRows,
    plan: SplitPlan,
    fitter: Fitter,
    *,
    journal: Path | None = None,
    trials: Mapping[str, int] | None = None,
) -> Choice:
    """Choose what to fit.

    Parameters
    ----------
    journal
        A file that remembers finished trials: a search that was killed goes on from there, and
        ends as if it had not been. None keeps them in memory.
    trials
        How many to make per family, whatever time they take; by default what the use case allows.
    """
    use_case = fitter.use_case
    families = [family for family in LEARNERS if family in use_case.training.models]
    if not plan.tuning:
        recipe = declare_recipe(families[-1], use_case)
        return Choice(recipe, f"{recipe.family} as declared: the history is too short to compare")
    folds = prepare_folds(rows, plan)
    contenders: list[Contender] = []
    tried, made = [], {}
    for family in families:
        declared = try_recipe(
            f"{family} as declared", declare_recipe(family, use_case), folds, fitter
        )
        tried.append(Tried(declared.recipe, declared.loss, declared=True))
        contenders.append(declared)
        wanted = (trials or {}).get(family)
        search = Search(family, folds, fitter, journal, wanted)
        found = search.run()
        made[str(family)] = len(found)
        tried += found
        if best := min(found, key=lambda t: math.inf if t.loss is None else t.loss, default=None):
            contenders.append(try_recipe(f"{family} as tuned", best.recipe, folds, fitter))
    chosen, reason = choose_simplest(contenders, number_entities(folds))
    recipe = chosen.recipe
    if use_case.training.drop_features:
        recipe, told = drop_useless(chosen, folds, fitter)
        reason = f"{reason}; {told}"
    return Choice(recipe, reason, tuple(tried), made)


def drop_useless(
    chosen: Contender, folds: Sequence[FoldFrames], fitter: Fitter
) -> tuple[Recipe, str]:
    """Leave out the features that cannot be told from useless, if that makes nothing worse.

    One by one, of two that say the same both look useless. So the recipe without all of them is
    tried on the same days, and counts unless its loss is higher with 95 % confidence.

    Returns
    -------
    tuple
        The recipe to go on with, and what was done, for people.
    """
    found = measure_importances(chosen.recipe, folds, fitter)
    useless = tuple(sorted(one.feature for one in found if not one.helps))
    if not useless or len(useless) == len(found):
        return chosen.recipe, "no feature is left out"
    without = try_recipe("without", replace(chosen.recipe, left_out=useless), folds, fitter)
    rise, error = clustered_mean(without.losses - chosen.losses, number_entities(folds))
    worse = rise - SURE * error > 0
    shown = f"loss higher by {rise:.5f} ± {SURE * error:.5f} without {', '.join(useless)}"
    if worse:
        return chosen.recipe, f"no feature is left out ({shown})"
    return without.recipe, f"useless features are left out ({shown})"


def declare_recipe(family: Family, use_case: UseCase) -> Recipe:
    """Return the recipe of a family as the use case declares it."""
    learner = LEARNERS[family]
    return Recipe(family, dict(learner.settings(use_case)), learner.rounds(use_case))


@dataclass(frozen=True)
class Contender:
    """A recipe with the rounds that suit all folds, and the loss of every test row."""

    name: str
    recipe: Recipe
    losses: Vector

    @property
    def loss(self) -> float:
        """Mean loss."""
        return float(self.losses.mean())


def try_recipe(
    name: str,
    recipe: Recipe,
    folds: Sequence[FoldFrames],
    fitter: Fitter,
    report: Callable[[float, int], None] = lambda loss, fold: None,
) -> Contender:
    """Fit and test a recipe on every fold; rounds are the mean of what is best for each.

    Parameters
    ----------
    report
        Called with the mean loss after each fold, and the fold's number; may raise to give up.
    """
    folds = [fold.without(recipe.left_out) for fold in folds]
    models, best, means = [], [], []
    for number, fold in enumerate(folds):
        model, rounds = fitter.search_rounds(recipe, fold.fit, fold.test)
        models.append(model)
        best.append(rounds)
        means.append(fitter.losses(model.at(rounds), fold.test).mean())
        report(float(np.mean(means)), number)
    if LEARNERS[recipe.family].stops_early:
        rows = round(float(np.mean([fold.fit.rows for fold in folds])))
        recipe = replace(recipe, rounds=round(float(np.mean(best))), rows=rows)
    # All at the same number: the best of each would flatter those that stop early.
    at_one = [model.at(recipe.rounds) for model in models]
    every = [fitter.losses(model, fold.test) for model, fold in zip(at_one, folds, strict=True)]
    return Contender(name, recipe, np.concatenate(every))


def choose_simplest(
    contenders: Sequence[Contender], entities: NDArray[np.intp]
) -> tuple[Contender, str]:
    """Choose the first, unless a later one has a lower loss with 95 % confidence.

    Parameters
    ----------
    contenders
        The simplest first.
    entities
        Number of each test row's entity; rows of one entity are not independent.
    """
    chosen, *others = contenders
    reason = f"{chosen.name}: nothing else competed"
    for other in others:
        gain, error = clustered_mean(chosen.losses - other.losses, entities)
        sure = gain - SURE * error > 0
        shown = f"loss lower by {gain:.5f} ± {SURE * error:.5f}"
        reason = (
            f"{other.name}: {shown} than {chosen.name}"
            if sure
            else f"{chosen.name}: {other.name} is not surely better ({shown})"
        )
        chosen = other if sure else chosen
    return chosen, reason


@dataclass(frozen=True)
class Search:
    """The search for better settings of one family, with Optuna's tree-structured Parzen estimator.

    The sampler is seeded anew for every trial by the number of those that ended, so what is drawn
    depends on nothing but the seed and the trials before: a search that was killed goes on as if
    it had not been.
    """

    family: Family
    folds: Sequence[FoldFrames]
    fitter: Fitter
    journal: Path | None
    wanted: int | None

    def run(self) -> list[Tried]:
        """Make trials until the budget of trials or of seconds is spent."""
        tuning = self.fitter.use_case.training.tuning
        budget = min(tuning.trials, _LINEAR_TRIALS) if self.family == "linear" else tuning.trials
        seconds = tuning.max_seconds if self.wanted is None else None
        wanted = budget if self.wanted is None else self.wanted
        if not wanted:
            return []
        study = self._study()
        started = time.monotonic()
        while len(ended := _ended(study)) < wanted:
            if ended and seconds is not None and time.monotonic() - started > seconds:
                break
            study.sampler = optuna.samplers.TPESampler(seed=1000 * self.fitter.seed + len(ended))
            study.optimize(self._objective, n_trials=1)
        return [self._tried(trial) for trial in _ended(study)[:wanted]]

    def _study(self) -> optuna.Study:
        storage = None
        if self.journal is not None:
            lock = JournalFileOpenLock(str(self.journal))
            storage = optuna.storages.JournalStorage(
                JournalFileBackend(str(self.journal), lock_obj=lock)
            )
        return optuna.create_study(
            storage=storage,
            study_name=self.family,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )

    def _objective(self, trial: optuna.Trial) -> float:
        settings = dict(LEARNERS[self.family].propose(trial))
        declared = declare_recipe(self.family, self.fitter.use_case)
        recipe = replace(declared, settings=settings)

        def report(loss: float, fold: int) -> None:
            trial.report(loss, fold)
            if fold + 1 < len(self.folds) and trial.should_prune():
                raise optuna.TrialPruned

        found = try_recipe(f"trial {trial.number}", recipe, self.folds, self.fitter, report)
        trial.set_user_attr("recipe", found.recipe.to_dict())
        return found.loss

    def _tried(self, trial: optuna.trial.FrozenTrial) -> Tried:
        pruned = trial.state == TrialState.PRUNED
        recipe = (
            replace(declare_recipe(self.family, self.fitter.use_case), settings=dict(trial.params))
            if pruned
            else Recipe.from_dict(trial.user_attrs["recipe"])
        )
        return Tried(recipe, None if pruned else trial.value, declared=False)


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return list(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))
