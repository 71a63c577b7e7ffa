"""A Dask cluster of real processes: a scheduler and workers with their nannies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client

from evergreen.settings import PROJECT_ROOT

# Nothing here waits longer for a process to do what is expected of it.
LONG_SECONDS = 60


@dataclass
class DaskProcesses:
    """Started and ended by `dask_processes`."""

    folder: Path
    url: str
    scheduler: subprocess.Popen[bytes]
    nannies: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self, name: str, package: Path = PROJECT_ROOT / "include") -> None:
        """Start one that imports the package from a folder, and wait until it is known."""
        self.nannies.append(
            _start(self.folder, "worker", self.url, "--name", name, "--nthreads", "2",
                   "--no-dashboard", package=package)
        )  # fmt: skip
        with self.client() as client:
            wait_for(lambda: name in self.pids(client))

    def client(self) -> Client:
        return Client(self.url, timeout=LONG_SECONDS, set_as_default=False)

    def pids(self, client: Client) -> dict[str, int]:
        """Return the process of each worker by its name."""
        pids = client.run(os.getpid, on_error="ignore")
        known = client.scheduler_info(n_workers=-1)["workers"]
        return {str(known[address]["name"]): pids[address] for address in known if address in pids}


def wait_for(done: Any) -> Any:
    """Return what is true in the end."""
    until = time.monotonic() + LONG_SECONDS
    while not (found := done()):
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.05)
    return found


@contextmanager
def dask_processes(folder: Path, workers: int) -> Iterator[DaskProcesses]:
    """Run a scheduler and so many workers: `w0`, `w1`, …"""
    file = folder / "scheduler.json"
    scheduler = _start(folder, "scheduler", "--host", "127.0.0.1", "--port", "0",
                       "--scheduler-file", str(file), "--no-dashboard")  # fmt: skip
    found = DaskProcesses(folder, "", scheduler)
    try:
        wait_for(file.exists)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            found.url = client.scheduler.address
        for number in range(workers):
            found.add_worker(f"w{number}")
        yield found
    finally:
        for process in (*found.nannies, scheduler):
            # Of its own session: worker and nanny together.
            for number in (signal.SIGCONT, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, number)
            process.wait(LONG_SECONDS)


def _start(
    folder: Path, what: str, *arguments: str, package: Path = PROJECT_ROOT / "include"
) -> subprocess.Popen[bytes]:
    # None may use more than its thread, or two would wait for each other.
    told = {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0"}
    with (folder / f"{what}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments],
            cwd=folder,
            env=os.environ | told,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
