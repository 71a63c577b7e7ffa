"""SQL engines that say which database does not answer, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import ExceptionContext

from evergreen.errors import ServiceDownError
from evergreen.settings import Database


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


def service_down(database: Database, url: str, cause: BaseException | None) -> ServiceDownError:
    """Return the error that names a database, where it should be, and what to do."""
    where = sa.make_url(url).render_as_string(hide_password=True)
    return ServiceDownError(
        f"The database `{database}` at {where} does not answer ({str(cause).strip()}). Start it "
        f"with `make up`, or correct EVERGREEN_{database.upper()}_URL; this is tried again."
    )
