"""What every DAG of the house shares: names, tags, defaults, and how a publish is announced."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, CronPartitionTimetable, Param, Variable, task

from evergreen import steps
from evergreen.contract import UseCase
from patience import RETRIES, RETRY_POLICY

# The day a run works for. Keyed runs carry it; `params.day` is for runs started from a form.
DAY = "{{ partition_key or params.get('day') }}"
# All attempts of a run share it; what a killed attempt has staged is found and removed by it.
RUN = "{{ run_id }}"
ASKED_BY = "{{ dag_run.triggering_user_name or dag_run.run_type }}"

# Asked in tasks only; by its name, Airflow knows that it is a secret, and hides it in logs.
steps.look_up_secrets("Airflow's variables", lambda name: Variable.get(name, default=None))


def asset(use_case: UseCase, table: str) -> Asset:
    """Return the partitioned asset of one table: `churn/features`."""
    name = f"{use_case.owner_of(table)}/{table}"
    return Asset(name=name, uri=f"evergreen://{name}", group="tables")


def daily(use_case: UseCase, hour: int) -> CronPartitionTimetable:
    """Return the schedule of one run for each local day, at an hour of the day after."""
    return CronPartitionTimetable(
        f"0 {hour} * * *", timezone=use_case.zone, run_offset=-1, key_format="%Y-%m-%d"
    )


def before_task(context: Any) -> None:
    """Let the log say what a task works for; fail it if its run has keys that its DAG lacks."""
    steps.log_as(context["dag"].dag_id, context["dag_run"].partition_key, context["params"])
    steps.require_known_conf(context["dag_run"].conf, list(context["dag"].params))


def task_defaults(timeout: timedelta) -> dict[str, Any]:
    """Return what tasks have unless they say otherwise; `timeout` ends one try that hangs."""
    return {
        "retries": RETRIES,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
        "retry_policy": RETRY_POLICY,
        "execution_timeout": timeout,
        "pre_execute": before_task,
    }


def dag_arguments(
    use_case: UseCase, stage: str, doc: str | None, timeout: timedelta = timedelta(hours=2)
) -> dict[str, Any]:
    """Return the keyword arguments every DAG of a use case has in common."""
    return {
        "dag_id": f"{use_case.name}_{stage}",
        "dag_display_name": f"{use_case.name} · {stage}",
        "description": use_case.title,
        "doc_md": f"### {use_case.title}\n{use_case.description}\n\n{doc or ''}",
        "tags": [f"use-case:{use_case.name}", f"stage:{stage}"],
        "start_date": use_case.as_of(use_case.first_day - timedelta(days=1)),
        # A closed source's last run is made on the day after; unpausing must not make later ones.
        "end_date": (day := use_case.last_day) and use_case.as_of(day) + timedelta(hours=12),
        "catchup": False,
        "default_args": {"owner": use_case.owner, **task_defaults(timeout)},
    }


def day_param(title: str) -> Param:
    """Return a form field for a day; empty means the run's partition key."""
    return Param(None, type=["null", "string"], format="date", title=title)


def publisher(function: Callable[..., dict[str, Any]], outlet: Asset) -> Callable[..., Any]:
    """Make a task of a publishing step: the event's `extra` is its receipt, its keys are `days`."""

    @task(task_id=function.__name__, outlets=[outlet], doc_md=function.__doc__)
    def publish(*arguments: Any, outlet_events: Any = None) -> dict[str, Any]:
        published = function(*arguments)
        outlet_events[outlet].extra = published
        outlet_events[outlet].add_partitions(published.get("days", []))
        return published

    return publish
