"""What scores and their reasons cost, beside XGBoost's prediction alone.

    .venv/bin/python -m benchmarks.score [--large]

One day of 12 features, 300 trees of depth 3, as many threads as the settings say. Each number of
rows has a process of its own, in which all ways take turns; peak memory is that of one run in a
process of its own. `--large` adds ten million rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xgboost as xgb

from benchmarks.bench import report
from benchmarks.contracts import write_use_case
from evergreen.contract import UseCase, as_of, load_use_case_file
from evergreen.scoring.score import score
from evergreen.settings import PROJECT_ROOT, load_settings
from evergreen.training.inputs import Inputs, Matrix
from evergreen.training.model import LoadedModel, Model

DAY = date(2026, 1, 31)
SIZES, LARGE = (100_000, 300_000, 1_000_000), 10_000_000
TREES, DEPTH = 300, 3
TYPES = {f"f{n}": "int64" if n % 3 == 0 else "float64" for n in range(12)}
# Shares of the rows in the highest band.
TENTH, THIRD = "reasons for the highest band, 10 %", "reasons for the highest band, 30 %"
NONE, ALL = "without reasons", "reasons for all"
MATRIX, TABLE = "inplace_predict of a ready matrix", "inplace_predict of the table"
# XGBoost's own reasons take so long that few rows must do.
SHAP_ROWS = 5_000


def main() -> None:
    """Measure every size, in processes of their own, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help=f"also {LARGE:,} rows")
    parser.add_argument("--worker", nargs=3, metavar=("FOLDER", "ROWS", "WAY"))
    arguments = parser.parse_args()
    if arguments.worker:
        folder, rows, way = arguments.worker
        measured = _memory if way else _times
        found = measured(Path(folder), int(rows), *([way] if way else []))
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "scored"
        write_use_case(folder, TYPES)
        _write_model(folder / "model.ubj")
        sizes = (*SIZES, LARGE) if arguments.large else SIZES
        found = {rows: _measure(folder, rows) for rows in sizes}
    report(
        "score",
        f"{len(TYPES)} features, {TREES} trees of depth {DEPTH}, {load_settings().threads} threads",
        (
            *("rows", "", "seconds", "of the matrix's speed", "of the table's", "CPU: matrix's"),
            *("predictions MB", "MB beyond"),
        ),
        [row for rows, measured in found.items() for row in _rows_of_table(rows, measured)],
        measured={str(rows): measured for rows, measured in found.items()},
    )


def _measure(folder: Path, rows: int) -> dict[str, Any]:
    times = _in_process(folder, rows, "")
    memory = {way: _in_process(folder, rows, way) for way in (NONE, TENTH, THIRD, ALL)}
    return {**times, "memory": memory}


