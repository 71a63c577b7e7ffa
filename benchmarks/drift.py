"""What measuring drift costs: two million rows of 20 columns, beside scipy's test and Evidently.

    .venv/bin/python -m benchmarks.drift [--repetitions 3]

A night of a million rows against a training set of a million. Ours measures it against both
references, training (frozen beforehand, as it is in a night) and the samples of 33 earlier nights;
once more with freezing the reference. Bare `scipy.stats.ks_2samp` compares the same two arrays per
column. Evidently's default preset runs in an environment of its own below `EVERGREEN_HOME/bench`,
which is installed on the first run. Every contender runs in a process of its own, in turns; reading
and making the rows are not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import ks_2samp

from benchmarks.bench import peak_mib, report
from evergreen.contract import Monitoring
from evergreen.monitoring.drift import measure_drift
from evergreen.monitoring.expected import weeks_before
from evergreen.monitoring.reference import build_reference
from evergreen.settings import PROJECT_ROOT, load_settings

ROWS, COLUMNS, SAMPLE = 1_000_000, 20, 20_000
NAMES = [f"x{n}" for n in range(COLUMNS)]
# It does not work with pandas 3.
EVIDENTLY = ("evidently==0.7.23", "pandas==2.3.3")
CONTENDERS = ("ks_2samp", "evergreen", "evergreen, reference frozen anew", "evidently")
# Runs where neither this project nor its packages are.
STOCK = """
import json, resource, sys, time
import numpy as np, pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
rows, columns = int(sys.argv[1]), int(sys.argv[2])
frames = []
for seed in (1, 2):
    generator = np.random.default_rng(seed)
    frames.append(pd.DataFrame({f"x{n}": generator.normal(size=rows) for n in range(columns)}))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
Report([DataDriftPreset()]).run(frames[1], frames[0])
print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "peak": peak()}))
"""


def main() -> None:
    """Let every contender measure in turns, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--worker", choices=CONTENDERS)
    arguments = parser.parse_args()
    if arguments.worker:
        sys.stdout.write(json.dumps(_work(arguments.worker)) + "\n")
        return
    python = evidently_python()
    found: dict[str, list[dict[str, float]]] = {contender: [] for contender in CONTENDERS}
    for _ in range(arguments.repetitions):
        for contender in CONTENDERS:
            command = [sys.executable, "-m", "benchmarks.drift", "--worker", contender]
            if contender == "evidently":
                command = [str(python), "-W", "ignore", "-c", STOCK, str(ROWS), str(COLUMNS)]
            ran = subprocess.run(
                command, cwd=PROJECT_ROOT, check=True, stdout=subprocess.PIPE, text=True
            )
            found[contender].append(json.loads(ran.stdout.splitlines()[-1]))
    seconds = {contender: [run["seconds"] for run in runs] for contender, runs in found.items()}
    base = seconds["ks_2samp"]
    rows = [
        (
            contender,
            float(min(seconds[contender])),
            f"{min(seconds[contender]) / min(base):.2f} "
            f"({median(seconds[contender]) / median(base):.2f})",
            round(max(run["peak"] for run in runs)),
            round(max(run["peak"] - run["before"] for run in runs)),
        )
        for contender, runs in found.items()
    ]
    report(
        "drift",
        f"{ROWS:,} rows x {COLUMNS} columns against as many",
        ("", "seconds", "of ks_2samp's (medians)", "peak MiB", "MiB beyond the rows"),
        rows,
        runs=found,
    )


@cache
def evidently_python() -> Path:
    """Return the Python of Evidently's environment, made if it is not there.

    Kept: where the data directory is when it is asked for first is where it stays.
    """
    folder = load_settings().home / "bench" / "-".join(EVIDENTLY)
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *EVIDENTLY], check=True)
    return python


def _rows(seed: int, rows: int) -> pa.Table:
    generator = np.random.default_rng(seed)
    return pa.table({name: generator.normal(size=rows) for name in NAMES})


def _work(contender: str) -> dict[str, float]:
    trained, tonight = _rows(1, ROWS), _rows(2, ROWS)
    work: Callable[[], Any]
    if contender == "ks_2samp":
        pairs = [(trained[name].to_numpy(), tonight[name].to_numpy()) for name in NAMES]

        def work() -> Any:
            return [ks_2samp(*pair, method="asymp") for pair in pairs]
    else:
        weeks = len(weeks_before(date(2026, 1, 1)))
        nights = [tonight, *(_rows(3 + n, SAMPLE) for n in range(weeks))]
        frozen = None if "anew" in contender else build_reference(trained, NAMES)

        def work() -> Any:
            reference = frozen or build_reference(trained, NAMES)
            return measure_drift(reference, nights, Monitoring(), {})

    before, start = peak_mib(), time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - start, "before": before, "peak": peak_mib()}


if __name__ == "__main__":
    main()
