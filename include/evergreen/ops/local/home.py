"""The data directory: private, where it was made, and with one owner at a time."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import fasteners

from evergreen.errors import BusyError, ConfigError
from evergreen.ops.local.postgres_programs import owner
from evergreen.settings import LOCATION_FILE, Settings

# Held by this process; a command may call another that claims, too.
_held: set[Path] = set()


def prepare(settings: Settings) -> None:
    """Make the directory if needed, close it to other users, and note down where it is.

    Raises
    ------
    ConfigError
        It is a shared one, such as /tmp.

    Notes
    -----
    As root the embedded Postgres runs as a system user: its group, and nobody else, may pass
    through. A directory of another user is left as that user has it.
    """
    home = settings.home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = home.stat()
    if found.st_mode & stat.S_ISVTX:
        raise ConfigError(
            f"{home} is a directory that users of this machine share. Set EVERGREEN_HOME to one of "
            f"its own, for example {home / 'evergreen'}."
        )
    if os.geteuid() in (0, found.st_uid):
        mode, group = 0o700, found.st_gid
        if os.geteuid() == 0 and settings.embedded:
            mode, group = 0o710, owner().pw_gid
        if group != found.st_gid:
            os.chown(home, -1, group)
        if stat.S_IMODE(found.st_mode) != mode:
            home.chmod(mode)
    location = home / LOCATION_FILE
    if not location.exists():
        # Whole or not at all: several processes may be at it, and each may be killed.
        draft = location.with_name(f"{location.name}.{uuid4().hex}")
        draft.write_text(f"{home}\n", encoding="utf-8")
        draft.replace(location)


@contextmanager
def claimed(settings: Settings) -> Iterator[None]:
    """Run the body as the only one that starts, stops or replaces what is in the directory.

    The claim is a lock of the operating system: it ends with this process, however that ends.

    Raises
    ------
    BusyError
        Another process has the claim; the message says which, and since when.
    """
    home = settings.home
    if home in _held:
        yield
        return
    prepare(settings)
    record = home / "owner.json"
    lock = fasteners.InterProcessLock(home / "owner.lock")
    if not lock.acquire(blocking=False):
        raise BusyError(
            f"{home} is in use by {_describe(record)}. Only one command at a time may start, stop "
            "or replace what is there. Wait until it has ended or end it yourself, then run this "
            "again; or set EVERGREEN_HOME to another directory."
        )
    _held.add(home)
    try:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        record.write_text(json.dumps({"pid": os.getpid(), "command": command, "since": now}))
        yield
    finally:
        record.unlink(missing_ok=True)
        _held.discard(home)
        lock.release()


def _describe(record: Path) -> str:
    try:
        found = json.loads(record.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        # Between taking the lock and saying so.
        return "another process"
    return f"`{found['command']}` (process {found['pid']}, since {found['since']})"
