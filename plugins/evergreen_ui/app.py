"""The application: pages for browsers, JSON for the pages, errors for people."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.gzip import GZipMiddleware

from evergreen.contract import UseCase, load_all
from evergreen.errors import (
    ConfigError,
    EvergreenError,
    NotReadyError,
    ServiceDownError,
)
from evergreen.ops import metrics
from evergreen.settings import load_settings
from evergreen.training.tracking import fetch_card
from evergreen_ui import files
from evergreen_ui.access import may_open_the_ui, may_read, reading
from evergreen_ui.api import router

logger = logging.getLogger(__name__)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}
# Our pages run our scripts and ask our origin, nothing else.
_PAGES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)
# Validation results quote source data. Whatever they quote, no such page runs it, loads anything
# from elsewhere, or is shown inside a foreign page.
_DOCUMENTS = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
# Below these paths lie documents; everything else is ours.
_OF_DOCUMENTS = ("/data-docs/", "/nights/", "/cards/")
# Assets whose names change with their content.
_FOREVER = "private, max-age=31536000, immutable"
_STATUS = {ConfigError: 400, NotReadyError: 404, ServiceDownError: 503}


def build_app() -> FastAPI:
    """Make the web application.

    Every route is behind Airflow's authentication (bearer token or session cookie): 401 without
    either, 403 for a user who may not open Airflow's UI, or not read the DAG that it is about.
    """
    app = FastAPI(
        title="Evergreen",
        dependencies=[may_open_the_ui],
        # These would be served to everybody.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # A redirect names scheme and host, and behind a proxy it names the wrong ones.
        redirect_slashes=False,
    )
    app.include_router(router)
    for path in ("/", "/use-cases/{use_case}/{page}", "/runs/{dag_id}/{run_id}"):
        app.get(path, response_class=HTMLResponse)(_page)
    app.get("/assets/{path:path}", response_class=FileResponse)(_asset)
    app.get("/data-docs/{use_case}/{path:path}", response_class=HTMLResponse)(_data_docs)
    app.get("/nights/{use_case}/{day}", response_class=HTMLResponse)(_night)
    app.get("/cards/{use_case}/{version}", response_class=HTMLResponse)(_card)
    app.get("/metrics")(_metrics)
    app.exception_handler(AnyHTTPException)(_refuse)
    app.exception_handler(RequestValidationError)(_refuse_input)
    app.exception_handler(EvergreenError)(_explain)
    app.exception_handler(SQLAlchemyError)(_explain)
    app.middleware("http")(_harden)
    app.add_middleware(GZipMiddleware, minimum_size=2_000, compresslevel=5)
    return app


# --- pages ---------------------------------------------------------------------------------------


def _page(request: Request) -> HTMLResponse:
    base = f"{request.scope.get('root_path', '')}/"
    return HTMLResponse(_index().replace("__BASE__", base))


def _asset(path: str) -> FileResponse:
    found = files.find_asset(path)
    if found is None:
        raise HTTPException(404, f"There is no file {path!r}.")
    # The card for Airflow's dashboard keeps its name.
    headers = {"Cache-Control": _FOREVER} if "-" in found.stem else {}
    return FileResponse(found, headers=headers)


def _data_docs(use_case: str, path: str, _: Annotated[UseCase, Depends(reading("ingest"))]) -> str:
    found = files.find_page(use_case, path)
    if found is None:
        raise HTTPException(404, f"There is no page {path!r} in the Data Docs of {use_case!r}.")
    return found.read_text(encoding="utf-8")


def _night(use_case: str, day: str, _: Annotated[UseCase, Depends(reading("monitor"))]) -> str:
    found = files.find_report(use_case, day)
    if found is None:
        raise HTTPException(404, files.without_report(use_case, day))
    return found.read_text(encoding="utf-8")


def _card(version: int, use_case: Annotated[UseCase, Depends(reading("release"))]) -> str:
    return fetch_card(use_case, version, "html")


def _metrics(user: GetUserDep) -> Response:
    """Tell Prometheus of the use cases whose nights the user may read."""
    found, broken = load_all()
    text = metrics.render(
        [use_case for use_case in found if may_read(f"{use_case.name}_monitor", user)],
        [name for name in broken if may_read(f"{name}_monitor", user)],
        load_settings(),
    )
    return Response(text, media_type=metrics.CONTENT_TYPE)


@cache
def _index() -> str:
    return (files.DIST / "index.html").read_text(encoding="utf-8")


# --- errors --------------------------------------------------------------------------------------


def _wants_json(request: Request) -> bool:
    return "/api/" in request.url.path


def _answer(request: Request, status: int, message: str, headers: Any = None) -> Response:
    if _wants_json(request):
        return JSONResponse({"detail": message}, status, headers)
    # Plain text: messages quote what was asked for, and nothing of it is to be run.
    return Response(message, status, headers, media_type="text/plain")


async def _refuse(request: Request, error: AnyHTTPException) -> Response:
    message = str(error.detail)
    if error.status_code == 401:
        message += ". Log in to Airflow, then load this page again."
    return _answer(request, error.status_code, message, error.headers)


async def _refuse_input(request: Request, error: RequestValidationError) -> Response:
    found = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
    return _answer(request, 422, f"This cannot be asked for: {found}.")


async def _explain(request: Request, error: Exception) -> Response:
    if isinstance(error, SQLAlchemyError):
        said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        message = f"The database says: {said}. `make up` starts it and creates its tables."
        status = 503
    else:
        message = str(error)
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    if status >= 500:
        logger.warning("%s %s: %s", status, request.url.path, message)
    return _answer(request, status, message)


async def _harden(request: Request, call_next: Callable[[Request], Any]) -> Response:
    response: Response = await call_next(request)
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    policy = _DOCUMENTS if path.startswith(_OF_DOCUMENTS) else _PAGES
    for name, value in {**_HEADERS, "Content-Security-Policy": policy}.items():
        response.headers.setdefault(name, value)
    return response
