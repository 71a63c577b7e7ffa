"""What treatment changed: means of both groups, their difference, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tea_tasting.experiment import Experiment as Comparison
from tea_tasting.metrics import Mean, SampleRatio

from evergreen.contract import Experiment
from evergreen.decisions.stored import Stored
from evergreen.statistics import always_valid

EFFECTS = pa.schema(
    [
        ("day", pa.date32()),
        ("experiment", pa.string()),
        ("outcome", pa.string()),
        ("slice", pa.string()),
        ("adjusted", pa.bool_()),
        ("hold_out_rows", pa.int64()),
        ("treatment_rows", pa.int64()),
        ("hold_out", pa.float64()),
        ("treatment", pa.float64()),
        ("effect", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("p_value", pa.float64()),
        ("mismatch", pa.float64()),
    ]
)
"""Arrow schema of the table `effects`: one row per night, slice and way to compare."""

ALL = "all"
DECILES = 10
# The power that a plan promises, and the risk of seeing what is not there.
POWER, ALPHA = 0.8, 0.05
_FEWEST = 10


@dataclass(frozen=True)
class Effect(Stored):
    """The difference between both groups in one slice.

    Parameters
    ----------
    slice
        `all`, or `decile=<n>` of the scores at entry, 1 the lowest.
    adjusted
        Whether what the score said before is taken out of the outcome (CUPED).
    hold_out, treatment
        Mean outcomes.
    effect, lower, upper
        Treatment less hold-out. Bounds of `all` hold at all nights at once; those of deciles at one
        look, and decide nothing.
    p_value
        Of one look.
    mismatch
        How likely groups as unequal are, by the share that is held out.
    """

    slice: str
    adjusted: bool
    hold_out_rows: int
    treatment_rows: int
    hold_out: float | None
    treatment: float | None
    effect: float | None
    lower: float | None
    upper: float | None
    p_value: float | None
    mismatch: float | None = None


def measure_effects(rows: pa.Table, experiment: Experiment) -> list[Effect]:
    """Compare the groups of an experiment.

    Parameters
    ----------
    rows
        One row per entity whose outcome is known: `group`, `score` when it entered, `outcome`
        (float64).

    Returns
    -------
    list of Effect
        Plain and adjusted over all, then of each decile of the scores.
    """
    treated = pc.equal(rows["group"], "treatment").cast(pa.int64())
    data = rows.select(["score", "outcome"]).append_column("treated", treated)
    found = [
        _compare(data, experiment, ALL, adjusted=adjusted, nightly=True)
        for adjusted in (False, True)
    ]
    deciles = _deciles(rows["score"].to_numpy())
    for n in range(DECILES):
        part = data.filter(pa.array(deciles == n))
        found.append(_compare(part, experiment, f"decile={n + 1}", adjusted=False, nightly=False))
    return found


def effects_table(day: date, experiment: Experiment, effects: list[Effect]) -> pa.Table:
    """Return a night's rows with the schema `EFFECTS`."""
    head = {"day": day, "experiment": experiment.name, "outcome": experiment.outcome}
    return pa.Table.from_pylist([head | effect.to_dict() for effect in effects], schema=EFFECTS)


def entities_needed(rows: pa.Table, experiment: Experiment, *, adjusted: bool) -> float:
    """Return how many entities, of both groups, would show the smallest effect that matters.

    Parameters
    ----------
    rows
        `score` and `outcome` of entities that were not treated, such as those of past days.
    """
    # Fewer say nothing, however large the effect.
    fewest = math.ceil(_FEWEST / min(experiment.hold_out, 1 - experiment.hold_out))
    metric = Mean(
        "outcome",
        "score" if adjusted else None,
        ratio=_ratio(experiment),
        effect_size=experiment.smallest_effect,
        n_obs=fewest,
        alpha=ALPHA,
        power=POWER,
        use_t=False,
    )
    (least,) = metric.solve_power(rows, "power")
    if least.power >= POWER:
        return float(fewest)
    (solved,) = metric.solve_power(rows, "n_obs")
    return float(solved.n_obs)


def _compare(
    data: pa.Table, experiment: Experiment, name: str, *, adjusted: bool, nightly: bool
) -> Effect:
    counts = {row["values"]: row["counts"] for row in data["treated"].value_counts().to_pylist()}
    held_out, treated = (int(counts.get(group, 0)) for group in (0, 1))
    known = data.group_by("treated").aggregate([("outcome", "min"), ("outcome", "max")])
    is_constant = pc.any(pc.equal(known["outcome_min"], known["outcome_max"])).as_py()
    # Of groups in which all outcomes are alike nobody knows how much they scatter.
    if min(held_out, treated) < _FEWEST or is_constant:
        return Effect(name, adjusted, held_out, treated, *(None,) * 6)
    found = Comparison(
        {
            "outcome": Mean("outcome", "score" if adjusted else None),
            "groups": SampleRatio(_ratio(experiment)),
        },
        variant="treated",
    ).analyze(data, control=0)
    outcome, groups = found["outcome"], found["groups"]
    lower, upper = outcome.effect_size_ci_lower, outcome.effect_size_ci_upper
    if nightly:
        error = outcome.effect_size / outcome.statistic if outcome.statistic else math.nan
        # Narrowest when an effect that matters is three errors long.
        lower, upper = always_valid(outcome.effect_size, error, experiment.smallest_effect / 3)
    return Effect(
        name,
        adjusted,
        held_out,
        treated,
        outcome.control,
        outcome.treatment,
        outcome.effect_size,
        lower,
        upper,
        outcome.pvalue,
        groups.pvalue,
    )


def _ratio(experiment: Experiment) -> float:
    return (1 - experiment.hold_out) / experiment.hold_out


def _deciles(scores: np.ndarray) -> np.ndarray:
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    return ranks * DECILES // max(1, len(scores))
