"""What a random split of the rows would have promised, and time does not keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evergreen.decisions.gate import Difference
from evergreen.statistics import Metrics, Rows, interval, of_rows, once, resample
from evergreen.training.evaluate import LEVEL, RESAMPLES, Holdout
from evergreen.training.fit import Fitter, Recipe
from evergreen.training.frame import LabelledRows
from evergreen.training.split import SplitPlan

Vector = NDArray[np.float64]

# Of the rows, at most so many, are left for the test.
_SHARE, _MOST = 0.2, 20_000


def measure_leakage(
    rows: LabelledRows,
    plan: SplitPlan,
    recipe: Recipe,
    fitter: Fitter,
    holdout: Holdout,
    scores: Vector,
) -> Difference:
    """Measure a recipe on rows drawn at random from the days it is fitted on.

    Parameters
    ----------
    scores
        The measured model's, of the holdout.

    Returns
    -------
    Difference
        The main metric on the random rows minus that on the holdout; nothing where one of them does
        not exist. Other rows of the same customers and days are among those that the model was
        fitted on, so it is what a split by rows would wrongly have promised; what the world's
        change takes away between the fit and the holdout is part of it.

    Notes
    -----
    The interval is from resampled customers: rows of one customer are not independent.
    """
    frame = rows.to_fit(plan.evaluation.fit).without(recipe.left_out)
    share = min(_SHARE, _MOST / frame.rows)
    tested = np.random.default_rng(fitter.seed).random(frame.rows) < share
    fitted, test = frame.filter(~tested), frame.filter(tested).load()
    model = fitter.fit(recipe.for_rows(fitted.rows), fitted, "random rows")
    target, main = holdout.target, holdout.target.main_metric
    promised = model.predict(test.matrix, target, threads=fitter.threads)["score"]
    customers = np.asarray(test.keys.dictionary_encode().indices)

    def of_random(part: Rows) -> Metrics:
        chosen = np.isin(customers, part)
        places = np.searchsorted(part, customers[chosen])
        metrics = target.resampled(test.labels[chosen], promised[chosen])
        return lambda weights: metrics(weights[:, places])

    of_holdout = of_rows(target.resampled, holdout.labels, scores)
    count = int(customers.max()) + 1
    at_random, in_time = once(of_random, count).get(main), once(of_holdout, len(scores)).get(main)
    if at_random is None or in_time is None:
        return Difference(None, None, None)
    # Two samples, so two seeds.
    samples = (
        resample(of_random, count, resamples=RESAMPLES, seed=holdout.seed)[main]
        - resample(of_holdout, len(scores), resamples=RESAMPLES, seed=holdout.seed + 1)[main]
    )
    gap, error = at_random - in_time, float(np.nanstd(samples))
    return Difference(gap, *interval(samples, level=LEVEL), error)
