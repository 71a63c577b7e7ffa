"""House-keeping of the lake and of staging."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

# Longer than any run; what was staged so long ago belongs to a run that died and was never retried.
_STAGING_AGE = timedelta(days=2)


def expire_snapshots(keep_days: str) -> dict[str, Any]:
    """Forget snapshots older than `keep_days`, except those a receipt counts on.

    The newest receipt of a step and day names the snapshots it was built from; replay needs them.
    """
    from evergreen import lake, receipts
    from evergreen.use_case import list_use_cases

    older_than = datetime.now(UTC) - timedelta(days=int(keep_days))
    expired: dict[str, int] = {}
    for name in list_use_cases():
        needed = receipts.snapshots_in_use(name)
        for table in lake.tables(name):
            count = lake.expire_snapshots(name, table, older_than, keep=needed.get(table, set()))
            expired[f"{name}.{table}"] = count
    return expired


def sweep_staging() -> dict[str, Any]:
    """Remove what runs have staged that died; a retried run removes its own."""
    from evergreen.settings import load_settings

    root = load_settings().staging
    limit = datetime.now(UTC) - _STAGING_AGE
    swept = []
    for folder in sorted(root.glob("*/*")) if root.exists() else []:
        newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
        if datetime.fromtimestamp(newest, UTC) < limit:
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder.name)
    return {"swept": swept}
