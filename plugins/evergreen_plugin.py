"""What Airflow knows of us: a page of facts, reports of nights, Data Docs, when a day is due.

Airflow executes this file in every process, tasks included. So nothing heavy is imported here: the
web framework, the lake and the rest of the package come with the first request, which only the API
server gets. Pages need no script and no network, and are served to whoever may open Airflow's UI.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk.definitions.deadline import BaseDeadlineReference

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response
    from jinja2 import Template
    from sqlalchemy.orm import Session
    from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)

NEWEST_DECISIONS = 10
DAYS_OF_ROWS = 14

# A leaf, in a colour that shows on light and on dark.
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' "
    "stroke='%2338a169' stroke-width='2' stroke-linecap='round' stroke-linejoin='round'%3E%3Cpath "
    "d='M4 20c8-4 10-8 11-11M5 17C3 8 10 4 20 4c1 10-4 17-13 15'/%3E%3C/svg%3E"
)
_HEADERS = {
    # Validation results quote source data. Whatever they quote, no page of ours runs it, loads
    # anything from elsewhere, or is shown inside a foreign page.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}


def build_app() -> FastAPI:
    """Make the web application; its only imports are those of the API server itself.

    Every route is behind Airflow's authentication (bearer token or session cookie): 401 without
    either, 403 for a user who may not open Airflow's UI.
    """
    from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
    from airflow.api_fastapi.core_api.security import requires_access_view
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.responses import FileResponse, HTMLResponse
    from starlette.exceptions import HTTPException as AnyHTTPException

    app = FastAPI(
        title="Evergreen",
        dependencies=[Depends(requires_access_view(AccessView.WEBSITE))],
        # These would be served to everybody.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # A redirect names scheme and host, and behind a proxy it names the wrong ones.
        redirect_slashes=False,
    )

    # Plain functions, so FastAPI runs them in its thread pool: both read disks and databases.
    @app.get("/", response_class=HTMLResponse)
    def overview() -> str:
        return render_overview()

    @app.get("/data-docs/{use_case}/{path:path}", response_class=FileResponse)
    def data_docs(use_case: str, path: str) -> Path:
        found = find_page(use_case, path)
        if found is None:
            raise HTTPException(404, f"There is no page {path!r} in the Data Docs of {use_case!r}.")
        return found

    @app.get("/nights/{use_case}/{day}", response_class=FileResponse)
    def night(use_case: str, day: str) -> Path:
        found = find_report(use_case, day)
        if found is None:
            raise HTTPException(404, _without_report(use_case, day))
        return found

    @app.exception_handler(AnyHTTPException)
    async def refusal(_: Request, error: AnyHTTPException) -> Response:
        message = str(error.detail)
        if error.status_code == 401:
            message += ". Log in to Airflow, then load this page again."
        return HTMLResponse(_template().render(message=message), error.status_code, error.headers)

    @app.middleware("http")
    async def harden(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response: Response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    return app


# --- data docs -----------------------------------------------------------------------------------


def find_page(use_case: str, path: str) -> Path | None:
    """Return the file behind a URL below a use case's Data Docs; None when there is none.

    Never a file outside that folder, whatever the path says and wherever links lead, and never a
    hidden one: locks and half-written pages.
    """
    from evergreen.contract import list_use_cases
    from evergreen.settings import load_settings

    if use_case not in list_use_cases():
        return None
    try:
        site = (load_settings().quality / use_case / "data_docs").resolve()
        target = (site / (path or "index.html")).resolve()
        if not target.is_relative_to(site) or not target.is_file():
            return None
    except (OSError, ValueError):
        # Too long for a file name, or with a zero byte in it.
        return None
    hidden = any(part.startswith(".") for part in target.relative_to(site).parts)
    return None if hidden else target


# --- reports of nights ---------------------------------------------------------------------------


def find_report(use_case: str, day: str) -> Path | None:
    """Return the report of a night; None where there is none, or no such use case or day."""
    from evergreen.contract import list_use_cases, parse_day
    from evergreen.errors import ConfigError
    from evergreen.settings import load_settings

    if use_case not in list_use_cases():
        return None
    try:
        path = load_settings().night_report(use_case, parse_day(day))
    except ConfigError:
        return None
    return path if path.is_file() else None


def _newest_report(use_case: str) -> str | None:
    """Return the newest day with a report."""
    from evergreen.settings import load_settings

    days = [path.stem for path in load_settings().reports.glob(f"{use_case}/*.html")]
    return max((day for day in days if find_report(use_case, day)), default=None)


def _without_report(use_case: str, day: str) -> str:
    from evergreen.contract import list_use_cases, parse_day
    from evergreen.errors import ConfigError
    from evergreen.provenance import commands

    if use_case not in list_use_cases():
        return f"There is no use case {use_case!r}; there are: {', '.join(list_use_cases())}."
    try:
        written = commands.report(use_case, parse_day(day))
    except ConfigError as error:
        return str(error)
    return (
        f"The night of {day} has no report. If {use_case}_monitor ran for it, write it by: "
        f"{written}. Otherwise run the night first."
    )


# --- the page ------------------------------------------------------------------------------------


def render_overview() -> str:
    """Return the page: per use case its champion, decisions, tables, rows, what is stale.

    What cannot be read is replaced by a sentence that says why; the rest is shown all the same.
    """
    from evergreen.contract import list_use_cases

    return _template().render(use_cases=[_facts(name) for name in list_use_cases()])


def _facts(name: str) -> dict[str, Any]:
    from evergreen.contract import load_use_case

    return {
        "name": name,
        "declared": _read_or_explain(lambda: load_use_case(name)),
        "champion": _read_or_explain(lambda: _champion(name)),
        "decisions": _read_or_explain(lambda: _decisions(name)),
        "tables": _read_or_explain(lambda: _tables(name)),
        "rows": _read_or_explain(lambda: _rows(name)),
        "stale": _read_or_explain(lambda: _stale(name)),
        "night": _newest_report(name),
        "validated": find_page(name, "index.html") is not None,
    }


def _read_or_explain(read: Callable[[], Any]) -> dict[str, Any]:
    from sqlalchemy.exc import SQLAlchemyError

    from evergreen.errors import EvergreenError

    try:
        return {"value": read(), "problem": None}
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        problem = f"The database says: {said}. `make up` starts it and creates its tables."
    except (EvergreenError, OSError) as error:
        problem = str(error)
    logger.warning("A part of the page is missing. %s", problem)
    return {"value": None, "problem": problem}


def _champion(name: str) -> Any:
    from evergreen.release import ledger

    return ledger.champion(ledger.engine(), name)


def _decisions(name: str) -> list[dict[str, Any]]:
    from evergreen import lake

    days = list(_partitions(name, "decisions"))[-NEWEST_DECISIONS:]
    if not days:
        return []
    columns = ("day", "kind", "decision", "version", "reasons")
    decided = lake.read(name, "decisions", days[0], columns=columns).to_pylist()
    newest = sorted(decided, key=lambda row: (row["day"], row["kind"]), reverse=True)
    return newest[:NEWEST_DECISIONS]


def _tables(name: str) -> list[dict[str, Any]]:
    from evergreen import lake

    described = []
    for table in lake.tables(name):
        days = _partitions(name, table)
        described.append(
            {
                "name": table,
                "first": min(days, default=None),
                "last": max(days, default=None),
                "days": len(days),
                "rows": sum(days.values()),
            }
        )
    return described


def _rows(name: str) -> list[dict[str, Any]]:
    from evergreen.contract import load_use_case
    from evergreen.provenance import receipts

    found, use_case = [], load_use_case(name)
    for table in use_case.tables:
        owner, step = use_case.owner_of(table), f"publish_{table}"
        newest = receipts.newest_day(owner, step)
        if newest is None:
            continue
        first = newest - timedelta(days=DAYS_OF_ROWS - 1)
        published = receipts.latest(owner, step, first, newest + timedelta(1))
        found += [{"day": day, "table": table, **published[day].counts} for day in published]
    return sorted(found, key=lambda row: (row["day"], row["table"]), reverse=True)


def _stale(name: str) -> dict[str, Any]:
    from evergreen.contract import load_use_case
    from evergreen.provenance.staleness import find_stale, mend_commands, summarise

    use_case = load_use_case(name)
    stale = find_stale(use_case)
    return {"findings": summarise(use_case, stale), "mend": mend_commands(use_case, stale)}


def _partitions(name: str, table: str) -> dict[Any, int]:
    from evergreen import lake

    snapshot = lake.snapshot_id(name, table)
    return {} if snapshot is None else _partitions_of(name, table, snapshot)


@lru_cache(maxsize=256)
def _partitions_of(name: str, table: str, snapshot: int) -> dict[Any, int]:
    """List a snapshot's partitions once: a snapshot never changes, and years of days take long."""
    from evergreen import lake

    return lake.partitions(name, table)


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    # Everything is escaped: reasons, names and problems quote source data.
    templates = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined
    )
    return templates.get_template("evergreen.html")


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
    return build_app()


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the application, made at the first request (ASGI)."""
    await _app()(scope, receive, send)


class EvergreenPlugin(AirflowPlugin):
    """A web application under `/evergreen`, an entry in the navigation for it, and a deadline."""

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
        }
    ]
