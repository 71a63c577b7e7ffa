"""A small shop with data, whose databases are all on the session's server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from backup_days import KNOWN, load_days

from evergreen.ops import deploy
from evergreen.settings import Settings, load_settings
from small_shop import FIRST_DAY, write_small_shop


@pytest.fixture
def apart() -> bool:
    """Services have a database each, which is dumped and restored by itself."""
    return True


@pytest.fixture
def shop(
    home: Settings, postgres_server: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Settings]:
    """Ten weeks of orders, features, labels, a champion, and an Airflow database."""
    url = f"postgresql+psycopg2://postgres@/{{}}?host={postgres_server.embedded_socket_dir()}&port=5432"
    name = f"airflow_{os.getpid()}_{abs(hash(tmp_path))}"
    admin = sa.create_engine(url.format("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", url.format(name))
    airflow = sa.create_engine(url.format(name))
    with airflow.begin() as connection:
        connection.execute(sa.text("CREATE TABLE dag_run (run_id TEXT PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO dag_run VALUES ('one')"))
    airflow.dispose()
    folder = write_small_shop(tmp_path / "use_cases")
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    settings = load_settings()
    assert list(deploy.initialise(settings))
    load_days(f"{FIRST_DAY}..{KNOWN}")
    keys = settings.home / "airflow"
    keys.mkdir()
    (keys / "secrets.json").write_text('{"fernet_key": "secret"}')
    yield settings
