"""House-keeping of the lake, of staging and of the model registry, and backups."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

logger = logging.getLogger(__name__)

# Longer than any run; what was staged so long ago belongs to a run that died and was never retried.
_STAGING_AGE = timedelta(days=2)
# A commit refers to its files seconds or minutes after it wrote them.
_ORPHAN_AGE = timedelta(days=1)
# A try of a training ends after twelve hours, so whatever is at work began later than that.
_DEAD_RUN_AGE = timedelta(days=1)


def compact_tables() -> dict[str, Any]:
    """Merge the small files of each day, and the manifests of many small commits."""
    from evergreen.lake import compaction

    merged = {}
    for namespace, table in _tables():
        found = compaction.compact(namespace, table)
        merged[f"{namespace}.{table}"] = {
            "files": list(found.files),
            "manifests": list(found.manifests),
        }
    return merged


def expire_snapshots(keep_days: str) -> dict[str, Any]:
    """Forget what tables looked like more than `keep_days` ago, except tagged snapshots.

    Training tags the snapshots it read; replay needs them.
    """
    from evergreen.lake import upkeep

    older_than = datetime.now(UTC) - timedelta(days=int(keep_days))
    return {
        f"{namespace}.{table}": upkeep.expire_snapshots(namespace, table, older_than)
        for namespace, table in _tables()
    }


def remove_orphan_files() -> dict[str, Any]:
    """Remove files of the lake that expired snapshots and killed attempts left behind."""
    from evergreen.lake import upkeep

    older_than = datetime.now(UTC) - _ORPHAN_AGE
    removed = {}
    for namespace, table in _tables():
        found = upkeep.remove_orphan_files(namespace, table, older_than)
        removed[f"{namespace}.{table}"] = {"files": found.files, "bytes": found.bytes}
    return removed


def verify_tables() -> dict[str, Any]:
    """Read every day of every table, and compare it with its checksum and its receipt."""
    from evergreen import lake
    from evergreen.contract import load_use_cases
    from evergreen.errors import DamagedError
    from evergreen.provenance.verification import verify

    days, problems = {}, []
    for use_case in load_use_cases():
        for table in lake.tables(use_case.name):
            name = f"{use_case.name}.{table}"
            try:
                found = verify(use_case, table)
                days[name] = len(lake.partitions(use_case.name, table))
            except DamagedError as error:
                problems.append(str(error))
            else:
                problems += [f"{name} of {day}: {what}" for day, what in found.items()]
    if problems:
        raise DamagedError(
            f"{len(problems)} days or tables are damaged. First: {problems[0]}. `evergreen status` "
            "lists all, with the commands that mend them."
        )
    return days


def repair_registry() -> dict[str, Any]:
    """Verify the release ledgers, and let MLflow's alias and tags follow ledger and gate again."""
    from evergreen.contract import load_use_cases
    from evergreen.errors import PermanentError
    from evergreen.release import registry

    repaired: dict[str, list[str]] = {}
    broken: list[str] = []
    for use_case in load_use_cases():
        found = registry.repair(use_case)
        repaired[use_case.name] = list(found.differing)
        broken += found.broken
        for sentence in (*found.differing, *found.gone):
            logger.warning("%s: %s", use_case.name, sentence)
    if broken:
        raise PermanentError("; ".join(broken))
    return repaired


def fail_dead_runs() -> dict[str, Any]:
    """Mark MLflow's runs as failed whose process was killed and whose training nobody repeated."""
    from evergreen.contract import load_use_cases
    from evergreen.training import tracking

    before = datetime.now(UTC) - _DEAD_RUN_AGE
    return {found.name: tracking.fail_dead_runs(found, before) for found in load_use_cases()}


def back_up(keep: str) -> dict[str, Any]:
    """Back up databases, warehouse and artifacts; remove the oldest backups beyond `keep`."""
    from evergreen.ops.backup import make
    from evergreen.settings import load_settings

    settings = load_settings()
    directory = make.new_directory(settings)
    saved = make.back_up(directory, settings)
    make.prune(directory.parent, int(keep), settings)
    return {
        "directory": str(directory),
        "tables": len(saved.tables),
        "rows": saved.rows,
        "bytes": saved.bytes,
        "new_bytes": saved.new_bytes,
        "left_out": saved.left_out,
    }


def sweep_staging() -> dict[str, Any]:
    """Remove what runs that died have staged or left in scratch folders."""
    from pathlib import Path

    from upath import UPath

    from evergreen.settings import load_settings

    settings = load_settings()
    limit = datetime.now(UTC) - _STAGING_AGE
    swept = []
    for folder in [*settings.staging.glob("*/*"), *map(UPath, settings.scratch.glob("*"))]:
        # An object store knows no folders, only files in them.
        files = [path for path in (folder, *folder.rglob("*")) if path.is_file()]
        kept = files or ([folder] if isinstance(folder, Path) else [])
        newest = max(path.stat().st_mtime for path in kept)
        if datetime.fromtimestamp(newest, UTC) < limit:
            with suppress(FileNotFoundError):
                folder.fs.rm(folder.path, recursive=True)
            swept.append(folder.name)
    return {"swept": sorted(swept)}


def _tables() -> list[tuple[str, str]]:
    """Return all tables of all use cases."""
    from evergreen import lake
    from evergreen.contract import list_use_cases

    return [(name, table) for name in list_use_cases() for table in lake.tables(name)]
