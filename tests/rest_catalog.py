"""A server of the Iceberg REST protocol, as strict as the specification, over a catalog in SQLite.

It knows the endpoints that are asked here, and says so; whoever asks for more, or sends a field it
does not know, is refused.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from pyiceberg import exceptions
from pyiceberg.catalog.rest import CreateTableRequest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import CommitTableRequest, Table
from sqlalchemy.exc import IntegrityError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "catalog-token-5up3r"
USER, PASSWORD = "somebody", "catalog-password-5up3r"

_STATUS = {
    exceptions.NoSuchNamespaceError: 404,
    exceptions.NoSuchTableError: 404,
    exceptions.NamespaceAlreadyExistsError: 409,
    exceptions.NamespaceNotEmptyError: 409,
    exceptions.TableAlreadyExistsError: 409,
    exceptions.CommitFailedException: 409,
    ValueError: 400,
}


class _Catalog(SqlCatalog):
    def load_table(self, identifier: Any) -> Table:
        # Commits beside this one may have removed the file that was named a moment ago.
        for _ in range(50):
            try:
                return super().load_table(identifier)
            except FileNotFoundError:
                time.sleep(0.01)
        raise AssertionError(identifier)


class RestCatalogServer:
    """A running server, until `stop`; `start` begins again at the same place.

    Parameters
    ----------
    folder
        Gets its database, and the tables unless `warehouse` says otherwise.
    """

    def __init__(self, folder: Path, warehouse: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.warehouse = warehouse or str(folder / "warehouse")
        self._catalog = _Catalog(
            "served",
            uri=f"sqlite:///{folder / 'catalog.db'}",
            warehouse=self.warehouse,
            **{"py-io-impl": "evergreen.lake.sealed.LakeFileIO"},
        )
        self._port = 0
        self.asked: list[str] = []
        # Once, of the next commit: what is answered instead of doing it, or after it was done.
        self.before: Callable[[], Response] | None = None
        self.after: Callable[[], Response] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/catalog"

    def declare(self, patch: pytest.MonkeyPatch, token: str = TOKEN) -> None:
        """Let the tables of the environment be here."""
        patch.setenv("PYICEBERG_CATALOG__EVERGREEN__URI", self.url)
        patch.setenv("PYICEBERG_CATALOG__EVERGREEN__TOKEN", token)
        patch.setenv("PYICEBERG_CATALOG__EVERGREEN__OAUTH2_SERVER_URI", f"{self.url}/none")

    def start(self) -> None:
        config = uvicorn.Config(
            Starlette(routes=self._routes()),
            host="127.0.0.1",
            port=self._port,
            log_level="error",
            lifespan="off",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    def _routes(self) -> list[Route]:
        space = "/v1/main/namespaces/{namespace}"
        table = f"{space}/tables/{{table}}"
        served: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", "/v1/main/namespaces", self._list_namespaces),
            ("POST", "/v1/main/namespaces", self._create_namespace),
            ("GET", space, self._load_namespace),
            ("POST", f"{space}/properties", self._update_namespace),
            ("GET", f"{space}/tables", self._list_tables),
            ("POST", f"{space}/tables", self._create_table),
            ("GET", table, self._load_table),
            ("POST", table, self._commit),
            ("DELETE", table, self._drop_table),
        ]
        endpoints = [f"{verb} {path.replace('/main/', '/{prefix}/')}" for verb, path, _ in served]
        config = {"defaults": {}, "overrides": {"prefix": "main"}, "endpoints": endpoints}
        routes = [("GET", "/v1/config", lambda: config), *served]
        return [
            Route(f"/catalog{path}", self._answering(call), methods=[verb])
            for verb, path, call in routes
        ]

    def _answering(self, call: Callable[..., Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            self.asked.append(f"{request.method} {request.url.path}")
            basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if request.headers.get("Authorization") not in (f"Bearer {TOKEN}", f"Basic {basic}"):
                return _error(401, "NotAuthorizedException", "The credentials are not known.")
            given = dict(request.path_params)
            if request.method == "POST":
                given["body"] = await request.json()
            if request.method == "DELETE":
                assert dict(request.query_params) == {"purgeRequested": "False"}
            elif request.query_params:
                return _error(400, "BadRequestException", f"unknown: {request.query_params}")
            try:
                found = await run_in_threadpool(call, **given)
            except tuple(_STATUS) as error:
                status = next(code for kind, code in _STATUS.items() if isinstance(error, kind))
                return _error(status, type(error).__name__, str(error))
            return found if isinstance(found, Response) else JSONResponse(found)

        return answer

    def _list_namespaces(self) -> Any:
        return {"namespaces": self._catalog.list_namespaces()}

    def _create_namespace(self, body: dict[str, Any]) -> Any:
        _require(body, {"namespace", "properties"})
        try:
            self._catalog.create_namespace(tuple(body["namespace"]), body["properties"])
        except IntegrityError as error:
            # By another request, at once.
            raise exceptions.NamespaceAlreadyExistsError(str(body["namespace"])) from error
        return body

    def _load_namespace(self, namespace: str) -> Any:
        found = self._catalog.load_namespace_properties((namespace,))
        return {"namespace": [namespace], "properties": found}

    def _update_namespace(self, namespace: str, body: dict[str, Any]) -> Any:
        _require(body, {"removals", "updates"})
        done = self._catalog.update_namespace_properties(
            (namespace,), set(body["removals"]), body["updates"]
        )
        return {"removed": done.removed, "updated": done.updated, "missing": done.missing}

    def _list_tables(self, namespace: str) -> Any:
        self._catalog.load_namespace_properties((namespace,))
        found = self._catalog.list_tables((namespace,))
        return {"identifiers": [{"namespace": [n], "name": name} for n, name in found]}

    def _create_table(self, namespace: str, body: dict[str, Any]) -> Any:
        fields = {"name", "schema", "partition-spec", "write-order", "stage-create", "properties"}
        _require(body, fields)
        asked = CreateTableRequest.model_validate({"location": None, **body})
        assert asked.stage_create, "tables are created by a commit"
        self._catalog.load_namespace_properties((namespace,))
        if self._catalog.table_exists((namespace, asked.name)):
            raise exceptions.TableAlreadyExistsError(asked.name)
        staged = self._catalog._create_staged_table(
            (namespace, asked.name),
            asked.table_schema,
            None,
            asked.partition_spec,
            asked.write_order,
            asked.properties,
        )
        return {"metadata": json.loads(staged.metadata.model_dump_json()), "config": {}}

    def _load_table(self, namespace: str, table: str) -> Any:
        found = self._catalog.load_table((namespace, table))
        return _as_answer(found.metadata_location, found.metadata) | {"config": {}}

    def _commit(self, namespace: str, table: str, body: dict[str, Any]) -> Any:
        _require(body, {"identifier", "requirements", "updates"})
        asked = CommitTableRequest.model_validate(body)
        assert body["identifier"] == {"namespace": [namespace], "name": table}
        if answer := self._once("before"):
            return answer
        # It knows the table it is about by its name alone.
        named: Any = Table((namespace, table), None, "", None, self._catalog)  # type: ignore[arg-type]
        done = self._catalog.commit_table(named, asked.requirements, asked.updates)
        return self._once("after") or _as_answer(done.metadata_location, done.metadata)

    def _once(self, when: str) -> Response | None:
        answer = getattr(self, when)
        setattr(self, when, None)
        return answer() if answer else None

    def _drop_table(self, namespace: str, table: str) -> Response:
        self._catalog.drop_table((namespace, table))
        return Response(status_code=204)


@pytest.fixture
def catalog_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[RestCatalogServer]:
    """Let tables be in a catalog that keeps its files beside the data directory."""
    server = RestCatalogServer(tmp_path / "elsewhere")
    server.declare(monkeypatch)
    yield server
    server.stop()


def _require(body: dict[str, Any], fields: set[str]) -> None:
    if body.keys() != fields:
        raise ValueError(f"fields {sorted(body)}, expected {sorted(fields)}")


def _as_answer(location: str, metadata: Any) -> dict[str, Any]:
    return {"metadata-location": location, "metadata": json.loads(metadata.model_dump_json())}


def _error(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)