def _in_process(folder: Path, rows: int, way: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.score", "--worker", str(folder), str(rows), way]
    ran = subprocess.run(command, cwd=PROJECT_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _rows_of_table(rows: int, found: dict[str, Any]) -> list[tuple[Any, ...]]:
    table = []
    for way, wall in found["seconds"].items():
        memory = found["memory"].get(way, {})
        table.append(
            (
                *(f"{rows:,}", way, wall, found["seconds"][MATRIX] / wall),
                *(found["seconds"][TABLE] / wall, found["cpu"][MATRIX] / found["cpu"][way]),
                *(round(memory[of]) if memory else "" for of in ("predictions_mb", "beyond_mb")),
            )
        )
    alone = found["shap_seconds_per_row"] * rows
    speed = found["seconds"][MATRIX] / alone
    return [*table, (f"{rows:,}", "XGBoost's SHAP values alone", alone, speed, "", "", "", "")]


# --- the work, in a process of its own -----------------------------------------------------------


def _times(folder: Path, rows: int) -> dict[str, Any]:
    """Let all ways take turns; the best wall and CPU time of each."""
    use_case, model, features = _opened(folder, rows)
    threads = load_settings().threads
    matrix = model.inputs.prepare(features)
    model.model.booster.set_param({"nthread": threads})

    def predict(matrix: Matrix) -> Matrix:
        found: Matrix = model.model.booster.inplace_predict(matrix, missing=np.nan)
        return found

    asked = {way: _asked(use_case, way, predict(matrix)) for way in (NONE, TENTH, THIRD, ALL)}
    ways: dict[str, Callable[[], Any]] = {
        MATRIX: lambda: predict(matrix),
        TABLE: lambda: predict(model.inputs.prepare(features)),
        **{
            way: lambda wanted=wanted: score(model, features, wanted, threads=threads)
            for way, wanted in asked.items()
        },
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(5 if rows < LARGE else 1):
        for way, work in ways.items():
            started, used = time.perf_counter(), time.process_time()
            work()
            cpu[way].append(time.process_time() - used)
            seconds[way].append(time.perf_counter() - started)
    started = time.perf_counter()
    few = xgb.DMatrix(matrix[:SHAP_ROWS], feature_names=list(TYPES), feature_types=["q"] * 12)
    model.model.booster.predict(few, pred_contribs=True)
    return {
        "seconds": {way: min(times) for way, times in seconds.items()},
        "cpu": {way: min(times) for way, times in cpu.items()},
        "all_seconds": seconds,
        "shap_seconds_per_row": (time.perf_counter() - started) / SHAP_ROWS,
    }


def _memory(folder: Path, rows: int, way: str) -> dict[str, float]:
    """Score once; MB of what went in and came out, and what was needed beyond both."""
    use_case, model, features = _opened(folder, rows)
    some = model.inputs.prepare(features.slice(0, SIZES[0]))
    wanted = _asked(use_case, way, model.model.booster.inplace_predict(some, missing=np.nan))
    # The peak of what came before does not count, nor what of it is kept for reuse.
    pa.default_memory_pool().release_unused()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mb("VmRSS")
    predictions = score(model, features, wanted, threads=load_settings().threads)
    grown, made = _status_mb("VmHWM") - before, predictions.nbytes / 2**20
    return {
        "features_mb": features.nbytes / 2**20,
        "predictions_mb": made,
        "beyond_mb": grown - made,
    }


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(x.split()[1] for x in lines if x.startswith(field))) / 1024


# --- what is measured on -------------------------------------------------------------------------


def _opened(folder: Path, rows: int) -> tuple[UseCase, LoadedModel, pa.Table]:
    fitted = Model.load((folder / "model.ubj").read_bytes())
    model = LoadedModel(
        model=fitted,
        measured=fitted,
        version=1,
        run_id="",
        importances={},
        reference={},
        tags={},
        reads=TYPES,
    )
    return load_use_case_file(folder / "use_case.yaml"), model, _features(rows)


def _asked(use_case: UseCase, way: str, scores: Matrix) -> UseCase:
    """Declare bands of which the highest holds a share of the scores, and who gets reasons."""
    share = 0.3 if way == THIRD else 0.1
    scoring = use_case.scoring.model_copy(
        update={
            "bands": {"high": float(np.quantile(scores, 1 - share)), "low": 0.0},
            "reasons_for": {NONE: (), ALL: ("high", "low")}.get(way),
        }
    )
    return use_case.model_copy(update={"scoring": scoring})


def _features(rows: int) -> pa.Table:
    """One day as it is published: sorted by key; counts, amounts with gaps, and differences."""
    chance = np.random.default_rng(1)
    columns: dict[str, Any] = {
        "customer_id": pc.utf8_lpad(pa.array(np.arange(rows)).cast(pa.string()), 9, "0"),
        "as_of": pa.repeat(pa.scalar(as_of(DAY), pa.timestamp("us", "UTC")), rows),
    }
    for number, (name, dtype) in enumerate(TYPES.items()):
        if dtype == "int64":
            columns[name] = chance.poisson(5.0, rows)
        elif number % 3 == 1:
            columns[name] = pa.array(chance.gamma(2.0, 50.0, rows), mask=chance.random(rows) < 0.1)
        else:
            columns[name] = chance.normal(size=rows)
    return pa.table(columns)


def _write_model(path: Path) -> None:
    matrix = Inputs(tuple(TYPES)).prepare(_features(SIZES[0]))
    known = np.nan_to_num(matrix)
    chance = np.random.default_rng(2)
    signal = known[:, 0::3].sum(axis=1) / 5 + known[:, 1::3].sum(axis=1) / 100 + known[:, 2]
    labels = signal + chance.normal(0.0, 2.0, len(signal)) > np.quantile(signal, 0.8)
    parameters = {"objective": "binary:logistic", "max_depth": DEPTH, "learning_rate": 0.03}
    threads = {"nthread": load_settings().threads, "seed": 1}
    data = xgb.QuantileDMatrix(matrix, labels, feature_names=list(TYPES))
    xgb.train(parameters | threads, data, TREES).save_model(path)


if __name__ == "__main__":
    main()
