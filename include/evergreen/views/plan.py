"""What a backfill will set off: which runs, in which order, and about how long they take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from evergreen.contract import Period, UseCase, load_use_cases
from evergreen.errors import ConfigError
from evergreen.provenance import commands, receipts
from evergreen.release import ledger
from evergreen.views import days as partitions


@dataclass(frozen=True)
class PlannedRuns:
    """Runs of one DAG, one for each day; `seconds` of work for all, None where nothing is known."""

    dag_id: str
    runs: int
    because: str
    seconds: float | None


@dataclass(frozen=True)
class BackfillPlan:
    """Runs in the order in which a day goes through them.

    Parameters
    ----------
    seconds
        Of work in all: how long it takes, divided by what runs at once; without what Airflow takes
        to start tasks. None where nothing is known of a part.
    request
        What Airflow's API is to be sent to create the backfill, or to list its runs before.
    """

    dag_id: str
    first_day: date
    last_day: date
    steps: list[PlannedRuns]
    seconds: float | None
    notes: list[str]
    request: dict[str, Any]


# Not remembered: it reads the ledgers of all use cases that build on this one.
def plan_backfill(
    use_case: UseCase, dag_id: str, first: date, last: date, max_active_runs: int
) -> BackfillPlan:
    """Return what a backfill of days, both ends included, will set off.

    Parameters
    ----------
    max_active_runs
        How many of its runs Airflow is to run at once.

    Raises
    ------
    ConfigError
        The DAG's days cannot be backfilled, or there are none.
    """
    ingest, monitor = f"{use_case.base or use_case.name}_ingest", f"{use_case.name}_monitor"
    if dag_id not in (ingest, monitor):
        raise ConfigError(
            f"{dag_id} cannot be backfilled: it follows others, or is started by hand. Expected "
            f"{ingest}, which all others of a day follow, or {monitor}."
        )
    if first > last:
        raise ConfigError(f"{first} is after {last}; expected the first day first.")
    period = Period.parse(f"{first}..{last}")
    steps = (
        _after_ingest(use_case, len(period.days))
        if dag_id == ingest
        else [_runs(use_case, "monitor", len(period.days), "each looks at its own day")]
    )
    known = [step.seconds for step in steps if step.seconds is not None]
    return BackfillPlan(
        dag_id,
        first,
        last,
        steps,
        sum(known) if len(known) == len(steps) else None,
        [*_notes(use_case, period)]
        if dag_id == ingest
        else ["Older nights never ask for retraining."],
        commands.backfill_request(dag_id, period, "failed", max_active_runs),
    )


def _notes(use_case: UseCase, period: Period) -> Iterator[str]:
    """Say what is better done otherwise, and what is left to do afterwards."""
    if len(period.days) >= commands.MANY_DAYS:
        loaded = commands.load_history(use_case.base or use_case.name, period)
        yield f"So many days are loaded faster by one run, which scores nothing: {loaded}"
    published = partitions.published(use_case)
    if later := [day for day in published["features"] if day > period.last]:
        yield (
            f"Features of {later[0]} to {later[-1]} rest on these days, too, and are not computed "
            "again. Where rows change, the calendar shows them as stale, and the overview has the "
            "commands that mend them."
        )
    if any(day in published["drift"] for day in period.days):
        yield (
            "Nights are not run again. Where what they looked at changes, backfill "
            f"{use_case.name}_monitor afterwards."
        )


def _after_ingest(use_case: UseCase, days: int) -> list[PlannedRuns]:
    """Return what follows a day's rows: in the use case that has them, then where others build."""
    owner = use_case.base or use_case.name
    cases = sorted(
        (found for found in load_use_cases() if owner in (found.name, found.base)),
        key=lambda found: (found.base is not None, found.name),
    )
    steps = []
    for found in cases:
        if found.base is None:
            steps.append(_runs(found, "ingest", days, "rows are staged, validated, published"))
            steps.append(_runs(found, "features", days, f"follows {owner}_ingest, with labels"))
        else:
            steps.append(_runs(found, "labels", days, f"follows {owner}_features"))
        steps.append(_runs(found, "score", days, f"follows {owner}_features; {_scored_by(found)}"))
    return steps


def _scored_by(use_case: UseCase) -> str:
    entry = ledger.champion(ledger.engine(), use_case.name)
    if entry is None:
        return "skipped: there is no champion"
    return f"days that were scored before keep their version, others get version {entry.version}"


def _runs(use_case: UseCase, stage: str, days: int, because: str) -> PlannedRuns:
    tables = {
        "ingest": [*use_case.tables],
        "features": ["features", "labels"],
        "labels": ["labels"],
        "score": ["predictions"],
    }
    steps = [f"publish_{table}" for table in tables.get(stage, [])]
    if stage == "monitor":
        steps = ["measure_drift", "measure_performance", "measure_freshness", "measure_skew"]
    known = [
        seconds
        for step in steps
        if (seconds := receipts.seconds_per_day(use_case.name, step, many=False)) is not None
    ]
    return PlannedRuns(
        f"{use_case.name}_{stage}", days, because, days * sum(known) if known else None
    )
