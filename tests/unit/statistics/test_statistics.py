"""Intervals and tests, held against libraries and against simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from evergreen.statistics import areas_under_curve, clustered_mean, interval, resample
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


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(3).exponential(size=2_000)

    def mean(weights):
        return {"mean": weights @ values / weights.sum(axis=1)}

    samples = resample(mean, 2_000, resamples=4_000, seed=4)["mean"]
    reach = 1.96 * values.std() / np.sqrt(2_000)
    low, high = interval(samples, level=0.95)
    assert low == pytest.approx(values.mean() - reach, abs=0.12 * reach)
    assert high == pytest.approx(values.mean() + reach, abs=0.12 * reach)
    assert (resample(mean, 2_000, resamples=4_000, seed=4)["mean"] == samples).all()


def test_blocks_bound_the_memory_and_lose_no_sample(monkeypatch):
    monkeypatch.setattr("evergreen.statistics.bootstrap._CELLS", 100)
    blocks = []

    def rows(weights):
        blocks.append(weights.shape)
        return {"rows": weights.sum(axis=1, dtype=float)}

    samples = resample(rows, 40, resamples=7, seed=1)["rows"]
    assert blocks == [(2, 40), (2, 40), (2, 40), (1, 40)]
    assert len(samples) == 7


def test_weights_are_poisson_with_mean_one():
    drawn = []
    resample(
        lambda w: drawn.append(w) or {"x": w[:, 0].astype(float)}, 1_000, resamples=500, seed=2
    )
    weights = np.concatenate(drawn).astype(float)
    assert weights.mean() == pytest.approx(1, abs=0.005)
    assert weights.var() == pytest.approx(1, abs=0.01)


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
