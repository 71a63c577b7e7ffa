"""Find and end the processes of one Airflow, whatever became of their parents."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from evergreen.settings import Settings

# In the environment of every process that `start` starts; they hand it on to theirs.
_MARK = "EVERGREEN_AIRFLOW_INSTANCE"


def mark(settings: Settings) -> dict[str, str]:
    """Return the variables by which `owned` knows the processes of this home again."""
    # setproctitle would overwrite the memory in which the mark is found.
    return {_MARK: str(settings.home), "SPT_NOENV": "1"}


def owned(settings: Settings) -> list[psutil.Process]:
    """All live processes of this home's Airflow, tasks and their children included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            # Zombies have no environment left to read.
            if process.environ().get(_MARK) == str(settings.home) and process.pid != os.getpid():
                found.append(process)
    return found


def component(process: psutil.Process) -> str | None:
    """Name of the component that a process is or descends from; None for Supervisor itself."""
    with suppress(psutil.Error):
        name: str | None = process.environ().get("SUPERVISOR_PROCESS_NAME")
        return name
    return None


def signal_all(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to those that still exist."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def await_end(settings: Settings, seconds: float, *, without: Iterable[int] = ()) -> None:
    """Wait until no process of this home is left but the given ones, or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not {process.pid for process in owned(settings)} - set(without):
            return
        time.sleep(0.1)
