"""SQL engines that say which database does not answer, and locks that everybody asks for alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import ExceptionContext

from evergreen.errors import BusyError, ServiceDownError
from evergreen.settings import Database, Settings, load_settings

# PostgreSQL's code for a lock that was not granted in time.
_LOCK_NOT_AVAILABLE = "55P03"


def ledger_engine(settings: Settings | None = None) -> sa.Engine:
    """Connect to the database of receipts and releases (one engine per process and URL)."""
    return _ledger_engine((settings or load_settings()).database_url("ledger"))


@lru_cache(maxsize=8)
def _ledger_engine(url: str) -> sa.Engine:
    return open_engine("ledger", url, lambda: sa.create_engine(url, pool_pre_ping=True))


def feast_engine(settings: Settings | None = None) -> sa.Engine:
    """Connect to the database of the online store (one engine per process and URL)."""
    return _feast_engine((settings or load_settings()).database_url("feast"))


@lru_cache(maxsize=8)
def _feast_engine(url: str) -> sa.Engine:
    return open_engine("feast", url, lambda: sa.create_engine(url, pool_pre_ping=True))


def open_engine(database: Database, url: str, connect: Callable[[], sa.Engine]) -> sa.Engine:
    """Open an engine that raises `ServiceDownError` whenever its database cannot be reached.

    Parameters
    ----------
    connect
        Makes the engine; it may use it at once.

    Raises
    ------
    ServiceDownError
        The database does not answer, now.
    """
    try:
        engine = connect()
    except sa.exc.OperationalError as error:
        raise service_down(database, url, error.orig) from error

    def explain(context: ExceptionContext) -> None:
        unreachable = context.connection is None or context.is_disconnect
        # A ping that fails makes the pool connect anew; only if that fails, too, is it down.
        if unreachable and not context.is_pre_ping:
            raise service_down(
                database, url, context.original_exception
            ) from context.original_exception

    sa.event.listen(engine, "handle_error", explain)
    return engine


def require_answer(database: Database, url: str) -> None:
    """Ask a database for a connection, for libraries that would ask for minutes.

    Raises
    ------
    ServiceDownError
        The database does not answer, now.
    """
    engine = open_engine(database, url, lambda: sa.create_engine(url, poolclass=sa.NullPool))
    engine.connect().close()


def service_down(database: Database, url: str, cause: BaseException | None) -> ServiceDownError:
    """Return the error that names a database, where it should be, and what to do."""
    where = sa.make_url(url).render_as_string(hide_password=True)
    return ServiceDownError(
        f"The database `{database}` at {where} does not answer ({str(cause).strip()}). Start it "
        f"with `make up`, or correct EVERGREEN_{database.upper()}_URL; this is tried again."
    )


def take_lock(
    execute: Callable[[str, tuple[Any, ...]], object],
    name: str,
    wait_seconds: int,
    *,
    for_session: bool = False,
) -> None:
    """Wait for the one lock of a name in a Postgres database; it ends with its holder's process.

    Parameters
    ----------
    execute
        Of a connection: `exec_driver_sql` of SQLAlchemy, `execute` of psycopg.
    name
        What is done under the lock, such as `publish churn.orders`.
    for_session
        Hold it until the connection is closed; by default until the transaction ends.

    Raises
    ------
    BusyError
        Somebody else held it all the time.
    """
    query = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
    if for_session:
        query = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
    # A transaction that holds a lock may have nothing to say for an hour.
    execute("SELECT set_config('idle_in_transaction_session_timeout', '0', true)", ())
    execute("SELECT set_config('lock_timeout', %s, true)", (f"{wait_seconds}s",))
    try:
        execute(query, (f"evergreen {name}",))
    except Exception as error:
        cause: Any = getattr(error, "orig", error)
        code = getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)
        if code != _LOCK_NOT_AVAILABLE:
            raise
        raise BusyError(
            f"Somebody else is at work ({name}), and was not done in {wait_seconds} s. A row of "
            "pg_locks with locktype `advisory` names the process; wait for it and try again."
        ) from error
