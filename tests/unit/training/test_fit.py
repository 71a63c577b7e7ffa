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
        split.holdout, matrix=split.holdout.matrix * -9, target=1 - split.holdout.target
    )
    again = fit_booster(dataclasses.replace(split, holdout=poisoned), use_case, threads=2, seed=3)
    assert again.ubj == fitted.ubj


def test_rounds_come_from_early_stopping_and_the_model_has_as_many(fitted, use_case):
    assert fitted.early_stopped
    assert 1 <= fitted.rounds < use_case.training.booster.max_rounds
    assert fitted.booster.num_boosted_rounds() == fitted.rounds


def test_without_validation_days_the_default_rounds_are_used(split, use_case):
    bare = dataclasses.replace(split, fit=None, validation=None)
    fitted = fit_booster(bare, use_case, threads=2, seed=3)
    assert not fitted.early_stopped
    assert fitted.validation_logloss is None
    assert fitted.rounds == use_case.training.booster.default_rounds


def test_declared_direction_holds_everywhere(split, use_case, fitted):
    grid = np.repeat(split.holdout.matrix[:50], 60, axis=0)
    idle = use_case.feature_names.index("idle_days")
    grid[:, idle] = np.tile(np.linspace(0, 300, 60), 50)
    moves = np.diff(predict(fitted.booster, grid, threads=2).reshape(50, 60), axis=1)
    assert (moves >= 0).all()
    assert (moves > 0).any()


def test_importances_are_shares_in_declared_order(fitted, use_case):
    assert list(fitted.importances) == use_case.feature_names
    assert sum(fitted.importances.values()) == pytest.approx(1)
    assert max(fitted.importances, key=fitted.importances.get) == "idle_days"


def test_reloaded_bytes_predict_the_same(fitted, split):
    again = predict(load_booster(fitted.ubj), split.holdout.matrix, threads=1)
    np.testing.assert_array_equal(again, predict(fitted.booster, split.holdout.matrix, threads=2))


def test_one_class_and_wrong_width_are_refused(split, use_case, fitted):
    constant = dataclasses.replace(split.refit, target=np.ones_like(split.refit.target))
    with pytest.raises(NotReadyError, match="refit rows hold one class"):
        fit_booster(dataclasses.replace(split, refit=constant), use_case, threads=2, seed=3)
    with pytest.raises(PermanentError, match="has 3 columns"):
        predict(fitted.booster, split.holdout.matrix[:, :3], threads=1)
