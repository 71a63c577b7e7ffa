"""Each distribution on people whose true means and quantiles are known."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError as PydanticError

from evergreen.errors import ValidationError
from evergreen.targets import NumberTarget
from evergreen.training.baselines import score_baselines
from evergreen.training.evaluate import Holdout, evaluate
from evergreen.training.fit import Fitter
from evergreen.training.frame import label_rows
from evergreen.training.model import Model
from evergreen.training.refit import fit_pair
from evergreen.training.split import plan_training
from evergreen.training.tune import choose_recipe
from tiny_people import DAY, FEATURES, declare, population

MONOTONE_FREE = {name: feature | {"monotone": "none"} for name, feature in FEATURES.items()}
QUANTILES = (0.1, 0.5, 0.9)
DECLARED = {
    "poisson": {},
    "tweedie": {"tweedie_power": 1.4},
    "normal": {},
    "quantile": {"quantiles": QUANTILES},
}


def target(distribution, **more):
    declared = {**DECLARED[distribution], **more}
    return NumberTarget(
        kind="number",
        name="orders",
        description="Orders.",
        horizon_days=60,
        distribution=distribution,
        **declared,
    )


def labels_of(distribution, people, rng):
    """Labels whose mean is no straight line, also not in logarithms; and that mean."""
    mean = np.where(people["vip"].to_numpy(), 6.0, 1.0) * np.where(
        np.abs(people["idle_days"].to_numpy() - 30) < 20, 2.0, 0.5
    )
    if distribution == "poisson":
        return rng.poisson(mean).astype(float), mean
    if distribution == "tweedie":
        spent = [rng.gamma(2.0, 5.0, count).sum() for count in rng.poisson(mean / 3)]
        return np.array(spent), mean / 3 * 10
    # Scattered more where there is more, and to one side.
    return mean - 3 + rng.exponential(mean), mean - 3 + mean


@pytest.fixture(scope="module", params=DECLARED)
def trained(request):
    """Use case, measured model, holdout, baselines and true means, per distribution."""
    distribution = request.param
    more = {"distribution": distribution, "interval": 0.8, **DECLARED[distribution]}
    use_case = declare({"kind": "number", "name": "orders", **more}, MONOTONE_FREE)
    plan = plan_training(use_case, DAY)
    people = population(plan.days, entities=1_500)
    labels, means = labels_of(distribution, people, np.random.default_rng(5))
    people = people.set_column(people.column_names.index("label"), "label", pa.array(labels))
    labelled, fitter = label_rows(people, plan, use_case), Fitter(use_case, threads=2, seed=3)
    chosen = choose_recipe(labelled, plan, fitter)
    model = fit_pair(labelled, plan, chosen.recipe, fitter).measured
    holdout = Holdout.of(labelled, plan, fitter)
    baselines = {
        name: use_case.target.measure(holdout.labels, scores)
        for name, scores in score_baselines(labelled, plan.evaluation, fitter).items()
    }
    # The holdout is the newest day, and the last table of the population.
    return use_case, model, holdout, baselines, means[-len(holdout.labels) :]


def test_the_model_beats_a_constant_and_a_line(trained):
    use_case, model, holdout, baselines, truth = trained
    assert model.family == "trees"
    found = use_case.target.measure(holdout.labels, holdout.score(model))
    assert list(found) == list(use_case.target.metrics)
    assert abs(baselines["naive"]["d2"]) < 0.02
    assert found["d2"] > baselines["naive"]["d2"] + 0.02
    for metric in ("deviance", "mae", "rmse"):
        assert found[metric] < baselines["naive"][metric]
    assert ("linear" in baselines) == (use_case.target.distribution != "quantile")
    if "linear" in baselines:
        assert found["d2"] > baselines["linear"]["d2"] + 0.02 > baselines["naive"]["d2"] + 0.02
        best = use_case.target.measure(holdout.labels, truth)
        assert best["d2"] - 0.05 < found["d2"] < best["d2"] + 0.02


def test_scores_keep_to_their_range(trained):
    use_case, model, holdout, _, _ = trained
    matrix = model.inputs.prepare(holdout.features)
    columns = model.predict(matrix, use_case.target, threads=2)
    assert tuple(columns) == use_case.target.score_columns
    low, _ = use_case.target.score_range
    assert low is None or min(min(values) for values in columns.values()) >= low
    assert (columns["lower"] <= columns["score"]).all()
    assert (columns["score"] <= columns["upper"]).all()
    if low is None:
        assert min(columns["score"]) < 0


def test_intervals_hold_what_they_promise_on_a_day_nobody_has_seen(trained):
    use_case, model, holdout, _, _ = trained
    held = evaluate(model, holdout.score(model), holdout, {}).metrics
    # As sure as 1,500 rows to learn the width from and as many to measure it on allow.
    assert held["coverage"] == pytest.approx(0.8, abs=0.04)
    assert held["interval_width"] > 0
    assert list(held) == [*use_case.target.metrics, *use_case.target.interval_metrics]


def test_a_model_without_an_interval_scores_as_before(trained):
    use_case, model, holdout, _, _ = trained
    before = replace(model, interval=None)
    assert "interval" not in before.booster.attributes()
    columns, matrix = holdout.predict(model), model.inputs.prepare(holdout.features)
    for target in (use_case.target, use_case.target.model_copy(update={"interval": None})):
        old = Model.load(before.ubj).predict(matrix, target, threads=2)
        assert list(old) == [name for name in columns if name not in ("lower", "upper")]
        np.testing.assert_array_equal(old["score"], columns["score"])
    again = Model.load(model.ubj)
    assert again.interval == model.interval
    assert again.ubj == model.ubj != before.ubj


def test_quantiles_cover_their_share_and_never_cross():
    declared = {"distribution": "quantile", "quantiles": QUANTILES}
    use_case = declare({"kind": "number", "name": "orders", **declared}, MONOTONE_FREE)
    plan = plan_training(use_case, DAY)
    people = population(plan.days, entities=3_000)
    labels, _ = labels_of("quantile", people, np.random.default_rng(6))
    people = people.set_column(people.column_names.index("label"), "label", pa.array(labels))
    labelled, fitter = label_rows(people, plan, use_case), Fitter(use_case, threads=2, seed=3)
    model = fit_pair(labelled, plan, choose_recipe(labelled, plan, fitter).recipe, fitter).measured
    holdout = labelled.frame([plan.holdout], model.inputs)
    columns = model.predict(holdout.matrix, use_case.target, threads=2)
    assert list(columns) == ["q10", "score", "q90"]
    for name, share in zip(columns, QUANTILES, strict=True):
        assert (holdout.labels <= columns[name]).mean() == pytest.approx(share, abs=0.04)
    assert (columns["q10"] <= columns["score"]).all()
    assert (columns["score"] <= columns["q90"]).all()


def test_crossing_quantiles_are_sorted():
    columns = target("quantile").to_columns(np.array([[3.0, 2.0, 1.0], [0.0, 1.0, 2.0]]))
    assert [columns[name].tolist() for name in ("q10", "score", "q90")] == [[1, 0], [2, 1], [3, 2]]
    fine = target("quantile", quantiles=(0.025, 0.5, 0.999))
    assert fine.score_columns == ("q2_5", "score", "q99_9")
    assert fine.explained_output == 1
    # The median alone comes as one column.
    assert list(target("quantile", quantiles=(0.5,)).to_columns(np.zeros(3))) == ["score"]


def test_metrics_by_hand():
    labels, scores = np.array([0.0, 1.0, 4.0, 3.0]), np.array([1.0, 1.0, 2.0, 4.0])
    normal = target("normal").measure(labels, scores)
    assert normal == {
        "d2": pytest.approx(1 - 6 / 10),
        "deviance": pytest.approx(6 / 4),
        "mae": pytest.approx(1.0),
        "rmse": pytest.approx(np.sqrt(6 / 4)),
    }
    median = target("quantile").measure(labels, scores)
    assert (median["deviance"], median["d2"]) == (pytest.approx(0.5), pytest.approx(1 - 4 / 6))
    # 2 * (y log(y / m) - y + m), with 0 log 0 = 0.
    poisson = target("poisson").measure(labels, scores)["deviance"]
    expected = [2.0, 0.0, 2 * (4 * np.log(2) - 2), 2 * (3 * np.log(0.75) + 1)]
    assert poisson == pytest.approx(np.mean(expected))
    assert np.isfinite(target("tweedie").measure(labels, np.zeros(4))["d2"])


def test_equal_labels_have_no_d2_and_no_rows_have_nothing():
    for distribution in DECLARED:
        found = target(distribution).measure(np.full(9, 0.1), np.full(9, 0.2))
        assert set(found) == {"deviance", "mae", "rmse"}
        assert target(distribution).measure(np.zeros(0), np.zeros(0)) == {}


@given(
    st.sampled_from(sorted(DECLARED)),
    st.lists(st.floats(0.01, 100), min_size=2, max_size=30),
    st.floats(0.01, 100),
)
def test_no_constant_beats_the_best_constant(distribution, labels, guess):
    labels = np.array(labels)
    found = target(distribution).measure(labels, np.full(len(labels), guess))
    assert found.get("d2", 0.0) <= 1e-9
    # Of a perfect score the deviance is zero but for rounding.
    assert all(found[metric] >= -1e-12 for metric in ("deviance", "mae", "rmse"))


@pytest.mark.parametrize(
    ("distribution", "labels", "message"),
    [
        ("normal", [1.0, np.inf], "1 labels such as inf; expected finite numbers"),
        ("quantile", [np.nan], "1 labels such as nan"),
        ("normal", [1e300], "1 labels such as 1e"),
        ("poisson", [0.0, -1.0], "such as -1; expected finite numbers, no negative ones of orders"),
        ("tweedie", [-0.5], "no negative ones"),
    ],
)
def test_impossible_labels_are_refused(distribution, labels, message):
    with pytest.raises(ValidationError, match=message):
        target(distribution).read_labels(pa.chunked_array([labels]))


def test_negative_labels_are_fine_where_the_distribution_has_them():
    for distribution in ("normal", "quantile"):
        assert target(distribution).read_labels(pa.chunked_array([[-1, 2]])).tolist() == [-1, 2]
        assert target(distribution).lowest_score is None
    assert target("poisson").lowest_score == target("tweedie").lowest_score == 0


def test_quantiles_belong_to_their_distribution():
    for distribution, quantiles in (("quantile", ()), ("normal", (0.5,)), ("quantile", (0.9, 0.5))):
        with pytest.raises(PydanticError, match="quantiles"):
            target(distribution, quantiles=quantiles)


def test_an_interval_of_quantiles_needs_the_two_that_are_its_ends():
    asked = target("quantile", quantiles=(0.05, 0.5, 0.95), interval=0.9)
    assert asked.score_columns == ("q5", "score", "q95", "lower", "upper")
    assert asked.explained_output == 1
    assert asked.ascending_columns == (("q5", "score", "q95"), ("lower", "score", "upper"))
    with pytest.raises(
        PydanticError, match=r"0\.9 with quantiles .*; expected 0\.05 and 0\.95 among"
    ):
        target("quantile", interval=0.9)
    for share in (0.0, 1.0):
        with pytest.raises(PydanticError, match="interval"):
            target("poisson", interval=share)
    assert target("poisson").interval_metrics == {}
