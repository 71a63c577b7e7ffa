"""How often a table's volume is called unusual where nothing happens, and what is found.

    .venv/bin/python -m benchmarks.volume [--series 20]

Simulated tables of three years after a year to learn from: rows a day by a negative binomial
distribution around a level with weekdays, a yearly season and growth; looked at every night.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import report
from evergreen.monitoring.volume import measure_volume

FIRST, WARM_UP, YEARS = date(2022, 1, 3), 365, 3
DAYS = WARM_UP + 365 * YEARS
DATES = [FIRST + timedelta(days=n) for n in range(DAYS)]


@dataclass(frozen=True)
class Table:
    """A kind of table: growth per year as a factor, season and scatter beside Poisson's."""

    name: str
    growth: float = 1.0
    season: float = 0.0
    week: tuple[float, ...] = (1, 1, 1, 1, 1, 1, 1)
    scatter: float = 0.0
    # The rows of a day hold those of the day before it, as features do, and not new ones.
    stock: bool = False


WEEK = (1.0, 0.9, 0.9, 1.0, 1.3, 0.6, 0.25)
TABLES = (
    Table("steady"),
    Table("weekdays", week=WEEK, scatter=0.01),
    Table("season, weekdays", season=0.4, week=WEEK, scatter=0.02),
    Table("threefold a year, season, weekdays", 3.0, 0.3, WEEK, 0.02),
    Table("shrinking, scattered", 0.4, 0.2, WEEK, 0.1),
    Table("customers of a growing base", 2.0, stock=True),
)
LEVELS = (5, 100, 5_000)
CHANGES = {"0 rows": 0.0, "a tenth": 0.1, "half": 0.5, "double": 2.0, "tenfold": 10.0}


def simulate(table: Table, level: float, seed: int) -> NDArray[np.int64]:
    """Return the rows of every day."""
    chance = np.random.default_rng(seed)
    at = np.arange(DAYS) / 365
    mean = level * table.growth**at * (1 + table.season * np.sin(2 * np.pi * at))
    mean = mean * np.array(table.week)[np.arange(DAYS) % 7]
    if table.stock:
        joined = chance.poisson(np.diff(mean, prepend=0.0).clip(0))
        return np.asarray(joined.cumsum(), np.int64)
    if table.scatter:
        mean = mean * chance.gamma(1 / table.scatter, table.scatter, DAYS)
    return chance.poisson(mean)


def main() -> None:
    """Print how often, per table and year."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=20, help="of each table and level")
    series = parser.parse_args().series
    lines = []
    for table in TABLES:
        for level in LEVELS:
            calm: Counter[str | None] = Counter()
            found: Counter[str] = Counter()
            asked = 0
            for seed in range(series):
                rows = dict(zip(DATES, map(int, simulate(table, level, seed)), strict=True))
                for day in DATES[WARM_UP:]:
                    calm[measure_volume(rows, day).verdict] += 1
                for day in DATES[WARM_UP + seed % 7 :: 97]:
                    asked += 1
                    for change, factor in CHANGES.items():
                        changed = rows | {day: round(rows[day] * factor)}
                        found[change] += measure_volume(changed, day).verdict == "extreme"
            years = series * YEARS
            lines.append(
                [
                    table.name,
                    f"{level:,}",
                    f"{calm['unusual'] / years:.2f}",
                    f"{calm['extreme'] / years:.3f}",
                    *(f"{found[change] / asked:.0%}" for change in CHANGES),
                ]
            )
    header = ["table", "rows a day", "unusual a year", "extreme a year"]
    header += [f"{change} is extreme" for change in CHANGES]
    title = f"Volume of simulated tables, {series} series of {YEARS} years of each"
    report("volume", title, header, lines)


if __name__ == "__main__":
    main()
