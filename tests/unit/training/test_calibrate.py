import json

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from evergreen.training.calibrate import KINDS, Calibration, calibrate, choose_kind, pool


def sample(rows, distort, seed=1):
    """Labels, and scores that are the true probabilities distorted in their log-odds."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, rows)
    labels = (rng.random(rows) < expit(odds)).astype(float)
    return labels, expit(distort(odds))


def confident(odds):
    return 2.5 * odds + 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_order_and_range_and_survives_its_file(kind):
    labels, scores = sample(2_000, confident)
    fitted = calibrate(kind, labels, scores)
    grid = np.linspace(0, 1, 1_001)
    after = fitted.apply(grid)
    assert (np.diff(after) >= 0).all()
    assert (after >= 0).all()
    assert (after <= 1).all()
    again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict())))
    np.testing.assert_array_equal(again.apply(grid), after)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "identity"])
def test_overconfident_scores_are_mended_on_rows_of_their_own(kind):
    fitted = calibrate(kind, *sample(4_000, confident))
    labels, scores = sample(20_000, confident, seed=2)
    best = log_loss(labels, expit((logit(scores) - 1) / 2.5))
    assert log_loss(labels, scores) > best + 0.1
    assert log_loss(labels, fitted.apply(scores)) < best + 0.01


def days(*distortions, rows=3_000):
    return [sample(rows, distort, seed) for seed, distort in enumerate(distortions)]


def straight(odds):
    return odds


def bent(odds):
    return np.where(odds > 0, 4 * odds, odds / 4)


def test_what_is_calibrated_already_is_left_alone():
    kind, losses = choose_kind(days(straight, straight, straight))
    assert set(losses) == set(KINDS)
    # Platt's two numbers may win by chance, by next to nothing; no curve does.
    assert kind in ("identity", "platt")
    assert losses["identity"] - losses[kind] < 0.001


def test_a_lasting_distortion_of_the_log_odds_is_platts():
    found = days(confident, confident, confident)
    assert choose_kind(found)[0] == "platt"
    assert 1 / calibrate("platt", *pool(found)).slope == pytest.approx(2.5, rel=0.15)


def test_a_lasting_distortion_that_is_no_line_needs_a_curve():
    assert choose_kind(days(bent, bent, rows=20_000))[0] in ("isotonic", "venn_abers")


def test_a_season_is_not_mistaken_for_a_distortion():
    """Scores run low, then high, then low: what one day teaches makes the next one worse."""
    low, high = (lambda odds: odds - 1), (lambda odds: odds + 1)
    assert choose_kind(days(low, high, low, high))[0] == "identity"


def test_one_day_says_nothing_about_another():
    assert choose_kind(days(confident)) == ("identity", {})


def test_numpy_still_warns_after_venn_abers_was_imported():
    calibrate("venn_abers", *sample(200, confident))
    assert np.geterr()["divide"] == "warn"


def test_a_day_that_says_the_opposite_turns_no_score_upside_down():
    turned = [(1 - labels, scores) for labels, scores in days(confident, confident, confident)]
    for kind in KINDS:
        after = calibrate(kind, *pool(turned)).apply(np.linspace(0, 1, 1_001))
        assert (np.diff(after) >= 0).all()
    assert calibrate("platt", *pool(turned)) == Calibration()
