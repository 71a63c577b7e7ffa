"""What Airflow knows of runs: which days wait, run or have failed, and what one run was for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from airflow.models import DagRun
from airflow.models.dag import DagModel
from airflow.utils.session import create_session
from sqlalchemy import select

from evergreen.contract import parse_day
from evergreen.errors import ConfigError


@dataclass(frozen=True)
class DayRun:
    """The newest run of a DAG for a day, if it is no success."""

    dag_id: str
    day: date
    run_id: str
    state: Literal["failed", "running", "queued"]


@dataclass(frozen=True)
class RunFacts:
    """What a run was for (a day or period; empty if neither), and when it was at work."""

    what: str
    begun: datetime | None
    ended: datetime | None


def find_dags(dag_ids: Collection[str]) -> dict[str, int]:
    """Return those of the DAGs that Airflow has, and how many runs of each may be active."""
    query = select(DagModel.dag_id, DagModel.max_active_runs).where(
        DagModel.dag_id.in_(dag_ids), DagModel.is_stale.is_(False)
    )
    with create_session() as session:
        return dict(map(tuple, session.execute(query)))


def unfinished_days(dag_ids: Collection[str], first: date, last: date) -> list[DayRun]:
    """Return the days on which the newest run of a DAG waits, is at work, or has failed."""
    query = (
        select(DagRun.dag_id, DagRun.partition_key, DagRun.run_id, DagRun.state)
        .where(
            DagRun.dag_id.in_(dag_ids),
            DagRun.partition_key >= first.isoformat(),
            DagRun.partition_key <= last.isoformat(),
        )
        .order_by(DagRun.id)
    )
    with create_session() as session:
        newest = {(row.dag_id, row.partition_key): row for row in session.execute(query)}
    return [
        DayRun(row.dag_id, parse_day(row.partition_key), row.run_id, row.state)
        for row in newest.values()
        if row.state != "success" and _is_day(row.partition_key)
    ]


def find_run(dag_id: str, run_id: str) -> RunFacts | None:
    """Return what a run was for; None if there is no such run."""
    columns = DagRun.partition_key, DagRun.conf, DagRun.start_date, DagRun.end_date
    query = select(*columns).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    with create_session() as session:
        found = session.execute(query).one_or_none()
    if found is None:
        return None
    return RunFacts(found.partition_key or _of(found.conf or {}), found.start_date, found.end_date)


def _of(conf: Any) -> str:
    if conf.get("from") and conf.get("to"):
        return conf["from"] if conf["from"] == conf["to"] else f"{conf['from']}..{conf['to']}"
    return str(conf.get("day") or "")


def _is_day(text: str) -> bool:
    try:
        parse_day(text)
    except ConfigError:
        return False
    return True
