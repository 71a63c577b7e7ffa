"""What Airflow knows of us: pages, a card on its dashboard, receipts of runs, when a day is due.

Airflow executes this file in every process, tasks included. So nothing heavy is imported here: the
web framework, the lake and the rest of the package come with the first request, which only the API
server gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk.definitions.deadline import BaseDeadlineReference

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sqlalchemy.orm import Session
    from starlette.types import Receive, Scope, Send

# A leaf, in a colour that shows on light and on dark.
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' "
    "stroke='%2338a169' stroke-width='2' stroke-linecap='round' stroke-linejoin='round'%3E%3Cpath "
    "d='M4 20c8-4 10-8 11-11M5 17C3 8 10 4 20 4c1 10-4 17-13 15'/%3E%3C/svg%3E"
)


# --- deadlines -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DayDue(BaseDeadlineReference):
    """When the day of a run must be done: some hours after its end, a midnight of its zone.

    Airflow asks when it creates a run. It is told None, no deadline, for a run of a backfill, for
    one that begins when the time is over (its day is old, or an earlier DAG was late, whose own
    deadline said so), and for one that has no day.

    Parameters
    ----------
    zone
        Name of the time zone whose midnights end days.
    hours
        After that.
    """

    zone: str = "UTC"
    hours: float = 0.0

    required_kwargs: ClassVar[set[str]] = {"dag_id", "run_id"}

    def serialize_reference(self) -> dict[str, Any]:
        """Return what the DAG processor stores of it."""
        return {**super().serialize_reference(), "zone": self.zone, "hours": self.hours}

    @classmethod
    def deserialize_reference(cls, reference_data: Mapping[str, Any]) -> DayDue:
        """Rebuild it from what is stored."""
        return cls(reference_data["zone"], reference_data["hours"])

    def _evaluate_with(self, *, session: Session, dag_id: str, run_id: str) -> datetime | None:
        from airflow.models import DagRun
        from sqlalchemy import select

        columns = DagRun.partition_key, DagRun.run_type, DagRun.queued_at, DagRun.run_after
        found = session.execute(
            select(*columns).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        ).one_or_none()
        if found is None or found.run_type == "backfill":
            return None
        return self.of(found.partition_key, found.queued_at or found.run_after)

    def of(self, key: str | None, begun: datetime) -> datetime | None:
        """Return the deadline of a run with a partition key that begins at an instant."""
        from evergreen.contract import parse_day
        from evergreen.contract.days import as_of
        from evergreen.errors import ConfigError

        try:
            due = as_of(parse_day(key or ""), self.zone) + timedelta(hours=self.hours)
        except ConfigError:
            # Its first task says so; the scheduler must not stumble over it.
            return None
        return due if begun < due else None


# --- the plugin ----------------------------------------------------------------------------------


@cache
def _app() -> FastAPI:
    from evergreen_ui.app import build_app

    return build_app()


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the application, made at the first request (ASGI)."""
    await _app()(scope, receive, send)


class EvergreenPlugin(AirflowPlugin):
    """A web application under `/evergreen`, where Airflow shows it, and a deadline."""

    name = "evergreen"
    deadline_references: ClassVar[list[Any]] = [DayDue]
    fastapi_apps: ClassVar[list[Any]] = [
        {"app": serve, "url_prefix": "/evergreen", "name": "Evergreen"}
    ]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Evergreen",
            # Relative, for an Airflow that does not live at the root of its host.
            "href": "evergreen/",
            "destination": "nav",
            "url_route": "evergreen",
            "nav_top_level": True,
            "icon": _ICON,
        },
        {
            "name": "Receipts",
            "href": "evergreen/runs/{DAG_ID}/{RUN_ID}",
            "destination": "dag_run",
            "url_route": "receipts",
            "icon": _ICON,
        },
    ]
    react_apps: ClassVar[list[Any]] = [
        {
            "name": "Evergreen",
            "bundle_url": "evergreen/assets/card.js",
            "destination": "dashboard",
            "url_route": "evergreen-card",
        }
    ]
