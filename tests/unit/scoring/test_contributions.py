"""Contributions are XGBoost's own, bit by bit."""

import numpy as np
import pytest
import xgboost as xgb

from evergreen.scoring.contributions import Contributions
from evergreen.training.inputs import Inputs
from evergreen.training.model import Model

ROWS = 9_000
NAMES = ("count", "amount", "gap", "country", "flag")
INPUTS = Inputs(NAMES, {"country": tuple("ABCDEFGHIJKL")})


@pytest.fixture(scope="module")
def matrix():
    """Counts (many equal), amounts, gaps (many missing), categories (some unknown), flags."""
    chance = np.random.default_rng(3)
    gap = np.where(chance.random(ROWS) < 0.3, np.nan, chance.exponential(20.0, ROWS))
    country = np.where(chance.random(ROWS) < 0.1, np.nan, chance.integers(0, 12, ROWS))
    columns = (
        chance.poisson(4.0, ROWS),
        chance.gamma(2.0, 50.0, ROWS),
        gap,
        country,
        chance.random(ROWS) < 0.3,
    )
    return np.column_stack(columns).astype(np.float32)


def fit(matrix, rounds=25, **parameters):
    known = np.nan_to_num(matrix)
    labels = known[:, 0] + known[:, 1] / 50 + np.sin(known[:, 2]) + 2 * (known[:, 3] % 3)
    data = xgb.QuantileDMatrix(
        matrix,
        labels,
        feature_names=list(NAMES),
        feature_types=INPUTS.types,
        enable_categorical=True,
    )
    told = {"max_depth": 3, "eta": 0.2, "nthread": 1, "seed": 1, **parameters}
    return xgb.train(told, data, rounds)


def by_xgboost(booster, matrix):
    rows = xgb.DMatrix(
        matrix,
        feature_names=list(NAMES),
        feature_types=INPUTS.types,
        enable_categorical=True,
    )
    return booster.predict(rows, pred_contribs=True)[..., :-1]


def of(booster, matrix, output=0):
    """By the trees' answers; the test fails if rows were left to XGBoost."""
    contributions = Contributions(Model(booster, INPUTS), output, threads=1)
    found = contributions.of(matrix)
    assert contributions._trees
    # What is worked out serves few rows, too.
    assert np.array_equal(contributions.of(matrix[:7]), found[:7])
    return found


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"max_depth": 1},
        # Some trees have no split.
        {"max_depth": 2, "gamma": 500},
        # Sampling makes other defaults for what is missing; categories one by one, or in groups.
        {"subsample": 0.5, "colsample_bytree": 0.4, "min_child_weight": 300},
        {"max_cat_to_onehot": 20},
        {"max_depth": 0, "grow_policy": "lossguide", "max_leaves": 9},
        {"monotone_constraints": "(1,-1,0,0,0)"},
    ],
)
def test_they_are_those_of_xgboost_bit_by_bit(matrix, parameters):
    booster = fit(matrix, **parameters)
    assert np.array_equal(of(booster, matrix), by_xgboost(booster, matrix))
    # What training has not seen: values on both sides, and nothing at all.
    strange = matrix[:3_000].copy()
    strange[::3, :3] = np.nan
    strange[1::3, :3] *= -1_000
    strange[::5] = np.nan
    assert np.array_equal(of(booster, strange), by_xgboost(booster, strange))


def test_values_at_the_bounds_of_splits_go_where_xgboost_sends_them(matrix):
    booster = fit(matrix)
    frame = booster.trees_to_dataframe()
    bounds = frame.loc[frame["Feature"] == "amount", "Split"].unique().astype(np.float32)
    sides = np.concatenate([bounds, np.nextafter(bounds, np.float32(-np.inf))])
    rows = matrix[np.arange(4_000)]
    rows[:, 1] = np.resize(sides, len(rows))
    assert np.array_equal(of(booster, rows), by_xgboost(booster, rows))


def test_one_of_several_outputs_is_explained(matrix):
    booster = fit(matrix, rounds=8, objective="reg:quantileerror", quantile_alpha=[0.1, 0.5, 0.9])
    expected = by_xgboost(booster, matrix)
    assert np.array_equal(of(booster, matrix, output=1), expected[:, 1])
    assert not np.array_equal(expected[:, 0], expected[:, 1])


def test_trees_without_a_split_say_nothing(matrix):
    leaves = fit(matrix, max_depth=2, gamma=500).trees_to_dataframe().groupby("Tree").size()
    assert set(leaves) >= {1, 7}
    booster = fit(matrix, rounds=3, gamma=1e9)
    assert not Contributions(Model(booster, INPUTS), threads=1).of(matrix).any()


def test_few_rows_and_deep_trees_are_left_to_xgboost(matrix):
    for booster, rows in ((fit(matrix), matrix[:50]), (fit(matrix, 4, max_depth=6), matrix)):
        contributions = Contributions(Model(booster, INPUTS), threads=1)
        assert np.array_equal(contributions.of(rows), by_xgboost(booster, rows))
        assert not contributions._trees
