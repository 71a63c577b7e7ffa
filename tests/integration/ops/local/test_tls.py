"""Every client of Postgres and Redis that we use, against servers that speak TLS only.

The servers' certificate is of an authority of the test's own; whoever trusts another one is told.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

import compose_file
from evergreen.errors import ConfigError, ServiceDownError
from evergreen.ops.backup import pg_dump
from evergreen.ops.local import postgres_programs
from evergreen.settings import DATABASES, PROJECT_ROOT, Settings, load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
# Debian's are built with TLS, and those among the Python packages without.
REDIS = Path("/usr/bin/redis-server")
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
PASSWORD = "not-a-secret"
SECRETS = {
    name: PASSWORD
    for name, kind, _ in compose_file.VARIABLE.findall(compose_file.TEXT)
    if kind == "?"
}


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def openssl(folder: Path, command: str) -> None:
    subprocess.run(["openssl", *shlex.split(command)], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    """`ours.crt` signed the servers' certificate, `other.crt` did not."""
    # Not pytest's: as root, Postgres runs as a user who has to get there.
    with tempfile.TemporaryDirectory(prefix="evergreen-tls-") as name:
        folder = Path(name)
        new = "req -x509 -newkey rsa:2048 -nodes -days 2"
        for authority in ("ours", "other"):
            openssl(
                folder, f"{new} -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"
            )
        openssl(
            folder,
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        )
        (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl(
            folder,
            "x509 -req -in server.csr -CA ours.crt -CAkey ours.key -CAcreateserial -days 2 "
            "-extfile names -out server.crt",
        )
        yield folder


@pytest.fixture(scope="module")
def postgres_port(certificates: Path) -> Iterator[int]:
    """A Postgres with the users of the compose file that lets nobody in without TLS."""
    if POSTGRES is None:
        pytest.skip("no Postgres with TLS: Debian's package postgresql is absent")
    data, port = certificates / "data", free_port()
    user = postgres_programs.owner()

    def run(program: str, *arguments: str) -> None:
        log = certificates / f"{program}.log"
        with log.open("w") as output:
            done = subprocess.run(
                [str(POSTGRES / program), "-D", str(data), *arguments],
                cwd=data,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                # Postgres refuses to run as root.
                **({"user": user.pw_uid, "group": user.pw_gid} if os.geteuid() == 0 else {}),
            )
        assert done.returncode == 0, log.read_text()

    certificates.chmod(0o711)
    data.mkdir(mode=0o700)
    os.chown(data, user.pw_uid, user.pw_gid)
    run("initdb", "-U", "postgres", "--auth=trust")
    for name in ("server.key", "server.crt"):
        target = data / name
        target.write_bytes((certificates / name).read_bytes())
        target.chmod(0o600)
        os.chown(target, user.pw_uid, user.pw_gid)
    with (data / "postgresql.conf").open("a") as configuration:
        configuration.write(
            f"listen_addresses = '127.0.0.1'\nport = {port}\nssl = on\nfsync = off\n"
            f"unix_socket_directories = '{data}'\n"
        )
    (data / "pg_hba.conf").write_text(
        "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
    )
    run("pg_ctl", "-w", "-l", str(data / "server.log"), "start")
    try:
        connection = psycopg2.connect(host=str(data), port=port, user="postgres", dbname="postgres")
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            script = compose_file.load(SECRETS)["configs"]["databases"]["content"]
            for statement in script.split(";")[:-1]:
                cursor.execute(statement)
        yield port
    finally:
        run("pg_ctl", "-w", "stop", "-m", "fast")


@dataclass(frozen=True)
class Trust:
    """How clients are told whom to trust."""

    ca: Path
    in_urls: bool

    def url(self, port: int, user: str, database: str) -> str:
        said = f"?sslmode=verify-full&sslrootcert={self.ca}" if self.in_urls else ""
        return f"postgresql+psycopg2://{user}:{PASSWORD}@127.0.0.1:{port}/{database}{said}"


@pytest.fixture
def settings_of(
    postgres_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Trust], Settings]:
    """Make settings of those who trust in one way."""

    def make(trust: Trust) -> Settings:
        # A home of its own, for what is kept by process and URL.
        monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
        for database in DATABASES:
            url = trust.url(postgres_port, database, database)
            monkeypatch.setenv(f"EVERGREEN_{database.upper()}_URL", url)
        if not trust.in_urls:
            monkeypatch.setenv("PGSSLMODE", "verify-full")
            monkeypatch.setenv("PGSSLROOTCERT", str(trust.ca))
        return load_settings()

    return make


# --- clients -------------------------------------------------------------------------------------


def _sqlalchemy(settings: Settings) -> None:
    from evergreen.databases import require_answer

    require_answer("ledger", settings.database_url("ledger"))


def _pyiceberg(settings: Settings) -> None:
    from evergreen import lake

    lake.catalog(settings).create_tables()


def _mlflow(settings: Settings) -> None:
    from evergreen.training import tracking

    tracking.initialise(settings)


def _feast_registry(settings: Settings) -> None:
    from evergreen.features import store

    store.apply([])


def _feast_online(settings: Settings) -> None:
    from evergreen.features.store.opening import repo_config

    config = repo_config(settings)
    from evergreen.features.store.online_store import ForwardPostgresOnlineStore

    with ForwardPostgresOnlineStore()._get_conn(config) as connection:
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert connection.execute(query).fetchone() == (True,)


