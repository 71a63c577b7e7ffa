import dataclasses

import numpy as np
import pytest

from evergreen.errors import NotReadyError, PermanentError
from evergreen.training.fit import fit_booster, load_booster, predict
from evergreen.training.frame import label_split


def test_same_rows_in_any_order_give_the_same_bytes(rows, plan, use_case, fitted):
    shuffled = rows.take(np.random.default_rng(2).permutation(rows.num_rows))
    again = fit_booster(label_split(shuffled, plan, use_case), use_case, threads=2, seed=3)
    assert again.ubj == fitted.ubj
    other = fit_booster(label_split(rows, plan, use_case), use_case, threads=2, seed=4)
    assert other.ubj != fitted.ubj


def test_holdout_does_not_reach_the_model(split, use_case, fitted):
    poisoned = dataclasses.replace(
        split.holdout, matrix=split.holdout.matrix * -9, labels=1 - split.holdout.labels
    )
    unseen = split.holdout_features.slice(0, 0)
    blind = dataclasses.replace(split, holdout=poisoned, holdout_features=unseen)
    again = fit_booster(blind, use_case, threads=2, seed=3)
    assert again.ubj == fitted.ubj


def test_rounds_come_from_early_stopping_and_the_model_has_as_many(fitted, use_case):
    assert fitted.early_stopped
    assert 1 <= fitted.rounds < use_case.training.booster.max_rounds
    assert fitted.booster.num_boosted_rounds() == fitted.rounds


def test_without_validation_days_the_default_rounds_are_used(split, use_case):
    bare = dataclasses.replace(split, fit=None, validation=None)
    fitted = fit_booster(bare, use_case, threads=2, seed=3)
    assert not fitted.early_stopped
    assert fitted.validation_loss is None
    assert fitted.rounds == use_case.training.booster.default_rounds


def test_declared_direction_holds_everywhere(split, use_case, fitted):
    grid = np.repeat(split.holdout.matrix[:50], 60, axis=0)
    idle = use_case.feature_names.index("idle_days")
    grid[:, idle] = np.tile(np.linspace(0, 300, 60), 50)
    scores = predict(fitted.booster, grid, use_case.target, threads=2)["score"]
    moves = np.diff(scores.reshape(50, 60), axis=1)
    assert (moves >= 0).all()
    assert (moves > 0).any()


def test_importances_are_shares_in_declared_order(fitted, use_case):
    assert list(fitted.importances) == use_case.feature_names
    assert sum(fitted.importances.values()) == pytest.approx(1)
    assert max(fitted.importances, key=fitted.importances.get) == "idle_days"


def test_reloaded_bytes_predict_the_same(fitted, split, use_case):
    matrix, target = split.holdout.matrix, use_case.target
    again = predict(load_booster(fitted.ubj), matrix, target, threads=1)["score"]
    once = predict(fitted.booster, matrix, target, threads=2)["score"]
    np.testing.assert_array_equal(again, once)


def test_equal_labels_and_wrong_width_are_refused(split, use_case, fitted):
    constant = dataclasses.replace(split.refit, labels=np.ones_like(split.refit.labels))
    with pytest.raises(NotReadyError, match="labels of the refit rows are 1"):
        fit_booster(dataclasses.replace(split, refit=constant), use_case, threads=2, seed=3)
    with pytest.raises(PermanentError, match="has 3 columns"):
        predict(fitted.booster, split.holdout.matrix[:, :3], use_case.target, threads=1)
