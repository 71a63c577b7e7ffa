"""Files: a folder to work in, one that appears whole, and a full disk told in a sentence."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evergreen.errors import DiskFullError, ServiceDownError
from evergreen.settings import load_settings

if TYPE_CHECKING:
    from upath import UPath


def scratch(purpose: str) -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is removed with its context; maintenance sweeps those of killed ones."""
    folder = load_settings().scratch
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=f"{purpose}-", dir=folder)


def write_whole(path: UPath, content: bytes) -> None:
    """Write a file that is seen whole or not at all, whoever else writes it; makes its folder.

    Raises
    ------
    DiskFullError
        There is no room for it.
    """
    with room_on(str(path)):
        if not isinstance(path, Path):
            # An object appears when all of it has arrived.
            path.write_bytes(content)
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def room_on(place: str) -> Iterator[None]:
    """Run the body, which writes to `place`: a local path, or a URL of another store.

    Raises
    ------
    DiskFullError
        There is no room left.
    ServiceDownError
        The store does not answer, or is too busy.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            # Its clients have asked more than once.
            if "://" not in place or isinstance(error, FileNotFoundError | PermissionError):
                raise
            raise ServiceDownError(
                f"The store of {place} did not do what it was asked for ({error}). This is tried "
                "again."
            ) from error
        free = "" if "://" in place else f" ({_free_bytes(Path(place)):,} bytes are free)"
        raise DiskFullError(
            f"There is no room left on the disk of {place}{free}. Nothing of this was published. "
            "Make room, for example by the DAG `maintenance`; this is tried again."
        ) from error


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
