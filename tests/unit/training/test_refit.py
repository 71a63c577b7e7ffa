import numpy as np
import pytest

from evergreen.training.refit import measure_agreement


def test_the_pair_is_one_recipe_a_horizon_apart(pair, plan, labelled, fitter, trees):
    assert pair.measured.family == pair.final.family == trees.family
    assert pair.measured.calibration.kind == pair.final.calibration.kind
    again = fitter.fit(trees, labelled.frame(plan.final), "fit")
    assert again.booster.num_boosted_rounds() == pair.final.booster.num_boosted_rounds()
    assert {*plan.evaluation.fit} < {*plan.final, *plan.evaluation.fit}
    assert plan.holdout in plan.final
    assert plan.holdout not in plan.evaluation.fit


@pytest.mark.parametrize(
    ("final", "correlation", "shift"),
    [
        (lambda s: s, 1.0, 0.0),
        (lambda s: s**3, 1.0, None),
        (lambda s: 1 - s, -1.0, 0.0),
        (lambda s: s + 0.5, 1.0, 0.5 / np.sqrt(1 / 12)),
        (lambda s: np.full_like(s, 0.5), 0.0, 0.0),
    ],
)
def test_agreement_is_of_ranks_and_of_means(final, correlation, shift):
    scores = np.linspace(0, 1, 2_001)
    found = measure_agreement(scores, final(scores))
    assert found.correlation == pytest.approx(correlation)
    if shift is not None:
        assert found.shift == pytest.approx(shift, abs=2e-3)


def test_two_constants_agree_if_they_are_equal():
    assert measure_agreement(np.zeros(5), np.zeros(5)).correlation == 1
    assert measure_agreement(np.zeros(5), np.ones(5)).shift == 1
