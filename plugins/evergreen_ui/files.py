"""Pages that lie in folders: Data Docs, reports of nights, and what browsers load."""

from __future__ import annotations

from pathlib import Path

from upath import UPath

from evergreen.contract import list_use_cases, parse_day
from evergreen.errors import ConfigError
from evergreen.provenance import commands
from evergreen.settings import load_settings

DIST = Path(__file__).parent.parent / "www" / "dist"
"""What was built of `plugins/www/src`."""


def find_page(use_case: str, path: str) -> UPath | None:
    """Return the file behind a URL below a use case's Data Docs; None when there is none.

    Never a file outside that folder, whatever the path says and wherever links lead, and never a
    hidden one: locks and half-written pages.
    """
    if use_case not in list_use_cases():
        return None
    return _within(load_settings().quality / use_case / "data_docs", path or "index.html")


def find_asset(path: str) -> UPath | None:
    """Return a file that our own pages load; None when there is none."""
    return _within(UPath(DIST / "assets"), path)


def find_report(use_case: str, day: str) -> UPath | None:
    """Return the report of a night; None where there is none, or no such use case or day."""
    if use_case not in list_use_cases():
        return None
    try:
        path = load_settings().night_report(use_case, parse_day(day))
    except ConfigError:
        return None
    return path if path.is_file() else None


def without_report(use_case: str, day: str) -> str:
    """Say why a night has no report, and what to do."""
    if use_case not in list_use_cases():
        return f"There is no use case {use_case!r}; there are: {', '.join(list_use_cases())}."
    try:
        written = commands.report(use_case, parse_day(day))
    except ConfigError as error:
        return str(error)
    return (
        f"The night of {day} has no report. If {use_case}_monitor ran for it, write it by: "
        f"{written}. Otherwise run the night first."
    )


def _within(folder: UPath, path: str) -> UPath | None:
    try:
        site = folder.resolve()
        target = (site / path).resolve()
        if not target.is_relative_to(site) or not target.is_file():
            return None
    except (OSError, ValueError):
        # Too long for a file name, or with a zero byte in it.
        return None
    hidden = any(part.startswith(".") for part in target.relative_to(site).parts)
    return None if hidden else target
