"""What a backup says about itself; written last, so that its presence means the backup is whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evergreen.errors import ConfigError

FORMAT = 1
PARTIAL = ".partial"
_FILE = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """One complete backup.

    Parameters
    ----------
    made_at
        Instant at which the backup began, ISO 8601, UTC.
    evergreen_version, lock_digest
        The code that made it.
    warehouse, artifacts
        Where the files were: settings `EVERGREEN_WAREHOUSE` and `EVERGREEN_ARTIFACTS`. Iceberg and
        MLflow store absolute locations, so files can only be restored there.
    databases
        By name: file below the directory, size, SHA-256, the server's major version.
    tables
        By `namespace.table`: location of the metadata file, current snapshot id, number of rows.
    remote
        Files of the warehouse on an object store. They are not copied; all of them must still be
        there at a restore.
    left_out
        Sentences on what else is not in it.
    listing, files, bytes
        Digest of the list of copied files; their number and size.
    """

    made_at: str
    evergreen_version: str
    lock_digest: str
    warehouse: str
    artifacts: str
    databases: dict[str, dict[str, Any]]
    tables: dict[str, dict[str, Any]]
    remote: list[str]
    left_out: list[str]
    listing: str
    files: int
    bytes: int
    format: int = FORMAT


def write(manifest: Manifest, directory: Path) -> None:
    """Write the manifest into a directory that is otherwise finished."""
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n"
    (directory / _FILE).write_text(text)


def read(directory: Path) -> Manifest:
    """Read the manifest of a complete backup.

    Raises
    ------
    ConfigError
        There is none: the directory is no backup, or one that was interrupted.
    """
    if not is_complete(directory):
        unfinished = directory.with_name(directory.name + PARTIAL)
        left = f" {unfinished} was interrupted and cannot be used." if unfinished.is_dir() else ""
        raise ConfigError(
            f"{directory} is no complete backup: {_FILE} is absent.{left} Name the directory that "
            "`evergreen backup` reported."
        )
    content = json.loads((directory / _FILE).read_text())
    if content.get("format") != FORMAT:
        raise ConfigError(
            f"{directory} has the format {content.get('format')}; this version reads {FORMAT}. "
            f"Restore it with Evergreen {content.get('evergreen_version')}."
        )
    return Manifest(**content)


def is_complete(directory: Path) -> bool:
    """Whether a directory holds a whole backup."""
    return not directory.name.endswith(PARTIAL) and (directory / _FILE).is_file()


def complete_beside(directory: Path) -> list[Path]:
    """Other complete backups in the same folder, oldest first."""
    if not directory.parent.is_dir():
        return []
    found = [
        (read(path).made_at, path)
        for path in directory.parent.iterdir()
        if path != directory and is_complete(path)
    ]
    return [path for _, path in sorted(found)]
