"""Intervals looked at every night, held against customers who are scored night after night."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from evergreen.statistics import always_valid, clustered_mean

NIGHTS, HORIZON = 50, 28


def test_looking_every_night_is_wrong_in_at_most_one_history_of_twenty() -> None:
    chance = np.random.default_rng(11)
    naive = valid = 0
    for _ in range(200):
        looks = [*nightly(differences(chance, worse=0.0))]
        naive += any(abs(mean) > 1.96 * error for mean, error in looks)
        valid += any(not holds(mean, error, looks[0][1], 0.0) for mean, error in looks)
    assert valid / 200 <= 0.05
    # What a test for one look makes of it, though it allows for customers who come again.
    assert naive / 200 > 0.1


def test_a_worse_model_is_told_within_days() -> None:
    chance = np.random.default_rng(12)
    told = []
    for _ in range(20):
        looks = [*nightly(differences(chance, worse=0.8))]
        nights = [
            night
            for night, (mean, error) in enumerate(looks)
            if not holds(mean, error, looks[0][1], 0.0)
        ]
        told.append(nights[0])
        assert looks[nights[0]][0] > 0
    assert np.median(told) <= 5


@pytest.mark.parametrize("error", [0.0, math.nan])
def test_without_information_everything_is_possible(error: float) -> None:
    assert always_valid(0.3, error, 0.1) == (-math.inf, math.inf)


def test_it_is_narrowest_beside_a_single_look_where_it_is_tuned_for() -> None:
    def price(error: float) -> float:
        return always_valid(0, error, 0.1)[1] / (1.96 * error)

    # What may be looked at for ever costs some width.
    assert price(0.1) == pytest.approx(1.6, abs=0.1)
    assert all(price(0.1) < price(error) for error in (0.02, 0.05, 0.2, 0.5))


def holds(mean: float, error: float, tuned_for: float, truth: float) -> bool:
    lower, upper = always_valid(mean, error, tuned_for)
    return lower <= truth <= upper


def differences(chance: np.random.Generator, worse: float) -> NDArray[np.float64]:
    """Losses of one model minus another's, `[customers, nights]`; NaN before somebody's first.

    Customers order at rates of their own, in a season, on nights that move all of them; five new
    ones come every night. Labels of neighbouring nights share all days of their horizon but one.
    """
    first, new = 800, 5
    joined = np.r_[np.zeros(first, int), np.repeat(np.arange(NIGHTS), new)]
    rate = chance.gamma(1.5, 0.02, len(joined))[:, None]
    days = np.arange(NIGHTS + HORIZON)
    season = 1 + 0.3 * np.sin(2 * np.pi * days / 365 + chance.uniform(0, 2 * np.pi))
    orders = chance.random((len(joined), len(days))) < rate * season * np.exp(
        chance.normal(0, 0.1, len(days))
    )
    so_far = np.cumsum(np.c_[np.zeros(len(joined), int), orders], axis=1)
    churned = so_far[:, HORIZON : HORIZON + NIGHTS] == so_far[:, :NIGHTS]
    truth = np.exp(-rate * HORIZON)
    odds = np.log(truth / (1 - truth))
    champion, challenger = (
        1 / (1 + np.exp(-odds - chance.normal(0, scatter, odds.shape)))
        for scatter in (0.5, 0.5 + worse)
    )
    found = (challenger - churned) ** 2 - (champion - churned) ** 2
    return np.where(joined[:, None] <= np.arange(NIGHTS), found, np.nan)


def nightly(found: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Mean difference up to each night, with the error of customers as clusters."""
    looks = []
    for night in range(found.shape[1]):
        so_far = found[:, : night + 1]
        who, which = np.nonzero(~np.isnan(so_far))
        looks.append(clustered_mean(so_far[who, which], np.unique(who, return_inverse=True)[1]))
    return looks
