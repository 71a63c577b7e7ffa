"""Bring up what the steps stand on: services of one machine, tables, registries, definitions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from evergreen.settings import Settings
from evergreen.use_case import broken_use_cases, load_use_cases

if TYPE_CHECKING:
    from evergreen.local.airflow import Instance


def initialise(settings: Settings) -> Iterator[str]:
    """Create everything that must exist before the first run; safe to repeat.

    Feast definitions are applied here and nowhere else: not inside a task, where several would
    race.

    Yields
    ------
    str
        One line per thing that is ready.
    """
    from evergreen import lake, receipts
    from evergreen.features import store
    from evergreen.release import ledger, ledger_table
    from evergreen.training import tracking

    for folder in (settings.staging, settings.quality):
        folder.mkdir(parents=True, exist_ok=True)
    lake.catalog(settings).create_tables()
    yield "catalog of the lake"
    receipts.create_tables()
    ledger_table.create_tables(ledger.engine(settings))
    yield "receipts and release ledger"
    tracking.initialise(settings)
    yield "model registry"
    use_cases = load_use_cases()
    store.apply(use_cases)
    yield f"feature definitions of {', '.join(use_case.name for use_case in use_cases) or 'nobody'}"
    for name, error in broken_use_cases().items():
        yield f"left out {name}: {error}"


def start_services(settings: Settings, port: int | None = None) -> Instance:
    """Start Postgres, initialise, start Airflow; does nothing for what already runs."""
    from evergreen.local import airflow, postgres

    postgres.start(settings)
    for _ in initialise(settings):
        pass
    return airflow.start(settings, port)


def stop_services(settings: Settings) -> None:
    """Stop Airflow, then Postgres; safe to repeat."""
    from evergreen.local import airflow, postgres

    airflow.stop(settings)
    postgres.stop(settings)


def airflow_process_environment(settings: Settings) -> dict[str, str]:
    """Return the environment for an `airflow` command beside the running services.

    Raises
    ------
    ServiceDownError
        The embedded Postgres is needed and does not run.
    """
    from evergreen.local import airflow

    instance = airflow.find(settings)
    port = int(instance.url.rsplit(":", 1)[1]) if instance else airflow.DEFAULT_PORT
    return airflow.airflow_environment(settings, port)
