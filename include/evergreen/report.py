"""A look at the state of things: services, tables, champions."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import OperationalError

from evergreen.errors import ServiceDownError
from evergreen.settings import Settings
from evergreen.use_case import list_use_cases


def show_status(settings: Settings) -> None:
    """Print which services run and, when the databases answer, tables and champions."""
    from evergreen.local import airflow, postgres

    console = Console()
    instance = airflow.find(settings)
    console.print(f"Data directory  {settings.home}")
    console.print(f"Postgres        {'running' if postgres.running(settings) else 'not running'}")
    console.print(f"Airflow         {instance.url if instance else 'not running'}")
    try:
        tables = _tables()
    except (ServiceDownError, OperationalError) as error:
        console.print(str(error.orig if isinstance(error, OperationalError) else error).strip())
        return
    console.print(tables)


def _tables() -> Table:
    from evergreen import lake
    from evergreen.release import ledger

    table = Table("use case", "table", "days", "first", "last", "rows", title="The lake")
    for name in list_use_cases():
        for stored in lake.tables(name):
            days = lake.partitions(name, stored)
            first, last = (min(days), max(days)) if days else ("-", "-")
            table.add_row(
                name, stored, str(len(days)), str(first), str(last), f"{sum(days.values()):,}"
            )
        champion = ledger.champion(ledger.engine(), name)
        if champion is not None:
            table.add_row(name, f"champion: version {champion.version}", "", "", "", "")
    return table
