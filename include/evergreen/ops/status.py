"""A look at the state of things: services, tables, champions, what failed, and what is stale."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from evergreen.contract import UseCase, list_use_cases, load_all
from evergreen.errors import DamagedError, EvergreenError, LedgerDamagedError, ServiceDownError
from evergreen.provenance.commands import MAINTAIN
from evergreen.settings import Settings

if TYPE_CHECKING:
    from evergreen.provenance.staleness import Stale


def show_status(settings: Settings) -> None:
    """Print which services run and, when the databases answer, tables and champions."""
    from evergreen.ops.local import airflow, postgres

    console = Console()
    instance = airflow.find(settings)
    console.print(f"Data directory  {settings.home}")
    console.print(f"Postgres        {'running' if postgres.running(settings) else 'not running'}")
    console.print(f"Airflow         {instance.url if instance else 'not running'}")
    use_cases, broken = load_all()
    for name, error in broken.items():
        console.print(f"Left out        {name}: {error}", soft_wrap=True, highlight=False)
    try:
        tables = _tables()
    except ServiceDownError as error:
        console.print(str(error))
        return
    console.print(tables)
    _print_failed(console, settings)
    for use_case in use_cases:
        _print_findings(console, use_case)
        _print_releases(console, use_case)


def show_plan(name: str) -> None:
    """Print what an edit of a use case will do; see `evergreen.ops.plan`."""
    from evergreen.contract import load_use_case
    from evergreen.ops.plan import plan

    console = Console()
    for found in plan(load_use_case(name)):
        console.print(f"[bold]{found.use_case}[/bold]")
        if not found.findings and not found.columns:
            console.print("  All that was computed follows from the files as they are.")
        for sentence in filter(None, (*found.columns, found.champion)):
            console.print(f"  {sentence}", soft_wrap=True, highlight=False)
        if found.findings:
            table = Table("table", "days", "", "why", title="To be made again")
            for finding in found.findings:
                days = len(finding.period.days)
                table.add_row(finding.table, finding.period.label, f"{days:,}", finding.reason)
            console.print(table)
        if found.seconds is not None:
            minutes = max(1, round(found.seconds / 60))
            console.print(f"  About {minutes:,} minutes of work, beside Airflow's own.")
        if found.commands:
            console.print("  One after the other (DAGs unpaused):")
            _print_commands(console, found.commands)


def _print_findings(console: Console, use_case: UseCase) -> None:
    from evergreen import lake
    from evergreen.provenance.staleness import Stale, find_stale
    from evergreen.provenance.verification import find_damage

    damaged = []
    try:
        for table in lake.tables(use_case.name):
            found = find_damage(use_case, table)
            damaged += [Stale(table, day, reason) for day, reason in found.items()]
        stale = find_stale(use_case)
        _print_without_data(console, use_case)
        _print_unfinished(console, use_case)
    except DamagedError as error:
        console.print(f"{use_case.name}: {error}", soft_wrap=True, highlight=False)
        return
    if damaged:
        _print_listed(console, use_case, f"Damaged in {use_case.name}", damaged)
    if stale:
        _print_listed(console, use_case, f"Stale in {use_case.name}", stale)
    else:
        console.print(f"{use_case.name}: nothing is stale.")


def _print_releases(console: Console, use_case: UseCase) -> None:
    """Print what is wrong with ledger and registry; nothing where all is well."""
    from evergreen.release import ledger

    if not ledger.releases(ledger.engine(), use_case.name):
        return
    from evergreen.release import registry

    try:
        found = registry.find_problems(use_case)
    except EvergreenError as error:
        found = registry.Findings(broken=(f"Its releases cannot be looked at: {error}",))
    for sentence in (*found.broken, *found.gone, *found.differing):
        text = f"{use_case.name}: {sentence}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    if found.differing:
        console.print("Let MLflow follow the ledger again with (DAG unpaused):")
        _print_commands(console, [MAINTAIN])


def _print_listed(console: Console, use_case: UseCase, title: str, found: Sequence[Stale]) -> None:
    from evergreen.provenance.staleness import mend_commands, summarise

    table = Table("table", "days", "why", title=title)
    for finding in summarise(use_case, found):
        table.add_row(finding.table, finding.period.label, finding.reason)
    console.print(table)
    commands = mend_commands(use_case, found)
    console.print(
        "Mend it with, one after the other (DAGs unpaused):"
        if commands
        else "Only a backup has it: `evergreen restore`."
    )
    _print_commands(console, commands)


def _print_failed(console: Console, settings: Settings) -> None:
    """Print what failed in Airflow, if one answers: a day that has a failed run waits for ever."""
    from evergreen.ops.local.airflow_client import connect
    from evergreen.ops.local.runs import find_failed

    try:
        failures = find_failed(connect(settings))
    except EvergreenError as error:
        if settings.airflow_api or not isinstance(error, ServiceDownError):
            console.print(f"Airflow says nothing of failed runs: {error}", soft_wrap=True)
        return
    if not failures:
        console.print("No run has failed without being run again.")
        return
    table = Table("DAG", "days", title="Failed, and not run again")
    for failure in failures:
        table.add_row(failure.dag_id, failure.what)
    console.print(table)
    console.print("When the cause is mended (the log of the failed task names it):")
    _print_commands(console, [command for failure in failures for command in failure.mend])


def _print_unfinished(console: Console, use_case: UseCase) -> None:
    """Print erasures that were killed: rows of the entity may be left, and are not ingested."""
    from evergreen.provenance import erased

    for found in erased.erasures(use_case.name):
        if found.closed is None:
            text = (
                f"{use_case.name}: an erasure is not finished; {found.actor} asked for it on "
                f"{found.asked_at:%Y-%m-%d %H:%M} UTC ({found.reason}). Run the same `evergreen "
                "erase` again."
            )
            console.print(text, soft_wrap=True, highlight=False, markup=False)


def _print_without_data(console: Console, use_case: UseCase) -> None:
    from evergreen import lake
    from evergreen.provenance import receipts

    found = [
        (day, table)
        for table in use_case.tables
        for day, receipt in receipts.latest(use_case.name, f"publish_{table}").items()
        if "without_data" in receipt.counts
    ]
    if not found:
        return
    columns = ("day", "kind", "trigger", "reasons")
    decisions = lake.read(use_case.name, "decisions", min(found)[0], columns=columns)
    reasons = {
        (row["day"], row["trigger"]): "; ".join(row["reasons"])
        for row in decisions.to_pylist()
        if row["kind"] == "delivery"
    }
    console.print(f"{use_case.name}: days without data, by decision:")
    for day, table in sorted(found):
        what = f"{day}, {table}: {reasons[day, table]}"
        console.print(f"  {what}", soft_wrap=True, highlight=False)


def _print_commands(console: Console, commands: Iterable[str]) -> None:
    program = "evergreen" if shutil.which("evergreen") else str(_program())
    for command in commands:
        # As it is: to be copied, not wrapped.
        line = command.replace("evergreen", program, 1)
        console.print(f"  {line}", soft_wrap=True, highlight=False)


def _program() -> Path:
    installed = Path(sys.executable).with_name("evergreen")
    here = Path.cwd()
    return installed.relative_to(here) if installed.is_relative_to(here) else installed


def _tables() -> Table:
    from evergreen import lake
    from evergreen.release import ledger

    table = Table("use case", "table", "days", "first", "last", "rows", title="The lake")
    for name in list_use_cases():
        for stored in lake.tables(name):
            try:
                days = lake.partitions(name, stored)
            except DamagedError:
                # Told below, with what to do.
                table.add_row(name, stored, "unreadable", "", "", "")
                continue
            first, last = (min(days), max(days)) if days else ("-", "-")
            table.add_row(
                name, stored, str(len(days)), str(first), str(last), f"{sum(days.values()):,}"
            )
        try:
            champion = ledger.champion(ledger.engine(), name)
        except LedgerDamagedError:
            table.add_row(name, "champion: unknown, the ledger is damaged", "", "", "", "")
            continue
        if champion is not None:
            table.add_row(name, f"champion: version {champion.version}", "", "", "", "")
    return table
