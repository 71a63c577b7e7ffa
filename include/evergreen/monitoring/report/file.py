"""Where reports are kept: a file per use case and night."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

from evergreen import lake
from evergreen.contract import Period, UseCase
from evergreen.disk import write_whole
from evergreen.errors import EvergreenError, NotReadyError
from evergreen.monitoring.report.distributions import compare_distributions
from evergreen.monitoring.report.facts import NightFacts, gather_night
from evergreen.monitoring.report.page import rank_columns, render_night
from evergreen.provenance import commands
from evergreen.settings import Settings, load_settings
from evergreen.training.tracking import keep_night

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)


def write_report(
    use_case: UseCase, day: date, settings: Settings | None = None
) -> tuple[UPath, NightFacts]:
    """Render the report of a night from its tables, and put it into its place at once.

    Safe to repeat, and with several at once: the same tables give the same file.

    Raises
    ------
    NotReadyError
        No table knows of the night.

    Notes
    -----
    Costs what measuring the drift of five nights does in the few columns that are shown.
    """
    facts = gather_night(use_case, day)
    if not facts.is_recorded:
        again = commands.backfill(
            f"{use_case.name}_monitor", Period.parse(day.isoformat()), "completed"
        )
        raise NotReadyError(
            f"Nothing is on record of {use_case.name}'s night of {day}. Run: {again}"
        )
    page = render_night(_with_distributions(facts), "html")
    path = (settings or load_settings()).night_report(use_case.name, day)
    write_whole(path, page.encode())
    return path, facts


def keep_report(path: UPath, facts: NightFacts) -> None:
    """Keep a copy with the run of the version that was watched; one that has gone has none.

    Raises
    ------
    ServiceDownError
        The tracking store does not answer; the file is in its place all the same.
    """
    if facts.version is None:
        return
    try:
        keep_night(facts.use_case, facts.version, facts.day, path.read_text(encoding="utf-8"))
    except NotReadyError as error:
        logger.warning("the report of %s is not in MLflow: %s", facts.day, error)


def newest_night(use_case: UseCase) -> date:
    """Return the newest day of which a night has left anything.

    Raises
    ------
    NotReadyError
        There was no night yet.
    """
    tables = [table for table in ("drift", "freshness") if lake.exists(use_case.name, table)]
    days = [day for table in tables for day in lake.partitions(use_case.name, table)]
    if not days:
        raise NotReadyError(
            f"No night of {use_case.name} is on record. Unpause {use_case.name}_monitor, or name "
            "a day that it ran for."
        )
    return max(days)


def _with_distributions(facts: NightFacts) -> NightFacts:
    columns = rank_columns(facts)
    if not columns or facts.version is None:
        return facts
    rows = max(row["current_rows"] for row in facts.drift)
    try:
        found = compare_distributions(facts.use_case, facts.day, facts.version, columns, rows)
    except EvergreenError as error:
        # The night is told all the same; a version may have gone since, or MLflow be down.
        logger.warning("the report of %s is without distributions: %s", facts.day, error)
        return replace(facts, missing=str(error))
    return replace(facts, distributions=found)
