"""Airflow on this machine: its environment, its four processes, its state on disk.

`start` runs what `airflow standalone` runs (scheduler, DAG processor, triggerer, API server), as
processes of their own under Supervisor, which starts again what ends. The standalone command ends
for good when its database is away for a while, cannot be told to leave out its log servers, which
listen on every network interface, and orphans its children when it is terminated.

Every process started here carries a mark in its environment and hands it on, so that `stop` finds
all of them, also after the starter, Supervisor, or a parent among them, was killed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from evergreen.errors import ConfigError, ServiceDownError
from evergreen.ops.local import postgres
from evergreen.ops.local.airflow_environment import (
    DEFAULT_PORT,
    HOST,
    USERNAME,
    airflow_environment,
    airflow_home,
    password_file,
)
from evergreen.ops.local.airflow_processes import await_end, component, mark, owned, signal_all
from evergreen.settings import PROJECT_ROOT, Settings

__all__ = [
    "DEFAULT_PORT",
    "HOST",
    "USERNAME",
    "Instance",
    "airflow_environment",
    "find",
    "start",
    "stop",
]

_API_SERVER = "api-server"
_COMPONENTS = ("scheduler", "dag-processor", "triggerer", _API_SERVER)
_SUPERVISION = Path(__file__).with_name("supervisord.conf")
# How Supervisor reports an end that nobody asked for.
_ENDED = re.compile(r"exited: (\S+) \((.+); not expected\)")
_HEALTHY_SECONDS = 180
# How long running tasks may go on, and how long a process may take to end, before it is killed.
_TASK_SECONDS = 15
_END_SECONDS = 5
_LOG_TAIL_LINES = 40
# How often a wait says what it waits for.
_TELL_SECONDS = 10


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
        Process id of each component by name; one that is just being started again is missing.
    logs
        Folder of the components' logs, `<name>.log`.
    """

    url: str
    username: str
    password: str = field(repr=False)
    pids: Mapping[str, int]
    logs: Path


def start(
    settings: Settings,
    port: int | None = None,
    *,
    dags: Path = PROJECT_ROOT / "dags",
    paused_at_creation: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Instance:
    """Start the embedded Postgres and Airflow, and return when every component is healthy.

    Only waits for that when the instance already runs; ends leftovers of a killed one first. The
    processes outlive the caller.

    Parameters
    ----------
    settings
        Where things are.
    port
        Default `EVERGREEN_AIRFLOW_PORT`; without that 8080, or a free port if 8080 is taken.
    dags, paused_at_creation
        As in `airflow_environment`.
    tell
        Called with a sentence on what is begun or awaited.

    Raises
    ------
    ConfigError
        The requested port is no port, or taken.
    ServiceDownError
        A component ended or did not become healthy; the message holds the end of the log.
    """
    postgres.start(settings)
    home = airflow_home(settings)
    if running := find(settings):
        _await_healthy(running.url, home, tell)
        return find(settings) or running
    _end_processes(settings)
    chosen = _choose_port(port)
    environment = airflow_environment(
        settings, chosen, dags=dags, paused_at_creation=paused_at_creation
    )
    environment |= mark(settings)
    # For supervisord.conf.
    environment["EVERGREEN_AIRFLOW_COMMAND"] = shlex.join(_airflow_command())
    tell("Airflow's database: migrations")
    _migrate(environment, home / "migration.log")
    tell(f"Airflow: {', '.join(_COMPONENTS)}")
    log = home / "supervisor.log"
    log.unlink(missing_ok=True)
    launched_at = datetime.now(UTC)
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(_SUPERVISION)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the caller's terminal is not meant for them.
            start_new_session=True,
        )
    _instance_file(settings).write_text(json.dumps({"port": chosen, "supervisor": supervisor.pid}))
    try:
        _await_healthy(f"http://{HOST}:{chosen}", home, tell, supervisor, launched_at)
    except BaseException:
        _end_processes(settings)
        raise
    return _instance(settings, chosen, supervisor.pid)


def stop(settings: Settings) -> None:
    """Stop Airflow if it runs, and whatever a killed run left behind; Postgres stays.

    Running tasks get a few seconds to finish, then they are ended; they are safe to run again.
    """
    if (settings.home / "airflow").is_dir():
        _end_processes(settings)


