import dataclasses
import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import yaml

from evergreen.errors import ConfigError, ServiceDownError
from evergreen.ops.local import airflow, airflow_environment, airflow_processes
from evergreen.settings import DATABASES, load_settings

# Stands in for `airflow`: it starts in milliseconds and can be told how to misbehave.
_FAKE = """
    import http.server, json, os, signal, sys, time
    from datetime import UTC, datetime
    command = sys.argv[1]
    print("fake", *sys.argv[1:], flush=True)
    if command == os.environ.get("FAKE_FAILS"):
        sys.exit("cannot do " + command)
    if command == "db":
        sys.exit()
    if os.path.exists(os.environ["EVERGREEN_HOME"] + "/outage"):
        sys.exit("no database")
    if command == "scheduler":
        # A worker that outlives the scheduler and ignores polite requests.
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(300)
    if command != "api-server":
        time.sleep(300)
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            now = datetime.now(UTC).isoformat()
            parts = {"metadatabase": {"status": "healthy"}} | {
                name: {"status": "healthy", f"latest_{name}_heartbeat": now}
                for name in ("scheduler", "triggerer", "dag_processor")
                if name != os.environ.get("FAKE_FAILS")
            } | {
                name: {"status": None} for name in [os.environ.get("FAKE_FAILS")] if name
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(parts).encode())
        def log_message(self, *args):
            pass
    port = int(os.environ["AIRFLOW__API__PORT"])
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


@pytest.fixture
def settings(monkeypatch, tmp_path):
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EVERGREEN_AIRFLOW_PORT", raising=False)
    for name in DATABASES:
        monkeypatch.setenv(f"EVERGREEN_{name.upper()}_URL", "postgresql://db/airflow")
    return load_settings()


@pytest.fixture
def fake_airflow(monkeypatch, tmp_path, settings):
    script = tmp_path / "fake_airflow.py"
    script.write_text(textwrap.dedent(_FAKE))
    monkeypatch.setattr(airflow, "_airflow_command", lambda: [sys.executable, str(script)])
    monkeypatch.setattr(airflow, "DEFAULT_PORT", _free_port())
    monkeypatch.setattr(airflow, "_TASK_SECONDS", 0.3)
    monkeypatch.setattr(airflow, "_END_SECONDS", 0.3)
    yield settings
    airflow.stop(settings)


def _free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- environment ---------------------------------------------------------------------------------


def test_environment_is_loopback_only_and_agrees_on_the_port(settings):
    environment = airflow_environment.airflow_environment(settings, 9123, base={})
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__API__PORT"] == "9123"
    url = environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
    assert url == "http://127.0.0.1:9123/execution/"


def test_environment_points_into_the_home_whatever_surrounds_it(settings):
    foreign = {
        "AIRFLOW_HOME": "/elsewhere",
        "AIRFLOW_CONFIG": "/elsewhere/airflow.cfg",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////elsewhere/airflow.db",
        "AIRFLOW__CORE__FERNET_KEY": "known",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": "/foreign/bin",
    }
    environment = airflow_environment.airflow_environment(settings, base=foreign)
    assert environment["AIRFLOW_HOME"] == str(settings.home / "airflow")
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql://db/airflow"
    assert environment["AIRFLOW__CORE__FERNET_KEY"] != "known"
    assert "AIRFLOW_CONFIG" not in environment
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    own, foreign_path = environment["PATH"].split(os.pathsep)
    assert own == str(Path(sys.executable).parent)
    assert foreign_path == "/foreign/bin"


def test_tuning_can_be_overridden_and_the_rest_passes_through(settings):
    base = {"AIRFLOW__CORE__PARALLELISM": "9", "CHURN_SOURCE": "/data"}
    environment = airflow_environment.airflow_environment(settings, base=base)
    assert environment["AIRFLOW__CORE__PARALLELISM"] == "9"
    assert environment["CHURN_SOURCE"] == "/data"


@pytest.mark.parametrize("paused", [True, False])
def test_dags_begin_paused_unless_asked_otherwise(settings, paused):
    environment = airflow_environment.airflow_environment(
        settings, paused_at_creation=paused, base={}
    )
    assert environment["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] == str(paused)
    default = airflow_environment.airflow_environment(settings, base={})
    assert default["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] == "True"


def test_options_exist_in_the_installed_airflow(settings):
    # Read, not imported: importing Airflow writes a configuration into the user's home.
    [package] = find_spec("airflow").submodule_search_locations
    text = (Path(package) / "config_templates" / "config.yml").read_text()
    known = yaml.safe_load(text)
    # Looked up by these names in airflow.utils.process_utils, for every component.
    undocumented = {("scheduler", "mp_start_method"), ("scheduler", "mp_forkserver_preload")}
    environment = airflow_environment.airflow_environment(settings, base={})
    for variable in environment:
        if variable.startswith("AIRFLOW__"):
            _, section, option = variable.lower().split("__")
            assert option in known[section]["options"] or (section, option) in undocumented, option


def test_secrets_are_made_once_differ_between_homes_and_are_private(settings, tmp_path):
    names = (
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__API__SECRET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
    )
    first = airflow_environment.airflow_environment(settings, base={})
    again = airflow_environment.airflow_environment(settings, base={})
    other = airflow_environment.airflow_environment(
        dataclasses.replace(settings, home=tmp_path / "other"), base={}
    )
    assert all(first[name] == again[name] != other[name] for name in names)
    assert len({first[name] for name in names}) == len(names)
    folder = settings.home / "airflow"
    assert _mode(folder) == 0o700
    assert _mode(folder / "secrets.json") == _mode(folder / "passwords.json") == 0o600
    from cryptography.fernet import Fernet

    Fernet(first["AIRFLOW__CORE__FERNET_KEY"])


def test_every_preloaded_module_exists():
    missing = subprocess.run(
        [
            sys.executable,
            "-c",
            "import importlib.util, sys\n"
            "print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])",
            *[module.split(".")[0] for module in airflow_environment._PRELOAD],
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert missing.stdout.split() == []
    assert not [module for module in airflow_environment._PRELOAD if module.startswith("evergreen")]


# --- ports ---------------------------------------------------------------------------------------


def test_a_taken_default_port_is_replaced_and_a_taken_requested_one_refused(monkeypatch, settings):
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        monkeypatch.setattr(airflow, "DEFAULT_PORT", taken)
        assert airflow._choose_port(None) != taken
        with pytest.raises(ConfigError, match=f"Port {taken} .* taken"):
            airflow._choose_port(taken)
        monkeypatch.setenv("EVERGREEN_AIRFLOW_PORT", str(taken))
        with pytest.raises(ConfigError, match="taken"):
            airflow._choose_port(None)


@pytest.mark.parametrize("text", ["http", "0", "70000", "80 80"])
def test_a_port_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("EVERGREEN_AIRFLOW_PORT", text)
    with pytest.raises(ConfigError, match="1 to 65535"):
        airflow._choose_port(None)


# --- processes -----------------------------------------------------------------------------------


def test_starts_once_and_stops_everything(fake_airflow):
    settings = fake_airflow
    assert airflow.find(settings) is None
    instance = airflow.start(settings)
    assert airflow.start(settings) == airflow.find(settings) == instance
    assert {part["status"] for part in airflow._fetch_health(instance.url).values()} == {"healthy"}
    held = json.loads((settings.home / "airflow" / "passwords.json").read_text())
    assert held == {"admin": instance.password, "watcher": held["watcher"]}
    assert instance.password not in repr(instance)

    _until(lambda: _have_begun(instance))
    assert instance.password not in "".join(_logs(instance).values())
    # Supervisor, the four components and the scheduler's worker.
    assert len(airflow_processes.owned(settings)) == 6

    airflow.stop(settings)
    airflow.stop(settings)
    assert airflow_processes.owned(settings) == []
    assert airflow.find(settings) is None
    with pytest.raises(ServiceDownError, match="make up"):
        airflow._fetch_health(instance.url)


def _until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _logs(instance: airflow.Instance) -> dict[str, str]:
    return {path.stem: path.read_text() for path in instance.logs.glob("*.log")}


def _have_begun(instance: airflow.Instance) -> bool:
    """Whether all components have; only the API server is asked for health, others may lag."""
    logs = _logs(instance)
    return all(f"fake {name}" in logs.get(name, "") for name in airflow._COMPONENTS)


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_a_killed_component_comes_back_without_the_worker_that_it_left(fake_airflow):
    settings = fake_airflow
    instance = airflow.start(settings)
    scheduler = psutil.Process(instance.pids["scheduler"])
    _until(scheduler.children)
    [worker] = scheduler.children()
    scheduler.kill()

    def is_back():
        pids = airflow.find(settings).pids
        return pids.get("scheduler", scheduler.pid) != scheduler.pid

    _until(is_back)
    _until(lambda: _ended(worker))
    now = airflow.find(settings).pids
    assert {name: now[name] for name in now if name != "scheduler"} == {
        name: pid for name, pid in instance.pids.items() if name != "scheduler"
    }
    _until(lambda: len(airflow_processes.owned(settings)) == 6)
    assert airflow.start(settings) == airflow.find(settings)


@pytest.mark.slow
def test_a_component_that_keeps_ending_is_tried_again_later_and_later(fake_airflow):
    settings = fake_airflow
    instance = airflow.start(settings)
    outage = settings.home / "outage"
    outage.touch()
    psutil.Process(instance.pids["triggerer"]).kill()
    log = instance.logs / "supervisor.log"
    _until(lambda: log.read_text().count("exited: triggerer (exit status 1") >= 3)
    outage.unlink()
    _until(lambda: "triggerer" in airflow.find(settings).pids)


def test_leftovers_of_a_killed_run_are_ended_and_strangers_left_alone(
    fake_airflow, tmp_path, monkeypatch
):
    settings = fake_airflow
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "other"))
    other = load_settings()
    stranger = airflow.start(other, _free_port())
    monkeypatch.setenv("EVERGREEN_HOME", str(settings.home))
    try:
        killed = airflow.start(settings)
        state = json.loads((settings.home / "airflow" / "instance.json").read_text())
        scheduler = psutil.Process(killed.pids["scheduler"])
        # One that has yet to say its first word would end by it: nobody reads the pipe any more.
        _until(lambda: _have_begun(killed))
        _until(scheduler.children)
        [worker] = scheduler.children()
        # Nobody is left who would start them again.
        for pid in (state["supervisor"], killed.pids["scheduler"]):
            psutil.Process(pid).kill()
        _until(lambda: airflow.find(settings) is None)
        left = {*killed.pids.values(), worker.pid} - {killed.pids["scheduler"]}
        # What was killed may take a moment to be gone.
        _until(lambda: left == {p.pid for p in airflow_processes.owned(settings)})

        restarted = airflow.start(settings)
        assert _ended(worker)
        assert not set(restarted.pids.values()) & set(killed.pids.values())
        # The state file was lost, too.
        (settings.home / "airflow" / "instance.json").unlink()
        airflow.stop(settings)
        assert airflow_processes.owned(settings) == []
        assert airflow.find(other) == stranger
    finally:
        airflow.stop(other)


@pytest.mark.parametrize("command", ["db", "triggerer"])
def test_a_component_that_fails_ends_the_start_with_its_log(fake_airflow, monkeypatch, command):
    monkeypatch.setenv("FAKE_FAILS", command)
    with pytest.raises(ServiceDownError, match=f"cannot do {command}"):
        airflow.start(fake_airflow)
    assert airflow_processes.owned(fake_airflow) == []
    assert airflow.find(fake_airflow) is None


def test_stop_without_a_home_makes_none(settings):
    airflow.stop(settings)
    assert not settings.home.exists()


def test_a_home_of_before_gets_the_user_who_only_reads(settings):
    path = settings.home / "airflow" / "passwords.json"
    airflow_environment.airflow_environment(settings)
    path.write_text('{"admin": "kept"}')

    airflow_environment.airflow_environment(settings)
    held = json.loads(path.read_text())
    airflow_environment.airflow_environment(settings)

    assert held == {"admin": "kept", "watcher": held["watcher"]}
    assert len(held["watcher"]) >= 12
    assert json.loads(path.read_text()) == held
    assert path.stat().st_mode & 0o777 == 0o600
