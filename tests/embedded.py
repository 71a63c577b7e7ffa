"""Fixtures of the embedded Postgres: one server, and fresh databases of it for each test.

Whoever needs them imports them into a conftest.py; `unit` does not.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from evergreen.settings import Settings, load_settings

_numbers = itertools.count()


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
    postgres_server: Settings, migrated: set[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """An empty data directory whose databases are fresh ones on the session's server."""
    names = ("catalog", "mlflow", "feast", "ledger")
    suffix = f"{os.getpid()}_{next(_numbers)}"
    admin = _admin(postgres_server)
    with admin.connect() as connection:
        for name in names:
            known = f"TEMPLATE {name}_template" if name in migrated else ""
            connection.execute(sa.text(f"CREATE DATABASE {name}_{suffix} {known}"))
    for name in names:
        monkeypatch.setenv(*_url(postgres_server, name, suffix))
    yield load_settings()
    _disconnect(admin, suffix)


@pytest.fixture(scope="session")
def migrated(postgres_server: Settings) -> set[str]:
    """The databases that `home` need not migrate again, if any test here might ask for it."""
    if "mlflow" not in sys.modules:
        return set()
    from evergreen.training import tracking

    admin = _admin(postgres_server)
    with admin.connect() as connection, pytest.MonkeyPatch.context() as patch:
        connection.execute(sa.text("CREATE DATABASE mlflow_template"))
        patch.setenv(*_url(postgres_server, "mlflow", "template"))
        tracking.initialise(load_settings())
    _disconnect(admin, "template")
    return {"mlflow"}


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
