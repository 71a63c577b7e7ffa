"""What is said of a run as a whole: how it was asked for, and that it is late."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from evergreen import settings
from evergreen.contract import parse_day
from evergreen.errors import ConfigError
from evergreen.provenance import commands

logger = logging.getLogger(__name__)

# Each tells in tens of lines a task how it was imported, or how it found its configuration.
_TALKATIVE = (
    *("great_expectations", "pyiceberg.io", "aiobotocore.credentials", "botocore.credentials"),
    "botocore.configprovider",
)


def log_as(dag_id: str, key: str | None, params: Mapping[str, Any]) -> None:
    """Give every line that this process logs from now on its use case and day, as fields.

    Parameters
    ----------
    key
        Partition key of the run.
    params
        Of a run without one: its `day`, or `from` and `to`.
    """
    from structlog.contextvars import bind_contextvars

    given = [str(params[name]) for name in ("day", "from", "to") if params.get(name)]
    found = {"use_case": dag_id.rpartition("_")[0], "day": key or "..".join(given)}
    bind_contextvars(**{name: value for name, value in found.items() if value})
    # Airflow's own setting for this (`namespace_levels`) is about loggers of structlog only.
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def require_known_conf(conf: Mapping[str, Any] | None, known: Iterable[str]) -> None:
    """Refuse a run that was given keys its DAG does not know.

    Raises
    ------
    ConfigError
        A misspelt key would else be ignored, and its default be used.
    """
    known = sorted(known)
    if unknown := sorted(set(conf or {}) - set(known)):
        raise ConfigError(
            f"The run was given {', '.join(unknown)}, which its DAG does not know; "
            f"{'it knows ' + ', '.join(known) if known else 'it takes no parameters'}. "
            "Nothing was done. Start it again with the right keys."
        )


def look_up_secrets(keeper: str, look_up: Callable[[str], str | None]) -> None:
    """Let steps ask a keeper of secrets, by its name, for what their environment does not have."""
    settings.look_up_secrets(settings.Keeper(keeper, look_up))


async def tell_late_run(context: Mapping[str, Any]) -> str:
    """Say that a run is not finished in time; Airflow calls it when a deadline is missed.

    It is logged, and told to whom `EVERGREEN_ALERT_<NAME>` names.
    """
    from evergreen.monitoring.destinations import send_to_all

    run = context["dag_run"]
    (use_case, _, stage), day = run["dag_id"].rpartition("_"), run["partition_key"]
    title = f"{run['dag_id']} of {day or run['dag_run_id']} is late"
    message = (
        f"{title}: it is {run['state']} at its deadline, {context['deadline']['deadline_time']}. "
        "Its log says what it waits for."
    )
    if day and stage == "ingest":
        message += (
            " Later days wait for it. If there will never be data for it, decide so: "
            + commands.declare_without_data(use_case, parse_day(day))
        )
    elif day:
        again = commands.run_day(run["dag_id"], parse_day(day))
        message += f" If it has failed: mend the cause, then {again}"
    logger.error("%s", message)
    await send_to_all(title, message, "warning")
    return message


def one_day(step: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Let a step that takes ranges take one day only.

    For DAGs whose runs are for one day each: the key of a run goes on with its asset events, and
    who receives them expects a day.
    """

    @wraps(step)
    def of_one_day(use_case: str, day: str, *arguments: Any) -> dict[str, Any]:
        return step(use_case, parse_day(day, use_case).isoformat(), *arguments)

    return of_one_day
