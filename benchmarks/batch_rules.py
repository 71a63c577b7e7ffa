"""How often the row count rule refuses good days, and finds half and doubled ones.

    .venv/bin/python -m benchmarks.batch_rules

Simulated years of Poisson and of overdispersed counts with a weekly season, from five rows a day
on. With EVERGREEN_ONLINE_RETAIL set, the days of that history as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from benchmarks.bench import report
from evergreen.contract import BatchRules, Events, load_use_case
from evergreen.quality.row_counts import unusual_row_counts, usual_row_counts

FIRST = date(2025, 1, 1)
DAYS, YEARS = 365, 10
LEVELS = (5, 50, 500, 50_000)
# Of what counts vary by beyond chance: coefficients of variation of 0, 14, 32 and 55 %.
DISPERSIONS = (0.0, 0.02, 0.1, 0.3)
WEEK = np.array([1.0, 1.1, 1.0, 0.9, 1.2, 0.6, 0.4])


def main() -> None:
    """Simulate, judge, report."""
    orders = load_use_case("churn").events["orders"].model_copy(update={"batch": BatchRules()})
    rows = [
        (f"{level:,}", dispersion, *(f"{share:.2%}" for share in shares))
        for level in LEVELS
        for dispersion in DISPERSIONS
        for shares in [_rates(since(orders, FIRST), level, dispersion)]
    ]
    columns = ("rows a day", "dispersion", "good refused", "half found", "double found")
    report("batch-rules", f"Row counts of {YEARS} years", columns, rows, years=YEARS, days=DAYS)
    if folder := os.environ.get("EVERGREEN_ONLINE_RETAIL"):
        _report_real(orders, Path(folder))


def since(table: Events, first_day: date) -> Events:
    """Return a table whose history begins on a day."""
    other = table.model_copy()
    other.bind(table.name, replace(table.setting, first_day=first_day))
    return other


def _rates(table: Events, level: float, dispersion: float) -> tuple[float, float, float]:
    random = np.random.default_rng(7)
    judged = refused = half = double = 0
    for _ in range(YEARS):
        means = level * WEEK[np.arange(DAYS) % 7]
        if dispersion:
            means = means * random.gamma(1 / dispersion, dispersion, DAYS)
        counts = random.poisson(means)
        halves = random.binomial(counts, 0.5)
        known = {FIRST + timedelta(days=n): int(count) for n, count in enumerate(counts)}
        for day, usual in usual_row_counts(table, known, known).items():
            judged += 1
            refused += not usual.least <= known[day] <= usual.most
            half += halves[(day - FIRST).days] < usual.least
            double += 2 * known[day] > usual.most
    return refused / judged, half / judged, double / judged


def _report_real(orders: Events, folder: Path) -> None:
    delivered: Mapping[date, int] = {
        date.fromisoformat(path.stem): path.read_bytes().count(b"\n") - 1
        for path in folder.glob("by-day/*.csv")
    }
    first = min(delivered)
    days = [first + timedelta(days=n) for n in range((max(delivered) - first).days + 1)]
    known = {day: delivered.get(day, 0) for day in days}
    table = since(orders, first)
    judged, unusual = usual_row_counts(table, known, days), unusual_row_counts(table, known)
    half = [round(0.5 * known[day]) < usual.least for day, usual in judged.items()]
    row = (len(days), len(judged), ", ".join(map(str, unusual)) or "none", f"{np.mean(half):.0%}")
    columns = ("days", "judged", "refused", "half found")
    report("batch-rules", "Row counts of online_retail", columns, [row], part="online_retail")


if __name__ == "__main__":
    main()
