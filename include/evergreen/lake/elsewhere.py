"""A catalog elsewhere: the one that PyIceberg's own configuration names `evergreen`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    CommitStateUnknownException,
    ForbiddenError,
    NotInstalledError,
    OAuthError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    UnauthorizedError,
)
from pyiceberg.utils.config import Config
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from evergreen.errors import ConfigError, ServiceDownError
from evergreen.settings import CATALOG_ELSEWHERE, is_catalog_elsewhere

# By which PyIceberg knows it, and other engines may.
NAME = "evergreen"
# How long a server may take to begin its answer; without, PyIceberg would wait for ever.
_SECONDS = 60
_NO_ANSWER = (
    *(requests.RequestException, ServerError, ServiceUnavailableError, TooManyRequestsError),
    # It may have been done, or may yet be. Whoever tries again finds either: days that already say
    # what is to be published are left as they are, and of two commits on one state one is refused.
    CommitStateUnknownException,
)
_NO_ENTRY = (UnauthorizedError, ForbiddenError, AuthorizationExpiredError, OAuthError)


def declared() -> dict[str, Any]:
    """Return the properties of the catalog elsewhere; empty for none."""
    if not is_catalog_elsewhere():
        return {}
    return cast("dict[str, Any]", Config().get_catalog_config(NAME))


def place(properties: dict[str, Any]) -> str:
    """Say where a catalog is, without a password: its URL, or its type."""
    uri = urlsplit(str(properties.get("uri", "")))
    if not uri.netloc:
        return f"of the type {properties.get('type')}"
    return f"at {uri._replace(netloc=uri.netloc.rpartition('@')[2], query='').geturl()}"


def open_catalog(properties: dict[str, Any]) -> Catalog:
    """Open the catalog of these properties (one per process and properties).

    Raises
    ------
    ConfigError
        It cannot be opened as declared, or does not let us in.
    ServiceDownError
        It does not answer, now. Later, too, each of its calls raises these two.
    """
    return _open(json.dumps(properties, sort_keys=True), os.getpid())


@lru_cache(maxsize=8)
def _open(text: str, _process: int) -> Catalog:
    properties = json.loads(text)
    where = place(properties)
    kind = properties.get("type") or properties.get("py-catalog-impl")
    is_rest = kind == "rest" or (not kind and str(properties.get("uri")).startswith("http"))
    try:
        with _telling(where):
            found = _Rest(NAME, **properties) if is_rest else load_catalog(NAME, **properties)
    except (NotInstalledError, ValueError, TypeError, KeyError) as error:
        # What the others say may hold what was declared, and so a password.
        reason = error if isinstance(error, NotInstalledError) else type(error).__name__
        raise ConfigError(
            f"The catalog of the tables {where} cannot be opened as the variables "
            f"{CATALOG_ELSEWHERE}… (and .pyiceberg.yaml) declare it: {reason}. Correct them."
        ) from None
    for name in Catalog.__abstractmethods__:
        setattr(found, name, _explained(getattr(found, name), where))
    return found


class _Rest(RestCatalog):
    def _create_session(self) -> requests.Session:
        session: requests.Session = super()._create_session()
        # A commit that got no answer is not sent again here: that is up to whoever asked for it.
        again = Retry(
            total=3,
            backoff_factor=0.2,
            status_forcelist=(429, 502, 503, 504),
            allowed_methods=("GET", "HEAD"),
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Impatient(max_retries=again))
        return session


class _Impatient(HTTPAdapter):
    def send(self, request: requests.PreparedRequest, **more: Any) -> requests.Response:  # type: ignore[override]
        return super().send(request, **{**more, "timeout": more["timeout"] or _SECONDS})


def _explained(call: Callable[..., Any], where: str) -> Callable[..., Any]:
    @wraps(call)
    def explained(*arguments: Any, **more: Any) -> Any:
        with _telling(where):
            return call(*arguments, **more)

    return explained


@contextmanager
def _telling(where: str) -> Iterator[None]:
    try:
        yield
    except _NO_ANSWER as error:
        raise ServiceDownError(
            f"The catalog of the tables {where} does not answer ({type(error).__name__}). Start "
            f"it, or correct {CATALOG_ELSEWHERE}URI; this is tried again."
        ) from error
    except _NO_ENTRY as error:
        raise ConfigError(
            f"The catalog of the tables {where} does not let us in ({error}). Correct "
            f"{CATALOG_ELSEWHERE}TOKEN or {CATALOG_ELSEWHERE}CREDENTIAL, or what else it asks for, "
            "and what it allows there."
        ) from error
