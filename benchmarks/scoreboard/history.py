"""Rows 21 to 23: scores that are kept, and what a published figure of a model is worth later."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost as xgb
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

from benchmarks.scoreboard.finding import OURS, STACKS, ZENML, Seen, compare
from evergreen import lake
from evergreen.contract import Training
from evergreen.training.split import SplitPlan, plan_split

Vector = NDArray[np.float64]

FIRST, DAY, HORIZON = date(2024, 1, 1), date(2025, 12, 31), 60
# How far from what turns out to be true a published figure may lie, and how often it is tried.
_NEAR, _TRIES = 0.02, 40
# Of row 22: candidates among which one is chosen, rows of a day, columns, none of which says
# anything.
_CANDIDATES, _ROWS, _NOISE = 20, 80, 10
_CUSTOMERS = 1_500


def overwritten(folder: Path) -> Iterable[Seen]:
    """Score two days, then the first of them again, and read all scores."""
    days = [date(2026, 1, 5), date(2026, 1, 6)]
    expected = {str(day): 3 for day in days}
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "scores.db")) as database:
        for day in (*days, days[0]):
            # `mode("overwrite").saveAsTable` of predict.py.tmpl, for a table that pandas can write.
            _scores(day).to_pandas().to_sql("predictions", database, if_exists="replace")
        query = "SELECT day, count(*) FROM predictions GROUP BY day"
        found = {day[:10]: count for day, count in database.execute(query)}
    yield compare(STACKS, found, expected)
    for day in (*days, days[0]):
        lake.publish("scoreboard", "predictions", _scores(day), [day])
    kept = lake.partitions("scoreboard", "predictions")
    yield compare(OURS, {str(day): count for day, count in sorted(kept.items())}, expected)


def reused_test_set(folder: Path) -> Iterable[Seen]:
    """Choose among models of coin tosses; the published accuracy should be that of a coin."""
    plan = _plan()
    published: dict[str, list[float]] = {ZENML: [], OURS: []}
    shared: dict[str, int] = {ZENML: 0, OURS: 0}
    for seed in range(_TRIES):
        random = np.random.default_rng(seed)
        rows = {
            day: (random.normal(size=(_ROWS, _NOISE)), random.random(_ROWS) < 0.5)
            for day in plan.days
        }
        # All known rows, shuffled; tuning, evaluation and promotion look at the same fifth.
        X, y = _stacked(rows, plan.days)
        fit_X, test_X, fit_y, test_y = train_test_split(
            X, y, test_size=0.2, random_state=42, shuffle=True
        )
        fitted = [model.fit(fit_X, fit_y) for model in _candidates(seed)]
        scores = [accuracy_score(test_y, model.predict(test_X)) for model in fitted]
        published[ZENML].append(max(scores))
        shared[ZENML] = len(test_y)
        # Ours: chosen on the tuning folds, measured on the holdout by what was fitted before it.
        means = []
        for number in range(_CANDIDATES):
            tried = []
            for fold in plan.tuning:
                model = _candidates(seed)[number].fit(*_stacked(rows, fold.fit))
                X, y = rows[fold.test]
                tried.append(accuracy_score(y, model.predict(X)))
            means.append(np.mean(tried))
        chosen = _candidates(seed)[int(np.argmax(means))].fit(*_stacked(rows, plan.evaluation.fit))
        X, y = rows[plan.holdout]
        published[OURS].append(accuracy_score(y, chosen.predict(X)))
    seen_before = {*plan.parts["tuning"], *plan.parts.get("calibration", ()), *plan.evaluation.fit}
    shared[OURS] = _ROWS * (plan.holdout in seen_before)
    for contender, found in published.items():
        mean, count = float(np.mean(found)), shared[contender]
        yield Seen(
            contender,
            f"accuracy {mean:.3f} of 0.5, {count} rows chosen on and measured on",
            abs(mean - 0.5) <= _NEAR and count == 0,
        )


def random_split(folder: Path) -> Iterable[Seen]:
    """Publish the AUC of a model of orders, then see what it reaches on the days that follow."""
    plan = _plan()
    later = plan.holdout + timedelta(days=HORIZON)
    rows = _orders((*plan.days, later))
    for contender, test_size, seed in ((ZENML, 0.2, 42), (STACKS, 0.25, 123)):
        X, y = _stacked(rows, plan.final)
        fit_X, test_X, fit_y, test_y = train_test_split(
            X, y, test_size=test_size, random_state=seed
        )
        yield _promised(contender, _fit(fit_X, fit_y), (test_X, test_y), rows[later])
    model = _fit(*_stacked(rows, plan.evaluation.fit))
    yield _promised(OURS, model, rows[plan.holdout], rows[later])


Rows = tuple[Vector, NDArray[Any]]


def _promised(
    contender: str, model: Callable[[Vector], Vector], measured: Rows, later: Rows
) -> Seen:
    published, realised = (roc_auc_score(y, model(X)) for X, y in (measured, later))
    found = f"AUC {published:.3f} published, {realised:.3f} on the days after"
    return Seen(contender, found, bool(published - realised <= _NEAR))


def _plan() -> SplitPlan:
    return plan_split(Training(max_cutoffs=12), HORIZON, FIRST, DAY)


def _candidates(seed: int) -> list[DecisionTreeClassifier]:
    return [
        DecisionTreeClassifier(max_depth=2 + n % 5, max_features=3, random_state=100 * seed + n)
        for n in range(_CANDIDATES)
    ]


def _stacked(rows: dict[date, Rows], days: Sequence[date]) -> Rows:
    X, y = zip(*(rows[day] for day in days), strict=True)
    return np.concatenate(X), np.concatenate(y)


def _fit(X: Vector, y: NDArray[Any]) -> Callable[[Vector], Vector]:
    """Fit trees that are deep enough to know a customer again."""
    told = {"objective": "binary:logistic", "max_depth": 8, "eta": 0.1, "seed": 1, "nthread": 2}
    booster = xgb.train(told, xgb.DMatrix(X, y), 200)
    return lambda other: np.asarray(booster.predict(xgb.DMatrix(other)))


def _orders(days: Sequence[date]) -> dict[date, Rows]:
    """Draw orders of customers with habits of their own; return features and labels by day.

    Label: no order within the horizon. Habits last, so nothing changes between the days.
    """
    random = np.random.default_rng(5)
    length = (max(days) - FIRST).days + HORIZON + 1
    rate = random.gamma(1.0, 1 / HORIZON, _CUSTOMERS)
    orders = random.random((_CUSTOMERS, length)) < rate[:, None]
    spent = orders * random.gamma(2.0, 20.0, (_CUSTOMERS, length))
    found = {}
    for day in days:
        end = (day - FIRST).days + 1
        past, money = orders[:, :end], spent[:, :end]
        counts = [past[:, -days_back:].sum(1) for days_back in (30, 90, end)]
        ago = np.where(past.any(1), past[:, ::-1].argmax(1), end)
        columns = [*counts, money.sum(1), money[:, -90:].sum(1), ago]
        X = np.column_stack(columns).astype(np.float64)
        found[day] = (X, np.asarray(~orders[:, end : end + HORIZON].any(1)))
    return found


def _scores(day: date) -> pa.Table:
    return pa.table({"customer_id": ["a", "b", "c"], "score": [0.1, 0.5, 0.9], "day": [day] * 3})
