"""Categories on their way to a model, and what a model makes of them."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evergreen.errors import ConfigError, ValidationError
from evergreen.training.baselines import score_baselines
from evergreen.training.evaluate import Holdout
from evergreen.training.fit import Fitter
from evergreen.training.frame import label_rows
from evergreen.training.inputs import Inputs
from evergreen.training.model import Model
from evergreen.training.split import plan_training
from evergreen.training.tune import declare_recipe
from tiny_people import DAY, FEATURES, declare, population

EFFECTS = {"AT": 0.0, "DE": 2.0, "FR": -2.0, "IT": 1.0, "Österreich": -1.0}


@pytest.fixture(scope="module")
def shop():
    country = {"country": {"dtype": "category", "nullable": True}}
    return declare({"name": "gone"}, {**FEATURES, **country})


@pytest.fixture(scope="module")
def plan(shop):
    return plan_training(shop, DAY)


@pytest.fixture(scope="module")
def rows(plan):
    """The label depends on the country alone; on the holdout some countries are new."""
    people = population(plan.days)
    rng = np.random.default_rng(3)
    names = rng.choice([*EFFECTS, None], people.num_rows, p=[0.19] * 5 + [0.05])
    logit = np.array([EFFECTS.get(name, 0.5) for name in names])
    label = rng.random(people.num_rows) < 1 / (1 + np.exp(-logit))
    people = people.set_column(people.column_names.index("label"), "label", pa.array(label))
    newest = pc.max(people["as_of"])
    fresh = pc.and_(pc.equal(people["as_of"], newest), pa.array(rng.random(len(names)) < 0.1))
    return people.append_column("country", pc.if_else(fresh, "Atlantis", pa.array(names)))


@pytest.fixture(scope="module")
def labelled(rows, plan, shop):
    return label_rows(rows, plan, shop)


@pytest.fixture(scope="module")
def fitter(shop):
    return Fitter(shop, threads=2, seed=3)


@pytest.fixture(scope="module", params=["linear", "trees"])
def fitted(request, labelled, plan, shop, fitter):
    frame = labelled.frame(plan.evaluation.fit)
    return fitter.fit(declare_recipe(request.param, shop), frame, "fit")


@pytest.fixture(scope="module")
def holdout(labelled, plan, fitter):
    return Holdout.of(labelled, plan, fitter)


def test_columns_are_read_by_name_and_nulls_stay_nan():
    table = pa.table({"b": pa.array([True, False]), "x": ["u", "v"], "a": pa.array([1, None])})
    matrix = Inputs(("a", "b")).prepare(table)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[1, 1], [np.nan, 0]])
    swapped = Inputs(("b", "a")).prepare(table.select(["a", "b"]))
    np.testing.assert_array_equal(swapped, matrix[:, ::-1])


def test_what_a_model_cannot_read_is_refused():
    with pytest.raises(ConfigError, match="lack c"):
        Inputs(("a", "c")).prepare(pa.table({"a": [1.0]}))
    with pytest.raises(ConfigError, match="type string"):
        Inputs(("a",)).prepare(pa.table({"a": ["1"]}))
    with pytest.raises(ConfigError, match="type int64; expected strings"):
        Inputs(("a",), {"a": ("1",)}).prepare(pa.table({"a": [1]}))
    for value in (np.inf, 1e300):
        with pytest.raises(ValidationError, match="1 infinite"):
            Inputs(("a",)).prepare(pa.table({"a": [1.0, value]}))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary("int8", "string")])
def test_a_category_is_its_place_and_unseen_ones_are_missing_and_counted(kind):
    inputs = Inputs(("c", "d"), {"c": ("DE", "FR"), "d": ()})
    features = pa.table(
        {"c": pa.array(["FR", None, "XX", "DE", "XX"]).cast(kind), "d": pa.nulls(5, pa.string())}
    )
    matrix = inputs.prepare(features)
    np.testing.assert_array_equal(matrix[:, 0], [1, np.nan, np.nan, 0, np.nan])
    assert np.isnan(matrix[:, 1]).all()
    assert inputs.count_unseen(features) == {"c": 2}
    assert inputs.as_table(matrix)["c"].to_pylist() == ["FR", None, None, "DE", None]


def test_categories_are_those_of_the_fitted_rows(fitted, holdout):
    assert fitted.inputs.categories == {"country": tuple(sorted(EFFECTS))}
    new = holdout.features["country"].to_pylist().count("Atlantis")
    assert fitted.inputs.count_unseen(holdout.features) == {"country": new}
    assert new > 10


def test_the_model_file_holds_its_categories(fitted):
    again = Model.load(fitted.ubj)
    assert again.inputs == fitted.inputs
    assert again.inputs.types == ["q", "q", "q", "q", "c"]
    # Other names for the same codes are another model.
    names = dataclasses.replace(again.inputs, categories={"country": ("A", "B", "C", "D", "E")})
    assert dataclasses.replace(again, inputs=names).ubj != fitted.ubj


def test_the_model_learns_what_each_category_does(fitted, holdout, shop):
    assert max(fitted.importances, key=fitted.importances.get) == "country"
    known = pa.table({"country": list(EFFECTS)})
    row = holdout.features.slice(0, 1).drop_columns(["country"])
    features = pa.concat_tables([row] * len(EFFECTS)).append_column("country", known["country"])
    scores = fitted.predict(fitted.inputs.prepare(features), shop.target, threads=1)["score"]
    truth = [1 / (1 + np.exp(-effect)) for effect in EFFECTS.values()]
    np.testing.assert_allclose(scores, truth, atol=0.12)


def test_categories_reach_the_baselines(fitted, labelled, plan, holdout, shop, fitter):
    training = shop.training.model_copy(update={"baselines": ("country",)})
    alone = dataclasses.replace(fitter, use_case=shop.model_copy(update={"training": training}))
    scores = score_baselines(labelled, plan.evaluation, alone)
    found = {n: shop.target.measure(holdout.labels, s)["auc"] for n, s in scores.items()}
    assert found["country"] > 0.7
    assert found["linear"] > 0.7
    auc = shop.target.measure(holdout.labels, holdout.score(fitted))["auc"]
    assert auc == pytest.approx(found["country"], abs=0.03)


@pytest.mark.parametrize("family", ["linear", "trees"])
def test_a_category_that_nobody_has_disturbs_nothing(family, rows, plan, shop, fitter):
    empty = rows.set_column(
        rows.column_names.index("country"), "country", pa.nulls(rows.num_rows, pa.string())
    )
    labelled = label_rows(empty, plan, shop)
    frame = labelled.frame(plan.evaluation.fit)
    fitted = fitter.fit(declare_recipe(family, shop), frame, "fit")
    assert Model.load(fitted.ubj).inputs.categories == {"country": ()}
    assert fitted.importances["country"] == 0
    assert set(score_baselines(labelled, plan.evaluation, fitter)) == {"naive", "linear"}
