"""The environment in which every `airflow` command on this machine runs, and its secrets."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from evergreen.ops.local.home import prepare
from evergreen.settings import PROJECT_ROOT, Settings

HOST = "127.0.0.1"
DEFAULT_PORT = 8080
USERNAME = "admin"
# May read and change nothing: for what looks by itself.
WATCHER = "watcher"

# Imported once by the server that workers fork from; a task then starts with them in memory. Only
# third-party modules: a change in include/ must reach the next task without a restart.
_PRELOAD = (
    "airflow.sdk.execution_time.task_runner",
    "duckdb",
    "feast.infra.offline_stores.duckdb",
    "great_expectations",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "mlflow",
    # What every task that reads or writes a model imports otherwise, for two seconds.
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.storages.journal",
    "pandas",
    "psycopg_pool",
    "pyarrow.parquet",
    "pyiceberg.catalog.sql",
    "scipy.stats",
    "sklearn.linear_model",
    "xgboost",
)


_UNWANTED = (
    # Imports without cached bytecode are 2-4 times slower.
    "PYTHONDONTWRITEBYTECODE",
    # These would point elsewhere.
    "AIRFLOW_CONFIG",
    "PYTHONHOME",
    # Importing Feast points these at a folder that goes when that process ends; whoever inherits
    # them and imports Feast afterwards dies.
    "PROMETHEUS_MULTIPROC_DIR",
    "PROMETHEUS_MULTIPROCESS_DIR",
)


def airflow_environment(
    settings: Settings,
    port: int = DEFAULT_PORT,
    *,
    dags: Path = PROJECT_ROOT / "dags",
    paused_at_creation: bool = True,
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the complete environment in which any `airflow` command of this project runs.

    Needs the Airflow database's URL, so the embedded Postgres must run. Generates the secrets
    and the administrator's password on the first call, into files only their owner can read.

    Parameters
    ----------
    settings
        Where things are.
    port
        Of the API server, on loopback.
    dags
        The DAG folder.
    paused_at_creation
        Whether DAGs that do not say so themselves begin paused. By default they do: a cron DAG
        that began unpaused would at once run for yesterday, on whatever source is configured, on
        every new installation. Consumers of assets are another matter: they receive no event
        while paused, so they declare `is_paused_upon_creation=False` themselves and then move
        only when a producer does.
    base
        Environment to build on; default the process's own. Its tuning variables win
        (`AIRFLOW__CORE__PARALLELISM` and the like), its locations and secrets do not.

    Raises
    ------
    ServiceDownError
        The embedded Postgres is needed and does not run.
    """
    home = airflow_home(settings)
    environment = dict(os.environ if base is None else base)
    for unwanted in _UNWANTED:
        environment.pop(unwanted, None)
    keys = _hold(home / "secrets.json", _new_secrets())
    tuning = {
        "AIRFLOW__CORE__PARALLELISM": str(min(8, 2 * (os.cpu_count() or 1))),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": str(paused_at_creation),
        "AIRFLOW__API__WORKERS": "1",
        # Sequential tasks follow one another about four times faster than by default.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        # A task whose process was killed is tried again after a minute instead of five.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "60",
        # A task that imports the ML libraries starts in under a second instead of in 6 to 10.
        # For the scheduler's workers only: the other components never use those libraries.
        "AIRFLOW__SCHEDULER__MP_START_METHOD": "forkserver",
        "AIRFLOW__SCHEDULER__MP_FORKSERVER_PRELOAD": ",".join(_PRELOAD),
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        # Threads are part of what makes a model reproducible, and three fits at once with all
        # cores each would thrash.
        "OMP_NUM_THREADS": str(settings.threads),
        # Idle threads sleep instead of spinning: with two fits at once on two cores, spinning
        # made each of them 5 to 20 times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # MLflow looks for git and complains at length where there is none.
        "GIT_PYTHON_REFRESH": "quiet",
    }
    fixed = {
        # As they are understood here, whatever directory a task runs in.
        "EVERGREEN_HOME": str(settings.home),
        "EVERGREEN_USE_CASES": str(settings.use_cases),
        "EVERGREEN_WAREHOUSE": settings.warehouse,
        "EVERGREEN_ARTIFACTS": settings.artifacts,
        **{f"EVERGREEN_{name.upper()}": place for name, place in settings.kept.items()},
        "EVERGREEN_BACKUPS": str(settings.backups),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        # Airflow derives the asynchronous URL (asyncpg) from this one.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": settings.database_url("airflow"),
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        # Not derived from the port; with the wrong one every task ends in "connection refused".
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USERNAME}:admin,{WATCHER}:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(password_file(settings)),
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet_key"],
        "AIRFLOW__API__SECRET_KEY": keys["api_secret_key"],
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt_secret"],
        "AIRFLOW__API_AUTH__JWT_ISSUER": "evergreen",
        # The programs of this environment, whatever is active in the caller's shell.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}",
    }
    # Created here, not left to Airflow: it would print the password into the log.
    _hold(
        password_file(settings), {name: secrets.token_urlsafe(12) for name in (USERNAME, WATCHER)}
    )
    return {**tuning, **environment, **fixed}


def airflow_home(settings: Settings) -> Path:
    """Return `AIRFLOW_HOME`, made if needed, for its owner's eyes only."""
    prepare(settings)
    home = settings.home / "airflow"
    home.mkdir(mode=0o700, exist_ok=True)
    return home


def password_file(settings: Settings) -> Path:
    """Return the JSON file of passwords by user name."""
    return settings.home / "airflow" / "passwords.json"


def _new_secrets() -> dict[str, str]:
    return {
        "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "api_secret_key": secrets.token_urlsafe(48),
        "jwt_secret": secrets.token_urlsafe(48),
    }


def _hold(path: Path, content: dict[str, str]) -> dict[str, str]:
    """Add what is missing to a private JSON file, and return what it holds; safe at once."""
    held: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if content.keys() <= held.keys():
        return held
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content | held, file)
    if held:
        draft.replace(path)
    else:
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    kept: dict[str, str] = json.loads(path.read_text())
    return kept