def find(settings: Settings) -> Instance | None:
    """Return the running instance, or None when nothing keeps one running."""
    try:
        state = json.loads(_instance_file(settings).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if state["supervisor"] not in {process.pid for process in owned(settings)}:
        return None
    return _instance(settings, state["port"], state["supervisor"])


# --- state on disk -------------------------------------------------------------------------------


def _instance_file(settings: Settings) -> Path:
    return settings.home / "airflow" / "instance.json"


def _instance(settings: Settings, port: int, supervisor: int) -> Instance:
    children = psutil.Process(supervisor).children()
    pids = {name: child.pid for child in children if (name := component(child)) in _COMPONENTS}
    return Instance(
        url=f"http://{HOST}:{port}",
        username=USERNAME,
        password=json.loads(password_file(settings).read_text())[USERNAME],
        pids=pids,
        logs=settings.home / "airflow",
    )


# --- processes -----------------------------------------------------------------------------------


def _airflow_command() -> list[str]:
    # Without -P the current directory would be importable in every task.
    return [sys.executable, "-P", "-m", "airflow"]


def _migrate(environment: Mapping[str, str], log: Path) -> None:
    with log.open("wb") as output:
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


def _end_processes(settings: Settings) -> None:
    """End everything, politely first: tasks report their end while the API server still runs."""
    found = owned(settings)
    pids = {process.pid for process in found}
    with suppress(psutil.NoSuchProcess):
        # Supervisor, which then ends its programs in order; without it the programs themselves.
        roots = [p for p in found if p.ppid() not in pids and component(p) != _API_SERVER]
        signal_all(roots, signal.SIGTERM)
    last = {p.pid for p in found if component(p) in (None, _API_SERVER)}
    await_end(settings, _TASK_SECONDS, without=last)
    signal_all((p for p in owned(settings) if p.pid not in last), signal.SIGTERM)
    await_end(settings, _END_SECONDS, without=last)
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
    url: str,
    home: Path,
    tell: Callable[[str], None],
    supervisor: subprocess.Popen[bytes] | None = None,
    launched_at: datetime | None = None,
) -> None:
    """Wait for every component; with `supervisor`, just launched, none of them may end."""
    begun = time.monotonic()
    tell_at = begun + _TELL_SECONDS
    waiting_for = "the API server"
    while time.monotonic() < begun + _HEALTHY_SECONDS:
        if supervisor:
            _require_none_ended(supervisor, home)
        try:
            parts = _fetch_health(url)
        except ServiceDownError:
            parts = None
        if parts is not None:
            late = [name for name, part in parts.items() if not _is_up(name, part, launched_at)]
            if not late:
                return
            waiting_for = ", ".join(late)
        if time.monotonic() > tell_at:
            tell(f"waiting for {waiting_for} to be healthy")
            tell_at += _TELL_SECONDS
        time.sleep(0.25)
    raise ServiceDownError(
        f"Airflow is not healthy after {_HEALTHY_SECONDS} s; still waiting for {waiting_for}. See "
        f"the logs {home}/*.log.\n{_tail(home / 'supervisor.log')}"
    )


def _require_none_ended(supervisor: subprocess.Popen[bytes], home: Path) -> None:
    log = home / "supervisor.log"
    if supervisor.poll() is not None:
        raise ServiceDownError(
            f"Supervisor ended with exit code {supervisor.returncode}.\n{_tail(log)}"
        )
    for name, how in _ENDED.findall(log.read_text(encoding="utf-8", errors="replace")):
        raise ServiceDownError(f"Airflow's {name} ended with {how}.\n{_tail(home / f'{name}.log')}")


def _is_up(name: str, part: dict[str, Any], launched_at: datetime | None) -> bool:
    if part["status"] != "healthy":
        return False
    beat = part.get(f"latest_{name}_heartbeat")
    # A killed run looks healthy for half a minute; only a heartbeat of this one counts.
    return launched_at is None or beat is None or datetime.fromisoformat(beat) >= launched_at


def _fetch_health(url: str) -> dict[str, dict[str, Any]]:
    try:
        # Of our own server, by HTTP.
        with urllib.request.urlopen(  # nosec B310
            f"{url}/api/v2/monitor/health", timeout=5
        ) as answer:
            parts: dict[str, dict[str, Any]] = json.load(answer)
    except (OSError, ValueError) as error:
        raise ServiceDownError(
            f"Airflow does not answer at {url}: {error}. Start it with `make up`."
        ) from error
    return parts


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"The end of {log}:", *lines[-_LOG_TAIL_LINES:]])
