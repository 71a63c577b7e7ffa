"""Room on the disk: a folder to work in, and a full disk told in a sentence."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evergreen.errors import DiskFullError
from evergreen.settings import load_settings


def scratch(purpose: str) -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is removed with its context; maintenance sweeps those of killed ones."""
    folder = load_settings().scratch
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=f"{purpose}-", dir=folder)


@contextmanager
def room_on(place: str) -> Iterator[None]:
    """Run the body, which writes to `place`: a local path, or a URL of another store.

    Raises
    ------
    DiskFullError
        There is no room left.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = "" if "://" in place else f" ({_free_bytes(Path(place)):,} bytes are free)"
        raise DiskFullError(
            f"There is no room left on the disk of {place}{free}. Nothing of this was published. "
            "Make room, for example by the DAG `maintenance`; this is tried again."
        ) from error


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
