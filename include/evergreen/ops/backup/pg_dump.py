"""Dump and load one SQL database with Postgres's own programs; embedded or managed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from psycopg2.extensions import make_dsn
from sqlalchemy.pool import NullPool

from evergreen.errors import BusyError, ConfigError
from evergreen.ops.local import postgres_programs

# For a session that still uses a table of a database that is about to be replaced.
_LOCK_TIMEOUT = "30s"


@contextmanager
def frozen(url: str) -> Iterator[tuple[sa.Connection, str]]:
    """Open a transaction that sees one state of a database, and name that state for `dump`."""
    engine = _engine(url)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        name = connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one()
        yield connection, str(name)


def dump(url: str, target: Path, state: str | None = None) -> None:
    """Write one database into a file that `load` reads.

    Parameters
    ----------
    state
        Of `frozen`; by default the state at this moment.

    Raises
    ------
    ConfigError
        The server is newer than the programs here, no Postgres, or reached over TLS on a machine
        without `pg_dump`.
    ServiceDownError
        The program failed.
    """
    if (found := server_version(url)) > int(postgres_programs.VERSION):
        raise ConfigError(
            f"The server of {_named(url)} is Postgres {found}; pg_dump here is "
            f"{postgres_programs.VERSION} and cannot dump a newer one. Back this database up "
            "with the server's own tools."
        )
    dsn, password = _connection(url)
    arguments = ["--format=custom", "--no-owner", "--no-privileges", f"--file={target}"]
    if state is not None:
        arguments.append(f"--snapshot={state}")
    postgres_programs.run_client(
        "pg_dump", *arguments, f"--dbname={dsn}", password=password, encrypted=_is_encrypted(url)
    )


def load(source: Path, url: str, version: int) -> None:
    """Replace the whole content of a database by a dump.

    A kill leaves the database empty or complete, never a part of the dump.

    Parameters
    ----------
    version
        Major version of the server that was dumped.

    Raises
    ------
    BusyError
        Somebody still uses the database.
    ConfigError
        The server is older than the one that was dumped.
    """
    if (found := server_version(url)) < version:
        raise ConfigError(
            f"The server of {_named(url)} is Postgres {found}; the dump was made from {version}. "
            "Restore to a server that is at least as new."
        )
    with _engine(url).begin() as connection:
        connection.execute(
            sa.text("SELECT set_config('lock_timeout', :patience, true)"),
            {"patience": _LOCK_TIMEOUT},
        )
        try:
            connection.execute(sa.text("DROP SCHEMA IF EXISTS public CASCADE"))
        except sa.exc.OperationalError as error:
            raise BusyError(
                f"Another program uses {_named(url)}. Stop what uses it (Airflow, an MLflow "
                "server, a notebook) and run the same command again."
            ) from error
        connection.execute(sa.text("CREATE SCHEMA public"))
        connection.execute(sa.text("GRANT USAGE ON SCHEMA public TO PUBLIC"))
    dsn, password = _connection(url)
    postgres_programs.run_client(
        "pg_restore",
        *("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"),
        f"--dbname={dsn}",
        str(source),
        password=password,
        encrypted=_is_encrypted(url),
    )


def is_empty(url: str) -> bool:
    """Whether the database holds no table."""
    with _engine(url).connect() as connection:
        return not sa.inspect(connection).get_table_names(schema="public")


def airflow_is_alive(url: str) -> bool:
    """Whether a component of Airflow, on whatever machine, has signed its database just now."""
    with _engine(url).connect() as connection:
        if connection.execute(sa.text("SELECT to_regclass('public.job')")).scalar() is None:
            return False
        alive = sa.text(
            "SELECT EXISTS (SELECT FROM job WHERE state = 'running' "
            "AND latest_heartbeat > now() - interval '60 seconds')"
        )
        return bool(connection.execute(alive).scalar_one())


def server_version(url: str) -> int:
    """Major version of the server."""
    with _engine(url).connect() as connection:
        number = connection.execute(sa.text("SHOW server_version_num")).scalar_one()
    return int(number) // 10_000


def _is_encrypted(url: str) -> bool:
    """Whether clients are told to insist on TLS, by the URL or as libpq reads it."""
    said = sa.make_url(url).query.get("sslmode") or os.environ.get("PGSSLMODE", "")
    return said in ("require", "verify-ca", "verify-full")


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise ConfigError(f"{_named(url)} is no Postgres; backups know Postgres only.")
    return sa.create_engine(parsed.set(drivername="postgresql+psycopg2"), poolclass=NullPool)


def _connection(url: str) -> tuple[str, str | None]:
    """Return libpq's connection string without the password, and the password."""
    engine = _engine(url)
    _, arguments = engine.dialect.create_connect_args(engine.url)
    password = arguments.pop("password", None)
    return make_dsn(**arguments), password


def _named(url: str) -> str:
    return sa.make_url(url).render_as_string(hide_password=True)
