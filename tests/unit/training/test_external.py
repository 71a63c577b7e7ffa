"""Training sets that are fitted on without being in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.training.external import StoredFrame, exceeds_budget, store_rows
from evergreen.training.folds import prepare_folds
from evergreen.training.frame import LabelledFrame
from evergreen.training.refit import fit_pair
from evergreen.training.tune import declare_recipe, try_recipe

FAMILIES = ("linear", "trees")


@pytest.fixture
def stored(rows, plan, use_case, tmp_path):
    shuffled = rows.take(np.random.default_rng(2).permutation(rows.num_rows))
    return store_rows(ds.dataset(shuffled), plan, use_case, tmp_path)


@pytest.fixture
def words(rows):
    """Rows with a category, in another dictionary every day."""
    named = pc.if_else(rows["vip"], pc.utf8_slice_codeunits(rows["customer_id"], 3, 5), None)
    return named.dictionary_encode()


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


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_those_of_memory_byte_for_byte_twice(
    family, stored, labelled, plan, fitter, use_case
):
    recipe = declare_recipe(family, use_case)
    inside = fit_pair(labelled, plan, recipe, fitter)
    for _ in range(2):
        outside = fit_pair(stored, plan, recipe, fitter)
        assert outside.measured.ubj == inside.measured.ubj
        assert outside.final.ubj == inside.final.ubj


def test_rounds_are_searched_alike_and_nothing_stays_behind(stored, labelled, plan, fitter, trees):
    found = [
        try_recipe("trees", trees, prepare_folds(rows, plan), fitter) for rows in (stored, labelled)
    ]
    assert found[0].recipe == found[1].recipe
    np.testing.assert_array_equal(found[0].losses, found[1].losses)
    assert {path.suffix for path in stored.folder.iterdir()} == {".arrow"}


def test_what_breaks_a_fit_leaves_nothing_behind(stored, plan, fitter, trees, rows, use_case):
    day = plan.final[-1]
    infinite = pa.array(np.full(len(stored.of([day])), np.inf))
    broken = stored.of([day])
    place = broken.column_names.index("idle_days")
    part = rows.filter(pc.equal(rows["as_of"], broken["as_of"][0]))
    poisoned = pa.concat_tables(
        [
            rows.filter(pc.not_equal(rows["as_of"], broken["as_of"][0])),
            part.set_column(place, "idle_days", infinite),
        ]
    )
    folder = stored.folder / "again"
    folder.mkdir()
    bad = store_rows(ds.dataset(poisoned), plan, use_case, folder)
    with pytest.raises(ValidationError, match="500 infinite values"):
        fitter.fit(trees, bad.to_fit(plan.final), "fit")
    assert {path.suffix for path in folder.iterdir()} == {".arrow"}


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
