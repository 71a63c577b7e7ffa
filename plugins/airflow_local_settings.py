"""Whose turn it is: days of the past go behind the newest. Airflow imports this by its name."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.models import DagRun, TaskInstance

# Wherever its zone is, the newest day that is over began at most two days, by date, before now.
_NEWEST = timedelta(days=2)
# Above what any task weighs by the tasks behind it.
_BEHIND = 1_000


def task_instance_mutation_hook(task_instance: TaskInstance, dag_run: DagRun | None) -> None:
    """Put a run for a day of the past behind those for the newest day: its tasks, and itself.

    Airflow asks when it makes the tasks of a run and when they are cleared, and sometimes when it
    cannot tell the run (None). It gives a free slot to the task that weighs most, and starts those
    waiting runs first that the scheduler has never looked at, then by when it has.
    """
    if dag_run is None or not _is_of_the_past(dag_run):
        return
    if task_instance.priority_weight > 0:
        task_instance.priority_weight -= _BEHIND
    if dag_run.last_scheduling_decision is None:
        dag_run.last_scheduling_decision = dag_run.queued_at


def _is_of_the_past(dag_run: DagRun) -> bool:
    try:
        day = date.fromisoformat(dag_run.partition_key or "")
    except ValueError:
        return False
    # When it was asked for: `run_after` of a backfill's run is of the past itself.
    return (dag_run.queued_at or dag_run.run_after).date() - day > _NEWEST
