import numpy as np
import pytest
from scipy.special import expit

from evergreen.monitoring.estimate import ESTIMATES, estimate_performance, estimates_table
from tiny_people import FEATURES, declare

TARGET = declare({"name": "gone"}, FEATURES).target


def people(seed, rows=3_000, few=0.5, meaning=lambda few, odds: odds):
    """What a model reads, scores, and labels: of people who buy little and of others.

    `meaning` says what log-odds of the score are in truth, of either.
    """
    random = np.random.default_rng(seed)
    is_few = random.random(rows) < few
    odds = random.normal(np.where(is_few, 0.5, -1.0), 1.2)
    labels = (random.random(rows) < expit(meaning(is_few, odds))).astype(float)
    features = np.column_stack([is_few + random.normal(0, 0.1, rows), odds])
    return features.astype(np.float32), expit(odds), labels


def estimate(tonight, labelled=(), seed=1):
    found = estimate_performance(TARGET, tonight[:2], labelled, seed=seed, threads=1)
    return {(one.method, one.metric): one for one in found}


def truth(tonight):
    return TARGET.measure(tonight[2], tonight[1]) | {"mean_label": tonight[2].mean()}


def held(method, metric, tonights, labelled):
    """How many of the nights an interval holds, and the mean error."""
    inside, errors = 0, []
    for night, known in zip(tonights, labelled, strict=True):
        one, came = estimate(night, known)[method, metric], truth(night)[metric]
        inside += one.lower <= came <= one.upper
        errors.append(one.value - came)
    return inside, float(np.mean(errors))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auc", "logloss", "mean_label"])
def test_scores_that_mean_what_they_say_are_estimated_by_themselves(metric):
    nights = [people(seed) for seed in range(20)]
    labelled = [[people(100 + seed), people(200 + seed)] for seed in range(20)]
    for method in ("cbpe", "pape"):
        inside, error = held(method, metric, nights, labelled)
        assert inside >= 17, method
        assert abs(error) < 0.01


@pytest.mark.slow
def test_other_people_are_judged_by_those_that_resemble_them():
    """Scores of people who buy little promise too much; tonight most are such."""

    def meaning(is_few, odds):
        return np.where(is_few, odds - 0.8, odds)

    nights = [people(seed, few=0.9, meaning=meaning) for seed in range(15)]
    known = [[people(100 + seed, few=0.3, meaning=meaning)] for seed in range(15)]
    inside, error = held("cbpe", "mean_label", nights, known)
    assert inside == 0
    assert error > 0.1
    inside, error = held("pape", "mean_label", nights, known)
    assert inside >= 9
    assert abs(error) < 0.02


def test_when_habits_change_only_labels_can_tell():
    night, known = people(1, meaning=lambda few, odds: -odds), [people(2)]
    found = estimate(night, known)
    assert truth(night)["auc"] < 0.5 < found["pape", "auc"].lower
    assert "as before; labels will tell" in found["pape", "auc"].reason


def test_too_little_to_learn_from_leaves_the_scores_themselves():
    night = people(1)
    features, scores, labels = people(2)
    for known in (
        [],
        [(features[:199], scores[:199], labels[:199])],
        [(features, scores, np.ones(len(labels)))],
    ):
        assert {method for method, _ in estimate(night, known)} == {"cbpe"}
    # Some metrics do not exist where all are certain of the same.
    certain = estimate((night[0], np.zeros(len(night[1])), None))
    assert certain["cbpe", "auc"].value is None
    assert certain["cbpe", "mean_label"].value == 0.0


def test_unknown_values_and_repetition():
    features, scores, labels = people(1)
    features[::3, 0] = np.nan
    once, again = (estimate((features, scores, labels), [people(2)]) for _ in range(2))
    assert once == again
    table = estimates_table(np.datetime64("2026-03-01").astype(object), 3, list(once.values()))
    assert table.schema == ESTIMATES
