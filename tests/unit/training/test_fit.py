import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evergreen.errors import NotReadyError, PermanentError
from evergreen.training.frame import label_rows
from evergreen.training.model import Model
from evergreen.training.refit import fit_pair
from evergreen.training.tune import declare_recipe

FAMILIES = ("linear", "trees")


@pytest.mark.parametrize("family", FAMILIES)
def test_same_rows_in_any_order_give_the_same_bytes(family, rows, plan, use_case, fitter):
    recipe = declare_recipe(family, use_case)
    shuffled = rows.take(np.random.default_rng(2).permutation(rows.num_rows))
    once, again = (
        fit_pair(label_rows(table, plan, use_case), plan, recipe, fitter)
        for table in (rows, shuffled)
    )
    assert once.final.ubj == again.final.ubj
    assert once.measured.ubj == again.measured.ubj
    assert once.final.ubj != once.measured.ubj


def test_another_seed_gives_other_trees(labelled, plan, fitter, trees, model):
    other = type(fitter)(fitter.use_case, fitter.threads, seed=4)
    assert other.fit(trees, labelled.frame(plan.evaluation.fit), "fit").ubj != model.ubj


def test_the_holdout_reaches_the_final_model_only(rows, plan, use_case, fitter, trees, pair):
    newest = pc.equal(rows["as_of"], pa.scalar(use_case.as_of(plan.holdout), rows["as_of"].type))
    flipped = pc.if_else(newest, pc.invert(rows["label"]), rows["label"])
    poisoned = rows.set_column(rows.column_names.index("label"), "label", flipped)
    again = fit_pair(label_rows(poisoned, plan, use_case), plan, trees, fitter)
    assert again.measured.ubj == pair.measured.ubj
    assert again.final.ubj != pair.final.ubj


@pytest.mark.parametrize("family", FAMILIES)
def test_reloaded_bytes_predict_and_explain_the_same(family, labelled, plan, fitter, use_case):
    frame = labelled.frame(plan.evaluation.fit)
    model = fitter.fit(declare_recipe(family, use_case), frame, "fit")
    again = Model.load(model.ubj)
    assert again.family == family
    assert again.ubj == model.ubj
    for made in (
        lambda model, threads: model.predict(frame.matrix, use_case.target, threads=threads)[
            "score"
        ],
        lambda model, threads: model.explain(frame.matrix, threads=threads),
    ):
        np.testing.assert_array_equal(made(again, 1), made(model, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_explanations_add_up_to_the_log_odds(family, labelled, plan, fitter, use_case):
    frame = labelled.frame(plan.evaluation.fit)
    model = fitter.fit(declare_recipe(family, use_case), frame, "fit")
    added = model.explain(frame.matrix, threads=2)
    assert added.shape == frame.matrix.shape
    scores = model.predict(frame.matrix, use_case.target, threads=2)["score"]
    rest = np.log(scores / (1 - scores)) - added.sum(axis=1)
    # What is left is the same for everybody: the bias.
    np.testing.assert_allclose(rest, rest[0], atol=1e-3)


def test_a_linear_model_reads_missing_values_as_such(labelled, plan, fitter, use_case):
    frame = labelled.frame(plan.evaluation.fit)
    model = fitter.fit(declare_recipe("linear", use_case), frame, "fit")
    blank = np.full((1, 4), np.nan, dtype=np.float32)
    (score,) = model.predict(blank, use_case.target, threads=1)["score"]
    assert 0 < score < 1


def test_declared_direction_holds_everywhere(labelled, plan, use_case, model):
    grid = np.repeat(labelled.frame([plan.holdout], model.inputs).matrix[:50], 60, axis=0)
    idle = use_case.feature_names.index("idle_days")
    grid[:, idle] = np.tile(np.linspace(0, 300, 60), 50)
    scores = model.predict(grid, use_case.target, threads=2)["score"]
    moves = np.diff(scores.reshape(50, 60), axis=1)
    assert (moves >= 0).all()
    assert (moves > 0).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_importances_are_shares_in_declared_order(family, labelled, plan, fitter, use_case):
    frame = labelled.frame(plan.evaluation.fit)
    model = fitter.fit(declare_recipe(family, use_case), frame, "fit")
    assert list(model.importances) == use_case.feature_names
    assert sum(model.importances.values()) == pytest.approx(1)
    assert max(model.importances, key=model.importances.get) == "idle_days"


def test_more_rows_bear_more_rounds_but_not_without_end(trees):
    found = type(trees)("trees", {}, 100, rows=1_000)
    assert found.for_rows(500).rounds == found.for_rows(1_000).rounds == 100
    assert found.for_rows(2_000).rounds == 141
    assert found.for_rows(10**9).rounds == 200
    assert trees.for_rows(10**9) == trees


def test_equal_labels_and_wrong_width_are_refused(rows, plan, use_case, fitter, trees, model):
    everybody = pa.array([True] * rows.num_rows)
    constant = rows.set_column(rows.column_names.index("label"), "label", everybody)
    with pytest.raises(NotReadyError, match="labels of the fit for 2024-11-02 rows are 1"):
        fit_pair(label_rows(constant, plan, use_case), plan, trees, fitter)
    with pytest.raises(PermanentError, match="has 3 columns"):
        model.predict(np.zeros((1, 3), dtype=np.float32), use_case.target, threads=1)
