import dataclasses
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg2
import pytest

from evergreen.errors import ConfigError, ServiceDownError
from evergreen.ops.local import postgres
from evergreen.settings import DATABASES, Settings, load_settings


def _settings(monkeypatch, home: Path) -> Settings:
    monkeypatch.setenv("EVERGREEN_HOME", str(home))
    return load_settings()


@pytest.fixture
def folder():
    # Not tmp_path: every pytest that starts makes the parent of all of those private again, and
    # as root the server runs as a user that must pass through it.
    with tempfile.TemporaryDirectory(prefix="evergreen-test-") as folder:
        yield Path(folder)


@pytest.fixture
def settings(monkeypatch, folder):
    settings = _settings(monkeypatch, folder / "home")
    yield settings
    postgres.stop(settings)


def _query(settings: Settings, statement: str, database: str = "ledger"):
    connection = psycopg2.connect(
        host=settings.embedded_socket_dir(), port=5432, user="postgres", dbname=database
    )
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None
    finally:
        connection.close()


def _postmaster(settings: Settings) -> psutil.Process:
    return psutil.Process(int((settings.postgres_dir / "postmaster.pid").read_text().split()[0]))


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _kill(process: psutil.Process) -> None:
    process.kill()
    while not _ended(process):
        pass


def test_starts_once_makes_the_databases_and_stops(settings, monkeypatch):
    # What a shell set up for another server must not reach this one.
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "/elsewhere")
    assert not postgres.running(settings)
    with pytest.raises(ServiceDownError, match="make up"):
        settings.database_url("catalog")

    postgres.start(settings)
    first = _postmaster(settings)
    postgres.start(settings)
    assert _postmaster(settings) == first
    assert postgres.running(settings)
    names = {row[0] for row in _query(settings, "SELECT datname FROM pg_database")}
    assert set(DATABASES) <= names
    # Commits must survive a crash, and nobody outside this machine or user may connect.
    assert _query(settings, "SHOW synchronous_commit") == [("on",)]
    assert _query(settings, "SHOW fsync") == [("on",)]
    assert _query(settings, "SHOW listen_addresses") == [("",)]
    socket = Path(settings.embedded_socket_dir()) / ".s.PGSQL.5432"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700

    with postgres.embedded_postgres(settings):
        pass
    assert postgres.running(settings), "it was not this call that started it"
    postgres.stop(settings)
    postgres.stop(settings)
    assert not postgres.running(settings)
    assert _ended(first)


def test_recovers_from_kills_and_stale_pid_files_and_shows_the_log_when_it_cannot(settings):
    postgres.start(settings)
    _query(settings, "CREATE TABLE kept AS SELECT 7 AS value")
    _kill(_postmaster(settings))
    assert not postgres.running(settings)
    postgres.start(settings)
    assert _query(settings, "SELECT value FROM kept") == [(7,)]

    # The pid of a killed server now belongs to another live program of the same user.
    _kill(_postmaster(settings))
    owner = settings.postgres_dir.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None) as stranger:
        try:
            for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
                path = settings.postgres_dir / name
                lines = path.read_text().splitlines()
                path.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            assert not postgres.running(settings)
            postgres.start(settings)
            assert postgres.running(settings)
            assert _query(settings, "SELECT value FROM kept") == [(7,)]
            assert stranger.poll() is None, "the other program must be left alone"

            postgres.stop(settings)
            with (settings.postgres_dir / "postgresql.conf").open("a") as configuration:
                configuration.write("max_connections = plenty\n")
            with pytest.raises(ServiceDownError, match='parameter "max_connections"'):
                postgres.start(settings)
        finally:
            stranger.kill()


def _start_in_child(queue) -> None:
    settings = load_settings()
    postgres.start(settings)
    queue.put(_postmaster(settings).pid)
    queue.close()
    queue.join_thread()
    # As when a run is killed: no clean-up code gets a turn.
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_starting_at_once_share_one_server_that_outlives_them(settings):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    children = [context.Process(target=_start_in_child, args=(queue,)) for _ in range(3)]
    for child in children:
        child.start()
    pids = {queue.get(timeout=60) for _ in children}
    for child in children:
        child.join(30)
    assert pids == {_postmaster(settings).pid}
    assert postgres.running(settings)


@pytest.mark.parametrize("name", ["long-" + "x" * 120, "with space, comma % é"])
def test_paths_that_are_no_socket_address(monkeypatch, folder, name):
    settings = _settings(monkeypatch, folder / name / "home")
    with postgres.embedded_postgres(settings):
        assert settings.embedded_socket_dir() != str(settings.postgres_dir)
        import sqlalchemy

        engine = sqlalchemy.create_engine(settings.database_url("catalog"))
        with engine.connect() as connection:
            found = connection.execute(sqlalchemy.text("SELECT current_database()")).scalar_one()
        engine.dispose()
        assert found == "catalog"
    assert not postgres.running(settings)


def test_nothing_is_started_when_every_database_has_a_url(settings):
    managed = dataclasses.replace(settings, urls=dict.fromkeys(DATABASES, "postgresql://db/x"))
    postgres.start(managed)
    assert not settings.home.exists()


def test_threads_redo_a_half_made_cluster_with_only_the_databases_that_need_it(settings):
    half = settings.home / "postgres.unfinished"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    mixed = dataclasses.replace(settings, urls={"airflow": "postgresql://elsewhere/airflow"})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: postgres.start(mixed), range(4)))
    assert not half.exists()
    names = {row[0] for row in _query(settings, "SELECT datname FROM pg_database")}
    assert "airflow" not in names
    assert "ledger" in names


def test_a_directory_that_is_no_cluster_is_left_alone(settings):
    precious = settings.postgres_dir / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        postgres.start(settings)
    assert precious.read_text() == "years of work"


def test_a_cluster_of_another_version_is_refused(settings):
    settings.postgres_dir.mkdir(parents=True)
    (settings.postgres_dir / "PG_VERSION").write_text("11\n")
    with pytest.raises(ConfigError, match="Postgres 11"):
        postgres.start(settings)


def test_importing_starts_nothing(tmp_path):
    environment = {**os.environ, "EVERGREEN_HOME": str(tmp_path / "home")}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", "import evergreen.ops.local.postgres"],
        check=True,
        env=environment,
    )
    assert not (tmp_path / "home").exists()