def _backup(settings: Settings) -> None:
    pg_dump.dump(settings.database_url("ledger"), settings.home.parent / "ledger.dump")


def _celery_results(settings: Settings) -> None:
    from celery import Celery

    url = settings.database_url("ledger").replace("ledger", "celery")
    app = Celery(backend=f"db+{url}")
    app.backend.get_task_meta("absent")


CLIENTS = {
    "SQLAlchemy": _sqlalchemy,
    "PyIceberg's catalog": _pyiceberg,
    "MLflow": _mlflow,
    "Feast's registry": _feast_registry,
    "Feast's online store": _feast_online,
    "pg_dump": _backup,
    "Celery's results": _celery_results,
}
WAYS = pytest.mark.parametrize("in_urls", [True, False], ids=["urls", "environment"])


@WAYS
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_of_postgres_reaches_a_server_that_it_trusts(
    certificates: Path, settings_of: Callable[[Trust], Settings], client: str, in_urls: bool
) -> None:
    CLIENTS[client](settings_of(Trust(certificates / "ours.crt", in_urls)))


@WAYS
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_of_postgres_refuses_a_server_of_another_authority(
    certificates: Path, settings_of: Callable[[Trust], Settings], client: str, in_urls: bool
) -> None:
    settings = settings_of(Trust(certificates / "other.crt", in_urls))

    with pytest.raises(Exception, match="certificate verify failed") as refused:
        CLIENTS[client](settings)

    assert PASSWORD not in str(refused.value)
    if client in ("SQLAlchemy", "PyIceberg's catalog", "MLflow", "Feast's registry"):
        assert isinstance(refused.value, ServiceDownError)
        assert "verify-full" in str(refused.value) or not in_urls


_ASYNC = """
import asyncio
from airflow import settings
from sqlalchemy import text
async def ask():
    async with settings.AsyncSession() as session:
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        print("encrypted:", (await session.execute(text(query))).scalar_one())
asyncio.run(ask())
"""


@pytest.mark.parametrize(("authority", "trusted"), [("ours", True), ("other", False)])
def test_airflow_reaches_its_database_by_both_of_its_drivers(
    certificates: Path, postgres_port: int, tmp_path: Path, authority: str, trusted: bool
) -> None:
    """It makes the URL of asyncpg from the other; so trust is told by the environment."""
    ca = certificates / f"{authority}.crt"
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": Trust(ca, in_urls=False).url(
            postgres_port, "airflow", "airflow"
        ),
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(ca),
    }
    for command in (["airflow", "db", "check"], ["python", "-c", _ASYNC]):
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=environment,
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) is trusted, said
        assert ("certificate verify failed" in said) is not trusted
        assert ("encrypted: True" in said) is (trusted and command[0] == "python")
        assert PASSWORD not in said


def test_a_machine_without_a_program_that_speaks_tls_is_told_before_anything_is_sent(
    certificates: Path, settings_of: Callable[[Trust], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(Trust(certificates / "ours.crt", in_urls=False))
    monkeypatch.setenv("PATH", str(certificates))

    with pytest.raises(ConfigError, match="needs a pg_dump of this machine"):
        _backup(settings)


def test_nobody_gets_in_without_tls(
    certificates: Path, postgres_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evergreen.databases import require_answer

    url = f"postgresql+psycopg2://ledger:{PASSWORD}@127.0.0.1:{postgres_port}/ledger"
    with pytest.raises(ServiceDownError, match="no encryption"):
        require_answer("ledger", f"{url}?sslmode=disable")


# --- Redis ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_port(certificates: Path) -> Iterator[int]:
    if not REDIS.exists():
        pytest.skip(
            f"no {REDIS}: Debian's package redis-server, which is built with TLS, is absent"
        )
    port = free_port()
    arguments = {
        "--port": "0",
        "--tls-port": str(port),
        "--bind": "127.0.0.1",
        "--requirepass": PASSWORD,
        "--tls-cert-file": str(certificates / "server.crt"),
        "--tls-key-file": str(certificates / "server.key"),
        "--tls-ca-cert-file": str(certificates / "ours.crt"),
        "--tls-auth-clients": "no",
        "--save": "",
        "--dir": str(certificates),
    }
    process = subprocess.Popen([REDIS, *(word for pair in arguments.items() for word in pair)])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    yield port
    process.terminate()
    process.wait(20)


@pytest.mark.parametrize(("authority", "trusted"), [("ours", True), ("other", False)])
def test_celery_reaches_a_redis_that_it_trusts(
    certificates: Path, redis_port: int, authority: str, trusted: bool
) -> None:
    from kombu import Connection

    ca = certificates / f"{authority}.crt"
    url = f"rediss://:{PASSWORD}@127.0.0.1:{redis_port}/0?ssl_cert_reqs=required&ssl_ca_certs={ca}"
    with Connection(url) as broker:
        if trusted:
            queue = broker.SimpleQueue("days")
            queue.put({"day": "2026-01-01"})
            assert queue.get(timeout=5).payload == {"day": "2026-01-01"}
            queue.close()
        else:
            with pytest.raises(Exception, match=r"(?i)certificate.verify.failed"):
                broker.ensure_connection(max_retries=1, timeout=5, interval_start=0)
