"""Rows 17 to 20: drift by Evidently's preset, and by ours.

Evidently runs in the environment of its own that `make bench-drift` uses, too; it reads the rows
from files.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.drift import evidently_python
from benchmarks.scoreboard.finding import EVIDENTLY, OURS, Seen, compare
from evergreen.contract import Monitoring
from evergreen.decisions.alarm import Night, summarise_nights
from evergreen.monitoring.drift import DriftRow, measure_drift
from evergreen.monitoring.expected import weeks_before
from evergreen.monitoring.reference import Reference, build_reference

NIGHT = date(2026, 1, 5)
MONITORING = Monitoring()
_WEEKS = len(weeks_before(NIGHT))
# Of row 18: nights on which nothing happens, rows and columns of each, most that may be flagged.
_NIGHTS, _ROWS, _COLUMNS, _MOST = 40, 500, 20, 0.05
# Of row 20: columns that move, and by how many standard deviations; rows, more than a thousand, so
# that no column drifts by chance.
_MOVED, _BY, _MANY = 9, 50.0, 5_000

# Runs where neither this project nor its packages are: asks for reports, as `evidently` has them.
STOCK = """
import json, sys
import numpy as np, pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
found = []
read = lambda path: pd.DataFrame(dict(np.load(path)))
for reference, current, options in json.loads(sys.argv[1]):
    report = Report([DataDriftPreset(**options)], include_tests=True)
    ran = report.run(read(current), read(reference)).dict()
    values = {
        metric["config"]["column"]: metric["value"]
        for metric in ran["metrics"]
        if "column" in metric["config"]
    }
    dataset, *columns = [test["status"] == "FAIL" for test in ran["tests"]]
    found.append({"values": values, "columns": columns, "dataset": dataset})
