"""How often the gate promotes a challenger that is as good, worse or better by a stated amount.

    .venv/bin/python -m benchmarks.gate

Customers have a true probability; champion and challenger see it through noise of their own, the
challenger's adjusted until its metric, on a million customers, differs by the stated amount. Each
pair is judged on many holdouts by the gate's own comparison, beside the rule that promotes
whatever is at least as good there.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from benchmarks.bench import report
from evergreen.contract import load_use_case
from evergreen.decisions.gate import (
    Difference,
    MeasuredChampion,
    PromotionDemands,
    PromotionEvidence,
    compare_with_champion,
)
from evergreen.statistics import bootstrap
from evergreen.targets import TargetModel
from evergreen.training.evaluate import RESAMPLES, compare

Vector = NDArray[np.float64]

SIZES = (1_000, 5_000, 20_000)
AMOUNTS = (-0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02)
HOLDOUTS = 400
# The bootstrap of spend takes longer than DeLong's test of churn.
HOLDOUTS_OF_SPEND, SIZES_OF_SPEND, AMOUNTS_OF_SPEND = 100, (1_000, 5_000), (-0.02, 0.0, 0.02)
NOISE = 0.8
_MANY = 1_000_000
# Of the comparison's cost; beyond so many customers, samples of all of them take minutes.
COMPARED, MOST_WHOLE, COSTLY_RESAMPLES = (20_000, 100_000, 1_000_000), 100_000, 2_000

# Labels of customers whose habit is the vector; and the score by a noisy view of it.
Draw = Callable[[np.random.Generator, Vector], Vector]
Score = Callable[[Vector], Vector]


def main() -> None:
    """Judge churn and spend, print the tables, write `gate.json` and the picture."""
    churn, spend = load_use_case("churn"), load_use_case("spend")
    found = {
        "churn": rates(churn, draw_churn, score_churn, SIZES, AMOUNTS, HOLDOUTS, resamples=2),
        "spend": rates(
            spend,
            _draw_spend,
            _score_spend,
            SIZES_OF_SPEND,
            AMOUNTS_OF_SPEND,
            HOLDOUTS_OF_SPEND,
            resamples=RESAMPLES,
        ),
    }
    for name, rows in found.items():
        metric = load_use_case(name).target.main_metric
        report(
            "gate",
            f"Of 100 challengers of {name}, how many are found better and promoted",
            ("customers", f"true difference in {metric}", "gate, %", "at least as good there, %"),
            [(f"{n:,}", f"{amount:+g}", ours, naive) for n, amount, ours, naive in rows],
            part=name,
            rates=rows,
        )
    costs = [
        (name, rows, *_cost(load_use_case(name).target, draw, score, rows))
        for name, draw, score in (
            ("churn", draw_churn, score_churn),
            ("spend", _draw_spend, _score_spend),
        )
        for rows in COMPARED
    ]
    report(
        "gate",
        f"CPU seconds of comparing all metrics of two models, {COSTLY_RESAMPLES:,} resamples",
        ("target", "customers", "all in each sample", "parts", "errors of parts / of all"),
        [
            (name, f"{rows:,}", every or "", parts, ratio and f"{ratio:.2f}")
            for name, rows, every, parts, ratio in costs
        ],
        part="cost",
        rates=costs,
    )
    if sys.argv[1:]:
        _draw(found["churn"], Path(sys.argv[1]))


def _cost(
    target: TargetModel, draw: Draw, score: Score, rows: int
) -> tuple[float | None, float, float | None]:
    """CPU seconds with all rows in every sample and as it is done; how far their errors differ."""
    random = np.random.default_rng(5)
    habits = random.normal(size=rows)
    labels = draw(random, habits)
    scores = [score(habits + random.normal(0, NOISE, rows)) for _ in range(2)]

    def timed() -> tuple[float, dict[str, Difference]]:
        begun = time.process_time()
        found = compare(target, labels, *scores, seed=3, resamples=COSTLY_RESAMPLES)
        return time.process_time() - begun, found

    seconds, parts = timed()
    if rows > MOST_WHOLE:
        return None, seconds, None
    with mock.patch.object(bootstrap, "_PART", rows):
        whole, every = timed()
    ratios = [(parts[name].error or 0.0) / (every[name].error or math.nan) for name in every]
    return whole, seconds, max(ratios, key=lambda ratio: abs(math.log(ratio)))


def rates(
    use_case: Any,
    draw: Draw,
    score: Score,
    sizes: tuple[int, ...],
    amounts: tuple[float, ...],
    holdouts: int,
    *,
    resamples: int,
) -> list[tuple[int, float, float, float]]:
    """Return customers, difference, and of 100 what the gate and the naive rule promote."""
    target, demands = use_case.target, PromotionDemands.of(use_case)
    random = np.random.default_rng(11)
    rows = []
    for amount in amounts:
        noise = _noise_for(target, draw, score, amount)
        for size in sizes:
            promoted = naive = 0
            for number in range(holdouts):
                habits = random.normal(size=size)
                labels = draw(random, habits)
                champion, challenger = (
                    score(habits + random.normal(0, sd, size)) for sd in (NOISE, noise)
                )
                differences = compare(
                    target, labels, challenger, champion, seed=number, resamples=resamples
                )
                evidence = PromotionEvidence(
                    day=date(2026, 1, 1),
                    use_case=use_case.name,
                    version=2,
                    holdout_as_of=datetime(2026, 1, 1, tzinfo=UTC),
                    counts={},
                    challenger={},
                    champion=MeasuredChampion(1, differences=differences),
                    ledger_sequence=1,
                )
                promoted += compare_with_champion(evidence, demands) == "better"
                naive += (differences[target.main_metric].estimate or 0.0) >= 0
            rows.append((size, amount, 100 * promoted / holdouts, 100 * naive / holdouts))
    return rows


def _noise_for(target: TargetModel, draw: Draw, score: Score, amount: float) -> float:
    """Find the challenger's noise that makes its metric differ from the champion's by so much."""
    random = np.random.default_rng(7)
    habits, noise = random.normal(size=_MANY), random.normal(size=_MANY)
    labels = draw(random, habits)

    def metric(deviation: float) -> float:
        scores = score(habits + deviation * noise)
        return target.measure(labels, scores)[target.main_metric]

    wanted = metric(NOISE) + amount
    return (
        NOISE if not amount else float(brentq(lambda sd: metric(sd) - wanted, 0.05, 4, xtol=1e-3))
    )


def draw_churn(random: np.random.Generator, habits: Vector) -> Vector:
    """Draw who leaves."""
    return (random.random(len(habits)) < score_churn(1.5 * habits)).astype(np.float64)


def score_churn(seen: Vector) -> Vector:
    """Return the probability of leaving by a view of habits."""
    return np.asarray(1 / (1 + np.exp(0.7 - seen)))


def _draw_spend(random: np.random.Generator, habits: Vector) -> Vector:
    """Draw amounts that are often zero: a Poisson number of gamma amounts."""
    orders = random.poisson(np.exp(habits))
    return np.asarray(random.gamma(np.maximum(2.0 * orders, 1e-9), 0.5)) * (orders > 0)


def _score_spend(seen: Vector) -> Vector:
    """Shrink, as a model does that has learned how little it sees."""
    return np.asarray(np.exp(seen / (1 + NOISE**2) + 0.2))


def _draw(rows: list[tuple[int, float, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for size in SIZES:
        line = [(amount, ours) for n, amount, ours, _ in rows if n == size]
        axes.plot(*zip(*line, strict=True), marker="o", label=f"gate, {size:,} customers")
    naive = [(amount, share) for n, amount, _, share in rows if n == SIZES[1]]
    axes.plot(*zip(*naive, strict=True), "k--", label=f"at least as good, {SIZES[1]:,}")
    axes.axhline(5, color="grey", linewidth=0.8)
    axes.set(xlabel="true difference in AUC", ylabel="promoted, %", ylim=(0, 100))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150, metadata={"Date": None})


if __name__ == "__main__":
    main()
