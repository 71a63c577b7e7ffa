"""What a fit costs beside XGBoost's alone, and what rows on disk save of memory.

    .venv/bin/python -m benchmarks.train

12 features, trees as the use case declares them by default, as many threads as the settings say.
Each number of rows has a process of its own, in which our fit and `xgboost.train` on the same
matrix with the same parameters take turns. Memory is that of one fit of a staged training set of
20 days in a process of its own: the peak of what is resident, beyond what was before it; where two
workers of a cluster on this machine share the fit, theirs stands beside it. What is fitted in
memory and from the disk is compared byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xgboost as xgb

from benchmarks.bench import report
from benchmarks.contracts import write_use_case
from evergreen.contract import Period, UseCase, as_of, load_use_case_file
from evergreen.provenance.staging import Staged
from evergreen.settings import PROJECT_ROOT, load_settings
from evergreen.training.external import open_rows
from evergreen.training.fit import Fitter, Recipe
from evergreen.training.frame import LabelledFrame, to_frame
from evergreen.training.inputs import Inputs
from evergreen.training.split import Fold, SplitPlan, plan_training
from evergreen.training.tune import declare_recipe

DAY = date(2027, 12, 31)
# Rows, and how often each is fitted.
SIZES = {100_000: 7, 300_000: 5, 1_000_000: 3}
STAGED_SIZES = (300_000, 600_000, 1_200_000)
ROUNDS, STAGED_ROUNDS = 30, 10
TYPES = {f"f{n}": "int64" if n % 3 == 0 else "float64" for n in range(12)}
FIT, SEARCH = "fit", "fit with early stopping"
MEMORY, DISK, AGAIN = "in memory", "from the disk", "from the disk, again"
CLUSTER, CLUSTER_AGAIN = "on two workers", "on two workers, again"


def main() -> None:
    """Measure every size, in processes of their own, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=3, metavar=("FOLDER", "ROWS", "WAY"))
    arguments = parser.parse_args()
    if arguments.worker:
        folder, rows, way = arguments.worker
        use_case = load_use_case_file(Path(folder) / "use_case.yaml")
        found = _memory(use_case, int(rows), way) if way else _times(use_case, int(rows))
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "fitted"
        write_use_case(folder, TYPES)
        _report_memory({rows: _measure_memory(folder, rows) for rows in STAGED_SIZES})
        _report_times({rows: _in_process(folder, rows, "") for rows in SIZES})


def _measure_memory(folder: Path, rows: int) -> dict[str, dict[str, Any]]:
    from distributed import Client, LocalCluster

    _stage(load_use_case_file(folder / "use_case.yaml"), rows)
    found = {way: _in_process(folder, rows, way) for way in (MEMORY, DISK, AGAIN)}
    for way in (CLUSTER, CLUSTER_AGAIN):
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            # The first fit of a worker imports everything.
            before = client.run(_load_and_look)
            os.environ["EVERGREEN_DASK_URL"] = cluster.scheduler_address
            found[way] = _in_process(folder, rows, way)
            after = client.run(_status_mb, "VmHWM")
            found[way]["workers_mb"] = [after[worker] - before[worker] for worker in before]
    return found


def _report_memory(memory: dict[int, dict[str, dict[str, Any]]]) -> None:
    report(
        "train",
        f"A training set on disk: 20 days, {STAGED_ROUNDS} rounds, {_told()}",
        ("rows", "matrix MB", "", "peak MB", "of workers", "seconds", "model"),
        [
            (
                *(f"{rows:,}", round(rows * len(TYPES) * 4 / 1e6), way, round(found["peak_mb"])),
                " and ".join(str(round(mb)) for mb in found.get("workers_mb", ())),
                *(found["seconds"], found["model"][:12]),
            )
            for rows, measured in memory.items()
            for way, found in measured.items()
        ],
        part="memory",
        measured={str(rows): found for rows, found in memory.items()},
    )


def _report_times(times: dict[int, dict[str, Any]]) -> None:
    report(
        "train",
        f"Our fit beside xgboost.train: {ROUNDS} rounds, {_told()}",
        ("rows", "", "seconds", "XGBoost's", "ratio (median)", "greatest", "of CPU (median)"),
        [
            (f"{rows:,}", way, *_compare(pairs["seconds"]), _compare(pairs["cpu"])[2])
            for rows, measured in times.items()
            for way, pairs in measured.items()
        ],
        part="time",
        measured={str(rows): found for rows, found in times.items()},
    )


def _told() -> str:
    return f"{len(TYPES)} features, {load_settings().threads} threads"


def _compare(pairs: list[list[float]]) -> tuple[float, float, float, float]:
    """Best of ours and of theirs, median and greatest of the ratios within one turn."""
    ours, theirs = zip(*pairs, strict=True)
    ratios = [our / their for our, their in pairs]
    return min(ours), min(theirs), statistics.median(ratios), max(ratios)


