"""What pages ask for: every answer is a view of `evergreen.views`, given to whoever may read it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter, Depends, HTTPException, Query, Request

from evergreen.contract import UseCase, list_use_cases, load_all, load_use_case
from evergreen.views.calendar import Calendar, calendar
from evergreen.views.drift import Drift, FeatureNight, drift, feature_night
from evergreen.views.entity import Entity, entity, suggest
from evergreen.views.lineage import Lineage, lineage
from evergreen.views.overview import Overview, overview
from evergreen.views.performance import Performance, performance
from evergreen.views.plan import BackfillPlan, plan_backfill
from evergreen.views.quality import Quality, Samples, quality, samples
from evergreen.views.releases import Releases, releases
from evergreen.views.runs import RunReceipts, run_receipts
from evergreen_ui import runs
from evergreen_ui.access import may_read, may_trigger, reading, require_read

_STAGES = ("ingest", "features", "labels", "history", "train", "score", "monitor", "release")

router = APIRouter(prefix="/api")

# Plain functions, so that FastAPI runs them in its thread pool: all of them read disks and
# databases.
Ingested = Annotated[UseCase, Depends(reading("ingest"))]
Scored = Annotated[UseCase, Depends(reading("score"))]
Monitored = Annotated[UseCase, Depends(reading("monitor"))]
Released = Annotated[UseCase, Depends(reading("release"))]
From = Annotated[date | None, Query(alias="from")]
To = Annotated[date | None, Query()]
Text = Annotated[str, Query(max_length=200)]


@dataclass(frozen=True)
class UseCaseEntry:
    """A use case that the user may see.

    `dags` are those that Airflow has, by stage; `may_trigger` those the user may start runs of.
    """

    name: str
    title: str
    zone: str
    problem: str
    may_trigger: list[str]
    dags: dict[str, str]


@dataclass(frozen=True)
class Session:
    """Who is logged in, where Airflow's own UI and API begin, and what the user may see."""

    user: str
    airflow: str
    use_cases: list[UseCaseEntry]


@router.get("/use-cases")
def use_cases(request: Request, user: GetUserDep) -> Session:
    """List the use cases that the user may read."""
    found, broken = load_all()
    entries = [_entry(use_case, user) for use_case in found]
    entries += [
        UseCaseEntry(name, name, "UTC", str(error), may_trigger=[], dags={})
        for name, error in broken.items()
    ]
    shown = [entry for entry in entries if may_read(f"{entry.name}_monitor", user)]
    prefix = request.scope.get("root_path", "").removesuffix("/evergreen")
    return Session(user.get_name(), prefix, sorted(shown, key=lambda entry: entry.name))


@router.get("/use-cases/{use_case}/overview")
def get_overview(use_case: Monitored) -> Overview:
    """Tell how a use case stands."""
    return overview(use_case)


@router.get("/use-cases/{use_case}/calendar")
def get_calendar(use_case: Monitored, first: From = None, to: To = None) -> Calendar:
    """Tell which days of which tables are there."""
    return calendar(use_case, first, to)


@router.get("/use-cases/{use_case}/runs")
def get_runs(
    use_case: Monitored, first: Annotated[date, Query(alias="from")], to: date
) -> list[runs.DayRun]:
    """Tell which days wait, are at work, or have failed."""
    return runs.unfinished_days(list(_dags(use_case).values()), first, to)


@router.get("/use-cases/{use_case}/plan")
def get_plan(
    use_case: Monitored, dag_id: Text, first: Annotated[date, Query(alias="from")], to: date
) -> BackfillPlan:
    """Tell what a backfill would set off."""
    limit = runs.find_dags([dag_id]).get(dag_id)
    if limit is None:
        raise HTTPException(404, f"Airflow has no DAG {dag_id!r}.")
    return plan_backfill(use_case, dag_id, first, to, limit)


@router.get("/use-cases/{use_case}/drift")
def get_drift(use_case: Monitored, first: From = None, to: To = None) -> Drift:
    """Tell how far columns lay from what was expected, night by night."""
    return drift(use_case, first, to)


@router.get("/use-cases/{use_case}/drift/{night}/{feature}")
def get_feature_night(use_case: Monitored, night: date, feature: str) -> FeatureNight:
    """Tell all that was measured of a column on a night."""
    return feature_night(use_case, night, feature)


@router.get("/use-cases/{use_case}/performance")
def get_performance(
    use_case: Monitored, metric: Text | None = None, first: From = None, to: To = None
) -> Performance:
    """Tell what scores were worth."""
    return performance(use_case, metric, first, to)


@router.get("/use-cases/{use_case}/releases")
def get_releases(use_case: Released) -> Releases:
    """Tell who was in charge, and what every version had to show for itself."""
    return releases(use_case)


@router.get("/use-cases/{use_case}/quality")
def get_quality(use_case: Ingested, first: From = None, to: To = None) -> Quality:
    """Tell what became of the rows that were delivered."""
    return quality(use_case, first, to)


@router.get("/use-cases/{use_case}/quarantine")
def get_quarantine(
    use_case: Ingested, table: Text, rule: Text, first: From = None, to: To = None
) -> Samples:
    """Show some rows that broke a rule."""
    return samples(use_case, table, rule, first, to)


@router.get("/use-cases/{use_case}/entities")
def get_entities(use_case: Scored, like: Text = "") -> list[str]:
    """Suggest keys."""
    return suggest(use_case, like)


@router.get("/use-cases/{use_case}/entities/{key}")
def get_entity(use_case: Scored, key: str, to: To = None) -> Entity:
    """Tell what is known of one entity."""
    return entity(use_case, key, to)


@router.get("/use-cases/{use_case}/lineage/{day}/{key}")
def get_lineage(use_case: Scored, day: date, key: str) -> Lineage:
    """Tell what a score was made of."""
    return lineage(use_case, day, key)


@router.get("/dag-runs/{dag_id}/{run_id}")
def get_run(dag_id: str, run_id: str, request: Request, user: GetUserDep) -> RunReceipts:
    """Tell what a run of a DAG has published."""
    require_read(dag_id, request, user)
    found = runs.find_run(dag_id, run_id)
    if found is None:
        raise HTTPException(404, f"{dag_id} has no run {run_id!r}.")
    name, _, stage = dag_id.rpartition("_")
    if name not in list_use_cases() or stage not in _STAGES:
        note = "This DAG belongs to no use case; its runs leave no receipts."
        return RunReceipts(dag_id, run_id, "", found.what, [], note)
    if found.begun is None:
        note = "The run has not begun, so no receipt is its own."
        return RunReceipts(dag_id, run_id, name, found.what, [], note)
    use_case = load_use_case(name)
    return run_receipts(use_case, dag_id, run_id, found.what, found.begun, found.ended)


def _entry(use_case: UseCase, user: GetUserDep) -> UseCaseEntry:
    dags = _dags(use_case)
    return UseCaseEntry(
        use_case.name,
        use_case.title,
        use_case.zone,
        "",
        sorted(dag_id for dag_id in dags.values() if may_trigger(dag_id, user)),
        dags,
    )


def _dags(use_case: UseCase) -> dict[str, str]:
    """Return the DAGs of a use case that Airflow has, by stage; some are those it builds on."""
    base = use_case.base or use_case.name
    wanted = {
        stage: f"{base if stage in ('ingest', 'features') else use_case.name}_{stage}"
        for stage in _STAGES
    }
    known = runs.find_dags(wanted.values())
    return {stage: dag_id for stage, dag_id in wanted.items() if dag_id in known}
