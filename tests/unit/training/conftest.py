"""One small use case, its rows and its model."""

import pytest

from evergreen.training.fit import fit_booster
from evergreen.training.frame import label_split
from evergreen.training.split import plan_training
from tiny_people import DAY, FEATURES, declare, population


@pytest.fixture(scope="session")
def use_case():
    declared = declare({"name": "gone"}, FEATURES)
    training = declared.training.model_copy(update={"baselines": ("idle_days",)})
    return declared.model_copy(update={"training": training})


@pytest.fixture(scope="session")
def plan(use_case):
    return plan_training(use_case, DAY)


@pytest.fixture(scope="session")
def rows(plan):
    return population(plan.days)


@pytest.fixture(scope="session")
def split(rows, plan, use_case):
    return label_split(rows, plan, use_case)


@pytest.fixture(scope="session")
def fitted(split, use_case):
    return fit_booster(split, use_case, threads=2, seed=3)
