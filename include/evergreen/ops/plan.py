"""What an edit of `use_case.yaml` or SQL will do, before any of it is run.

The files here are held against what was computed: receipts carry a digest of the declaration that
each day was made by. So the plan is right wherever it is asked for, as long as the databases are
those of the deployment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from evergreen import lake
from evergreen.contract import UseCase, load_use_cases
from evergreen.errors import EvergreenError
from evergreen.features.compute.result import features_task, labels_task
from evergreen.lake.publishing import find_retyped
from evergreen.provenance import commands, receipts
from evergreen.provenance.staleness import Finding, Stale, find_stale, mend_commands, summarise
from evergreen.quality.schemas import table_schema
from evergreen.release import ledger
from evergreen.scoring.score import predictions_schema
from evergreen.training.compatibility import find_misfit
from evergreen.training.tracking import describe_version


@dataclass(frozen=True)
class Plan:
    """What follows from the present declaration of one use case.

    Parameters
    ----------
    findings
        Days of tables that no longer follow from their inputs or their declaration, with reasons.
    columns
        Sentences on columns that come and go, and on those that would change their type.
    champion
        Whether the model in charge can still score, as a sentence; empty without a champion.
    seconds
        Estimated work of the steps that make all this again; None where nothing like it ever ran.
    commands
        What to run, one after the other; nothing while it would end in an error.
    """

    use_case: str
    findings: tuple[Finding, ...]
    columns: tuple[str, ...]
    champion: str
    seconds: float | None
    commands: tuple[str, ...]


def plan(use_case: UseCase) -> list[Plan]:
    """Return what an edit will do to a use case, and to those that build on it.

    Notes
    -----
    Estimates are the median work per day of the newest runs of each step, of runs over many days
    where many days are made at once; what Airflow takes to start tasks is not in them.
    """
    builders = [found for found in load_use_cases() if found.base == use_case.name]
    return [_plan(found) for found in (use_case, *builders)]


def _plan(use_case: UseCase) -> Plan:
    stale = find_stale(use_case)
    differ, impossible = _columns(use_case)
    champion, unfit = _champion(use_case)
    todo = ["make up"] if differ else []
    todo += mend_commands(use_case, stale)
    if unfit:
        newest = receipts.newest_day(use_case.owner_of("features"), "publish_features")
        todo.append(commands.run_day(f"{use_case.name}_train", newest or use_case.first_day))
    return Plan(
        use_case.name,
        tuple(summarise(use_case, stale)),
        (*differ, *impossible),
        champion,
        _seconds(use_case, stale),
        () if impossible else tuple(todo),
    )


def _columns(use_case: UseCase) -> tuple[list[str], list[str]]:
    """Say how the declared columns differ from those of the tables, and which cannot be."""
    tables = {"labels": labels_task(use_case).schema, "predictions": predictions_schema(use_case)}
    if use_case.base is None:
        tables |= {name: table_schema(table) for name, table in use_case.tables.items()}
        tables["features"] = features_task(use_case).schema
    differ, impossible = [], []
    for table, wanted in tables.items():
        stored = lake.scan(use_case.name, table).schema
        if stored is None:
            continue
        new = [name for name in wanted.names if name not in stored.names]
        gone = [name for name in stored.names if name not in {*wanted.names, "created_at"}]
        if new:
            differ.append(f"{table} gain {', '.join(new)}; days before are without")
        if gone:
            differ.append(f"{table} are made without {', '.join(gone)}; old days keep it")
        for change in find_retyped(stored, wanted):
            impossible.append(f"{table} cannot have {change}: give it another name")
    return differ, impossible


def _champion(use_case: UseCase) -> tuple[str, bool]:
    """Say whether the champion can read what is declared, and whether it cannot."""
    entry = ledger.champion(ledger.engine(), use_case.name)
    if entry is None:
        return "", False
    try:
        misfit = find_misfit(use_case, describe_version(use_case, entry.version))
    except EvergreenError as error:
        return f"champion {entry.version} cannot be looked at: {error}", False
    if misfit:
        return f"champion {entry.version} {misfit}: train before days are scored", True
    return f"champion {entry.version} still fits", False


def _seconds(use_case: UseCase, stale: Iterable[Stale]) -> float | None:
    """Estimate the work of the steps behind `mend_commands`."""
    days: dict[str, set[date]] = {}
    for item in stale:
        days.setdefault(item.table, set()).add(item.day)
    # Whoever makes features again ingests first.
    loaded = set().union(*(days.get(t, set()) for t in (*use_case.tables, "features", "labels")))
    scored = days.get("predictions", set())
    work: dict[str, set[date]] = dict.fromkeys(
        (*use_case.tables, "features", "labels"), loaded | scored
    )
    work |= {table: days.get(table, set()) for table in ("predictions", "drift", "performance")}
    total, known = 0.0, False
    for table, of in work.items():
        step = f"measure_{table}" if table in ("drift", "performance") else f"publish_{table}"
        many = len(of) >= commands.MANY_DAYS
        each = receipts.seconds_per_day(use_case.owner_of(table), step, many=many) if of else None
        if each is not None:
            known = True
            total += len(of) * each
    return total if known else None
