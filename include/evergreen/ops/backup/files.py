"""The files of a backup: placed cheaply, listed with their digests, checked before they are used.

A file that the previous backup holds unchanged is a hard link to that one, so a second backup
costs what is new. Files of the lake are never changed after they were written, so on the same
disk even the first copy is a hard link: removing the original then leaves the backup's. What may
be overwritten in place (MLflow's artifacts) is copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evergreen.errors import PermanentError

_LISTING = "files.json"


@dataclass(frozen=True)
class Entry:
    """Size in bytes, time of change (ns) and SHA-256 of one file."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass
class Collector:
    """Places files into a backup and keeps the list.

    Parameters
    ----------
    root
        The backup's directory.
    previous
        An older complete backup, or None.
    """

    root: Path
    previous: Path | None
    entries: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known = read_listing(self.previous) if self.previous else {}

    def place(self, source: Path, name: str, *, immutable: bool) -> None:
        """Put `source` at `name` below the root; does nothing if it is there.

        Raises
        ------
        FileNotFoundError
            The source is gone.
        """
        if name in self.entries:
            return
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        found = source.stat()
        known = self._known.get(name)
        if known and (known.size, known.mtime_ns) == (found.st_size, found.st_mtime_ns):
            assert self.previous is not None
            if _link(self.previous / name, target):
                self.entries[name] = known
                return
        if not (immutable and _link(source, target)):
            shutil.copy2(source, target)
        self.add(name)

    def add(self, name: str) -> None:
        """List a file that was written at `name` below the root."""
        found = (self.root / name).stat()
        self.entries[name] = Entry(found.st_size, found.st_mtime_ns, sha256(self.root / name))

    @property
    def new_bytes(self) -> int:
        """Size of the files that the previous backup does not hold."""
        return sum(e.size for name, e in self.entries.items() if self._known.get(name) != e)

    def write_listing(self) -> str:
        """Write the list and return its digest."""
        rows = {n: [e.size, e.mtime_ns, e.sha256] for n, e in sorted(self.entries.items())}
        path = self.root / _LISTING
        path.write_text(json.dumps(rows, indent=0) + "\n")
        return sha256(path)


def read_listing(root: Path) -> dict[str, Entry]:
    """Return the list of a complete backup."""
    rows = json.loads((root / _LISTING).read_text())
    return {name: Entry(*row) for name, row in rows.items()}


def verify(root: Path, listing_digest: str) -> dict[str, Entry]:
    """Read every file of a backup and compare it with the list.

    Raises
    ------
    PermanentError
        A file is missing or differs; the message names it.
    """
    if not (root / _LISTING).exists() or sha256(root / _LISTING) != listing_digest:
        raise PermanentError(f"{root / _LISTING} is not as it was written. Use another backup.")
    entries = read_listing(root)
    for name, entry in entries.items():
        path = root / name
        if not path.is_file():
            raise PermanentError(f"{path} is missing from the backup. Use another backup.")
        found = path.stat().st_size
        if found != entry.size or sha256(path) != entry.sha256:
            raise PermanentError(
                f"{path} is damaged: {found} bytes, expected {entry.size} with SHA-256 "
                f"{entry.sha256[:16]}…. Nothing was changed. Use another backup."
            )
    return entries


def put_back(root: Path, prefix: str, entries: Mapping[str, Entry], target: Path) -> None:
    """Copy the files of `prefix` to `target`.

    Copies, not links: the restored files must not share their bytes with the only good copy. Each
    appears whole under its name, so this can be repeated after a kill.
    """
    for relative, entry in _below(prefix, entries).items():
        place = target / relative
        if place.is_file() and place.stat().st_size == entry.size and sha256(place) == entry.sha256:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f"{place.name}.restoring")
        shutil.copy2(root / prefix / relative, draft)
        draft.replace(place)


def remove_others(prefix: str, entries: Mapping[str, Entry], target: Path) -> None:
    """Remove the files of `target` that the backup does not hold under `prefix`."""
    wanted = _below(prefix, entries)
    for name in names_under(target):
        if name not in wanted:
            (target / name).unlink()


def _below(prefix: str, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    start = f"{prefix}/"
    return {n.removeprefix(start): e for n, e in entries.items() if n.startswith(start)}


def names_under(root: Path) -> list[str]:
    """Paths of all files below a directory, relative to it; none if it does not exist."""
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def sha256(path: Path) -> str:
    """Digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        # Another disk, a file system without hard links, or too many of them.
        return False
    return True
