"""How often drift is alarmed where there is none, and how surely and soon where there is.

    .venv/bin/python -m benchmarks.monitor [--histories 2]

Simulated histories of customers who stay, come and go, with a yearly season and without orders at
weekends, looked at every night: by `measure_drift` and the governor's rules, and beside them by
what is usual: any p-value of Kolmogorov-Smirnov below 0.05, Evidently's default (a column drifts at
p < 0.05, or from 1,000 rows on at a Wasserstein distance of 0.1 standard deviations; a night when
half of its columns do), any stability index above 0.25, all against the rows that the champion was
trained on. A request is followed by a cooldown of seven days and by a champion that has been
trained anew on the newest labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import ks_2samp, norm, wasserstein_distance

from benchmarks.bench import report
from evergreen.contract import GeneratorSource, Monitoring, load_use_case
from evergreen.decisions.alarm import Night, find_alarm, summarise_nights
from evergreen.monitoring.drift import DriftRow, measure_drift, psi_of
from evergreen.monitoring.expected import weeks_before
from evergreen.monitoring.onset import estimate_onset, nights_around
from evergreen.monitoring.reference import Reference, bin_edges, bin_shares, build_reference
from evergreen.sources import simulation

Vector = NDArray[np.float64]

FIRST = date(2023, 1, 1)
# Half a year of nights to know what is usual by, and what windows look back.
WARM_UP, QUARTER, QUARTERS = 420, 91, 6
DAYS = WARM_UP + QUARTER * QUARTERS
HORIZON, LOOKBACK = 90, 180
MONITORING = Monitoring()
KINDS = ("web", "shop", "phone")
IMPORTANT = "spent_90d"
FEATURES = (
    *("days_since_last_order", "orders_30d", "orders_90d", "spent_30d", "spent_90d"),
    *("avg_order_value", "gap_ratio", "kind"),
)
NUMBERS = FEATURES[:-1]


@dataclass(frozen=True)
class World:
    """A history: how many customers, whether new ones keep coming, season, week, change."""

    name: str
    customers: int
    acquisition_days: int = 2 * DAYS
    season: float = 0.15
    weekends: bool = True
    changed: date | None = None
    seed: int = 0


NULLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("growing", {"season": 0.0}),
    ("growing, season", {"season": 0.3}),
    ("growing, no weekends", {"weekends": False}),
    ("no new customers", {"acquisition_days": 365, "season": 0.15}),
)
SIZES = (700, 2_500, 10_000)


def nightly(world: World) -> list[pa.Table]:
    """Compute the features of every night, of customers with an order in the last 180 days."""
    customer, day, amount = _orders(world)
    shape = (world.customers, DAYS)
    orders, spent = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    np.add.at(orders, (customer, day), 1)
    np.add.at(spent, (customer, day), amount)
    is_order = orders > 0
    last = np.maximum.accumulate(np.where(is_order, np.arange(DAYS), -1), axis=1)
    first = is_order.argmax(axis=1)
    sums = {
        name: np.concatenate(
            [np.zeros((world.customers, 1)), part.cumsum(axis=1, dtype=np.float64)], 1
        )
        for name, part in (("orders", orders), ("spent", spent))
    }
    kinds = np.array(KINDS)[np.arange(world.customers) % 7 % 3]
    nights = []
    for night in range(DAYS):
        active = np.flatnonzero((last[:, night] >= 0) & (night - last[:, night] < LOOKBACK))
        within = {
            f"{name}_{days}d": part[active, night + 1] - part[active, max(0, night + 1 - days)]
            for name, part in sums.items()
            for days in (30, 90, DAYS)
        }
        recency, count = night - last[active, night] + 0.5, within[f"orders_{DAYS}d"]
        gap = (last[active, night] - first[active]) / np.maximum(count - 1, 1)
        columns = {name: within[name] for name in NUMBERS if name in within} | {
            "days_since_last_order": recency,
            "avg_order_value": within[f"spent_{DAYS}d"] / count,
            "gap_ratio": np.where(gap > 0, recency / np.where(gap > 0, gap, 1), np.nan),
            "kind": kinds[active],
        }
        nights.append(pa.table({name: columns[name] for name in FEATURES}))
    return nights


def _orders(world: World) -> tuple[NDArray[np.int64], NDArray[np.int64], Vector]:
    source = load_use_case("churn").events["orders"].source
    assert isinstance(source, GeneratorSource)
    declared: dict[str, Any] = {
        "seed": world.seed,
        "customers": world.customers,
        "acquisition_days": world.acquisition_days,
        "season": world.season,
        "regime_change": None,
    }
    if world.changed and source.regime_change:
        declared["regime_change"] = source.regime_change.model_copy(update={"day": world.changed})
    simulated = simulation.World(source.model_copy(update=declared), FIRST)
    purchases = simulation.simulate(simulated, FIRST + timedelta(days=DAYS))
    day = purchases.second // simulation.DAY_SECONDS - simulation.days_since_epoch(FIRST)
    if not world.weekends:
        weekday = (day + FIRST.weekday()) % 7
        day = day + np.where(weekday >= 5, 7 - weekday, 0)
    kept = day < DAYS
    return purchases.customer[kept], day[kept], simulation.paid(simulated, purchases)[kept]


def trained_on(nights: Sequence[pa.Table], day: int) -> pa.Table:
    """Return the rows of a champion of that day: three days whose labels had matured."""
    return pa.concat_tables(nights[max(0, day - HORIZON - 28 * n)] for n in range(3))


def measured(
    nights: Sequence[pa.Table], night: int, tonight: pa.Table, reference: Reference
) -> tuple[Night, list[DriftRow]]:
    """Measure a night as the monitor does."""
    day = FIRST + timedelta(days=night)
    places = [(before - FIRST).days for before in weeks_before(day)]
    before = [nights[place] if place >= 0 else None for place in places]
    weights = dict.fromkeys(FEATURES, 1 / len(FEATURES))
    rows = measure_drift(reference, [tonight, *before], MONITORING, weights)
    (found,) = summarise_nights(
        [{"day": day, "model_version": 1, **row.to_dict()} for row in rows], MONITORING
    )
    return found, rows


def is_alarm(nights: Sequence[Night]) -> bool:
    """Return whether the last of these nights is an alarm, as the governor sees it."""
    return find_alarm(nights, 1, nights[-1].day, MONITORING) is not None


def _began(
    nights: Sequence[pa.Table], night: int, rows: Sequence[DriftRow], reference: Reference
) -> int:
    """Return the night about which a change began that this one shows."""
    day = FIRST + timedelta(days=night)
    columns = {column.name: column for column in reference.columns}
    around = {day: nights[(day - FIRST).days] for day in nights_around(day)}
    drifted = [(columns[row.feature], row.test) for row in rows if row.drifted]
    return (estimate_onset(drifted, around, day) - FIRST).days


def stock(tonight: pa.Table, trained: pa.Table) -> dict[str, bool]:
    """Judge a night by the usual rules."""
    significant, distant, indices = [], [], []
    for name in NUMBERS:
        ours, theirs = (_numbers(table, name) for table in (tonight, trained))
        p_value = float(ks_2samp(theirs, ours, method="asymp").pvalue)
        far = float(wasserstein_distance(theirs, ours) / max(theirs.std(), 1e-9))
        significant.append(p_value < 0.05)
        distant.append(p_value < 0.05 if trained.num_rows <= 1_000 else far >= 0.1)
        edges = bin_edges(np.sort(theirs))
        shares = [bin_shares(np.sort(part), 0, edges) for part in (theirs, ours)]
        indices.append(psi_of(shares[0], shares[1], len(theirs), len(ours)) > 0.25)
    return {
        "any KS p < 0.05": any(significant),
        "half of the columns": bool(np.mean([*distant, False]) >= 0.5),
        "any PSI > 0.25": any(indices),
    }


def _numbers(table: pa.Table, name: str) -> Vector:
    values = table[name].to_numpy()
    return np.asarray(values[~np.isnan(values)], np.float64)


RULES = ("this monitor", "any KS p < 0.05", "half of the columns", "any PSI > 0.25")


def watch(world: World) -> dict[str, Any]:
    """Look at every night; count requests, and quarters with any."""
    nights = nightly(world)
    reference = build_reference(trained_on(nights, WARM_UP), FEATURES)
    asked: dict[str, list[int]] = {rule: [] for rule in RULES}
    seen: list[Night] = []
    for night in range(WARM_UP, DAYS):
        seen.append(measured(nights, night, nights[night], reference)[0])
        for rule, requests in asked.items():
            if requests and night - requests[-1] < MONITORING.cooldown_days:
                continue
            trained = trained_on(nights, requests[-1] if requests else WARM_UP)
            if is_alarm(seen) if rule == RULES[0] else stock(nights[night], trained)[rule]:
                requests.append(night)
    return {
        "rows": nights[-1].num_rows,
        **{
            rule: {
                "a year": len(found) * 365 / (DAYS - WARM_UP),
                "quarters": len({(night - WARM_UP) // QUARTER for night in found}) / QUARTERS,
            }
            for rule, found in asked.items()
        },
    }


Change = Callable[[pa.Table, np.random.Generator], pa.Table]


def _changed(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(
        table.column_names.index(name), name, pa.array(values, from_pandas=True)
    )


def _shift(deviations: float) -> Change:
    """Move the important feature, by standard deviations of what it would be if it were normal."""

    def change(table: pa.Table, generator: np.random.Generator) -> pa.Table:
        values = table[IMPORTANT].to_numpy()
        order = np.lexsort((generator.random(len(values)), values))
        places = np.empty(len(values))
        places[order] = (np.arange(len(values)) + 0.5) / len(values)
        moved = norm.cdf(norm.ppf(places) + deviations)
        return _changed(table, IMPORTANT, np.quantile(values, moved))

    return change


def _missing(share: float) -> Change:
    def change(table: pa.Table, generator: np.random.Generator) -> pa.Table:
        values = table[IMPORTANT].to_numpy().copy()
        values[generator.random(len(values)) < share] = np.nan
        return _changed(table, IMPORTANT, values)

    return change


def _unseen(share: float) -> Change:
    def change(table: pa.Table, generator: np.random.Generator) -> pa.Table:
        values = np.array(table["kind"].to_pylist(), dtype=object)
        values[generator.random(len(values)) < share] = "app"
        return _changed(table, "kind", values)

    return change


def _catastrophe(table: pa.Table, _: np.random.Generator) -> pa.Table:
    for name in NUMBERS[:3]:
        values = table[name].to_numpy()
        table = _changed(table, name, values + 50 * values.std())
    return table


def _outlier(table: pa.Table, _: np.random.Generator) -> pa.Table:
    for name in NUMBERS:
        values = table[name].to_numpy().copy()
        values[0] = 1e12
        table = _changed(table, name, values)
    return table


CHANGES: dict[str, Change] = {
    "one outlier in every column": _outlier,
    "0.2 sd in one column": _shift(0.2),
    "0.35 sd in one column": _shift(0.35),
    "0.5 sd in one column": _shift(0.5),
    "0.8 sd in one column": _shift(0.8),
    "10 % missing in one column": _missing(0.1),
    "30 % missing in one column": _missing(0.3),
    "15 % of an unseen category": _unseen(0.15),
    "50 sd in 3 of 8 columns": _catastrophe,
}


def disturb(world: World) -> dict[str, Any]:
    """Change what nights show, and count how many nights it takes until somebody is told."""
    nights = nightly(world)
    found: dict[str, Any] = {name: {rule: [] for rule in ("psi", *RULES)} for name in CHANGES}
    for start in range(WARM_UP, DAYS - 3, 31):
        trained = trained_on(nights, start)
        reference = build_reference(trained, FEATURES)
        quiet = [measured(nights, start - n, nights[start - n], reference)[0] for n in (2, 1)]
        for name, change in CHANGES.items():
            seen = list(quiet)
            delays: dict[str, int | None] = dict.fromkeys(RULES)
            for n in range(3):
                tonight = change(nights[start + n], np.random.default_rng([world.seed, start + n]))
                if n == 0:
                    found[name]["psi"].append(_index(nights[start], tonight))
                seen.append(measured(nights, start + n, tonight, reference)[0])
                told = {RULES[0]: is_alarm(seen), **stock(tonight, trained)}
                for rule, is_told in told.items():
                    if is_told and delays[rule] is None:
                        delays[rule] = n + 1
            for rule, delay in delays.items():
                found[name][rule].append(delay)
    return {"rows": nights[-1].num_rows, **found}


def _index(before: pa.Table, tonight: pa.Table) -> float:
    calm, moved = (np.sort(_numbers(table, IMPORTANT)) for table in (before, tonight))
    edges, gone = bin_edges(calm), tonight.num_rows - len(moved)
    return psi_of(bin_shares(calm, 0, edges), bin_shares(moved, gone, edges))


def change_habits(world: World) -> dict[str, Any]:
    """Let customers buy less from a day on; return the nights until somebody is told."""
    nights, begin = nightly(world), (world.changed - FIRST).days if world.changed else 0
    trained = trained_on(nights, begin)
    reference = build_reference(trained, FEATURES)
    seen = [measured(nights, begin - n, nights[begin - n], reference)[0] for n in (3, 2, 1)]
    delays: dict[str, int | None] = dict.fromkeys(RULES)
    error = None
    for night in range(begin, min(begin + 28, DAYS)):
        found, rows = measured(nights, night, nights[night], reference)
        seen.append(found)
        for rule, told in {RULES[0]: is_alarm(seen), **stock(nights[night], trained)}.items():
            if told and delays[rule] is None:
                delays[rule] = night - begin + 1
                if rule == RULES[0] and found.is_drift:
                    error = _began(nights, night, rows, reference) - begin
    return {"rows": nights[-1].num_rows, "error": error, **delays}


def main() -> None:
    """Simulate, look at the nights, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=2, help="of each kind and size; 0: a try")
    histories = parser.parse_args().histories
    sizes, seeds = (SIZES, range(histories)) if histories else (SIZES[:1], range(1))
    worlds = [
        World(name, size, seed=seed, **options)
        for name, options in NULLS
        for size in sizes
        for seed in seeds
    ]
    disturbed = [World("season", size, seed=seed) for size in sizes for seed in seeds]
    habits = [
        World("habits", size, seed=seed, changed=FIRST + timedelta(days=WARM_UP + 60 * n))
        for size in sizes
        for seed in seeds
        for n in range(3)
    ]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        watched = list(pool.map(watch, worlds))
        told = list(pool.map(disturb, disturbed))
        changed = list(pool.map(change_habits, habits))
    _report_nulls(worlds, watched)
    _report_changes(disturbed, told)
    _report_habits(habits, changed)


