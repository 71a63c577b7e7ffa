"""Intervals and tests, held against libraries and against simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from evergreen.contract import load_use_case
from evergreen.statistics import (
    areas_under_curve,
    clustered_mean,
    interval,
    of_rows,
    once,
    ratio,
    resample,
)
from evergreen.statistics.multiple import holm


def test_areas_are_scikit_learns_with_and_without_ties():
    rng = np.random.default_rng(1)
    labels = (rng.random(700) < 0.3).astype(float)
    scores = np.vstack([labels + rng.normal(0, 2, 700), np.round(labels + rng.normal(0, 2, 700))])
    found = areas_under_curve(labels, scores)
    assert found.values == pytest.approx([roc_auc_score(labels, s) for s in scores])


def test_equal_models_differ_by_nothing():
    labels = np.array([0.0, 1, 0, 1, 1])
    scores = np.tile([0.1, 0.2, 0.3, 0.4, 0.5], (2, 1))
    assert areas_under_curve(labels, scores).difference(level=0.95) == (0, 0, 0, 0)


def test_delong_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(2)

    def sample(rows):
        labels = (rng.random(rows) < 0.3).astype(float)
        shared = labels + rng.normal(size=rows)
        return labels, np.vstack([shared + rng.normal(0, s, rows) for s in (0.5, 1.0)])

    truth = np.subtract(*areas_under_curve(*sample(400_000)).values)
    covered = 0
    for _ in range(400):
        _, low, high, _ = areas_under_curve(*sample(300)).difference(level=0.9)
        covered += low <= truth <= high
    # Three standard errors of a share of 400.
    assert covered / 400 == pytest.approx(0.9, abs=0.045)


def mean_of(values):
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(3).exponential(size=2_000)

    mean = of_rows(mean_of, values)
    samples = resample(mean, 2_000, resamples=4_000, seed=4)["mean"]
    reach = 1.96 * values.std() / np.sqrt(2_000)
    low, high = interval(samples, level=0.95)
    assert low == pytest.approx(values.mean() - reach, abs=0.12 * reach)
    assert high == pytest.approx(values.mean() + reach, abs=0.12 * reach)
    assert (resample(mean, 2_000, resamples=4_000, seed=4)["mean"] == samples).all()


def test_blocks_bound_the_memory_and_lose_no_sample(monkeypatch):
    monkeypatch.setattr("evergreen.statistics.bootstrap._CELLS", 100)
    blocks = []

    def count(weights):
        blocks.append(weights.shape)
        return {"rows": weights.sum(axis=1, dtype=float)}

    samples = resample(lambda part: count, 40, resamples=7, seed=1)["rows"]
    assert blocks == [(2, 40), (2, 40), (2, 40), (1, 40)]
    assert len(samples) == 7


def test_weights_are_poisson_with_mean_one():
    drawn = []

    def keep(weights):
        drawn.append(weights)
        return {"x": weights[:, 0].astype(float)}

    resample(lambda part: keep, 1_000, resamples=500, seed=2)
    weights = np.concatenate(drawn).astype(float)
    assert weights.mean() == pytest.approx(1, abs=0.005)
    assert weights.var() == pytest.approx(1, abs=0.01)


def test_parts_of_many_rows_scatter_as_all_of_them_do(monkeypatch):
    rng = np.random.default_rng(9)
    habit = rng.normal(size=60_000)
    labels = (rng.random(60_000) < 1 / (1 + np.exp(1 - habit))).astype(float)
    first, second = (1 / (1 + np.exp(1 - habit - rng.normal(0, s, 60_000))) for s in (0.2, 0.5))
    target = load_use_case("churn").target
    drawn = []

    def difference(labels, first, second):
        ours, theirs = target.resampled(labels, first), target.resampled(labels, second)

        def metrics(weights):
            drawn.append(weights.size)
            other = theirs(weights)
            own = {f"own {name}": values for name, values in other.items()}
            return own | {name: values - other[name] for name, values in ours(weights).items()}

        return metrics

    measure = of_rows(difference, labels, first, second)
    few = resample(measure, 60_000, resamples=600, seed=1)
    assert sum(drawn) < 600 * 20_000 + 4 * 60_000
    monkeypatch.setattr("evergreen.statistics.bootstrap._PART", 60_000)
    every = resample(measure, 60_000, resamples=400, seed=2)
    for name, values in every.items():
        assert len(few[name]) == 600
        # Six standard errors of a standard deviation of 400.
        assert np.std(few[name]) == pytest.approx(np.std(values), rel=0.25), name
        assert np.mean(few[name]) == pytest.approx(np.mean(values), abs=0.35 * np.std(values)), name


def test_what_few_parts_lack_is_nan_and_what_all_lack_exists_nowhere():
    def metrics(part):
        return lambda weights: {"none": np.full(len(weights), np.nan)}

    assert np.isnan(resample(metrics, 50_000, resamples=5, seed=1)["none"]).all()
    assert once(metrics, 50_000) == {}


def test_a_ratio_of_sums_is_covered_as_often_as_it_says():
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(2_000):
        of = (rng.random(400) < 0.4).astype(float)
        top = of * (rng.random(400) < 0.3)
        found, error = ratio(top, of)
        covered += abs(found - 0.3) < 1.96 * error
    # Three standard errors of a share of 2,000, and what a normal interval of a share lacks.
    assert covered / 2_000 == pytest.approx(0.95, abs=0.025)


def test_rows_of_one_customer_say_less_than_as_many_customers():
    rng = np.random.default_rng(5)
    wrong = naive_wrong = 0
    for _ in range(500):
        customers = np.repeat(np.arange(150), 4)
        values = rng.normal(size=150)[customers] + 0.5 * rng.normal(size=600)
        mean, error = clustered_mean(values, customers)
        wrong += abs(mean) > 1.96 * error
        naive_wrong += abs(mean) > 1.96 * values.std() / np.sqrt(600)
    assert wrong / 500 == pytest.approx(0.05, abs=0.03)
    assert naive_wrong / 500 > 0.2


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=6))
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(p_values):
    adjusted = holm(p_values)
    assert set(adjusted) == set(p_values)
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1, p * len(p_values)) + 1e-12
    for first, second in itertools.permutations(p_values, 2):
        if p_values[first] < p_values[second]:
            assert adjusted[first] <= adjusted[second]


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )
