"""Where things are. One environment prefix, `EVERGREEN_`; besides, whether a catalog is elsewhere.

Every SQL URL is a setting, so the same code runs on the embedded Postgres and on managed
servers. An unset URL means the embedded server under `EVERGREEN_HOME`; its socket directory is
looked up when the URL is asked for, never at import time.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from evergreen.errors import ConfigError, ServiceDownError

if TYPE_CHECKING:
    from upath import UPath

PROJECT_ROOT = Path(__file__).resolve().parents[2]

Database = Literal["airflow", "catalog", "mlflow", "feast", "ledger"]
DATABASES: tuple[Database, ...] = ("airflow", "catalog", "mlflow", "feast", "ledger")

# In the data directory: the absolute path by which tables and models name their files there.
LOCATION_FILE = "location"

# Of PyIceberg: properties of a catalog elsewhere. One such variable says that there is one.
CATALOG_ELSEWHERE = "PYICEBERG_CATALOG__EVERGREEN__"

_ALERT = "EVERGREEN_ALERT_"


@dataclass(frozen=True)
class Settings:
    """The process's view of its environment.

    Parameters
    ----------
    home
        `EVERGREEN_HOME`, the one directory the program writes to. Default `<project>/.evergreen`.
    use_cases
        `EVERGREEN_USE_CASES`, the folder of use-case folders. Default `include/use_cases`.
    warehouse
        `EVERGREEN_WAREHOUSE`, where Iceberg keeps its files: an absolute path or a `s3://` URL.
    artifacts
        `EVERGREEN_ARTIFACTS`, where MLflow keeps models and plots: likewise.
    kept
        Further such places, each a path below `home` by default, where workers share no disk a URL:
        `EVERGREEN_STAGING`, where steps stage output before it is validated and published;
        `EVERGREEN_QUALITY`, for validation results and Data Docs; `EVERGREEN_REPORTS`, for the
        reports of nights.
    backups
        `EVERGREEN_BACKUPS`, the folder of the weekly backups; better on another disk. Default
        `<home>/backups`.
    airflow_api
        `EVERGREEN_AIRFLOW_API`, the base URL of an Airflow that runs elsewhere; its login is the
        secret `EVERGREEN_SECRET_AIRFLOW`. Unset means the embedded one.
    tracking_url
        `EVERGREEN_TRACKING_URL`, an MLflow server; unset means MLflow's database directly.
    tracking_pages
        `EVERGREEN_TRACKING_PAGES`, where browsers reach MLflow's pages, for links to runs. Default
        the server above; None without one.
    environment
        `EVERGREEN_ENVIRONMENT`, the name by which others know this one, where a model that was
        trained here is taken to. Default the machine's.
    threads
        `EVERGREEN_THREADS`, threads of one step (DuckDB, XGBoost). Fixed, because the number of
        threads is part of what makes a model reproducible. Default 2.
    memory_mb
        `EVERGREEN_MEMORY_MB`, DuckDB's memory limit for one step, and about what the raw rows take
        that are ingested at once. Default 1500.
    spill_mb
        `EVERGREEN_SPILL_MB`, how much DuckDB may put on the disk beyond that. Default 20000.
    training_mb
        `EVERGREEN_TRAINING_MB`, up to which size of its matrix a training is fitted in memory;
        beyond, XGBoost reads it from the disk. 0 for never in memory. A step takes about ten
        times as much. Default 150.
    dask_url
        `EVERGREEN_DASK_URL`, the scheduler of a Dask cluster on which a training beyond that size
        is fitted instead; None for none.
    dask_workers
        `EVERGREEN_DASK_WORKERS`, how many of its workers share a fit. Fixed, as threads are.
        Default 2.
    sql_timeout_seconds
        `EVERGREEN_SQL_TIMEOUT_SECONDS`, for one query of a use case's SQL: a day, or a month of
        days of a bulk load. Default 900.
    urls
        `EVERGREEN_<DATABASE>_URL` for each of `DATABASES`; SQLAlchemy URLs.
    """

    home: Path
    use_cases: Path
    warehouse: str
    artifacts: str
    kept: dict[str, str]
    backups: Path
    airflow_api: str | None
    tracking_url: str | None
    tracking_pages: str | None
    environment: str
    threads: int
    memory_mb: int
    spill_mb: int
    training_mb: int
    dask_url: str | None
    dask_workers: int
    sql_timeout_seconds: int
    urls: dict[Database, str]

    def database_url(self, database: Database) -> str:
        """SQLAlchemy URL of one database.

        Raises
        ------
        ServiceDownError
            No URL is configured and the embedded server is not running.
        """
        if configured := self.urls.get(database):
            return configured
        # The port is stated because a client would else obey PGPORT, which the server does not.
        socket = self.embedded_socket_dir()
        return f"postgresql+psycopg2://postgres@/{database}?host={socket}&port=5432"

    @property
    def embedded(self) -> list[Database]:
        """Databases of the embedded Postgres: those that are needed and have no URL."""
        return [
            name
            for name in DATABASES
            if name not in self.urls and not (name == "catalog" and is_catalog_elsewhere())
        ]

    @property
    def postgres_dir(self) -> Path:
        """Data directory of the embedded Postgres."""
        return self.home / "postgres"

    def embedded_socket_dir(self) -> str:
        """Directory of the embedded server's Unix socket, as the running server states it.

        It is not derivable from the path alone: a long path does not fit into a socket address,
        and the server then puts its socket elsewhere.
        """
        pid_file = self.postgres_dir / "postmaster.pid"
        try:
            lines = pid_file.read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if len(lines) < 5:
            raise ServiceDownError(
                f"The embedded Postgres under {self.home} is not running ({pid_file} is absent). "
                "Start it with `make up`, or set EVERGREEN_<DATABASE>_URL to a managed server."
            )
        return lines[4].strip()

    @property
    def artifacts_url(self) -> str:
        """Where MLflow keeps models and plots, as the URL it wants."""
        return self.artifacts if "://" in self.artifacts else Path(self.artifacts).as_uri()

    @property
    def places(self) -> dict[str, str]:
        """All that may be elsewhere than in the data directory, a path or URL by name."""
        return {"warehouse": self.warehouse, "artifacts": self.artifacts, **self.kept}

    @property
    def staging(self) -> UPath:
        """Where steps stage output before it is validated and published."""
        return as_folder(self.kept["staging"])

    @property
    def quality(self) -> UPath:
        """Validation results and Data Docs; a folder per use case."""
        return as_folder(self.kept["quality"])

    @property
    def reports(self) -> UPath:
        """Reports of nights; a folder per use case."""
        return as_folder(self.kept["reports"])

    @property
    def scratch(self) -> Path:
        """Where a process keeps files that nobody else needs."""
        return self.home / "scratch"

    def night_report(self, use_case: str, day: date) -> UPath:
        """Where the report of one night is."""
        return self.reports / use_case / f"{day}.html"


def as_folder(place: str) -> UPath:
    """Return a folder by its path or URL; of an object store, as it is now."""
    # Slow to import, and parsing a DAG needs the settings.
    from upath import UPath

    return UPath(place, use_listings_cache=False) if "://" in place else UPath(place)


def load_settings() -> Settings:
    """Read the environment. Cheap enough to call in every step; holds no connection.

    Raises
    ------
    ConfigError
        A value is malformed, or the data directory was moved or copied.
    """
    env = os.environ
    home = _as_made(Path(env.get("EVERGREEN_HOME") or PROJECT_ROOT / ".evergreen").expanduser())
    urls: dict[Database, str] = {
        name: url for name in DATABASES if (url := env.get(f"EVERGREEN_{name.upper()}_URL"))
    }
    return Settings(
        home=home,
        use_cases=Path(_place("EVERGREEN_USE_CASES", PROJECT_ROOT / "include" / "use_cases")),
        warehouse=_place("EVERGREEN_WAREHOUSE", home / "warehouse"),
        artifacts=_place("EVERGREEN_ARTIFACTS", home / "artifacts"),
        kept={
            "staging": _place("EVERGREEN_STAGING", home / "staging"),
            "quality": _place("EVERGREEN_QUALITY", home / "quality"),
            "reports": _place("EVERGREEN_REPORTS", home / "reports"),
        },
        backups=Path(_place("EVERGREEN_BACKUPS", home / "backups")),
        airflow_api=env.get("EVERGREEN_AIRFLOW_API") or None,
        tracking_url=(tracking := env.get("EVERGREEN_TRACKING_URL") or None),
        tracking_pages=env.get("EVERGREEN_TRACKING_PAGES") or tracking,
        environment=env.get("EVERGREEN_ENVIRONMENT") or platform.node(),
        threads=_whole_number("EVERGREEN_THREADS", 2),
        memory_mb=_whole_number("EVERGREEN_MEMORY_MB", 1500),
        spill_mb=_whole_number("EVERGREEN_SPILL_MB", 20_000),
        training_mb=_whole_number("EVERGREEN_TRAINING_MB", 150, least=0),
        dask_url=env.get("EVERGREEN_DASK_URL") or None,
        dask_workers=_whole_number("EVERGREEN_DASK_WORKERS", 2),
        sql_timeout_seconds=_whole_number("EVERGREEN_SQL_TIMEOUT_SECONDS", 900),
        urls=urls,
    )


def is_catalog_elsewhere() -> bool:
    """Whether tables are in a catalog that PyIceberg's own configuration names."""
    return any(variable.startswith(CATALOG_ELSEWHERE) for variable in os.environ)