def _report_nulls(worlds: Sequence[World], watched: Sequence[dict[str, Any]]) -> None:
    rows = []
    for key in dict.fromkeys((world.name, world.customers) for world in worlds):
        of_key = [f for w, f in zip(worlds, watched, strict=True) if (w.name, w.customers) == key]
        cells = [
            f"{np.mean([f[rule]['a year'] for f in of_key]):.1f} / "
            f"{np.mean([f[rule]['quarters'] for f in of_key]):.0%}"
            for rule in RULES
        ]
        rows.append((key[0], int(np.mean([f["rows"] for f in of_key])), *cells))
    title = f"Nothing happens: requests a year / quarters with any, of {len(watched) * QUARTERS}"
    report("monitor", title, ("history", "rows a night", *RULES), rows, "nulls", measured=rows)


def _report_changes(worlds: Sequence[World], told: Sequence[dict[str, Any]]) -> None:
    rows = []
    for name in CHANGES:
        for size in dict.fromkeys(world.customers for world in worlds):
            of_size = [f for w, f in zip(worlds, told, strict=True) if w.customers == size]
            index = np.median([x for f in of_size for x in f[name]["psi"]])
            cells = [_told([d for f in of_size for d in f[name][rule]]) for rule in RULES]
            rows.append((name, int(np.mean([f["rows"] for f in of_size])), float(index), *cells))
    title = "What tonight shows is changed: told within 3 nights / median night"
    report(
        "monitor", title, ("change", "rows a night", "PSI", *RULES), rows, "changes", measured=rows
    )


def _report_habits(worlds: Sequence[World], found: Sequence[dict[str, Any]]) -> None:
    rows = []
    for size in dict.fromkeys(world.customers for world in worlds):
        of_size = [f for w, f in zip(worlds, found, strict=True) if w.customers == size]
        cells = [_told([f[rule] for f in of_size]) for rule in RULES]
        errors = np.abs([f["error"] for f in of_size if f["error"] is not None])
        dated = f"{(errors <= 1).sum()}, {(errors <= 3).sum()} of {len(errors)}"
        rows.append((int(np.mean([f["rows"] for f in of_size])), *cells, dated))
    title = "Customers buy a third as often: told within 28 nights / median night"
    columns = ("rows a night", *RULES, "dated within 1, 3 days")
    report("monitor", title, columns, rows, "habits", measured=rows)


def _told(delays: Sequence[int | None]) -> str:
    told = [delay for delay in delays if delay is not None]
    return f"{len(told) / len(delays):.0%}" + (f" / {np.median(told):g}" if told else "")


if __name__ == "__main__":
    main()
