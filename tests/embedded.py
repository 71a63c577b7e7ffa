"""Fixtures of the embedded Postgres: one server, and fresh databases of it for each test.

Whoever needs them imports them into a conftest.py; `unit` does not.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from evergreen.settings import Settings, load_settings

_numbers = itertools.count()
_DATABASES = ("catalog", "mlflow", "feast", "ledger")

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
def home(
    postgres_server: Settings, migrated: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """An empty data directory whose databases are fresh ones on the session's server."""
    suffix = _create(postgres_server, migrated, monkeypatch)
    yield load_settings()
    _disconnect(_admin(postgres_server), suffix)


@dataclass(frozen=True)
class _Kept:
    """What a test began with: a folder, its copy, the databases, the folder of the use case."""

    root: Path
    copy: Path
    suffix: str
    folder: Path


_kept: dict[Build, _Kept] = {}


@pytest.fixture
def begin_with(
    postgres_server: Settings,
    migrated: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Build], Path]]:
    """Begin with what takes long to build: it is built once, and each test gets it anew.

    The data directory is where it was, since tables know where their files are; the databases are
    copies under other names.
    """
    suffixes = []

    def begin(build: Build) -> Path:
        if build not in _kept:
            root = tmp_path_factory.mktemp("kept")
            monkeypatch.setenv("EVERGREEN_HOME", str(root / "home"))
            suffix = _create(postgres_server, migrated, monkeypatch)
            folder = build(root, monkeypatch)
            _disconnect(_admin(postgres_server), suffix)
            copy = Path(shutil.copytree(root, f"{root}-copy", symlinks=True))
            _kept[build] = _Kept(root, copy, suffix, folder)
        kept = _kept[build]
        shutil.rmtree(kept.root)
        shutil.copytree(kept.copy, kept.root, symlinks=True)
        templates = {name: f"{name}_{kept.suffix}" for name in _DATABASES}
        suffixes.append(_create(postgres_server, templates, monkeypatch))
        monkeypatch.setenv("EVERGREEN_HOME", str(kept.root / "home"))
        monkeypatch.setenv("EVERGREEN_USE_CASES", str(kept.folder.parent))
        return kept.folder

    yield begin
    for suffix in suffixes:
        _disconnect(_admin(postgres_server), suffix)


def _create(server: Settings, templates: Mapping[str, str], patch: pytest.MonkeyPatch) -> str:
    """Create a set of databases, of templates where there are any, and point the settings there."""
    suffix = f"{os.getpid()}_{next(_numbers)}"
    with _admin(server).connect() as connection:
        for name in _DATABASES:
            known = f"TEMPLATE {templates[name]}" if name in templates else ""
            connection.execute(sa.text(f"CREATE DATABASE {name}_{suffix} {known}"))
    for name in _DATABASES:
        patch.setenv(*_url(server, name, suffix))
    return suffix


@pytest.fixture(scope="session")
def migrated(postgres_server: Settings) -> dict[str, str]:
    """Templates of databases that are not migrated again, if any test here might ask for it."""
    if "mlflow" not in sys.modules:
        return {}
    from evergreen.training import tracking

    admin = _admin(postgres_server)
    with admin.connect() as connection, pytest.MonkeyPatch.context() as patch:
        connection.execute(sa.text("CREATE DATABASE mlflow_template"))
        patch.setenv(*_url(postgres_server, "mlflow", "template"))
        tracking.initialise(load_settings())
    _disconnect(admin, "template")
    return {"mlflow": "mlflow_template"}


def _url(server: Settings, name: str, suffix: str) -> tuple[str, str]:
    socket = server.embedded_socket_dir()
    url = f"postgresql+psycopg2://postgres@/{name}_{suffix}?host={socket}&port=5432"
    return f"EVERGREEN_{name.upper()}_URL", url


def _disconnect(admin: sa.Engine, suffix: str) -> None:
    """End what libraries keep for good; hundreds of tests would run out of connections."""
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE :ours"
    with admin.connect() as connection:
        connection.execute(sa.text(end), {"ours": f"%\\_{suffix}"})


def _admin(settings: Settings) -> sa.Engine:
    return sa.create_engine(
        f"postgresql+psycopg2://postgres@/postgres?host={settings.embedded_socket_dir()}&port=5432",
        isolation_level="AUTOCOMMIT",
        # Tests stop the server and start it again.
        poolclass=sa.NullPool,
    )
