"""A small typed client of Airflow's REST API: what driving runs from outside needs.

Airflow's own client, which is generated, takes 1.4 s to import, and leaves to its user what is most
of this module: logging in anew, reading page after page, and telling errors apart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import Field, TypeAdapter

from evergreen.errors import (
    ConfigError,
    EvergreenError,
    NotReadyError,
    PermanentError,
    ServiceDownError,
)
from evergreen.ops.local.airflow_environment import WATCHER, password_file
from evergreen.settings import Settings, secret

Json = dict[str, Any]
_Kind = TypeVar("_Kind")

_PAGE = 100


@dataclass(frozen=True)
class Run:
    """One DAG run; instants are aware, None while they lie ahead.

    `triggering_user_name` is None for a run that nobody asked for; `triggered_by` says what did.
    """

    dag_id: str
    run_id: Annotated[str, Field(validation_alias="dag_run_id")]
    run_type: str
    state: str
    partition_key: str | None
    started_at: Annotated[datetime | None, Field(validation_alias="start_date")]
    queued_at: datetime | None = None
    run_after: datetime | None = None
    triggered_by: str | None = None
    triggering_user_name: str | None = None
    conf: Json | None = field(default=None, hash=False)

    @property
    def finished(self) -> bool:
        """Whether the run has succeeded or failed."""
        return self.state in ("success", "failed")


@dataclass(frozen=True)
class Task:
    """One task instance of a run; `map_index` is -1 for a task that is not mapped."""

    dag_id: str
    run_id: Annotated[str, Field(validation_alias="dag_run_id")]
    task_id: str
    map_index: int
    state: str | None
    try_number: int
    duration_seconds: Annotated[float | None, Field(validation_alias="duration")]


@dataclass(frozen=True)
class Answer:
    """What was answered to a task that asks people; `user` is None if time was up."""

    dag_id: str
    run_id: str
    task_id: str
    partition_key: str | None
    user: str | None
    responded_at: datetime
    chosen_options: list[str]


@dataclass(frozen=True)
class Request:
    """One line of Airflow's own audit log that is about a request of a user."""

    when: datetime
    event: str
    owner: str | None
    dag_id: str | None
    task_id: str | None
    run_id: str | None


@dataclass(frozen=True)
class AssetEvent:
    """One event of an asset, and the runs it went into: their DAGs and ids."""

    asset: str
    runs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Dag:
    """What starting a run of a DAG must know; `params` are JSON schemas by name."""

    dag_id: str
    is_paused: bool
    is_partitioned: Annotated[bool, Field(validation_alias="timetable_partitioned")]
    is_backfillable: bool
    max_active_runs: int
    params: dict[str, Json]


def connect(settings: Settings) -> AirflowClient:
    """Return a client of the configured Airflow, else of the embedded one.

    Raises
    ------
    ServiceDownError
        None is configured and the embedded one does not run.
    """
    from evergreen.ops.local.airflow import find

    if settings.airflow_api:
        return AirflowClient(settings.airflow_api.rstrip("/"), secret("airflow"))
    instance = find(settings)
    if instance is None:
        raise ServiceDownError(
            f"Airflow does not run in {settings.home}. Start it with `make up`, or set "
            "EVERGREEN_AIRFLOW_API and EVERGREEN_SECRET_AIRFLOW to one that runs elsewhere."
        )
    return AirflowClient(instance.url, f"{instance.username}:{instance.password}")


def connect_to_read(settings: Settings) -> AirflowClient:
    """Return a client of the configured Airflow, else of the embedded one as who may only read.

    Raises
    ------
    ServiceDownError
        None is configured and the embedded one does not run.
    """
    client = connect(settings)
    if settings.airflow_api:
        return client
    password = json.loads(password_file(settings).read_text())[WATCHER]
    return AirflowClient(client.url, f"{WATCHER}:{password}")