def _as_made(home: Path) -> Path:
    """Return the data directory by the name it was made under, which may now be a symlink."""
    try:
        made = Path((home / LOCATION_FILE).read_text(encoding="utf-8").rstrip("\n"))
    except (FileNotFoundError, NotADirectoryError):
        return home.resolve()
    here = home.resolve()
    if made.resolve() == here:
        return made
    if made.exists():
        mend = (
            f"{made} is there, too: use that one (EVERGREEN_HOME={shlex.quote(str(made))}). For a "
            "second one make a backup, not a copy."
        )
    else:
        mend = (
            f"Move it back: mv {shlex.quote(str(here))} {shlex.quote(str(made))}\n"
            "or leave it and make its old path lead here: "
            f"ln -s {shlex.quote(str(here))} {shlex.quote(str(made))}"
        )
    raise ConfigError(
        f"The data directory {here} was made as {made}, and its tables and models name their "
        f"files by that path. {mend}"
    )


def secret(name: str) -> str:
    """Value of the secret `EVERGREEN_SECRET_<NAME>`; never logged, never stored.

    In a task, what the environment does not have is looked for where `look_up_secrets` says.

    Raises
    ------
    ConfigError
        Nobody has it.
    """
    variable = f"EVERGREEN_SECRET_{name.upper()}"
    if value := os.environ.get(variable):
        return value
    message = f"The environment variable {variable} is not set. Set it to the secret."
    if _keeper is not None:
        if value := _keeper.look_up(variable.lower()):
            return value
        message += (
            f" Or give it to {_keeper.name} as {variable.lower()}, which has none; the log says if "
            "it did not answer."
        )
    raise ConfigError(message)


