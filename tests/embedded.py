"""Fixtures of the embedded Postgres: one server, and fresh databases of it for each test.

Whoever needs them imports them into a conftest.py; `unit` does not.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from evergreen.settings import Settings, load_settings

_numbers = itertools.count()
_SERVICES = ("catalog", "mlflow", "feast", "ledger")

# Builds below a folder, and returns that of a use case.
Build = Callable[[Path, pytest.MonkeyPatch], Path]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Settings]:
    """One server for the whole session; `home` gives each test databases of its own.

    Not under pytest's own directory: each starting pytest closes that one to other users, and a
    server started by root runs as another user.
    """
    from evergreen.ops.local import postgres

    previous = os.environ.get("EVERGREEN_HOME")
    folder = tempfile.TemporaryDirectory(prefix="evergreen-tests-")
    os.environ["EVERGREEN_HOME"] = folder.name
    settings = load_settings()
    postgres.start(settings)
    admin = _admin(settings)
    with admin.connect() as connection:
        # A test server may lose its data in a power cut; waiting for the disk is most of its time.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sa.text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(sa.text("SELECT pg_reload_conf()"))
    yield settings
    postgres.stop(settings)
    folder.cleanup()
    if previous is not None:
        os.environ["EVERGREEN_HOME"] = previous


@pytest.fixture
def apart() -> bool:
    """Whether each service has a database of its own, as they have where it matters: in backups."""
    return False


@pytest.fixture
def home(
    postgres_server: Settings, migrated: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """An empty data directory whose databases are fresh on the session's server."""
    groups = [(name,) for name in _SERVICES] if apart else [_SERVICES]
    databases = [_create(postgres_server, migrated, monkeypatch, group) for group in groups]
    yield load_settings()
    for database in databases:
        _disconnect(postgres_server, database)


@dataclass(frozen=True)
class _Kept:
    """What a test began with: a folder, its copy, the database, the folder of the use case."""

    root: Path
    copy: Path
    database: str
    folder: Path


_kept: dict[Build, _Kept] = {}


@pytest.fixture
def begin_with(
    postgres_server: Settings,
    migrated: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Build], Path]]:
    """Begin with what takes long to build: it is built once, and each test gets it anew.

    The data directory is where it was, since tables know where their files are; the database is
    a copy under another name.
    """
    databases = []

    def begin(build: Build) -> Path:
        if build not in _kept:
            root = tmp_path_factory.mktemp("kept")
            monkeypatch.setenv("EVERGREEN_HOME", str(root / "home"))
            database = _create(postgres_server, migrated, monkeypatch)
            folder = build(root, monkeypatch)
            _disconnect(postgres_server, database)
            copy = Path(shutil.copytree(root, f"{root}-copy", symlinks=True))
            _kept[build] = _Kept(root, copy, database, folder)
        kept = _kept[build]
        shutil.rmtree(kept.root)
        shutil.copytree(kept.copy, kept.root, symlinks=True)
        databases.append(_create(postgres_server, kept.database, monkeypatch))
        monkeypatch.setenv("EVERGREEN_HOME", str(kept.root / "home"))
        monkeypatch.setenv("EVERGREEN_USE_CASES", str(kept.folder.parent))
        return kept.folder

    yield begin
    for database in databases:
        _disconnect(postgres_server, database)


def _create(
    server: Settings,
    template: str,
    patch: pytest.MonkeyPatch,
    services: tuple[str, ...] = _SERVICES,
) -> str:
    """Create a database of a template, and point the settings of services there.

    All four in one take a quarter of the time (a database is 300 files), and share no table.
    """
    database = f"test_{os.getpid()}_{next(_numbers)}"
    with _admin(server).connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {database} TEMPLATE {template}"))
    for name in services:
        patch.setenv(*_url(server, name, database))
    return database


@pytest.fixture(scope="session")
def migrated(postgres_server: Settings) -> str:
    """Template of databases in which MLflow finds its tables, if any test here might look."""
    if "mlflow" not in sys.modules:
        return "template1"
    from evergreen.training import tracking

    with _admin(postgres_server).connect() as connection, pytest.MonkeyPatch.context() as patch:
        connection.execute(sa.text("CREATE DATABASE migrated"))
        patch.setenv(*_url(postgres_server, "mlflow", "migrated"))
        tracking.initialise(load_settings())
    _disconnect(postgres_server, "migrated")
    return "migrated"


def _url(server: Settings, name: str, database: str) -> tuple[str, str]:
    socket = server.embedded_socket_dir()
    url = f"postgresql+psycopg2://postgres@/{database}?host={socket}&port=5432"
    return f"EVERGREEN_{name.upper()}_URL", url


def _disconnect(server: Settings, database: str) -> None:
    """End what libraries keep for good, and wait until it has ended.

    The database stays until the server goes: to drop it takes a checkpoint.
    """
    ending = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    with _admin(server).connect() as connection:
        while connection.execute(ending, {"name": database}).all():
            time.sleep(0.005)


def _admin(settings: Settings) -> sa.Engine:
    return sa.create_engine(
        f"postgresql+psycopg2://postgres@/postgres?host={settings.embedded_socket_dir()}&port=5432",
        isolation_level="AUTOCOMMIT",
        # Tests stop the server and start it again.
        poolclass=sa.NullPool,
    )