def _in_process(folder: Path, rows: int, way: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.train", "--worker", str(folder), str(rows), way]
    places = {
        "EVERGREEN_USE_CASES": str(folder.parent),
        "EVERGREEN_HOME": str(folder.parent / "home"),
    }
    ran = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=os.environ | places,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


# --- the work, in a process of its own -----------------------------------------------------------


def _times(use_case: UseCase, rows: int) -> dict[str, Any]:
    """Let our fit and XGBoost's take turns: wall and CPU seconds of ours and theirs, per turn."""
    fitter, recipe = _fitter(use_case), _recipe(use_case, ROUNDS)
    frame, test = _frame(use_case, rows, 1), _frame(use_case, rows // 10, 2)
    told = fitter.parameters(recipe, frame.inputs)
    booster = fitter.use_case.training.booster

    def data(frame: LabelledFrame, reference: xgb.DMatrix | None = None) -> xgb.DMatrix:
        names, types = list(frame.inputs.names), frame.inputs.types
        return xgb.QuantileDMatrix(
            *(frame.matrix, frame.labels),
            feature_names=names,
            feature_types=types,
            nthread=fitter.threads,
            ref=reference,
        )

    def search() -> xgb.Booster:
        fitted = data(frame)
        return xgb.train(
            told,
            fitted,
            booster.max_rounds,
            evals=[(data(test, fitted), "test")],
            early_stopping_rounds=booster.early_stopping_rounds,
            verbose_eval=False,
        )

    ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        FIT: (
            lambda: fitter.fit(recipe, frame, "fit").booster,
            lambda: xgb.train(told, data(frame), ROUNDS, verbose_eval=False),
        ),
        SEARCH: (lambda: fitter.search_rounds(recipe, frame, test)[0].booster, search),
    }
    found: dict[str, Any] = {}
    for way, pair in ways.items():
        seconds, cpu, trees = [], [], set()
        for turn in range(SIZES[rows]):
            wall, used = [0.0, 0.0], [0.0, 0.0]
            # Who begins alternates.
            for place in (0, 1) if turn % 2 else (1, 0):
                started, spent = time.perf_counter(), time.process_time()
                made = pair[place]()
                used[place] = time.process_time() - spent
                wall[place] = time.perf_counter() - started
                trees.add("\n".join(made.get_dump()))
            seconds.append(wall)
            cpu.append(used)
        if len(trees) > 1:
            raise AssertionError(f"{way}: ours are other trees than XGBoost's")
        found[way] = {"seconds": seconds, "cpu": cpu}
    return found


def _memory(use_case: UseCase, rows: int, way: str) -> dict[str, Any]:
    """Fit a staged training set once; MB resident beyond what was before, and the model."""
    kept = json.loads((load_settings().home / f"{rows}.json").read_text())
    workers = 2 if way in (CLUSTER, CLUSTER_AGAIN) else 0
    facts = {"external_memory": way != MEMORY, "dask_workers": workers}
    staged = Staged.from_dict(kept | {"facts": facts})
    fitter, plan = _fitter(use_case), _plan(use_case)
    # The peak of what came before does not count.
    Path("/proc/self/clear_refs").write_text("5")
    before, started = _status_mb("VmRSS"), time.perf_counter()
    with open_rows(staged, plan) as opened:
        model = fitter.fit(_recipe(use_case, STAGED_ROUNDS), opened.to_fit(plan.final), "fit")
    return {
        "peak_mb": _status_mb("VmHWM") - before,
        "seconds": time.perf_counter() - started,
        "model": model.digest,
    }


def _load_and_look() -> float:
    import evergreen.training.cluster  # noqa: F401

    return _status_mb("VmRSS")


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(x.split()[1] for x in lines if x.startswith(field))) / 1024


def _fitter(use_case: UseCase) -> Fitter:
    rounds = use_case.training.booster.model_copy(update={"max_rounds": ROUNDS})
    training = use_case.training.model_copy(update={"booster": rounds})
    declared = use_case.model_copy(update={"training": training})
    return Fitter(declared, load_settings().threads, training.seed)


def _recipe(use_case: UseCase, rounds: int) -> Recipe:
    return replace(declare_recipe("trees", use_case), rounds=rounds)


# --- what is measured on -------------------------------------------------------------------------


def _plan(use_case: UseCase) -> SplitPlan:
    """Return only the days of the last fit."""
    days = plan_training(use_case, DAY).final[-20:]
    return SplitPlan((), None, Fold(days[:-1], days[-1]), days)


def _frame(use_case: UseCase, rows: int, seed: int) -> LabelledFrame:
    return to_frame(_rows(DAY, rows, seed), Inputs(tuple(TYPES)), use_case)


def _stage(use_case: UseCase, rows: int) -> None:
    days = _plan(use_case).days
    home = use_case.folder.parent / "home"
    folder = home / f"staged-{rows}"
    folder.mkdir(parents=True)
    period = Period.parse(str(DAY))
    parts = [_rows(day, rows // len(days), place) for place, day in enumerate(days)]
    staged = Staged(use_case.name, period.label, str(folder), chunks=(period.label,))
    staged.write("training_set", period, pa.concat_tables(parts))
    (home / f"{rows}.json").write_text(json.dumps(staged.to_dict()))


def _rows(day: date, rows: int, seed: int) -> pa.Table:
    """One day of a training set: counts, amounts with gaps, and differences."""
    chance = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "customer_id": pc.utf8_lpad(pa.array(np.arange(rows)).cast(pa.string()), 9, "0"),
        "as_of": pa.repeat(pa.scalar(as_of(day), pa.timestamp("us", "UTC")), rows),
    }
    signal = chance.normal(0.0, 2.0, rows)
    for number, (name, dtype) in enumerate(TYPES.items()):
        if dtype == "int64":
            columns[name] = chance.poisson(5.0, rows)
            signal += columns[name] / 5
        elif number % 3 == 1:
            values = chance.gamma(2.0, 50.0, rows)
            columns[name] = pa.array(values, mask=chance.random(rows) < 0.1)
            signal += values / 100
        else:
            columns[name] = chance.normal(size=rows)
    columns["label"] = signal > np.quantile(signal, 0.8)
    return pa.table(columns)


if __name__ == "__main__":
    main()
