"""How MLflow is reached, and what its errors mean."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from evergreen.databases import require_answer
from evergreen.errors import NotReadyError, PermanentError, ServiceDownError
from evergreen.settings import Settings, load_settings

_PASSING = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "INTERNAL_ERROR"}

for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)
# It misses pip in environments that uv made; the requirements we state do not need it.
logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)


def uri(settings: Settings) -> str:
    """Return where MLflow keeps runs and versions: a server, or its database."""
    return settings.tracking_url or settings.database_url("mlflow")


def connect(settings: Settings | None = None) -> MlflowClient:
    """Return a client of the configured MLflow; settings not given are those of the environment.

    Raises
    ------
    ServiceDownError
        MLflow's database does not answer, now.
    """
    settings = settings or load_settings()
    address = uri(settings)
    if settings.tracking_url is None:
        require_answer("mlflow", address)
    return MlflowClient(tracking_uri=address, registry_uri=address)


@contextmanager
def explained(what: str = "it") -> Iterator[None]:
    """Translate what MLflow raises into the project's own errors."""
    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotReadyError(
                f"MLflow does not know {what}: {error}. Choose a registered version, or train one."
            ) from error
        if error.error_code in _PASSING:
            raise ServiceDownError(
                f"The MLflow tracking store failed: {error}. Start it with `make up`, or check "
                "EVERGREEN_TRACKING_URL and EVERGREEN_MLFLOW_URL."
            ) from error
        raise PermanentError(f"MLflow refused the request: {error}") from error
