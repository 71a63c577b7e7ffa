"""When a run is late, and who is told: the log, and whom the settings name."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference
from airflow.sdk.configuration import conf

from evergreen.contract import UseCase

# `[evergreen] deadline_callback` in Airflow's configuration names another awaitable, such as one of
# Airflow's notifiers.
_TELL = AsyncCallback(
    conf.get("evergreen", "deadline_callback", fallback="evergreen.steps.tell_late_run"),
    kwargs=conf.getjson("evergreen", "deadline_kwargs", fallback={}),
)


def day_due(use_case: UseCase) -> DeadlineAlert | None:
    """Return the deadline of a run for a day: `monitoring.max_delay_hours` after the day's end."""
    hours = use_case.monitoring.max_delay_hours
    if hours is None:
        return None
    # Airflow looks it up by the name under which it loads the plugin.
    from evergreen_plugin import DayDue

    # The hours are the reference's, which has to know whether they were over before the run began.
    return DeadlineAlert(DayDue(use_case.zone, hours), interval=timedelta(), callback=_TELL)


def source_due(use_case: UseCase) -> DeadlineAlert:
    """Return the deadline of ingestion: that of the day, or four hours of waiting."""
    waiting = DeadlineAlert(
        DeadlineReference.DAGRUN_QUEUED_AT, interval=timedelta(hours=4), callback=_TELL
    )
    return day_due(use_case) or waiting
