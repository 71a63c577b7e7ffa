"""Bring up what the steps stand on: services of one machine, tables, registries, definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from evergreen.contract import load_all
from evergreen.settings import Settings

if TYPE_CHECKING:
    from evergreen.ops.local.airflow import Instance


def initialise(settings: Settings) -> Iterator[str]:
    """Create everything that must exist before the first run; safe to repeat, one at a time.

    Feast definitions are applied here and nowhere else: not inside a task, where several would
    race.

    Yields
    ------
    str
        One line per thing that is ready.

    Raises
    ------
    BusyError
        Another command is at work on the data directory.
    ConfigError
        A store does not do what is asked of it, or the catalog is another deployment's.
    ServiceDownError
        A store, a catalog or a database does not answer.
    """
    from evergreen import lake
    from evergreen.features import store
    from evergreen.ops import identity, places
    from evergreen.ops.local import home
    from evergreen.provenance import receipts
    from evergreen.release import ledger, ledger_table
    from evergreen.training import tracking

    with home.claimed(settings):
        # Closed to other users wherever they are; what is there already is left as it is.
        for tree in (settings.warehouse, settings.artifacts, *settings.kept.values()):
            if "://" not in tree:
                Path(tree).mkdir(mode=0o700, parents=True, exist_ok=True)
        yield from places.require_places(settings)
        lake.prepare(settings)
        identity.require_own_catalog(settings)
        yield "catalog of the lake"
        receipts.create_tables()
        ledger_table.create_tables(ledger.engine(settings))
        yield "receipts and release ledger"
        tracking.initialise(settings)
        yield "model registry"
        use_cases, broken = load_all()
        store.apply([use_case for use_case in use_cases if use_case.base is None])
        names = ", ".join(use_case.name for use_case in use_cases)
        yield f"feature definitions of {names or 'nobody'}"
        for name, error in broken.items():
            yield f"left out {name}: {error}"


def start_services(
    settings: Settings, port: int | None = None, tell: Callable[[str], None] = lambda _: None
) -> Instance:
    """Start Postgres, initialise, start Airflow; does nothing for what already runs.

    Parameters
    ----------
    tell
        Called with a sentence on each thing that is begun, ready, or still awaited.

    Raises
    ------
    BusyError
        Another command is at work on the data directory.
    """
    from evergreen.ops.local import airflow, home, postgres

    with home.claimed(settings):
        tell("Postgres")
        postgres.start(settings)
        for line in initialise(settings):
            tell(line)
        return airflow.start(settings, port, tell=tell)


def stop_services(settings: Settings) -> None:
    """Stop Airflow, then Postgres; safe to repeat.

    Raises
    ------
    BusyError
        Another command is at work on the data directory.
    """
    from evergreen.ops.local import airflow, home, postgres

    if not settings.home.is_dir():
        return
    with home.claimed(settings):
        airflow.stop(settings)
        postgres.stop(settings)


def airflow_process_environment(settings: Settings) -> dict[str, str]:
    """Return the environment for an `airflow` command beside the running services.

    Raises
    ------
    ServiceDownError
        The embedded Postgres is needed and does not run.
    """
    from evergreen.ops.local import airflow

    instance = airflow.find(settings)
    port = int(instance.url.rsplit(":", 1)[1]) if instance else airflow.DEFAULT_PORT
    return airflow.airflow_environment(settings, port)
