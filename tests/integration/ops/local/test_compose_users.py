"""The users of docker-compose.yaml's databases and of its MLflow, on real servers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg2
import pytest

import compose_file
from evergreen.ops.backup import pg_dump
from evergreen.ops.local import postgres
from evergreen.settings import PROJECT_ROOT, Settings, load_settings

pytestmark = pytest.mark.timeout(300)

SECRETS = {
    name: f"{name.lower().replace('_', '-')}-0123456789"
    for name, kind, _ in compose_file.VARIABLE.findall(compose_file.TEXT)
    if kind == "?"
}
COMPOSE = compose_file.load(SECRETS)
OWNERS = {
    "airflow": "airflow",
    "celery": "celery",
    "catalog": "catalog",
    "mlflow": "mlflow",
    "mlflow_auth": "mlflow",
    "feast": "feast",
    "ledger": "ledger",
}
USERS = {*OWNERS.values(), "backup"}


@pytest.fixture(scope="module")
def server() -> Iterator[Settings]:
    """A Postgres in which the script of the compose file was run, as on an empty volume."""
    folder = tempfile.TemporaryDirectory(prefix="evergreen-users-")
    before = os.environ.get("EVERGREEN_HOME")
    os.environ["EVERGREEN_HOME"] = folder.name
    settings = load_settings()
    postgres.start(settings)
    try:
        with opened(settings, "postgres", "postgres") as cursor:
            # The embedded server begins with these.
            for database in OWNERS:
                cursor.execute(f"DROP DATABASE IF EXISTS {database}")
            # As the image's psql does: statement by statement.
            for statement in COMPOSE["configs"]["databases"]["content"].split(";")[:-1]:
                cursor.execute(statement)
        yield settings
    finally:
        postgres.stop(settings)
        folder.cleanup()
        if before is None:
            del os.environ["EVERGREEN_HOME"]
        else:
            os.environ["EVERGREEN_HOME"] = before


@contextmanager
def opened(settings: Settings, user: str, database: str) -> Iterator[psycopg2.extensions.cursor]:
    connection = psycopg2.connect(
        host=settings.embedded_socket_dir(), port=5432, user=user, dbname=database
    )
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        yield cursor


@pytest.mark.parametrize("user", sorted(USERS))
def test_a_user_gets_into_its_own_databases_only(server: Settings, user: str) -> None:
    entered = set()
    for database in OWNERS:
        try:
            with opened(server, user, database):
                entered.add(database)
        except psycopg2.OperationalError as error:
            assert "permission denied for database" in str(error)

    own = {name for name, owner in OWNERS.items() if owner == user}
    assert entered == (own or {"airflow", "mlflow"})


def test_an_owner_may_do_what_migrations_and_a_restore_do(server: Settings) -> None:
    with opened(server, "ledger", "ledger") as cursor:
        cursor.execute("CREATE TABLE a (b int); DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def test_backups_read_and_do_nothing_else(server: Settings, tmp_path: Path) -> None:
    with opened(server, "airflow", "airflow") as cursor:
        cursor.execute("CREATE TABLE kept (id serial PRIMARY KEY, note text)")
        cursor.execute("INSERT INTO kept (note) VALUES ('x')")

    url = f"postgresql+psycopg2://backup@/airflow?host={server.embedded_socket_dir()}&port=5432"
    pg_dump.dump(url, tmp_path / "airflow.dump")

    assert (tmp_path / "airflow.dump").stat().st_size > 0
    with opened(server, "backup", "airflow") as cursor:
        for statement in ("DELETE FROM kept", "CREATE TABLE mine (a int)", "CREATE ROLE more"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(statement)


def test_every_user_has_the_password_of_its_variable(server: Settings) -> None:
    """What the server holds of passwords is a hash of them; here it lets the machine in."""
    with opened(server, "postgres", "postgres") as cursor:
        cursor.execute("SELECT rolname, rolsuper, rolpassword FROM pg_authid WHERE rolcanlogin")
        found = {name: (is_super, password) for name, is_super, password in cursor.fetchall()}
    assert set(found) - {"postgres"} == USERS
    for user in USERS:
        is_super, password = found[user]
        assert not is_super
        assert password.startswith("SCRAM-SHA-256$")
        assert _is_hash_of(SECRETS[f"{user.upper()}_DB_PASSWORD"], password)


def _is_hash_of(password: str, stored: str) -> bool:
    import base64
    import hashlib
    import hmac

    _, parameters, keys = stored.split("$")
    iterations, salt = parameters.split(":")
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(salt), int(iterations)
    )
    client = hmac.digest(salted, b"Client Key", "sha256")
    return base64.b64encode(hashlib.sha256(client).digest()).decode() == keys.split(":")[0]


# --- MLflow --------------------------------------------------------------------------------------


@contextmanager
def mlflow_server(server: Settings, folder: Path, password: str) -> Iterator[str]:
    """MLflow as the compose file starts it, with addresses of this machine; yields its URL."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    loaded = compose_file.load({**SECRETS, "MLFLOW_PASSWORD": password})
    service = loaded["services"]["mlflow"]

    def here(text: str) -> str:
        host = f"host={server.embedded_socket_dir()}&port=5432"
        for name in ("mlflow_auth", "mlflow"):
            text = text.replace(f"@postgres/{name}", f"@/{name}?{host}")
        for there, found in (
            ("/etc/mlflow", str(folder)),
            ("/data", str(folder)),
            ("--host=0.0.0.0", "--host=127.0.0.1"),
            ("--port=5000", f"--port={port}"),
            ("mlflow:5000", f"127.0.0.1:{port}"),
        ):
            text = text.replace(there, found)
        return text

    (folder / "basic_auth.ini").write_text(here(loaded["configs"]["mlflow-login"]["content"]))
    stated = {name: here(value) for name, value in compose_file.environment(service).items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = folder / "mlflow.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [here(word) for word in (*service["entrypoint"], *service["command"])],
            env={**os.environ, **stated, "PATH": path},
            cwd=PROJECT_ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/health", trust_env=False).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        else:
            pytest.fail(f"MLflow does not answer:\n{log.read_text()[-4_000:]}")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _ask(url: str, login: tuple[str, str] | None) -> int:
    body = {"max_results": 1}
    answer = httpx.post(
        f"{url}/api/2.0/mlflow/experiments/search", json=body, auth=login, trust_env=False
    )
    return answer.status_code


@pytest.mark.slow
def test_mlflow_lets_in_who_has_the_password_that_is_configured_now(
    server: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = COMPOSE["services"]["mlflow"]["environment"]["MLFLOW_AUTH_ADMIN_USERNAME"]
    before, after = "the-first-password", "the-second-password"
    with mlflow_server(server, tmp_path, before) as url:
        assert _ask(url, None) == 401
        assert _ask(url, (name, "wrong-password")) == 401
        # What older versions had.
        assert _ask(url, ("admin", "password1234")) == 401
        assert _ask(url, (name, before)) == 200
    with mlflow_server(server, tmp_path, after) as url:
        assert _ask(url, (name, before)) == 401
        assert _ask(url, (name, after)) == 200

        # As tasks reach it: artifacts travel through the server.
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", after)
        import mlflow

        client = mlflow.MlflowClient(url)
        run = client.create_run(client.create_experiment("shop"))
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
        client.log_text(run.info.run_id, "hello", "note.txt")
        assert [found.path for found in client.list_artifacts(run.info.run_id)] == ["note.txt"]


@pytest.mark.slow
def test_mlflow_without_a_password_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "basic_auth.ini").write_text(COMPOSE["configs"]["mlflow-login"]["content"])
    configured = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "",
    }

    done = subprocess.run(
        [sys.executable, "-m", "evergreen.training.tracking.login"],
        env={**os.environ, **configured},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "MLflow's login is not configured" in done.stderr


def test_the_urls_of_services_name_users_that_exist() -> None:
    urls = {
        value
        for service in COMPOSE["services"].values()
        for value in compose_file.environment({"environment": service["environment"]}).values()
        if "@postgres/" in value
    }
    assert len(urls) >= len(OWNERS)
    for url in urls:
        parts = urlsplit(url.removeprefix("db+"))
        assert parts.username in USERS
        assert parts.path.removeprefix("/") in OWNERS
