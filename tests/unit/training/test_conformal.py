"""Intervals of people whose true means are known, so that nothing but the intervals is on trial."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.conformity_scores import BaseRegressionScore
from mapie.regression import ConformalizedQuantileRegressor, SplitConformalRegressor
from sklearn.base import BaseEstimator, RegressorMixin

from evergreen.targets import NumberTarget
from evergreen.training.conformal import Interval, learn_interval

LEVEL = 0.9
POWER = 1.5
KINDS = {
    "poisson": {},
    "tweedie": {"tweedie_power": POWER},
    "normal": {},
    "quantile": {"quantiles": (0.05, 0.5, 0.95)},
}


def target(distribution, level=LEVEL):
    return NumberTarget(
        kind="number",
        name="spend",
        description="Spend.",
        horizon_days=90,
        distribution=distribution,
        interval=level,
        **KINDS[distribution],
    )


def people(distribution, rows, seed):
    """Labels, and columns as a perfect model would predict them; means differ a hundredfold."""
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.normal(1.0, 1.2, rows))
    if distribution == "poisson":
        return rng.poisson(mean).astype(float), {"score": mean}
    if distribution == "tweedie":
        # Gamma amounts of a Poisson number of orders, in Tweedie's parameters; many are zero.
        shape = (2 - POWER) / (POWER - 1)
        orders = rng.poisson(mean ** (2 - POWER) / (2 - POWER))
        scale = (POWER - 1) * mean ** (POWER - 1)
        return rng.gamma(np.maximum(shape * orders, 1e-9)) * scale * (orders > 0), {"score": mean}
    if distribution == "normal":
        return mean + rng.normal(0, 2.0, rows), {"score": mean}
    # Quantiles that are far too close, as overfitted ones are.
    labels = rng.exponential(mean)
    quantiles = {"q5": 0.5 * mean, "score": np.log(2) * mean, "q95": 1.5 * mean}
    return labels, quantiles


def coverage(labels, ends):
    return ((ends["lower"] <= labels) & (labels <= ends["upper"])).mean()


@pytest.mark.parametrize(
    ("distribution", "level"),
    [*((distribution, 0.9) for distribution in KINDS), ("poisson", 0.5), ("tweedie", 0.5)],
)
def test_of_rows_alike_the_promised_share_is_held(distribution, level):
    asked, found = target(distribution, level), []
    for seed in range(40):
        learned = learn_interval(asked, [people(distribution, 400, seed)])
        labels, columns = people(distribution, 2_000, 1_000 + seed)
        found.append(coverage(labels, learned.apply(columns, asked)))
    error = np.std(found) / np.sqrt(len(found))
    # Of n rows, split conformal holds the level, and at most 1 / (n + 1) more.
    assert level - 3 * error < np.mean(found) < level + 1 / 401 + 3 * error
    assert error < 0.01


@pytest.mark.parametrize("distribution", ["poisson", "tweedie"])
def test_many_and_few_are_held_alike_where_their_spread_grows_with_the_mean(distribution):
    asked = target(distribution)
    learned = learn_interval(asked, [people(distribution, 20_000, 1)])
    labels, columns = people(distribution, 20_000, 2)
    ends = learned.apply(columns, asked)
    plain = learn_interval(target("normal"), [people(distribution, 20_000, 1)])
    same_width = plain.apply(columns, target("normal"))
    most = columns["score"] > np.quantile(columns["score"], 0.9)
    assert coverage(labels[most], {k: v[most] for k, v in ends.items()}) > 0.85
    assert coverage(labels[most], {k: v[most] for k, v in same_width.items()}) < 0.6


class Predicts(RegressorMixin, BaseEstimator):
    """A model that predicts a function of its one feature."""

    def __init__(self, function=None):
        self.function = function
        self.n_features_in_ = 1

    def fit(self, rows, labels):
        return self

    def predict(self, rows):
        return self.function(np.asarray(rows)[:, 0])


class Pearson(BaseRegressionScore):
    def __init__(self, power):
        super().__init__(sym=True)
        self.power = power

    def get_signed_conformity_scores(self, y, y_pred, **_):
        return (y - y_pred) / y_pred ** (self.power / 2)

    def get_estimation_distribution(self, y_pred, conformity_scores, **_):
        return y_pred + conformity_scores * y_pred ** (self.power / 2)


@pytest.mark.parametrize("distribution", KINDS)
def test_what_is_applied_is_what_mapie_gives(distribution):
    asked = target(distribution)
    labels, columns = people(distribution, 500, 3)
    new = people(distribution, 500, 4)[1]
    if distribution == "quantile":
        shares = (0.5, 1.5, np.log(2))
        models = [Predicts(lambda m, share=share: share * m) for share in shares]
        mapie = ConformalizedQuantileRegressor(models, LEVEL, prefit=True)
        mean, others = columns["score"] / np.log(2), new["score"] / np.log(2)
        mapie.conformalize(mean.reshape(-1, 1), labels)
        _, ends = mapie.predict_interval(others.reshape(-1, 1), symmetric_correction=True)
    else:
        powers = {"poisson": 1.0, "tweedie": POWER}
        score = Pearson(powers[distribution]) if distribution in powers else "absolute"
        mapie = SplitConformalRegressor(Predicts(lambda m: m), LEVEL, score)
        mapie.conformalize(columns["score"].reshape(-1, 1), labels)
        _, ends = mapie.predict_interval(new["score"].reshape(-1, 1))
    given = learn_interval(asked, [(labels, columns)]).apply(new, asked)
    least = asked.lowest_score
    lower = np.minimum(np.maximum(ends[:, 0, 0], -np.inf if least is None else least), new["score"])
    np.testing.assert_allclose(given["lower"], lower, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(given["upper"], np.maximum(ends[:, 1, 0], new["score"]), rtol=1e-9)


@given(
    st.sampled_from(["poisson", "tweedie", "normal"]),
    st.floats(0, 50),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=9),
)
def test_a_score_lies_in_its_interval_and_both_in_their_range(distribution, quantile, scores):
    asked, score = target(distribution), np.array(scores)
    ends = Interval(LEVEL, quantile).apply({"score": score}, asked)
    assert (ends["lower"] <= score).all()
    assert (score <= ends["upper"]).all()
    assert np.isfinite(ends["upper"]).all()
    assert asked.lowest_score is None or (ends["lower"] >= asked.lowest_score).all()


def test_an_interval_drawn_together_still_holds_its_score():
    """Quantiles too far apart are moved inwards, but not past the median."""
    columns = {"q5": np.array([0.0]), "score": np.array([9.0]), "q95": np.array([10.0])}
    ends = Interval(LEVEL, -2.0).apply(columns, target("quantile"))
    assert (ends["lower"][0], ends["upper"][0]) == (2.0, 9.0)


def test_days_are_pooled_and_an_interval_survives_its_file():
    labels, columns = people("tweedie", 600, 5)
    halves = [
        (labels[part], {name: values[part] for name, values in columns.items()})
        for part in (slice(0, 200), slice(200, None))
    ]
    learned = learn_interval(target("tweedie"), halves)
    assert learned == learn_interval(target("tweedie"), [(labels, columns)])
    assert Interval.from_dict(json.loads(json.dumps(learned.to_dict()))) == learned


def test_without_enough_rows_there_is_no_interval():
    assert learn_interval(target("poisson"), []) is None
    assert learn_interval(target("poisson"), [people("poisson", 199, 1)]) is None
    assert learn_interval(target("poisson", 0.999), [people("poisson", 999, 1)]) is None
    assert learn_interval(target("poisson", 0.999), [people("poisson", 1_001, 1)]) is not None
    assert learn_interval(target("poisson", None), [people("poisson", 999, 1)]) is None
