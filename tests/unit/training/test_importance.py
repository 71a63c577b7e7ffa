"""Which features a recipe lives on, measured on later days of the tuning folds."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from evergreen.training.evaluate import Holdout
from evergreen.training.folds import prepare_folds
from evergreen.training.importance import Importance, measure_importances, tell_importances
from evergreen.training.refit import fit_pair
from evergreen.training.tune import (
    Choice,
    choose_recipe,
    declare_recipe,
    drop_useless,
    try_recipe,
)
from tiny_people import FEATURES


def test_what_the_label_depends_on_helps_and_noise_does_not(importances, plan):
    by_name = {one.feature: one for one in importances}
    assert [one.feature for one in importances][:1] == ["idle_days"]
    assert {name for name in ("idle_days", "orders") if by_name[name].helps} == {
        "idle_days",
        "orders",
    }
    assert by_name["idle_days"].helps_in == by_name["idle_days"].folds == len(plan.tuning)
    # The label does not depend on it.
    gap = by_name["gap_days"]
    assert abs(gap.loss) < 0.1 * by_name["idle_days"].loss
    assert [one.loss for one in importances] == sorted((o.loss for o in importances), reverse=True)


def test_the_loss_rises_by_what_the_rows_say(importances, labelled, plan, fitter, choice):
    """One fold and feature, by hand."""
    fold = prepare_folds(labelled, plan)[0]
    (one,) = [f for f in measure_importances(choice.recipe, [fold], fitter) if f.feature == "vip"]
    model = fitter.fit(choice.recipe.for_rows(fold.fit.rows), fold.fit, "fit")
    place = model.inputs.names.index("vip")
    permuted = fold.test.matrix.copy()
    order = np.random.default_rng([fitter.seed, 0, place]).permutation(len(permuted))
    permuted[:, place] = permuted[order, place]
    target = fitter.use_case.target
    usual, other = (
        target.losses(fold.test.labels, model.predict(m, target, threads=1)["score"])
        for m in (fold.test.matrix, permuted)
    )
    rise = other - usual
    assert one.loss == pytest.approx(rise.mean())
    # One row per customer: the plain standard error.
    assert one.error == pytest.approx(rise.std() / np.sqrt(len(rise)))
    assert (one.helps_in, one.folds) == (int(rise.mean() > 0), 1)


def test_what_is_the_same_for_all_on_a_test_day_is_drawn_from_the_fitted_rows(
    labelled, plan, fitter, choice
):
    """A time of year: on no day does it tell one row from another, and yet it may move them all."""
    fold = prepare_folds(labelled, plan)[0]
    place = fold.test.inputs.names.index("idle_days")
    matrix = fold.test.matrix.copy()
    matrix[:, place] = 1.0
    one_day = replace(fold, test=replace(fold.test, matrix=matrix))
    (one,) = [
        found
        for found in measure_importances(choice.recipe, [one_day], fitter)
        if found.feature == "idle_days"
    ]
    assert one.loss != 0
    drawn = matrix.copy()
    chance = np.random.default_rng([fitter.seed, 0, place])
    chance.permutation(len(drawn))
    drawn[:, place] = chance.choice(fold.fit.load().matrix[:, place], len(drawn))
    model = fitter.fit(choice.recipe.for_rows(fold.fit.rows), fold.fit, "fit")
    usual, other = (
        fitter.losses(model, replace(one_day.test, matrix=seen)) for seen in (matrix, drawn)
    )
    assert one.loss == pytest.approx((other - usual).mean())


def test_the_holdout_is_never_looked_at(importances, rows, plan, use_case, fitter, choice):
    import pyarrow.compute as pc

    from evergreen.training.frame import label_rows

    held_out = pc.equal(rows["as_of"], pa.scalar(use_case.as_of(plan.holdout), rows["as_of"].type))
    poisoned = pc.if_else(held_out, 1e6, rows["idle_days"])
    place = rows.column_names.index("idle_days")
    other = label_rows(rows.set_column(place, "idle_days", poisoned), plan, use_case)
    assert measure_importances(choice.recipe, prepare_folds(other, plan), fitter) == importances


@pytest.fixture(scope="module")
def dropping(fitter):
    training = fitter.use_case.training.model_copy(update={"drop_features": True})
    return replace(fitter, use_case=fitter.use_case.model_copy(update={"training": training}))


@pytest.fixture(scope="module")
def dropped(labelled, plan, dropping):
    return choose_recipe(labelled, plan, dropping)


def test_useless_features_are_left_out_of_every_model(dropped, choice, labelled, plan, dropping):
    assert choice.recipe.left_out == ()
    assert "gap_days" in dropped.recipe.left_out
    assert "useless features are left out (loss higher by" in dropped.reason
    assert Choice.from_dict(json.loads(json.dumps(dropped.to_dict()))) == dropped
    pair = fit_pair(labelled, plan, dropped.recipe, dropping)
    kept = tuple(name for name in FEATURES if name not in dropped.recipe.left_out)
    assert pair.measured.inputs.names == pair.final.inputs.names == kept
    assert fit_pair(labelled, plan, dropped.recipe, dropping).final.ubj == pair.final.ubj
    # What is left out says nothing: poisoned, it changes no score.
    holdout = Holdout.of(labelled, plan, dropping)
    place = holdout.features.column_names.index("gap_days")
    poison = pa.array([1e6] * holdout.features.num_rows)
    poisoned = holdout.features.set_column(place, "gap_days", poison)
    scores = holdout.score(pair.measured)
    assert (replace(holdout, features=poisoned).score(pair.measured) == scores).all()
    found = measure_importances(dropped.recipe, prepare_folds(labelled, plan), dropping)
    assert {one.feature for one in found} == {*kept}


def test_nothing_is_left_out_if_that_is_surely_worse(labelled, plan, dropping, choice):
    folds = prepare_folds(labelled, plan)
    declared = try_recipe("as declared", choice.recipe, folds, dropping)
    assert drop_useless(declared, folds, dropping)[0].left_out
    better = replace(declared, losses=declared.losses - 0.1)
    recipe, told = drop_useless(better, folds, dropping)
    assert recipe == choice.recipe
    assert told.startswith("no feature is left out (loss higher by 0.")


def test_a_frame_without_features_keeps_the_others(labelled, plan):
    frame = labelled.frame([plan.holdout])
    less = frame.without(["idle_days", "unknown"])
    assert less.inputs.names == ("orders", "gap_days", "vip")
    assert np.array_equal(less.matrix, frame.matrix[:, [0, 2, 3]], equal_nan=True)
    assert less.matrix.flags.c_contiguous
    assert frame.without([]) is frame


def test_without_folds_nothing_is_known(fitter, use_case):
    assert measure_importances(declare_recipe("linear", use_case), [], fitter) == ()
    assert "too short" in tell_importances(())


def test_one_line_names_what_does_not_help():
    found = (Importance("a", 1.0, 0.1, 3, 3), Importance("b", 0.1, 0.1, 2, 3))
    assert tell_importances(found) == (
        "1 of 2 features help on later days; not to be told from useless: b"
    )
