"""What a backup says about itself; written last, so that its presence means the backup is whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evergreen.errors import ConfigError

FORMAT = 2
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
        Major version of each one's server, by name; the dumps are `sql/<name>.dump`. Without
        `catalog`, the tables were in one elsewhere.
    tables
        By `namespace.table`: location of the metadata file, current snapshot id, number of rows.
    remote
        Files of the warehouse on an object store. They are not copied; all of them must still be
        there at a restore.
    left_out
        Sentences on what else is not in it.
    listing, files, bytes, new_bytes
        Digest of the list of files; their number and size, and the size of those that are in no
        older backup.
    """

    made_at: str
    evergreen_version: str
    lock_digest: str
    warehouse: str
    artifacts: str
    databases: dict[str, int]
    tables: dict[str, dict[str, Any]]
    remote: list[str]
    left_out: list[str]
    listing: str
    files: int
    bytes: int
    new_bytes: int
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table["rows"] for table in self.tables.values())


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


def complete_in(folder: Path) -> list[Path]:
    """Complete backups in a folder, oldest first, whatever their format."""
    found = [path for path in folder.iterdir() if is_complete(path)] if folder.is_dir() else []
    return sorted(found, key=made_at)


def made_at(directory: Path) -> str:
    """Instant at which a complete backup of any format began."""
    return str(json.loads((directory / _FILE).read_text())["made_at"])
