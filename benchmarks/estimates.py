"""How near performance is estimated before labels are known, and how often its bounds hold it.

    .venv/bin/python -m benchmarks.estimates [--histories 8]

Simulated customers who buy often (the use case `coffee`), histories of different seeds. A model is
fitted once; every second week its performance of that night is estimated by what was known then,
and held against the labels that came: while nothing changes, on a population that is drawn
otherwise (people who have ordered little are met three times as often), while the season turns
what scores mean, and when habits change. Beside it stands what is usually done: to take it that
performance is still what it was on the newest labelled day.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from benchmarks.bench import report
from evergreen.contract import GeneratorSource, load_use_case
from evergreen.monitoring.estimate import estimate_performance
from evergreen.sources import simulation

Vector = NDArray[np.float64]
Matrix = NDArray[np.float32]

FIRST = date(2025, 6, 1)
FITTED_ON, LAST, HORIZON, LOOKBACK = 200, 330, 14, 56
WEEKS = 4
METRICS = ("auc", "logloss", "mean_label")
WAYS = ("cbpe", "pape", "as it was")
# The night on which habits change in the worlds where they do.
CHANGED = 260


@dataclass(frozen=True)
class World:
    """A history: a seed, whether its season is strong, whether habits change."""

    name: str
    seed: int
    season: float = 0.1
    changes: bool = False
    reweighed: bool = False


def history(world: World) -> list[tuple[Matrix, Vector]]:
    """Return what a model reads of every night, and the labels."""
    source = load_use_case("coffee").events["orders"].source
    assert isinstance(source, GeneratorSource)
    assert source.regime_change is not None
    change = source.regime_change.model_copy(update={"day": FIRST + timedelta(days=CHANGED)})
    declared = {
        "seed": world.seed,
        "customers": 8_000,
        "season": world.season,
        "regime_change": change if world.changes else None,
    }
    simulated = simulation.World(source.model_copy(update=declared), FIRST)
    days = LAST + HORIZON + 1
    purchases = simulation.simulate(simulated, FIRST + timedelta(days=days))
    day = purchases.second // simulation.DAY_SECONDS - simulation.days_since_epoch(FIRST)
    kept = day < days
    orders = np.zeros((8_000, days), np.int32)
    np.add.at(orders, (purchases.customer[kept], day[kept]), 1)
    bought = orders > 0
    total = orders.cumsum(axis=1)
    last = np.maximum.accumulate(np.where(bought, np.arange(days), -1), axis=1)
    first = bought.argmax(axis=1)
    nights = []
    for night in range(LAST + 1):
        active = np.flatnonzero((last[:, night] >= 0) & (night - last[:, night] < LOOKBACK))
        recency, known = night - last[active, night] + 0.5, total[active, night]
        gap = (last[active, night] - first[active]) / np.maximum(known - 1, 1)
        within = [known - (total[active, night - n] if night >= n else 0) for n in (7, 14, 28, 56)]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(gap > 0, recency / gap, np.nan)
        columns = [recency, *within, known, night - first[active], gap, ratio]
        labels = total[active, night + HORIZON] == known
        nights.append((np.column_stack(columns).astype(np.float32), labels.astype(np.float64)))
    return nights


def watch(world: World) -> Iterator[dict[str, Any]]:
    """Estimate every second week, and hold it against what came."""
    target = load_use_case("coffee").target
    nights = history(world)
    random = np.random.default_rng(world.seed)
    fitted = [nights[FITTED_ON - HORIZON - 3 * n] for n in range(8)]
    features, labels = (np.concatenate(parts) for parts in zip(*fitted, strict=True))
    model = xgb.train(
        {
            "objective": "binary:logistic",
            "max_depth": 3,
            "eta": 0.05,
            "min_child_weight": 20.0,
            "subsample": 0.8,
            "seed": 1,
            "nthread": 1,
        },
        xgb.DMatrix(features, label=labels),
        num_boost_round=150,
    )

    def score(rows: Matrix) -> Vector:
        return np.asarray(model.predict(xgb.DMatrix(rows)), np.float64)

    for night in range(FITTED_ON + HORIZON + 7 * WEEKS, LAST + 1, 14):
        features, labels = nights[night]
        if world.reweighed:
            few = features[:, 3] <= 1
            drawn = random.random(len(labels)) < np.where(few, 1.0, 1 / 3)
            features, labels = features[drawn], labels[drawn]
        scores = score(features)
        before = [nights[night - HORIZON - 7 * n] for n in range(WEEKS)]
        known = [(rows, score(rows), came) for rows, came in before]
        truth = target.measure(labels, scores) | {"mean_label": float(labels.mean())}
        newest, newest_labels = before[0]
        was = target.measure(newest_labels, score(newest)) | {
            "mean_label": float(newest_labels.mean())
        }
        for one in estimate_performance(target, (features, scores), known, seed=night, threads=1):
            if one.metric in METRICS and one.value is not None:
                assert one.lower is not None
                assert one.upper is not None
                yield {
                    "way": one.method,
                    "metric": one.metric,
                    "error": one.value - truth[one.metric],
                    "held": one.lower <= truth[one.metric] <= one.upper,
                    "width": one.upper - one.lower,
                }
        for metric in METRICS:
            error = was[metric] - truth[metric]
            yield {"way": WAYS[2], "metric": metric, "error": error, "held": None, "width": None}


def _watched(world: World) -> list[dict[str, Any]]:
    return list(watch(world))


WORLDS: dict[str, dict[str, Any]] = {
    "nothing changes": {},
    "other people": {"reweighed": True},
    "a strong season": {"season": 0.4},
    "habits change": {"changes": True},
}


def main() -> None:
    """Watch all worlds, two at a time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--histories", type=int, default=8)
    histories = parser.parse_args().histories
    jobs = [World(name, seed, **made) for name, made in WORLDS.items() for seed in range(histories)]
    figures: dict[str, Any] = {}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = list(zip(jobs, pool.map(_watched, jobs), strict=True))
    lines = []
    for name, metric, way in product(WORLDS, METRICS, WAYS):
        rows = [
            one
            for world, of_world in found
            for one in of_world
            if (world.name, one["metric"], one["way"]) == (name, metric, way)
        ]
        errors = np.array([one["error"] for one in rows])
        told = {"n": len(rows), "mean": errors.mean(), "absolute": np.abs(errors).mean()}
        bounds = ["", ""]
        if rows[0]["held"] is not None:
            told["held"] = np.mean([one["held"] for one in rows])
            told["width"] = np.mean([one["width"] for one in rows])
            bounds = [f"{told['held']:.0%}", f"{told['width']:.3f}"]
        figures[f"{name}, {metric}, {way}"] = {key: float(value) for key, value in told.items()}
        lines.append(
            [name, metric, way, f"{told['mean']:+.4f}", f"{told['absolute']:.4f}", *bounds]
        )
    report(
        "estimates",
        f"Estimated performance of {histories} histories each",
        ["world", "metric", "way", "mean error", "mean absolute error", "bounds held", "width"],
        lines,
        found=figures,
    )


if __name__ == "__main__":
    main()
