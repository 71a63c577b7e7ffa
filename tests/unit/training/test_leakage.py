from dataclasses import replace

import numpy as np

from evergreen.training.evaluate import Holdout
from evergreen.training.frame import label_rows
from evergreen.training.leakage import measure_leakage
from tiny_people import population


def gap(rows, plan, use_case, fitter, recipe):
    labelled = label_rows(rows, plan, use_case)
    holdout = Holdout.of(labelled, plan, fitter)
    frame = labelled.frame(plan.evaluation.fit)
    scores = holdout.score(fitter.fit(recipe.for_rows(frame.rows), frame, "fit"))
    return measure_leakage(labelled, plan, recipe, fitter, holdout, scores)


def test_rows_that_know_nothing_of_each_other_leak_nothing(plan, use_case, fitter, trees):
    found = gap(population(plan.days), plan, use_case, fitter, trees)
    assert found.lower < 0 < found.upper


def test_what_repeats_itself_within_customers_leaks(plan, use_case, fitter, trees):
    """Everybody keeps one label on all days but the holdout, and is known by one feature."""
    rows = population(plan.days)
    rng = np.random.default_rng(8)
    people = np.unique(rows["customer_id"].to_numpy())
    known = dict(zip(people, rng.permutation(len(people)) / 10.0, strict=True))
    fate = dict(zip(people, rng.random(len(people)) < 0.5, strict=True))
    ids = rows["customer_id"].to_pylist()
    last = np.array(rows["as_of"].to_pylist()) == use_case.as_of(plan.holdout)
    labels = np.where(last, rng.random(len(ids)) < 0.5, [fate[one] for one in ids])
    rows = rows.set_column(rows.column_names.index("label"), "label", [labels])
    gaps = [[known[one] for one in ids]]
    rows = rows.set_column(rows.column_names.index("gap_days"), "gap_days", gaps)
    deep = replace(
        trees, settings={**trees.settings, "max_depth": 8, "min_child_weight": 1.0}, rounds=200
    )
    found = gap(rows, plan, use_case, fitter, deep)
    assert found.lower > 0
    assert found.estimate > 0.1
