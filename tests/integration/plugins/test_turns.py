"""Whose turn it is: what Airflow is told of the runs it makes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

NOW = datetime(2026, 3, 30, 0, 10, tzinfo=UTC)
WEIGHTS = [1, 2, 8]


def told(key: str | None, **changes: Any) -> tuple[list[int], datetime | None]:
    """Weights of the tasks of a run for a key, and when it counts as looked at."""
    import airflow_local_settings

    facts = {"queued_at": NOW, "run_after": NOW, "last_scheduling_decision": None, **changes}
    run = SimpleNamespace(partition_key=key, **facts)
    tasks = [SimpleNamespace(priority_weight=weight) for weight in WEIGHTS]
    # Twice, as Airflow may.
    for task in [*tasks, *tasks]:
        airflow_local_settings.task_instance_mutation_hook(task, run)
    return [task.priority_weight for task in tasks], run.last_scheduling_decision


@pytest.mark.parametrize("day", [date(2026, 3, 28), date(2026, 3, 29), date(2026, 3, 30)])
def test_the_newest_day_of_any_zone_is_left_alone(day: date) -> None:
    assert told(str(day)) == (WEIGHTS, None)


@pytest.mark.parametrize("day", [date(2026, 3, 27), date(2025, 3, 30), date(1, 1, 1)])
def test_a_day_of_the_past_goes_behind_and_keeps_the_order_of_its_tasks(day: date) -> None:
    weights, looked_at = told(str(day))
    assert looked_at == NOW
    assert weights == sorted(weights)
    assert max(weights) < min(WEIGHTS)


@pytest.mark.parametrize("key", [None, "", "2026-03-01..2026-03-02", "churn"])
def test_a_run_without_a_day_is_left_alone(key: str | None) -> None:
    assert told(key) == (WEIGHTS, None)


def test_a_backfill_is_judged_by_when_it_was_asked_for() -> None:
    """Airflow says of its runs that they were due long ago."""
    due = NOW - timedelta(days=60)
    assert told("2026-01-28", run_after=due)[1] == NOW
    assert told("2026-01-28", run_after=due, queued_at=None)[0] == WEIGHTS


def test_what_the_scheduler_noted_itself_stays() -> None:
    earlier = NOW - timedelta(minutes=1)
    assert told("2026-01-28", last_scheduling_decision=earlier)[1] == earlier


def test_a_task_whose_run_is_not_known_is_left_alone() -> None:
    import airflow_local_settings

    task = SimpleNamespace(priority_weight=3)
    airflow_local_settings.task_instance_mutation_hook(task, None)
    assert task.priority_weight == 3


def test_airflow_has_taken_it_up(airflow_tables: Any) -> None:
    from airflow.settings import task_instance_mutation_hook

    assert task_instance_mutation_hook.is_noop is False