print(json.dumps(found))
"""


def small_shift(folder: Path) -> Iterable[Seen]:
    """Move a million rows by a hundredth of a standard deviation, then by half of one."""
    shifts = {"a shift of 0.01 sd": 0.01, "of 0.5 sd": 0.5}
    expected = {"a shift of 0.01 sd": "calm", "of 0.5 sd": "told"}
    rows = 1_000_000
    trained = _normal(1, rows, 1)
    moved = {name: _shifted(_normal(2, rows, 1), by, 1) for name, by in shifts.items()}
    for options in ({}, {"num_method": "ks"}):
        found = _evidently(folder, [(trained, night, options) for night in moved.values()])
        told = ["told" if any(one["columns"]) else "calm" for one in found]
        named = dict(zip(shifts, told, strict=True))
        seen = compare(EVIDENTLY, named, expected)
        values = [value for one in found for value in one["values"].values()]
        method = options.get("num_method", "default")
        yield Seen(
            EVIDENTLY,
            f"{method} ({', '.join(f'{value:.2g}' for value in values)}): {seen.found}",
            seen.passed,
            on_request=bool(options),
        )
    reference = build_reference(trained, trained.column_names)
    before = [_normal(3 + week, 20_000, 1) for week in range(_WEEKS)]
    measured = [_measured(reference, [night, *before])[1] for night in moved.values()]
    effects = [next(r.statistic for r in drift if r.test == "ks") for drift in measured]
    told = ["told" if any(row.drifted for row in drift) else "calm" for drift in measured]
    seen = compare(OURS, dict(zip(shifts, told, strict=True)), expected)
    shown = ", ".join(f"{effect:.2g}" for effect in effects)
    yield Seen(OURS, f"D ({shown}): {seen.found}", seen.passed)


def many_tests(folder: Path) -> Iterable[Seen]:
    """Look at nights on which nothing happens, each against rows of its own."""
    drawn = [[_normal([number, n], _ROWS, _COLUMNS) for n in range(2)] for number in range(_NIGHTS)]
    found = _evidently(folder, [(trained, night, {}) for trained, night in drawn])
    flagged = {EVIDENTLY: sum(any(one["columns"]) for one in found), OURS: 0}
    for number, (trained, night) in enumerate(drawn):
        before = [_normal([number, 2 + week], _ROWS, _COLUMNS) for week in range(_WEEKS)]
        reference = build_reference(trained, trained.column_names)
        flagged[OURS] += any(row.drifted for row in _measured(reference, [night, *before])[1])
    for contender, nights in flagged.items():
        share = nights / _NIGHTS
        yield Seen(contender, f"{share:.1%} of {_NIGHTS} nights", share <= _MOST)


def outlier(folder: Path) -> Iterable[Seen]:
    """Measure the stability index of a shift of half a deviation, then with one outlier."""
    rows = 5_000
    trained, night = _normal(1, rows, 1), _shifted(_normal(2, rows, 1), 0.5, 1)
    values = night["x0"].to_numpy().copy()
    values[0] = 1_000.0
    nights = [night, pa.table({"x0": values})]
    found = _evidently(folder, [(trained, each, {"num_method": "psi"}) for each in nights])
    indices = {EVIDENTLY: [one["values"]["x0"] for one in found]}
    reference = build_reference(trained, trained.column_names)
    indices[OURS] = [
        next(row.psi for row in _measured(reference, [each])[1] if row.reference == "training")
        for each in nights
    ]
    for contender, (without, with_it) in indices.items():
        kept = abs(with_it - without) <= 0.1 * without
        yield Seen(contender, f"PSI {without:.3f}, with the outlier {with_it:.3f}", bool(kept))


def catastrophe(folder: Path) -> Iterable[Seen]:
    """Move 9 of 20 columns by 50 standard deviations."""
    trained = _normal(1, _MANY, _COLUMNS)
    night = _shifted(_normal(2, _MANY, _COLUMNS), _BY, _MOVED)
    (found,) = _evidently(folder, [(trained, night, {})])
    yield Seen(
        EVIDENTLY,
        f"{sum(found['columns'])} of {_COLUMNS} columns drifted, "
        f"dataset {'drifted' if found['dataset'] else 'did not drift'}",
        found["dataset"],
    )
    reference = build_reference(trained, trained.column_names)
    before = [_normal(3 + week, _MANY, _COLUMNS) for week in range(_WEEKS)]
    summary, _ = _measured(reference, [night, *before])
    yield Seen(
        OURS,
        f"{len(summary.drifted)} of {_COLUMNS} columns drifted, weight {summary.weight:.2f}, "
        f"night {'drifted' if summary.is_drift else 'did not drift'}, "
        f"{len(summary.extreme)} extreme",
        summary.is_drift,
    )


def _measured(reference: Reference, nights: Sequence[pa.Table]) -> tuple[Night, Sequence[DriftRow]]:
    """Measure a night, with those before it, as the monitor does; all columns weigh the same."""
    weights = dict.fromkeys(reference.names, 1 / len(reference.names))
    rows = measure_drift(reference, nights, MONITORING, weights)
    described = [{"day": NIGHT, "model_version": 1, **row.to_dict()} for row in rows]
    (night,) = summarise_nights(described, MONITORING)
    return night, rows


def _evidently(
    folder: Path, asked: Sequence[tuple[pa.Table, pa.Table, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Run the preset once for each pair of reference and current rows."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[int, str] = {}
    for table in (table for *pair, _ in asked for table in pair):
        if id(table) not in paths:
            paths[id(table)] = str(folder / f"{len(paths)}.npz")
            np.savez(paths[id(table)], **{n: table[n].to_numpy() for n in table.column_names})
    wanted = [(paths[id(trained)], paths[id(night)], options) for trained, night, options in asked]
    command = [str(evidently_python()), "-W", "ignore", "-c", STOCK, json.dumps(wanted)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: list[dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _normal(seed: int | Sequence[int], rows: int, columns: int) -> pa.Table:
    generator = np.random.default_rng(seed)
    return pa.table({f"x{n}": generator.normal(size=rows) for n in range(columns)})


def _shifted(table: pa.Table, by: float, columns: int) -> pa.Table:
    def moved(name: str, number: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = table[name].to_numpy()
        return values + by if number < columns else values

    return pa.table({name: moved(name, n) for n, name in enumerate(table.column_names)})
