"""Airflow on this machine: its environment, its four processes, its state on disk.

`start` runs what `airflow standalone` runs (scheduler, DAG processor, triggerer, API server), as
processes of their own. The standalone command cannot be told to leave out its log servers, which
listen on every network interface, and it orphans its children when it is terminated.

Every process started here carries a mark in its environment and hands it on, so that `stop` finds
all of them, also after the starter, or a parent among them, was killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fasteners

from evergreen.errors import ConfigError, ServiceDownError
from evergreen.local import postgres
from evergreen.local.airflow_environment import (
    DEFAULT_PORT,
    HOST,
    USERNAME,
    airflow_environment,
    airflow_home,
    password_file,
)
from evergreen.local.airflow_processes import await_end, mark, owned, signal_all
from evergreen.settings import PROJECT_ROOT, Settings

__all__ = [
    "DEFAULT_PORT",
    "HOST",
    "USERNAME",
    "Instance",
    "airflow_environment",
    "find",
    "health",
    "start",
    "stop",
]

_API_SERVER = "api-server"
# Without the log servers: tasks run here, so the API server reads their logs from disk.
_COMPONENTS = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
    _API_SERVER: ("api-server",),
}
_HEALTHY_SECONDS = 180
# How long running tasks may go on, and how long a process may take to end, before it is killed.
_TASK_SECONDS = 15
_END_SECONDS = 5
_LOG_TAIL_LINES = 40


@dataclass(frozen=True)
class Instance:
    """A running Airflow.

    Parameters
    ----------
    url
        Base URL of UI and API, without a slash at the end.
    username, password
        Of the one administrator.
    pids
        Process id of each component by name.
    log
        File that all components write to.
    """

    url: str
    username: str
    password: str = field(repr=False)
    pids: Mapping[str, int]
    log: Path


def start(
    settings: Settings,
    port: int | None = None,
    *,
    dags: Path = PROJECT_ROOT / "dags",
    paused_at_creation: bool = True,
) -> Instance:
    """Start the embedded Postgres and Airflow, and return when every component is healthy.

    Does nothing when that instance already runs; ends leftovers of a killed one first. The
    processes outlive the caller.

    Parameters
    ----------
    settings
        Where things are.
    port
        Default `EVERGREEN_AIRFLOW_PORT`; without that 8080, or a free port if 8080 is taken.
    dags, paused_at_creation
        As in `airflow_environment`.

    Raises
    ------
    ConfigError
        The requested port is no port, or taken.
    ServiceDownError
        A component ended or did not become healthy; the message holds the end of the log.
    """
    postgres.start(settings)
    home = airflow_home(settings)
    with fasteners.InterProcessLock(home / "lock"):
        if running := _running_instance(settings):
            return running
        _end_processes(settings)
        chosen = _choose_port(port)
        environment = airflow_environment(
            settings, chosen, dags=dags, paused_at_creation=paused_at_creation
        )
        environment |= mark(settings)
        log = home / "airflow.log"
        if log.exists():
            log.replace(log.with_suffix(".previous.log"))
        with log.open("ab") as output:
            migration = subprocess.run(
                [*_airflow_command(), "db", "migrate"],
                env=environment,
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if migration.returncode:
                raise ServiceDownError(f"`airflow db migrate` failed.\n{_tail(log)}")
            launched_at = datetime.now(UTC)
            processes = {
                name: subprocess.Popen(
                    [*_airflow_command(), *arguments],
                    env=environment,
                    cwd=PROJECT_ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C in the caller's terminal is not meant for them.
                    start_new_session=True,
                )
                for name, arguments in _COMPONENTS.items()
            }
        pids = {name: process.pid for name, process in processes.items()}
        _instance_file(settings).write_text(json.dumps({"port": chosen, "pids": pids}))
        try:
            _await_healthy(chosen, processes, launched_at, log)
        except BaseException:
            _end_processes(settings)
            raise
        return _instance(settings, chosen, pids)


def stop(settings: Settings) -> None:
    """Stop Airflow if it runs, and whatever a killed run left behind; Postgres stays.

    Running tasks get a few seconds to finish, then they are ended; they are safe to run again.
    """
    home = settings.home / "airflow"
    if not home.is_dir():
        return
    with fasteners.InterProcessLock(home / "lock"):
        _end_processes(settings)


def find(settings: Settings) -> Instance | None:
    """Return the running instance, or None when a component of it does not run."""
    return _running_instance(settings)


def health(instance: Instance) -> dict[str, str]:
    """Status of each component (`healthy`, `unhealthy`, `never started`), by its own heartbeats.

    Raises
    ------
    ServiceDownError
        The API server does not answer.
    """
    parts = _fetch_health(instance.url)
    return {name: part["status"] or "never started" for name, part in parts.items()}


# --- state on disk -------------------------------------------------------------------------------


def _instance_file(settings: Settings) -> Path:
    return settings.home / "airflow" / "instance.json"


def _instance(settings: Settings, port: int, pids: Mapping[str, int]) -> Instance:
    return Instance(
        url=f"http://{HOST}:{port}",
        username=USERNAME,
        password=json.loads(password_file(settings).read_text())[USERNAME],
        pids=pids,
        log=settings.home / "airflow" / "airflow.log",
    )


def _running_instance(settings: Settings) -> Instance | None:
    try:
        state = json.loads(_instance_file(settings).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    alive = {process.pid for process in owned(settings)}
    if not set(state["pids"].values()) <= alive:
        return None
    return _instance(settings, state["port"], state["pids"])


# --- processes -----------------------------------------------------------------------------------


def _airflow_command() -> list[str]:
    # Without -P the current directory would be importable in every task.
    return [sys.executable, "-P", "-m", "airflow"]


def _end_processes(settings: Settings) -> None:
    """End everything, politely first: tasks report their end while the API server still runs."""
    try:
        pids = json.loads(_instance_file(settings).read_text())["pids"]
    except (FileNotFoundError, json.JSONDecodeError):
        pids = {}
    api_server = pids.get(_API_SERVER)
    components = set(pids.values()) - {api_server}
    signal_all((p for p in owned(settings) if p.pid in components), signal.SIGTERM)
    await_end(settings, _TASK_SECONDS, without={api_server})
    signal_all((p for p in owned(settings) if p.pid != api_server), signal.SIGTERM)
    await_end(settings, _END_SECONDS, without={api_server})
    signal_all(owned(settings), signal.SIGTERM)
    await_end(settings, _END_SECONDS)
    signal_all(owned(settings), signal.SIGKILL)
    await_end(settings, _END_SECONDS)
    _instance_file(settings).unlink(missing_ok=True)


def _choose_port(port: int | None) -> int:
    requested = port
    if requested is None and (text := os.environ.get("EVERGREEN_AIRFLOW_PORT")):
        requested = int(text) if text.isdigit() else -1
    if requested is not None:
        if not 0 < requested < 65536:
            raise ConfigError(
                f"The port for Airflow is {text if port is None else port!r}; expected a number "
                "from 1 to 65535."
            )
        if not _is_free(requested):
            raise ConfigError(
                f"Port {requested} for Airflow is taken on {HOST}. Stop what listens there, or "
                "set EVERGREEN_AIRFLOW_PORT to another port (unset: any free one)."
            )
        return requested
    if _is_free(DEFAULT_PORT):
        return DEFAULT_PORT
    with closing(socket.socket()) as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as listener:
        # As servers do; without it a port stays "taken" for a minute after its last connection.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


# --- health --------------------------------------------------------------------------------------


def _await_healthy(
    port: int,
    processes: Mapping[str, subprocess.Popen[bytes]],
    launched_at: datetime,
    log: Path,
) -> None:
    deadline = time.monotonic() + _HEALTHY_SECONDS
    waiting_for = "the API server"
    while time.monotonic() < deadline:
        for name, process in processes.items():
            if process.poll() is not None:
                raise ServiceDownError(
                    f"Airflow's {name} ended with exit code {process.returncode}.\n{_tail(log)}"
                )
        try:
            parts = _fetch_health(f"http://{HOST}:{port}")
        except ServiceDownError:
            parts = None
        if parts is not None:
            late = [name for name, part in parts.items() if not _is_up(name, part, launched_at)]
            if not late:
                return
            waiting_for = ", ".join(late)
        time.sleep(0.25)
    raise ServiceDownError(
        f"Airflow is not healthy after {_HEALTHY_SECONDS} s; still waiting for {waiting_for}.\n"
        f"{_tail(log)}"
    )


def _is_up(name: str, part: dict[str, Any], launched_at: datetime) -> bool:
    if part["status"] != "healthy":
        return False
    beat = part.get(f"latest_{name}_heartbeat")
    # A killed run looks healthy for half a minute; only a heartbeat of this one counts.
    return beat is None or datetime.fromisoformat(beat) >= launched_at


def _fetch_health(url: str) -> dict[str, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{url}/api/v2/monitor/health", timeout=5) as answer:
            parts: dict[str, dict[str, Any]] = json.load(answer)
    except (OSError, ValueError) as error:
        raise ServiceDownError(
            f"Airflow does not answer at {url}: {error}. Start it with `make up`."
        ) from error
    return parts


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"The end of {log}:", *lines[-_LOG_TAIL_LINES:]])
