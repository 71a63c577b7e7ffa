"""The one place that opens DuckDB, and the limits under which it runs the SQL of a use case.

Left to itself DuckDB takes all cores and most of the memory, spills into the working directory as
much as fits on its disk, and downloads what it lacks.
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from evergreen.disk import scratch
from evergreen.errors import DiskFullError, LimitError
from evergreen.settings import load_settings

_CLOSED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    # Else a name that is no table is looked for among the variables of Python.
    "python_enable_replacements": "false",
}


def connect(
    folder: str | Path, *, threads: int | None = None, memory_mb: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Open an empty DuckDB in memory, whose zone is UTC.

    Parameters
    ----------
    folder
        Where it may spill, as much as `EVERGREEN_SPILL_MB`.
    threads, memory_mb
        Its limits; by default the settings'.
    """
    settings = load_settings()
    connection = duckdb.connect(
        config={
            **_CLOSED,
            "threads": str(threads or settings.threads),
            "memory_limit": f"{memory_mb or settings.memory_mb}MB",
            "temp_directory": str(folder),
        }
    )
    # Among the above it would be taken and not be obeyed.
    connection.execute(f"SET max_temp_directory_size = '{settings.spill_mb}MB'")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    return connection


@contextmanager
def opened(
    purpose: str, *, threads: int | None = None, memory_mb: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB (see `connect`) over a scratch folder of its own, and close both."""
    with (
        scratch(purpose) as folder,
        connect(folder, threads=threads, memory_mb=memory_mb) as connection,
    ):
        yield connection


@contextmanager
def limited(
    connection: duckdb.DuckDBPyConnection, what: str, seconds: float | None = None
) -> Iterator[None]:
    """Run the body, which executes the SQL `what` names, and end what goes beyond the limits.

    Parameters
    ----------
    what
        The SQL, for messages.
    seconds
        Time allowed; by default `EVERGREEN_SQL_TIMEOUT_SECONDS`.

    Raises
    ------
    LimitError
        It took more time, memory or room on the disk than it may.
    DiskFullError
        There is no room left to spill to.

    Notes
    -----
    DuckDB's memory limit counts its buffers, not the text and lists that a function makes; so the
    process itself may not grow by more than twice that limit and 500 MB (for the result) meanwhile.
    """
    settings = load_settings()
    allowed = seconds or settings.sql_timeout_seconds
    ended, expired = threading.Event(), threading.Event()

    def end_late() -> None:
        if not ended.wait(allowed):
            expired.set()
            # Again and again: a body of several statements would go on with its next.
            while not ended.wait(0.2):
                connection.interrupt()

    memory_mb = connection.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]
    watch = threading.Thread(target=end_late, name="sql-timeout", daemon=True)
    watch.start()
    try:
        with _memory_ceiling(2 * _mebibytes(memory_mb) + 500):
            yield
    except duckdb.InterruptException as error:
        if not expired.is_set():
            raise
        otherwise = (
            "; if the SQL is right and the data are many, set EVERGREEN_SQL_TIMEOUT_SECONDS higher"
        )
        raise LimitError(
            f"{what} was ended after {allowed:g} seconds, the longest that one query may take "
            "here. Look for a recursion without end or a join without a condition"
            f"{otherwise if seconds is None else ''}."
        ) from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        if "max_temp_directory_size" in str(error):
            raise LimitError(
                f"{what} put more than {settings.spill_mb:,} MB of intermediate rows on the disk. "
                "Look for a join without a condition; if the SQL is right and the data are many, "
                "set EVERGREEN_SPILL_MB higher."
            ) from error
        raise LimitError(
            f"{what} needs more memory than it may take ({memory_mb} for one step): "
            f"{str(error).splitlines()[0]}. Look for joins without a condition, and for long lists "
            "and texts; if the SQL is right and the data are many, set EVERGREEN_MEMORY_MB higher."
        ) from error
    except duckdb.IOException as error:
        if "No space left" not in str(error):
            raise
        raise DiskFullError(
            f"There is no room left on the disk of {settings.scratch} for intermediate rows of "
            f"{what}. Make room; this is tried again."
        ) from error
    finally:
        ended.set()
        watch.join()


@contextmanager
def _memory_ceiling(growth_mb: int) -> Iterator[None]:
    """Let allocations fail that would make the process grow by more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    held = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    ceiling = held * 1024 + growth_mb * 2**20
    bounds = [ceiling, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _mebibytes(size: str) -> int:
    """Read a size as DuckDB writes it.

    >>> _mebibytes("1.3 GiB")
    1331
    """
    number, unit = size.split()
    return int(float(number) * {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024, "TiB": 1024**2}[unit])
