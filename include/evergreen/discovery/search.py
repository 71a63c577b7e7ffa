"""Which candidates say something of the label that the present features do not.

Entities are divided once, by chance. One half *learns*: on it candidates are ranked, and on it all
models are fitted. The other half *judges*, on later days: neither its labels nor its habits have
had a say in what it is asked about, so a chance finding of the first half is none on the second.
Dividing by days alone is not enough: what is peculiar to an entity stays so, and a column that
tells entities apart by chance would do so again on the next day.

Fits differ by luck, too, and on many rows luck is significant. So a candidate is not held against
the present features, but against models of the present features and one permuted candidate, a
column that says nothing: their mean is what must be beaten, and how far they lie apart is part of
the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from evergreen.discovery.rows import Tell, number_parts
from evergreen.errors import NotReadyError
from evergreen.statistics import clustered_mean
from evergreen.statistics.multiple import holm
from evergreen.training.fit import Fitter, Recipe
from evergreen.training.folds import FoldFrames, number_entities
from evergreen.training.frame import LabelledFrame, RowsInMemory
from evergreen.training.split import SplitPlan
from evergreen.training.tune import declare_recipe, try_recipe

Vector = NDArray[np.float64]

ALPHA = 0.05
"""Chance at most with which a search proposes anything where no candidate says anything."""

FINALISTS = 8
"""So many candidates at most are judged; each makes the others' bar higher."""

_SHADOWS = 8
_LEVEL = 0.95
# The first look is for an order among many, so it may be coarse.
_QUICK_ROUNDS, _QUICK_RATE = 50, 0.1
# Of candidates that say nearly the same, the first is enough.
_ALIKE = 0.95