class AirflowClient:
    """Talks to one running Airflow.

    Parameters
    ----------
    url
        Base URL of UI and API, without a slash at the end.
    login
        `user:password`, or a bearer token.

    Notes
    -----
    Every method raises `ServiceDownError` when Airflow does not answer and `PermanentError`, with
    Airflow's own words, when it refuses.
    """

    def __init__(self, url: str, login: str) -> None:
        self.url = url
        # A proxy knows nothing of this machine's loopback.
        local = httpx.URL(url).host in ("127.0.0.1", "localhost")
        self._login = _Login(url, login)
        self._http = httpx.Client(base_url=url, auth=self._login, timeout=60, trust_env=not local)

    def token(self) -> str:
        """Return a token that Airflow accepts now."""
        self._call("GET", "/dags", params={"limit": 1})
        return self._login.token

    # --- DAGs ---

    def dag(self, dag_id: str) -> Dag:
        """Return one DAG.

        Raises
        ------
        ConfigError
            There is none with this name.
        """
        try:
            found = self._call("GET", f"{_path(dag_id)}/details")
        except _MissingError as error:
            known = ", ".join(self.dag_ids())
            raise ConfigError(f"There is no DAG {dag_id!r}; Airflow knows {known}.") from error
        params = found["params"] or {}
        return _as(Dag, {**found, "params": {name: params[name]["schema"] for name in params}})

    def dag_ids(self) -> list[str]:
        """Names of all DAGs, sorted."""
        return sorted(dag["dag_id"] for dag in self._all("/dags", "dags"))

    def wait_for_dags(self, *dag_ids: str, timeout_seconds: float = 120) -> None:
        """Wait until the DAG processor has parsed all of these DAGs.

        Raises
        ------
        NotReadyError
            Some are missing at the end, or a file cannot be imported; the message tells which.
        """
        deadline = time.monotonic() + timeout_seconds
        while missing := sorted(set(dag_ids) - set(known := self.dag_ids())):
            if errors := self._all("/importErrors", "import_errors"):
                raise NotReadyError(
                    f"DAGs {missing} are missing and files cannot be imported: "
                    + "\n".join(f"{e['filename']}:\n{e['stack_trace']}" for e in errors)
                )
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"After {timeout_seconds:.0f} s Airflow knows no DAGs {missing}, "
                    f"only {known}. Check the DAG folder."
                )
            time.sleep(0.5)

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        """Pause a DAG, or let it run; a paused one queues runs and receives no asset events."""
        self._call("PATCH", _path(dag_id), json={"is_paused": paused})

    def consumers(self) -> dict[str, list[str]]:
        """DAGs that each asset's events start, by the asset's name."""
        assets = self._all("/assets", "assets")
        return {a["name"]: [dag["dag_id"] for dag in a["scheduled_dags"]] for a in assets}

    # --- runs ---

    def trigger(
        self, dag_id: str, *, conf: Json | None = None, partition_key: str | None = None
    ) -> Run:
        """Create a run by hand and return it, queued."""
        body = {"logical_date": None, "conf": conf or {}, "partition_key": partition_key}
        return _as(Run, self._call("POST", f"{_path(dag_id)}/dagRuns", json=body))

    def backfill(self, request: Json) -> int:
        """Create a backfill (see `commands.backfill_request`); returns its id."""
        return int(self._call("POST", "/backfills", json=request)["id"])

    def run(self, dag_id: str, run_id: str) -> Run:
        """One run as it stands now."""
        return _as(Run, self._call("GET", _path(dag_id, run_id)))

    def runs(self, dag_id: str = "~", **query: str) -> list[Run]:
        """All runs of a DAG (of all DAGs by default), oldest first.

        Parameters
        ----------
        query
            Filters of Airflow's API, such as `state`, `partition_date_gte`, `start_date_gte`.
        """
        query = {"order_by": "id", **query}
        return _as(list[Run], self._all(f"{_path(dag_id)}/dagRuns", "dag_runs", query))

    def events(self, dag_id: str, run_id: str) -> list[AssetEvent]:
        """Events of assets that a run has sent, oldest first."""
        query = {"order_by": "timestamp", "source_dag_id": dag_id, "source_run_id": run_id}
        return [
            AssetEvent(
                item["name"] or item["uri"],
                tuple((run["dag_id"], run["run_id"]) for run in item["created_dagruns"]),
            )
            for item in self._all("/assets/events", "asset_events", query)
        ]

    def answers(self) -> list[Answer]:
        """All that was answered to tasks that ask people."""
        path, query = f"{_path('~', '~')}/hitlDetails", {"response_received": "true"}
        return [
            Answer(
                *(task["dag_id"], task["dag_run_id"], task["task_id"]),
                self.run(task["dag_id"], task["dag_run_id"]).partition_key,
                (item["responded_by_user"] or {}).get("name"),
                datetime.fromisoformat(item["responded_at"]),
                item["chosen_options"] or [],
            )
            for item in self._all(path, "hitl_details", {"order_by": "created_at", **query})
            for task in [item["task_instance"]]
        ]

    def requests(self, since: datetime) -> list[Request]:
        """Return what users have changed, by the API and by the command line."""
        query = {"order_by": "id", "after": since.isoformat()}
        # Whatever tasks have come to is in the same log; of requests it has the method.
        return [
            _as(Request, item)
            for item in self._all("/eventLogs", "event_logs", query)
            if item["event"].startswith("cli_") or _changes(item["extra"])
        ]

    def tasks(self, dag_id: str, run_id: str, **query: str) -> list[Task]:
        """Task instances of a run, mapped ones each on its own."""
        path = f"{_path(dag_id, run_id)}/taskInstances"
        return _as(list[Task], self._all(path, "task_instances", query))

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return value of a task, as JSON values."""
        path = f"{_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/return_value"
        return self._call("GET", path)["value"]

    def log(self, task: Task) -> str:
        """Log of the newest try of a task, one event a line."""
        path = f"{_path(task.dag_id, task.run_id)}/taskInstances/{quote(task.task_id)}"
        query = {"map_index": task.map_index}
        content = self._call("GET", f"{path}/logs/{task.try_number}", params=query)["content"]
        return content if isinstance(content, str) else "\n".join(map(_log_line, content))

    # --- plumbing ---

    def _all(self, path: str, key: str, query: dict[str, str] | None = None) -> list[Json]:
        found: list[Json] = []
        while True:
            page = {**(query or {}), "limit": _PAGE, "offset": len(found)}
            items = self._call("GET", path, params=page)[key]
            found += items
            if len(items) < _PAGE:
                return found

    def _call(self, method: str, path: str, **request: Any) -> Json:
        try:
            answer = self._http.request(method, f"/api/v2{path}", **request)
            if answer.is_success:
                decoded: Json = answer.json()
                return decoded
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceDownError(
                f"Airflow does not answer at {self.url}: {error}. Start it with `make up`."
            ) from error
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise PermanentError(f"Airflow refused the login: {answer.text}")
        kinds: dict[int, type[EvergreenError]] = {404: _MissingError, 409: ConflictError}
        other = ServiceDownError if answer.is_server_error else PermanentError
        raise kinds.get(answer.status_code, other)(
            f"{method} {path}: Airflow answered {answer.status_code}: {answer.text}"
        )


class ConflictError(PermanentError):
    """Something else stands in the way, such as another backfill of the DAG."""


class _MissingError(PermanentError):
    """What was asked for does not exist."""


class _Login(httpx.Auth):
    """Sends a token, and logs in for one when it is refused: they live for a day."""

    requires_response_body = True

    def __init__(self, url: str, login: str) -> None:
        self._url = f"{url}/auth/token"
        username, separator, password = login.partition(":")
        self._user = {"username": username, "password": password} if separator else None
        self.token = "" if separator else login

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        answer = yield request
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._user:
            granted = yield httpx.Request("POST", self._url, json=self._user)
            if granted.is_success:
                self.token = granted.json()["access_token"]
                request.headers["Authorization"] = f"Bearer {self.token}"
                yield request


def _as(kind: type[_Kind], answer: Any) -> _Kind:
    return TypeAdapter(kind).validate_python(answer)


def _path(dag_id: str, run_id: str | None = None) -> str:
    path = f"/dags/{quote(dag_id, safe='~')}"
    return path if run_id is None else f"{path}/dagRuns/{quote(run_id, safe='~')}"


def _changes(extra: str | None) -> bool:
    try:
        asked = json.loads(extra or "null")
    except ValueError:
        return False
    return isinstance(asked, dict) and asked.get("method", "GET") != "GET"


def _log_line(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    line = " ".join(str(item[key]) for key in ("timestamp", "level", "event") if item.get(key))
    # An exception travels beside the event: one entry per link of its chain, the newest first.
    for error in item.get("error_detail") or []:
        line += f"\n{error.get('exc_type')}: {error.get('exc_value')}"
    return line
