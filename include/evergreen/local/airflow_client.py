"""A small typed client of Airflow's REST API: what driving a chain of runs from outside needs."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from typing import Any, Literal
from urllib.parse import quote, urlencode

from evergreen.errors import NotReadyError, PermanentError, ServiceDownError, TransientError
from evergreen.local.airflow import Instance

Json = dict[str, Any]

_PAGE = 100
_FINISHED = frozenset({"success", "failed"})


@dataclass(frozen=True)
class Run:
    """One DAG run; instants are aware, UTC, None while they lie ahead."""

    dag_id: str
    run_id: str
    run_type: str
    state: str
    partition_key: str | None
    started_at: datetime | None
    ended_at: datetime | None
    conf: Json

    @property
    def finished(self) -> bool:
        """Whether the run has succeeded or failed."""
        return self.state in _FINISHED


@dataclass(frozen=True)
class Task:
    """One task instance of a run; `map_index` is -1 for a task that is not mapped."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    duration_seconds: float | None


@dataclass(frozen=True)
class AssetEvent:
    """One event of an asset, and the runs it went into."""

    asset: str
    partition_key: str | None
    extra: Json
    at: datetime
    source_dag_id: str | None
    source_run_id: str | None
    run_ids: tuple[str, ...]


class AirflowClient:
    """Talks to one running Airflow.

    Parameters
    ----------
    instance
        As `evergreen.local.airflow.start` or `find` returned it.

    Notes
    -----
    Every method raises `ServiceDownError` when Airflow does not answer and `PermanentError`, with
    Airflow's own words, when it refuses.
    """

    def __init__(self, instance: Instance) -> None:
        self._url = instance.url
        self._login = {"username": instance.username, "password": instance.password}
        self._token: str | None = None

    # --- DAGs ---

    def wait_for_dags(self, *dag_ids: str, timeout_seconds: float = 120) -> None:
        """Wait until the DAG processor has parsed all of these DAGs.

        Raises
        ------
        NotReadyError
            Some are missing at the end, or a file cannot be imported; the message tells which.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            known = {dag["dag_id"] for dag in self._all("/dags", "dags")}
            if missing := sorted(set(dag_ids) - known):
                if errors := self.import_errors():
                    raise NotReadyError(
                        f"DAGs {missing} are missing and files cannot be imported: "
                        + "\n".join(f"{name}:\n{trace}" for name, trace in errors.items())
                    )
                if time.monotonic() > deadline:
                    raise NotReadyError(
                        f"After {timeout_seconds:.0f} s Airflow knows no DAGs {missing}, "
                        f"only {sorted(known)}. Check the DAG folder."
                    )
                time.sleep(0.5)
            else:
                return

    def import_errors(self) -> dict[str, str]:
        """Stack traces of the DAG files that cannot be imported, by file name."""
        errors = self._all("/importErrors", "import_errors")
        return {error["filename"]: error["stack_trace"] for error in errors}

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        """Pause or unpause a DAG."""
        self._call("PATCH", f"/dags/{quote(dag_id)}", {"is_paused": paused})

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run; a paused one queues runs for ever and receives no asset events."""
        self.set_paused(dag_id, paused=False)

    # --- runs ---

    def trigger(
        self,
        dag_id: str,
        *,
        conf: Json | None = None,
        partition_key: str | None = None,
        run_id: str | None = None,
    ) -> Run:
        """Create a run by hand and return it, queued."""
        body: Json = {"logical_date": None, "conf": conf or {}}
        if partition_key is not None:
            body["partition_key"] = partition_key
        if run_id is not None:
            body["dag_run_id"] = run_id
        return _run(self._call("POST", f"/dags/{quote(dag_id)}/dagRuns", body))

    def run(self, dag_id: str, run_id: str) -> Run:
        """One run as it stands now."""
        return _run(self._call("GET", f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"))

    def runs(self, dag_id: str, *, state: str | None = None) -> list[Run]:
        """All runs of a DAG, oldest first; optionally only those in one state."""
        query = {"order_by": "id"} | ({"state": state} if state else {})
        found = self._all(f"/dags/{quote(dag_id)}/dagRuns", "dag_runs", query)
        return [_run(item) for item in found]

    def wait(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout_seconds: float,
        poll_seconds: float = 0.5,
    ) -> Run:
        """Wait until a run has succeeded or failed, and return it; the caller judges the state.

        Raises
        ------
        TransientError
            It is not finished in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not (run := self.run(dag_id, run_id)).finished:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Run {run_id} of {dag_id} is {run.state} after {timeout_seconds:.0f} s; "
                    f"expected success or failed. Look at it: {self._url}/dags/{dag_id}"
                )
            time.sleep(poll_seconds)
        return run

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        """Task instances of a run, mapped ones each on its own."""
        found = self._all(f"{_run_path(dag_id, run_id)}/taskInstances", "task_instances")
        return [
            Task(
                task_id=item["task_id"],
                map_index=item["map_index"],
                state=item["state"],
                try_number=item["try_number"],
                duration_seconds=item["duration"],
            )
            for item in found
        ]

    def xcom(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *,
        key: str = "return_value",
        map_index: int = -1,
    ) -> Any:
        """Return value of a task (or another XCom of it), as JSON values."""
        path = (
            f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/{quote(key)}"
        )
        return self._call("GET", f"{path}?{urlencode({'map_index': map_index})}")["value"]

    def log(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> str:
        """Log of one try of a task, one event a line."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/logs/{try_number}"
        answer = self._call("GET", f"{path}?{urlencode({'map_index': map_index})}")
        content = answer["content"]
        if isinstance(content, str):
            return content
        return "\n".join(_log_line(item) for item in content)

    # --- backfills, assets ---

    def backfill(
        self,
        dag_id: str,
        first: date,
        last: date,
        *,
        max_active_runs: int = 1,
        reprocess: Literal["none", "failed", "completed"] = "none",
        conf: Json | None = None,
    ) -> int:
        """Create a backfill over partition days, both ends included; returns its id.

        Parameters
        ----------
        first, last
            Days of the partitions, at their midnight UTC.
        reprocess
            What to do with days that have a run already.
        """
        body = {
            "dag_id": dag_id,
            "from_date": datetime.combine(first, time_of_day(), UTC).isoformat(),
            "to_date": datetime.combine(last, time_of_day(), UTC).isoformat(),
            "max_active_runs": max_active_runs,
            "reprocess_behavior": reprocess,
            "dag_run_conf": conf,
        }
        return int(self._call("POST", "/backfills", body)["id"])

    def wait_for_backfill(
        self, backfill_id: int, *, timeout_seconds: float, poll_seconds: float = 0.5
    ) -> None:
        """Wait until a backfill's own runs are all finished; what they set off may still run.

        Raises
        ------
        TransientError
            It is not finished in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while self._call("GET", f"/backfills/{backfill_id}")["completed_at"] is None:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Backfill {backfill_id} is not complete after {timeout_seconds:.0f} s. "
                    f"Look at it: {self._url}"
                )
            time.sleep(poll_seconds)

    def asset_events(self, name_prefix: str = "") -> list[AssetEvent]:
        """Events of the assets whose name begins so, oldest first."""
        query = {"order_by": "timestamp"}
        if name_prefix:
            query["name_prefix_pattern"] = name_prefix
        return [
            AssetEvent(
                asset=item["name"] or item["uri"],
                partition_key=item["partition_key"],
                extra=item["extra"] or {},
                at=datetime.fromisoformat(item["timestamp"]),
                source_dag_id=item["source_dag_id"],
                source_run_id=item["source_run_id"],
                run_ids=tuple(run["run_id"] for run in item["created_dagruns"]),
            )
            for item in self._all("/assets/events", "asset_events", query)
        ]

    # --- plumbing ---

    def _all(self, path: str, key: str, query: Mapping[str, str] | None = None) -> list[Json]:
        found: list[Json] = []
        while True:
            page = {**(query or {}), "limit": str(_PAGE), "offset": str(len(found))}
            items = self._call("GET", f"{path}?{urlencode(page)}")[key]
            found += items
            if len(items) < _PAGE:
                return found

    def _call(self, method: str, path: str, body: Json | None = None) -> Json:
        if self._token is None:
            self._token = self._send("POST", "/auth/token", self._login)["access_token"]
        try:
            return self._send(method, f"/api/v2{path}", body)
        except _UnauthorizedError:
            # Tokens live for a day, an instance for longer.
            self._token = self._send("POST", "/auth/token", self._login)["access_token"]
            return self._send(method, f"/api/v2{path}", body)

    def _send(self, method: str, path: str, body: Json | None) -> Json:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                decoded: Json = json.load(answer)
                return decoded
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")
            if error.code == 401:
                raise _UnauthorizedError(f"Airflow refused the login: {detail}") from error
            kind = ServiceDownError if error.code >= 500 else PermanentError
            raise kind(f"{method} {path}: Airflow answered {error.code}: {detail}") from error
        except (OSError, ValueError) as error:
            raise ServiceDownError(
                f"Airflow does not answer at {self._url}: {error}. Start it with `make up`."
            ) from error


class _UnauthorizedError(PermanentError):
    """The token has expired, or the password is wrong."""


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _run(item: Json) -> Run:
    return Run(
        dag_id=item["dag_id"],
        run_id=item["dag_run_id"],
        run_type=item["run_type"],
        state=item["state"],
        partition_key=item["partition_key"],
        started_at=_instant(item["start_date"]),
        ended_at=_instant(item["end_date"]),
        conf=item["conf"] or {},
    )


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _log_line(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    line = " ".join(str(item[key]) for key in ("timestamp", "level", "event") if item.get(key))
    # An exception travels beside the event: one entry per link of its chain, the newest first.
    for error in item.get("error_detail") or []:
        line += f"\n{error.get('exc_type')}: {error.get('exc_value')}"
    return line
