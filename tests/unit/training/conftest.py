"""One small use case, its rows and its models."""

import pytest

from evergreen.decisions.gate import Difference
from evergreen.training.baselines import score_baselines
from evergreen.training.evaluate import Holdout, evaluate
from evergreen.training.fit import Fitter
from evergreen.training.folds import prepare_folds
from evergreen.training.frame import label_rows
from evergreen.training.importance import measure_importances
from evergreen.training.record import TrainingRecord
from evergreen.training.refit import fit_pair
from evergreen.training.slices import measure_bias
from evergreen.training.split import plan_training
from evergreen.training.tune import choose_recipe, declare_recipe
from tiny_people import DAY, FEATURES, declare, population


@pytest.fixture(scope="session")
def use_case():
    declared = declare({"name": "gone"}, FEATURES)
    training = declared.training.model_copy(
        update={"baselines": ("idle_days",), "slices": {"vip": ()}}
    )
    return declared.model_copy(update={"training": training})


@pytest.fixture(scope="session")
def plan(use_case):
    return plan_training(use_case, DAY)


@pytest.fixture(scope="session")
def rows(plan):
    return population(plan.days)


@pytest.fixture(scope="session")
def labelled(rows, plan, use_case):
    return label_rows(rows, plan, use_case)


@pytest.fixture(scope="session")
def fitter(use_case):
    return Fitter(use_case, threads=2, seed=3)


@pytest.fixture(scope="session")
def choice(labelled, plan, fitter):
    return choose_recipe(labelled, plan, fitter)


@pytest.fixture(scope="session")
def trees(use_case):
    """A recipe, whatever would be chosen."""
    return declare_recipe("trees", use_case)


@pytest.fixture(scope="session")
def model(labelled, plan, fitter, trees):
    return fitter.fit(trees, labelled.frame(plan.evaluation.fit), "fit")


@pytest.fixture(scope="session")
def pair(labelled, plan, fitter, trees):
    return fit_pair(labelled, plan, trees, fitter)


@pytest.fixture(scope="session")
def holdout(labelled, plan, fitter):
    return Holdout.of(labelled, plan, fitter)


@pytest.fixture(scope="session")
def importances(labelled, plan, fitter, choice):
    return measure_importances(choice.recipe, prepare_folds(labelled, plan), fitter)


@pytest.fixture(scope="session")
def evaluation(pair, holdout, labelled, plan, fitter):
    baselines = score_baselines(labelled, plan.evaluation, fitter)
    return evaluate(pair.measured, holdout.score(pair.measured), holdout, baselines)


@pytest.fixture(scope="session")
def record(use_case, pair, labelled, plan, choice, fitter, importances, evaluation, holdout):
    return TrainingRecord(
        day=DAY,
        request_key="2025-01-01 it's drift",
        reason="drift of idle_days",
        plan=plan,
        rows=labelled,
        choice=choice,
        pair=pair,
        fitter=fitter,
        importances=importances,
        evaluation=evaluation,
        holdout=holdout,
        bias=measure_bias(use_case, holdout, holdout.score(pair.measured)),
        leakage=Difference(0.02, 0.01, 0.03),
        inputs={"features": 123, "labels": None},
        left_out={"2025-01-01": 3},
        reference={"idle_days": {"quantiles": [1.0, 2.0]}},
        code_digest="c0de",
        lock_digest="10c4",
    )
