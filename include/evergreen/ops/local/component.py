"""Become one component of Airflow, under Supervisor, in place of one that was killed.

Run as `python -m evergreen.ops.local.component COMMAND...`. What the killed one left is ended
first: an executor's workers do not notice that nobody sends them tasks any more.
"""

from __future__ import annotations

import os
import signal
import sys

import psutil

from evergreen.ops.local.airflow_processes import component, owned, signal_all
from evergreen.settings import load_settings

_END_SECONDS = 5


def _end_leftovers() -> None:
    settings = load_settings()
    name = os.environ["SUPERVISOR_PROCESS_NAME"]
    # Known by their name: the other components are just being started.
    left = [process for process in owned(settings) if component(process) == name]
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal_all(left, number)
        _, left = psutil.wait_procs(left, _END_SECONDS)


if __name__ == "__main__":
    _end_leftovers()
    # What supervisord's configuration, which is ours, names.
    os.execvp(sys.argv[1], sys.argv[1:])  # nosec B606
