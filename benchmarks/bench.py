"""What every benchmark shares: a data directory of its own, a table, a JSON file of results."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from evergreen.ops.local.postgres import embedded_postgres
from evergreen.settings import Settings, load_settings

_PACKAGES = ("apache-airflow", "duckdb", "feast", "pandas", "pyarrow", "pyiceberg", "xgboost")


@contextmanager
def workspace(name: str) -> Iterator[Settings]:
    """Run the body on an empty data directory with its own Postgres; both are removed after.

    Settings that point elsewhere are taken out of the environment, so that a benchmark never
    touches the tables of a deployment.
    """
    home = load_settings().home / "bench" / f"{name}-work"
    shutil.rmtree(home, ignore_errors=True)
    before = dict(os.environ)
    for variable in [v for v in os.environ if v.startswith("EVERGREEN_")]:
        if variable not in ("EVERGREEN_THREADS", "EVERGREEN_MEMORY_MB"):
            del os.environ[variable]
    os.environ["EVERGREEN_HOME"] = str(home)
    settings = load_settings()
    try:
        with embedded_postgres(settings):
            yield settings
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(home, ignore_errors=True)


def report(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    part: str = "",
    **figures: Any,
) -> Path:
    """Print the rows as a table and write all figures to `EVERGREEN_HOME/bench/<name>.json`.

    Parameters
    ----------
    columns, rows
        The table. Values are shown with `str`; floats with three significant digits.
    part
        Which question of the benchmark this answers, if it asks several; the answers to the others
        stay in the file.
    figures
        What the benchmark found, in units named by the keys; JSON-able.
    """
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row))
    console = Console()
    if not console.is_terminal:
        # In a log nothing is cut off.
        console = Console(width=180)
    console.print(table)
    path = load_settings().home / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = json.loads(path.read_text())["parts"] if part and path.exists() else {}
    parts[part or name] = {
        "title": title,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "figures": figures,
        "table": [dict(zip(columns, row, strict=True)) for row in rows],
        "versions": {package: version(package) for package in _PACKAGES},
        "machine": _machine(),
    }
    path.write_text(json.dumps({"benchmark": name, "parts": parts}, indent=2) + "\n")
    console.print(f"Written to {path}")
    return path


def peak_mib() -> float:
    """Peak resident memory of this process; getrusage would count the parent's before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _machine() -> Mapping[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": os.getloadavg()[0],
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")
