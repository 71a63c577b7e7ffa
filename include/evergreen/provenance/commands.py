"""The commands that messages tell people to run, each written in one place."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

from evergreen.contract import Period

Reprocess = Literal["none", "failed", "completed"]

# So many days and more are loaded by one run of the history DAG instead of one run each.
MANY_DAYS = 32


def backfill(target: str, period: Period, reprocess: Reprocess = "failed") -> str:
    """Run the days of a use case (ingestion and what follows) or of one DAG, one run each.

    >>> backfill("churn", Period.parse("2026-03-01"))
    'evergreen backfill churn 2026-03-01 2026-03-01'
    """
    # The default of the command.
    how = "" if reprocess == "failed" else f" --reprocess {reprocess}"
    return f"evergreen backfill {target} {period.start} {period.last}{how}"


def backfill_request(
    dag_id: str, period: Period, reprocess: Reprocess, max_active_runs: int
) -> dict[str, Any]:
    """Return what Airflow's API is sent to create the same, or to list its runs before.

    Parameters
    ----------
    reprocess
        What to do with days that have a run already.
    """
    return {
        "dag_id": dag_id,
        # Bounds are instants, and a partition may begin at any hour of its day (nights at 02:00).
        "from_date": f"{period.start}T00:00:00Z",
        "to_date": f"{period.last}T23:59:59Z",
        "max_active_runs": max_active_runs,
        "reprocess_behavior": reprocess,
    }


def load(use_case: str, period: Period) -> str:
    """Load days that were never loaded."""
    if len(period.days) < MANY_DAYS:
        return backfill(use_case, period)
    return load_history(use_case, period)


def load_history(use_case: str, period: Period) -> str:
    """Load many days in one run."""
    return f"evergreen trigger {use_case}_history --from {period.start} --to {period.last}"


def run_day(dag_id: str, day: date) -> str:
    """Start one run of a DAG."""
    return f"evergreen trigger {dag_id} --day {day}"


def declare_without_data(use_case: str, day: date, table: str = "") -> str:
    """Decide that there will be no data for a day, of all tables or of one."""
    of = f" --conf table={table}" if table else ""
    return f"{run_day(f'{use_case}_ingest', day)} --conf without_data='the reason'{of}"


def put_in_charge(
    use_case: str, action: str, version: int, reason: str, day: date | None = None
) -> str:
    """Promote a version by hand or roll back to one, and perhaps score a day again with it."""
    conf = f"--conf action={action} --conf version={version} --conf reason='{reason}'"
    again = f" --day {day}" if day else ""
    return f"evergreen trigger {use_case}_release {conf}{again}"


def show_card(use_case: str, version: int | None = None) -> str:
    """Print the card of a version, by default the champion's."""
    return f"evergreen card {use_case}{f' --version {version}' if version else ''}"


def report(use_case: str, day: date) -> str:
    """Write the report of a night again."""
    return f"evergreen report {use_case} {day}"


def replay(target: str) -> str:
    """Make an output again from what was recorded of it, and compare."""
    return f"evergreen replay {target}"


MAINTAIN = "evergreen trigger maintenance"
"""Start the weekly house-keeping now."""
