"""How often a rollout is right about its challenger, though it looks every night.

    .venv/bin/python -m benchmarks.rollout

Customers order at rates of their own, in a season, on nights that move all of them; new ones come
every night, and labels of neighbouring nights share all days of their horizon but one. Champion and
challenger see the true rate through noise of their own. Each history is rolled out by the decision
that nights make, beside the same with a test for one look: of all rows as if they were independent,
and of customers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import report
from evergreen.contract import Rollout
from evergreen.decisions.rollout import Paired, RolloutEvidence, decide_rollout
from evergreen.monitoring.rollout import compare_losses
from evergreen.statistics import clustered_mean

Vector = NDArray[np.float64]

NIGHTS, HORIZON = 60, 28
CUSTOMERS, NEW = 800, 5
HISTORIES = 300
# Scatter of the champion's view of the log odds; the challenger's is as much greater.
NOISE = 0.5
WORSE = (0.0, 0.1, 0.2, 0.4, 0.8)
BETTER = 0.3
DEMANDS = Rollout(max_nights=NIGHTS)
POLICIES = {
    "as declared by default": DEMANDS,
    "unproven_share: 0": DEMANDS.model_copy(update={"unproven_share": 0.0}),
    "require: nothing": DEMANDS.model_copy(update={"require": "nothing"}),
}
_FIRST = date(2026, 1, 1)
_SHOWN = (1, 7, 14, 30, NIGHTS)
_FEW = 40
_TESTS = ("always valid", "customers", "rows")
_ENDS = ("stop", "finish")
_AT_ONCE = "promoted at once"

# Of both, the night and the customer of each row.
_Losses = tuple[Vector, Vector, NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class _Ended:
    decision: str
    night: int
    # What the challenger's published scores added to the loss, of all customers and nights.
    harm: float


def main() -> None:
    """Roll out challengers of each quality, print the tables, write `rollout.json`."""
    _error_rates()
    _decisions()
    _equivalence()


def _error_rates() -> None:
    """Count how often equal models are told apart, by night and test."""
    chance = np.random.default_rng(5)
    wrong = {test: np.zeros(NIGHTS, bool) for test in _TESTS}
    counted = {test: np.zeros(NIGHTS) for test in _TESTS}
    for _ in range(HISTORIES):
        for test in _TESTS:
            wrong[test][:] = False
        for night, losses in enumerate(_nightly(_draw(chance, NOISE))):
            for test, found in _looks(losses).items():
                wrong[test][night:] |= found != "unclear" and found != "equivalent"
        for test in _TESTS:
            counted[test] += wrong[test]
    report(
        "rollout",
        f"Of 100 challengers that are as good, how many are ever called better or worse "
        f"({HISTORIES} histories)",
        ("test", *(f"up to night {night}, %" for night in _SHOWN)),
        [
            (test, *(f"{100 * counted[test][night - 1] / HISTORIES:.1f}" for night in _SHOWN))
            for test in _TESTS
        ],
        part="error_rates",
        rates={test: (counted[test] / HISTORIES).tolist() for test in _TESTS},
    )


def _looks(losses: _Losses) -> dict[str, str]:
    ours, theirs, _, who = losses
    always = compare_losses(*losses)
    mean, error = clustered_mean(theirs - ours, who)
    alone = float((theirs - ours).std() / math.sqrt(len(ours)))
    return {
        "always valid": always.compare(DEMANDS.margin),
        **{
            test: "better" if mean + 1.96 * e < 0 else "worse" if mean - 1.96 * e > 0 else "unclear"
            for test, e in (("customers", error), ("rows", alone))
        },
    }


def _decisions() -> None:
    """Report what becomes of challengers, and what bad ones cost before they are stopped."""
    rows, kept = [], []
    for worse in (*WORSE, -BETTER):
        chance = np.random.default_rng(6)
        ended: dict[str, list[_Ended]] = {name: [] for name in (*POLICIES, _AT_ONCE)}
        for _ in range(HISTORIES // 3):
            drawn = _draw(chance, NOISE + worse)
            looks = [*_nightly(drawn)]
            paired = [compare_losses(*losses) for losses in looks]
            for name, demands in POLICIES.items():
                ended[name].append(_roll_out(drawn, paired, demands))
            ended[_AT_ONCE].append(_promoted(drawn, looks))
        for name, found in ended.items():
            loss = _true_difference(worse)
            of = {end: [e.night for e in found if e.decision == end] for end in _ENDS}
            nights = {end: float(np.median(each)) if each else None for end, each in of.items()}
            harm = float(np.mean([e.harm for e in found]))
            kept.append(
                {
                    "policy": name,
                    "true_difference": loss,
                    "shares": {end: len(each) / len(found) for end, each in of.items()},
                    "nights": nights,
                    "harm": harm,
                }
            )
            rows.append(
                (
                    f"{loss:+.4f}",
                    name,
                    *(f"{len(each) / len(found):.0%}" for each in of.values()),
                    *("" if n is None else f"{n:.0f}" for n in nights.values()),
                    f"{harm:+.0f}",
                )
            )
    report(
        "rollout",
        f"What becomes of challengers whose Brier score truly differs ({HISTORIES // 3} histories "
        f"each, {NIGHTS + HORIZON} nights, horizon {HORIZON} days)",
        (
            "true difference",
            "policy",
            "stopped",
            "in charge",
            "nights until stopped",
            "until in charge",
            "loss that its scores added",
        ),
        rows,
        part="decisions",
        decisions=kept,
    )


def _equivalence() -> None:
    """Report by how many nights of labels equal models are known to be equivalent."""
    rows, kept = [], []
    for customers in (CUSTOMERS, 10 * CUSTOMERS):
        chance = np.random.default_rng(7)
        first = []
        for _ in range(_FEW):
            found = (
                compare_losses(*losses) for losses in _nightly(_draw(chance, NOISE, customers))
            )
            shown = (n for n, p in enumerate(found, 1) if p.compare(DEMANDS.margin) == "equivalent")
            first.append(next(shown, math.inf))
        shares = {night: float(np.mean(np.array(first) <= night)) for night in _SHOWN}
        kept.append({"customers": customers, "shares": shares})
        rows.append((f"{customers:,}", *(f"{share:.0%}" for share in shares.values())))
    report(
        "rollout",
        f"Of models that are as good, how many are known to be equivalent within "
        f"{DEMANDS.margin:.0%} ({_FEW} histories each)",
        ("customers", *(f"by night {night} of labels" for night in _SHOWN)),
        rows,
        part="equivalence",
        equivalence=kept,
    )


def _roll_out(drawn: _Drawn, paired: Sequence[Paired], demands: Rollout) -> _Ended:
    """Roll one challenger out, night after night; labels come a horizon after their day."""
    losses = _extra(drawn)
    share, began, harm = 0.0, 0, 0.0
    for night in range(NIGHTS + HORIZON):
        # Beyond the drawn nights everybody is as on the last.
        harm += share * losses[min(night, NIGHTS - 1)]
        verdict = decide_rollout(
            RolloutEvidence(
                use_case="simulated",
                day=_FIRST + timedelta(days=night),
                newest_day=_FIRST + timedelta(days=night),
                sequence=1,
                champion=1,
                challenger=2,
                share=share,
                stage_nights=night - began + 1,
                nights=night + 1,
                horizon_days=HORIZON,
                published={"champion": 1},
                paired=paired[min(night - HORIZON, NIGHTS - 1)] if night >= HORIZON else None,
            ),
            demands,
        )
        if verdict.decision == "finish":
            # Nobody compares any more; what it costs until the end, it costs.
            harm += sum(losses[min(n, NIGHTS - 1)] for n in range(night + 1, NIGHTS + HORIZON))
        if verdict.decision in _ENDS:
            return _Ended(verdict.decision, night + 1, harm)
        if verdict.decision == "advance":
            share, began = verdict.share, night + 1
    return _Ended("hold", NIGHTS + HORIZON, harm)


def _promoted(drawn: _Drawn, looks: Sequence[_Losses]) -> _Ended:
    """Promote a challenger at once; take it back when a test for one look first says so."""
    losses, harm = _extra(drawn), 0.0
    for night in range(NIGHTS + HORIZON):
        harm += float(losses[min(night, NIGHTS - 1)])
        if night >= HORIZON:
            ours, theirs, _, who = looks[night - HORIZON]
            mean, error = clustered_mean(theirs - ours, who)
            if mean - 1.96 * error > 0:
                return _Ended("stop", night + 1, harm)
    return _Ended("finish", 1, harm)


@dataclass(frozen=True)
class _Drawn:
    """Losses of both, `[customers, nights]`, and who is there on a night."""

    ours: Vector
    theirs: Vector
    joined: NDArray[np.intp]


def _draw(chance: np.random.Generator, scatter: float, customers: int = CUSTOMERS) -> _Drawn:
    new = NEW * customers // CUSTOMERS
    joined = np.r_[np.zeros(customers, int), np.repeat(np.arange(NIGHTS), new)]
    rate = chance.gamma(1.5, 0.02, len(joined))[:, None]
    days = np.arange(NIGHTS + HORIZON)
    season = 1 + 0.3 * np.sin(2 * np.pi * days / 365 + chance.uniform(0, 2 * np.pi))
    nights = np.exp(chance.normal(0, 0.1, len(days)))
    orders = chance.random((len(joined), len(days))) < rate * season * nights
    so_far = np.cumsum(np.c_[np.zeros(len(joined), int), orders], axis=1)
    churned = so_far[:, HORIZON : HORIZON + NIGHTS] == so_far[:, :NIGHTS]
    odds = _odds(rate)
    ours, theirs = (
        (1 / (1 + np.exp(-odds - chance.normal(0, noise, odds.shape))) - churned) ** 2
        for noise in (NOISE, scatter)
    )
    return _Drawn(ours, theirs, joined)


def _odds(rate: Vector) -> Vector:
    truth = np.exp(-rate * HORIZON)
    odds: Vector = np.log(truth / (1 - truth))
    return odds


def _true_difference(worse: float) -> float:
    """Return the expected Brier score of the challenger less that of the champion."""
    chance = np.random.default_rng(1)
    rate = chance.gamma(1.5, 0.02, 1_000_000)
    truth, odds = np.exp(-rate * HORIZON), _odds(rate)
    ours, theirs = (
        ((1 / (1 + np.exp(-odds - chance.normal(0, noise, len(odds)))) - truth) ** 2).mean()
        for noise in (NOISE, NOISE + worse)
    )
    return float(theirs - ours)


def _extra(drawn: _Drawn) -> Vector:
    """Loss that the challenger's scores add, by night, `[nights]`."""
    here = drawn.joined[:, None] <= np.arange(NIGHTS)
    added: Vector = np.where(here, drawn.theirs - drawn.ours, 0.0).sum(axis=0)
    return added


def _nightly(drawn: _Drawn) -> Iterator[_Losses]:
    """Yield the losses of all days up to each."""
    when, who = np.nonzero(drawn.joined <= np.arange(NIGHTS)[:, None])
    ours, theirs = drawn.ours[who, when], drawn.theirs[who, when]
    for night in range(NIGHTS):
        until = np.searchsorted(when, night, side="right")
        yield ours[:until], theirs[:until], when[:until], who[:until]


if __name__ == "__main__":
    main()
