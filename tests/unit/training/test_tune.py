import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evergreen.training.fit import Fitter, Recipe
from evergreen.training.folds import prepare_folds
from evergreen.training.tune import (
    Choice,
    Contender,
    choose_recipe,
    choose_simplest,
    try_recipe,
)


def with_training(use_case, **changes):
    training = type(use_case.training).model_validate(use_case.training.model_dump() | changes)
    return use_case.model_copy(update={"training": training})


@pytest.fixture(scope="module")
def tuned(use_case):
    """A fitter whose use case searches a little."""
    return Fitter(with_training(use_case, tuning={"trials": 6}), threads=2, seed=3)


@pytest.fixture(scope="module")
def found(labelled, plan, tuned):
    return choose_recipe(labelled, plan, tuned)


def contender(name, losses):
    return Contender(name, Recipe("linear", {}, 1), losses)


def test_the_simpler_wins_unless_the_other_is_surely_better():
    rng = np.random.default_rng(1)
    losses, entities = rng.random(4_000), np.arange(4_000)
    simple = contender("simple", losses)
    alike = contender("alike", losses + rng.normal(0, 0.1, 4_000))
    better = contender("better", losses - 0.02 + rng.normal(0, 0.1, 4_000))
    assert choose_simplest([simple, alike], entities)[0] is simple
    chosen, reason = choose_simplest([simple, alike, better], entities)
    assert chosen is better
    assert reason.startswith("better: loss lower by 0.0")


def test_many_rows_of_few_customers_do_not_make_it_sure():
    rng = np.random.default_rng(2)
    entities = np.repeat(np.arange(20), 200)
    luck = rng.normal(0, 0.05, 20)
    luck = (luck - luck.mean() + 0.005)[entities]
    losses = rng.random(4_000)
    simple, lucky = contender("simple", losses), contender("lucky", losses - luck)
    assert choose_simplest([simple, lucky], np.arange(4_000))[0] is lucky
    assert choose_simplest([simple, lucky], entities)[0] is simple


def test_a_linear_truth_is_left_to_the_linear_model(choice):
    # The population is logistic in log features.
    assert choice.recipe.family == "linear"
    assert {tried.recipe.family for tried in choice.tried} == {"linear", "trees"}
    assert all(tried.declared for tried in choice.tried)
    assert Choice.from_dict(choice.to_dict()) == choice


def test_rounds_come_from_early_stopping_at_one_number_for_all_folds(labelled, plan, fitter, trees):
    tried = try_recipe("trees", trees, prepare_folds(labelled, plan), fitter)
    assert 1 <= tried.recipe.rounds < fitter.use_case.training.booster.max_rounds
    assert tried.recipe.rows == np.mean([labelled.frame(f.fit).rows for f in plan.tuning])
    assert len(tried.losses) == sum(labelled.frame([f.test]).rows for f in plan.tuning)


def test_days_from_the_calibration_day_on_do_not_reach_the_choice(
    labelled, plan, fitter, choice, rows
):
    tuning = labelled.of(plan.parts["tuning"])
    only = type(labelled)(tuning, labelled.use_case)
    assert tuning.num_rows < rows.num_rows
    assert choose_recipe(only, plan, fitter) == choice


def test_a_history_without_folds_trains_what_is_declared(labelled, plan, fitter, trees):
    short = type(plan)((), None, plan.evaluation, plan.final)
    chosen = choose_recipe(labelled, short, fitter)
    assert chosen.recipe == trees
    assert "too short" in chosen.reason


def test_a_search_is_the_same_for_a_seed_and_stays_in_its_budget(found, labelled, plan, tuned):
    assert found.trials == {"linear": 6, "trees": 6}
    assert len(found.tried) == 2 * (6 + 1)
    assert choose_recipe(labelled, plan, tuned) == found
    other = Fitter(tuned.use_case, tuned.threads, seed=4)
    assert choose_recipe(labelled, plan, other).tried != found.tried


def test_a_replay_makes_as_many_trials_as_were_made(found, labelled, plan, tuned, fitter):
    # The use case searches for nothing any more.
    assert choose_recipe(labelled, plan, fitter, trials=found.trials).tried == found.tried


def test_no_trial_begins_after_the_time_is_up(labelled, plan, use_case):
    hasty = with_training(use_case, tuning={"trials": 50, "max_seconds": 1e-9})
    assert choose_recipe(labelled, plan, Fitter(hasty, 2, 3)).trials == {"linear": 1, "trees": 1}


DYING = """
import os, signal, sys
from pathlib import Path
from evergreen.training.fit import Fitter
from evergreen.training.frame import label_rows
from evergreen.training.split import plan_training
from evergreen.training.tune import choose_recipe
from tiny_people import DAY, FEATURES, declare, population

use_case = declare({"name": "gone"}, FEATURES)
tuning = use_case.training.tuning.model_copy(update={"trials": 6})
training = use_case.training.model_copy(update={"tuning": tuning})
use_case = use_case.model_copy(update={"training": training})
plan = plan_training(use_case, DAY)
rows = label_rows(population(plan.days), plan, use_case)
real, left = Fitter.search_rounds, int(sys.argv[2])

def fatal(*given):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given)

Fitter.search_rounds = fatal
choose_recipe(rows, plan, Fitter(use_case, 2, 3), journal=Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_search_goes_on_as_if_it_had_not_been(found, labelled, plan, tuned, tmp_path):
    journal = tmp_path / "trials.log"
    # Two folds each: in the second trial of the linear model, then in the third of the trees.
    for fits in (6, 11):
        command = [sys.executable, "-c", DYING, str(journal), str(fits)]
        dead = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=120)
        assert dead.returncode == -signal.SIGKILL
    assert choose_recipe(labelled, plan, tuned, journal=journal) == found