@dataclass(frozen=True)
class Keeper:
    """Who keeps secrets beside the environment.

    Parameters
    ----------
    name
        For messages, such as "Airflow's variables".
    look_up
        Gives the secret of a name like `evergreen_secret_shop`; None if there is none.
    """

    name: str
    look_up: Callable[[str], str | None]


_keeper: Keeper | None = None


def look_up_secrets(keeper: Keeper | None) -> None:
    """Say who keeps the secrets that the environment does not have, for this process."""
    global _keeper
    _keeper = keeper


def alert_destinations() -> dict[str, str]:
    """Return who is told of changes: URLs of Apprise by name, from `EVERGREEN_ALERT_<NAME>`.

    The URLs hold secrets: they are never logged and never stored; the names are.
    """
    return {
        variable.removeprefix(_ALERT).lower(): url
        for variable, url in sorted(os.environ.items())
        if variable.startswith(_ALERT) and url
    }


def _place(variable: str, default: Path) -> str:
    """Return a URL without its last slash, or an absolute path; a path never holds `://`."""
    text = os.environ.get(variable) or str(default)
    if text.startswith("file:"):
        text = url2pathname(urlsplit(text).path)
    if re.match(r"\w[\w+.-]*://", text):
        return text.rstrip("/")
    # Not pathlib's: they refuse a name that only begins with ~, and keep `..`.
    return os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111


def _whole_number(variable: str, default: int, least: int = 1) -> int:
    text = os.environ.get(variable)
    if not text:
        return default
    if not text.isdigit() or int(text) < least:
        raise ConfigError(f"{variable} is {text!r}; expected a whole number of at least {least}.")
    return int(text)