@dataclass(frozen=True)
class Judged:
    """What one candidate adds to the present features, on the entities that judge.

    Parameters
    ----------
    gain
        By how much the mean loss of a row is less with it.
    lower, upper
        95 % bounds of the gain.
    p
        Chance of such a gain if it says nothing.
    corrected
        The same, of any of the candidates that were judged (Holm).
    helps_in
        On how many of the test days the loss is less.
    beside
        The proposed candidates beside which it adds nothing any more; empty if it is proposed or
        has not passed.
    """

    name: str
    gain: float
    lower: float
    upper: float
    p: float
    corrected: float
    helps_in: int
    beside: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether the candidate says something."""
        return self.corrected <= ALPHA


@dataclass(frozen=True)
class Outcome:
    """What a search has found.

    Parameters
    ----------
    judged
        The candidates that were judged, the greatest gain first.
    proposed
        Those to adopt, the greatest gain first.
    tried
        How many candidates there were.
    loss
        Mean loss of a row by the present features (and a column that says nothing).
    together
        Gain of all that are proposed, and its 95 % bounds; None if nothing is.
    test_days
        On how many days they were judged.
    rows, entities
        How many rows and entities judged.
    """

    judged: tuple[Judged, ...]
    proposed: tuple[str, ...]
    tried: int
    loss: float
    together: tuple[float, float, float] | None
    test_days: int
    rows: int
    entities: int


def search(
    rows: RowsInMemory, plan: SplitPlan, present: Sequence[str], fitter: Fitter, tell: Tell
) -> Outcome:
    """Rank candidates and judge the best.

    Parameters
    ----------
    rows
        Of a use case that declares present features and candidates. Not modified.
    plan
        Of `plan_search`: without the holdout.
    present
        The features that there are; all others are candidates.
    fitter
        Of that use case; its seed divides the entities and draws the permutations.

    Raises
    ------
    NotReadyError
        The rows that judge are too few, or all labels of a part are equal.

    Notes
    -----
    Cost: two quick fits per candidate, and `FINALISTS` + 8 whole fits per test day. Measured on
    labels that no candidate says anything of: see ADR 0024.
    """
    candidates = [name for name in rows.use_case.features.columns if name not in present]
    parts = number_parts(rows.rows[rows.use_case.entity.key], 4, fitter.seed)
    one, other, learning, judging = (
        RowsInMemory(rows.rows.filter(pa.array(chosen)), rows.use_case)
        for chosen in (parts == 0, parts == 1, parts < 2, parts >= 2)
    )
    folds = [
        FoldFrames(fit := learning.frame(fold.fit), judging.frame([fold.test], fit.inputs))
        for fold in plan.folds
    ]
    _require_enough(folds, fitter)
    # For an order among them all days do: that they help on later ones is for the judges to see.
    halves = [
        FoldFrames(fit := a.frame(plan.days), b.frame(plan.days, fit.inputs))
        for a, b in ((one, other), (other, one))
    ]
    declared = replace(declare_recipe("trees", rows.use_case), left_out=tuple(candidates))
    ranked = _rank(candidates, declared, halves, fitter, tell)
    finalists = _unlike(ranked, folds[-1].fit.load())
    # As many rounds as are right where all are read: by the present features alone it may be one.
    recipe = try_recipe("all", _with(declared, *finalists), halves, fitter).recipe
    recipe = replace(recipe, left_out=declared.left_out)
    tell(f"judging {len(finalists)} of {len(candidates)} candidates on {len(folds)} test days")
    return _Judges(folds, recipe, fitter).judge(finalists, len(candidates))


def _require_enough(folds: Sequence[FoldFrames], fitter: Fitter) -> None:
    target = fitter.use_case.target
    labels = np.concatenate([fold.test.labels for fold in folds])
    if few := target.too_few(target.count(labels)):
        raise NotReadyError(
            f"{fitter.use_case.name}: half of the entities judge what the other half has found, on "
            f"{len(folds)} test days before the holdout. They are too few: {few}. Search when "
            "there is more history, or with a lower training.min_history_days."
        )


def _rank(
    candidates: Sequence[str],
    recipe: Recipe,
    halves: Sequence[FoldFrames],
    fitter: Fitter,
    tell: Tell,
) -> list[str]:
    """Return the candidates that help, those that help most surely first."""
    settings = {**recipe.settings, "learning_rate": _QUICK_RATE}
    quick = replace(recipe, settings=settings, rounds=_QUICK_ROUNDS)
    entities, usual = number_entities(halves), _losses(quick, halves, fitter)
    found: dict[str, float] = {}
    for number, name in enumerate(candidates, start=1):
        gain, error = clustered_mean(usual - _losses(_with(quick, name), halves, fitter), entities)
        found[name] = gain / error if error else 0.0
        if number % 20 == 0:
            tell(f"a first look at {number} of {len(candidates)} candidates")
    return [name for name in sorted(found, key=lambda n: (-found[n], n)) if found[name] > 0]


def _unlike(ranked: Sequence[str], frame: LabelledFrame) -> list[str]:
    """Leave out what says nearly the same as one before, by the ranks of its values."""
    kept: dict[str, Vector] = {}
    for name in ranked:
        ranks = stats.rankdata(
            np.nan_to_num(frame.matrix[:, frame.inputs.names.index(name)], nan=-np.inf)
        )
        ranks -= ranks.mean()
        norm = float(np.linalg.norm(ranks))
        if norm and all(abs(ranks @ others) <= _ALIKE * norm for others in kept.values()):
            kept[name] = ranks / norm
        if len(kept) == FINALISTS:
            break
    return list(kept)


class _Judges:
    """The entities that judge, and how everything is fitted that they are shown."""

    def __init__(self, folds: Sequence[FoldFrames], recipe: Recipe, fitter: Fitter) -> None:
        self._folds, self._recipe, self._fitter = folds, recipe, fitter
        self._entities = number_entities(folds)
        self._places = np.cumsum([fold.test.rows for fold in folds])[:-1]

    def judge(self, finalists: Sequence[str], tried: int) -> Outcome:
        """Hold each against what a column achieves that says nothing."""
        shadows = np.array(
            [self._shadow(finalists, n) for n in range(_SHADOWS if finalists else 0)]
        )
        usual = shadows.mean(axis=0) if finalists else self._losses(self._recipe, self._folds)
        luck = float(shadows.mean(axis=1).var(ddof=1)) if finalists else 0.0
        losses = {name: self._losses(_with(self._recipe, name), self._folds) for name in finalists}
        judged = self._holm([self._hold(name, usual - losses[name], luck) for name in losses])
        proposed, together = self._adopt(judged, losses, luck)
        gain = None
        if proposed:
            whole = self._hold("", usual - together, luck)
            gain = (whole.gain, whole.lower, whole.upper)
        return Outcome(
            tuple(
                replace(one, beside=proposed if one.passes and one.name not in proposed else ())
                for one in judged
            ),
            proposed,
            tried,
            float(usual.mean()),
            gain,
            len(self._folds),
            len(usual),
            int(self._entities.max()) + 1,
        )

    def _shadow(self, finalists: Sequence[str], number: int) -> Vector:
        """Losses with a finalist whose values have changed places within each day."""
        name = finalists[number % len(finalists)]
        folds = [
            FoldFrames(
                *(
                    _permuted(f, name, [self._fitter.seed, number, n, m])
                    for m, f in enumerate((fold.fit.load(), fold.test))
                )
            )
            for n, fold in enumerate(self._folds)
        ]
        return self._losses(_with(self._recipe, name), folds)

    def _hold(self, name: str, gains: Vector, luck: float) -> Judged:
        gain, error = clustered_mean(gains, self._entities)
        sampling, fits = error**2, luck * (1 + 1 / _SHADOWS)
        total = float(np.sqrt(sampling + fits))
        if not total:
            return Judged(name, 0.0, 0.0, 0.0, 1.0, 1.0, 0)
        # Welch and Satterthwaite: how far fits lie apart is known from few of them.
        freedom = total**4 / (fits**2 / (_SHADOWS - 1) + sampling**2 / int(self._entities.max()))
        reach = float(stats.t.ppf((1 + _LEVEL) / 2, freedom)) * total
        p = float(stats.t.sf(gain / total, freedom))
        helps_in = sum(bool(part.mean() > 0) for part in np.split(gains, self._places))
        return Judged(name, gain, gain - reach, gain + reach, p, p, helps_in)

    def _holm(self, judged: Sequence[Judged]) -> list[Judged]:
        corrected = holm({one.name: one.p for one in judged})
        ordered = sorted(judged, key=lambda one: (-one.gain, one.name))
        return [replace(one, corrected=corrected[one.name]) for one in ordered]

    def _adopt(
        self, judged: Sequence[Judged], alone: dict[str, Vector], luck: float
    ) -> tuple[tuple[str, ...], Vector]:
        """Take what passes, one by one, if it surely helps beside those taken before."""
        taken: list[str] = []
        losses = np.empty(0)
        passing = [one.name for one in judged if one.passes]
        for name in passing:
            if not taken:
                taken, losses = [name], alone[name]
                continue
            others = self._losses(_with(self._recipe, *taken, name), self._folds)
            if self._hold(name, losses - others, luck).p * len(passing) <= ALPHA:
                taken, losses = [*taken, name], others
        return tuple(taken), losses

    def _losses(self, recipe: Recipe, folds: Sequence[FoldFrames]) -> Vector:
        return _losses(recipe, folds, self._fitter)


def _with(recipe: Recipe, *names: str) -> Recipe:
    """Return a recipe that reads some of the features that it leaves out."""
    return replace(recipe, left_out=tuple(n for n in recipe.left_out if n not in names))


def _losses(recipe: Recipe, folds: Sequence[FoldFrames], fitter: Fitter) -> Vector:
    """Fit on every fold, and return the losses of all test rows."""
    found = []
    for fold in (fold.without(recipe.left_out) for fold in folds):
        model = fitter.fit(recipe.for_rows(fold.fit.rows), fold.fit, "fit")
        found.append(fitter.losses(model, fold.test))
    return np.concatenate(found)


def _permuted(frame: LabelledFrame, name: str, seed: Sequence[int]) -> LabelledFrame:
    """Permute a column within each as-of; rows are ordered by it."""
    days = frame.as_of.dictionary_encode().indices.to_numpy()
    order = np.lexsort((np.random.default_rng(seed).random(frame.rows), days))
    matrix, place = frame.matrix.copy(), frame.inputs.names.index(name)
    matrix[:, place] = matrix[order, place]
    return replace(frame, matrix=matrix)
