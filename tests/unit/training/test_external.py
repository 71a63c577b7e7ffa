"""Training sets that are fitted on without being in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.training.external import StoredFrame, exceeds_budget, store_rows
from evergreen.training.fit import Fitter
from evergreen.training.folds import prepare_folds
from evergreen.training.frame import LabelledFrame, label_rows
from evergreen.training.tune import declare_recipe, try_recipe
from tiny_people import FEATURES, declare


@pytest.fixture
def stored(rows, plan, use_case, tmp_path):
    shuffled = rows.take(np.random.default_rng(2).permutation(rows.num_rows))
    return store_rows(ds.dataset(shuffled), plan, use_case, tmp_path)


def test_a_budget_says_what_is_kept_in_memory(use_case, monkeypatch):
    monkeypatch.setenv("EVERGREEN_TRAINING_MB", "1")
    # Four features of four bytes.
    assert not exceeds_budget(62_500, use_case)
    assert exceeds_budget(62_501, use_case)
    monkeypatch.setenv("EVERGREEN_TRAINING_MB", "0")
    assert exceeds_budget(1, use_case)


def test_the_rows_are_those_in_memory(stored, labelled, plan):
    days = plan.final[::-1]
    assert stored.of(days).equals(labelled.of(days))
    outside, inside = stored.to_fit(days), labelled.to_fit(days)
    assert isinstance(outside, StoredFrame)
    assert isinstance(inside, LabelledFrame)
    assert outside.digest == inside.digest
    assert len([*outside.batches()]) == len(days)
    assert outside.without(["vip"]).digest == inside.without(["vip"]).digest
    some = np.random.default_rng(3).random(inside.rows) < 0.1
    # Of one day nothing is left.
    some[:500] = False
    again = np.arange(some.sum()) % 2 == 0
    thinned = outside.filter(some).filter(again)
    assert thinned.digest == inside.filter(some).filter(again).digest
    assert thinned.load().keys.equals(inside.filter(some).filter(again).keys)
    few = outside.load(values=400)
    assert 90 <= few.rows <= 100
    assert few.digest == inside.filter(np.arange(inside.rows) % 15 == 0).digest


@pytest.mark.parametrize("family", ["linear", "trees"])
def test_models_are_those_of_memory_byte_for_byte_twice(
    family, stored, labelled, plan, fitter, use_case
):
    recipe = declare_recipe(family, use_case)
    inside, *outside = (
        fitter.fit(recipe, rows.to_fit(plan.final), "fit") for rows in (labelled, stored, stored)
    )
    assert [model.ubj for model in outside] == [inside.ubj] * 2


def test_categories_are_those_of_all_days(rows, plan, tmp_path):
    towns = pc.utf8_slice_codeunits(rows["customer_id"], 4)
    named = rows.append_column("town", pc.if_else(rows["vip"], towns, None))
    shop = declare({"name": "gone"}, {**FEATURES, "town": {"dtype": "category", "nullable": True}})
    fitter = Fitter(shop, threads=2, seed=3)
    inside, outside = (
        labelled.to_fit(plan.final)
        for labelled in (
            label_rows(named, plan, shop),
            store_rows(ds.dataset(named), plan, shop, tmp_path),
        )
    )
    assert outside.inputs == inside.inputs
    assert len(inside.inputs.categories["town"]) == 100
    recipe = replace(declare_recipe("trees", shop), rounds=10)
    assert fitter.fit(recipe, outside, "fit").ubj == fitter.fit(recipe, inside, "fit").ubj


def test_rounds_are_searched_alike_and_nothing_stays_behind(stored, labelled, plan, fitter, trees):
    found = [
        try_recipe("trees", trees, prepare_folds(rows, plan), fitter) for rows in (stored, labelled)
    ]
    assert found[0].recipe == found[1].recipe
    np.testing.assert_array_equal(found[0].losses, found[1].losses)
    assert {path.suffix for path in stored.folder.iterdir()} == {".arrow"}


def test_a_fit_that_fails_leaves_nothing_behind(rows, plan, use_case, fitter, trees, tmp_path):
    place = rows.column_names.index("idle_days")
    newest = pc.equal(rows["as_of"], pa.scalar(use_case.as_of(plan.final[-1])))
    infinite = pc.if_else(newest, np.inf, rows["idle_days"])
    broken = rows.set_column(place, "idle_days", infinite)
    stored = store_rows(ds.dataset(broken), plan, use_case, tmp_path)
    with pytest.raises(ValidationError, match="500 infinite values"):
        fitter.fit(trees, stored.to_fit(plan.final), "fit")
    assert {path.suffix for path in tmp_path.iterdir()} == {".arrow"}


def test_what_is_no_training_set_is_refused(rows, plan, use_case, tmp_path: Path):
    def store(table: pa.Table) -> None:
        store_rows(ds.dataset(table), plan, use_case, tmp_path)

    newest = pa.scalar(use_case.as_of(plan.holdout), rows["as_of"].type)
    with pytest.raises(NotReadyError, match=f"no labelled rows for {plan.holdout};"):
        store(rows.filter(pc.not_equal(rows["as_of"], newest)))
    with pytest.raises(ValidationError, match="only 500 different pairs"):
        store(pa.concat_tables([rows, rows.slice(0, 1)]))
    for name in ("label", "as_of"):
        with pytest.raises(ConfigError, match=f"lacks the column {name}"):
            store(rows.drop_columns([name]))
        place, column = rows.column_names.index(name), rows[name]
        nothing = pc.if_else(np.arange(len(column)) == 0, pa.scalar(None, column.type), column)
        with pytest.raises(ValidationError, match=f"column {name} is null in 1 of"):
            store(rows.set_column(place, name, nothing))
