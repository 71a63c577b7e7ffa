"""Feast's store, opened from the settings and closed again.

A `FeatureStore` is opened per call: no repository is parsed, no registry cache outlives the call,
and nothing is read from the working directory. Definitions change only in `apply`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from feast import FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException
from feast.repo_config import RepoConfig
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from evergreen.contract import UseCase
from evergreen.databases import service_down
from evergreen.errors import ConfigError, NotReadyError
from evergreen.features.store import pushed
from evergreen.features.store.definitions import definitions, view_name
from evergreen.features.store.offline_store import LakeOfflineStoreConfig
from evergreen.features.store.online_store import ForwardPostgresOnlineStoreConfig
from evergreen.settings import Settings, load_settings

PROJECT = "evergreen"


def apply(use_cases: Sequence[UseCase]) -> None:
    """Bring Feast's registry and online tables in line with the contracts.

    Creates what is missing and updates what changed; other use cases stay as they are. Run it at
    deployment, not inside a task.

    Raises
    ------
    ServiceDownError
        The database is not running.
    """
    objects: list[Any] = [part for use_case in use_cases for part in definitions(use_case)]
    with open_store(load_settings(), schema_mode="auto") as store:
        store.apply(objects)
    pushed.create_tables()


@contextmanager
def open_store(
    settings: Settings,
    *,
    offline: LakeOfflineStoreConfig | None = None,
    schema_mode: str = "skip",
) -> Iterator[FeatureStore]:
    """Open the store; see `repo_config`.

    Raises
    ------
    ServiceDownError
        The database is not running.
    """
    config = repo_config(settings, offline=offline, schema_mode=schema_mode)
    try:
        store = FeatureStore(config=config)
        try:
            yield store
        finally:
            store.registry.write_engine.dispose()
            online = store._get_provider().online_store
            if online is not None:
                online.close()
    except (OperationalError, psycopg.OperationalError) as error:
        raise service_down("feast", settings.database_url("feast"), error) from error


def applied_view(store: FeatureStore, use_case: UseCase) -> FeatureView:
    """Return the view of a use case's features, as it was applied.

    Raises
    ------
    NotReadyError
        It was not, or with other features than are declared now.
    """
    try:
        view = store.get_feature_view(view_name(use_case))
    except FeastObjectNotFoundException as error:
        raise NotReadyError(
            f"Feast does not know {view_name(use_case)}. Apply the definitions: `make up` does."
        ) from error
    if unlike := {field.name for field in view.features} ^ set(use_case.feature_names):
        raise NotReadyError(
            f"Feast and use_case.yaml of {use_case.name} differ in the features "
            f"{', '.join(sorted(unlike))}. Apply the definitions: `make up` does."
        )
    return view


def environment(settings: Settings) -> dict[str, str]:
    """Variables that `feature_repo/feature_store.yaml` needs, escaped for its quotes.

    Raises
    ------
    ConfigError
        The URL of the `feast` database is not one of Postgres.
    ServiceDownError
        No URL is set and the embedded server is not running.
    """
    online = _online_config(settings)
    return {
        "EVERGREEN_FEAST_REGISTRY": _escaped(settings.database_url("feast")),
        "EVERGREEN_FEAST_HOST": _escaped(online.host),
        "EVERGREEN_FEAST_PORT": str(online.port),
        "EVERGREEN_FEAST_DATABASE": _escaped(online.database),
        "EVERGREEN_FEAST_USER": _escaped(online.user),
        "EVERGREEN_FEAST_PASSWORD": _escaped(online.password),
        "EVERGREEN_FEAST_SSLMODE": online.sslmode,
        "EVERGREEN_FEAST_SSLROOTCERT": _escaped(online.sslrootcert_path),
    }


def repo_config(
    settings: Settings,
    *,
    offline: LakeOfflineStoreConfig | None = None,
    schema_mode: str = "skip",
) -> RepoConfig:
    """Build Feast's configuration from the settings.

    Parameters
    ----------
    settings
        Its `feast` database holds both the registry and the online values.
    offline
        What the offline store reads; the current snapshots if not given. How DuckDB runs is set
        here.
    schema_mode
        Whether the registry's tables are made (`auto`) or taken for granted (`skip`).
    """
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={
            "registry_type": "sql",
            "path": settings.database_url("feast"),
            "cache_ttl_seconds": 60,
            "schema_mode": schema_mode,
            # One connection for one call; the default pool would keep five.
            "sqlalchemy_config_kwargs": {"echo": False, "pool_size": 1},
        },
        offline_store=(offline or LakeOfflineStoreConfig()).model_copy(
            update={"threads": settings.threads, "memory_mb": settings.memory_mb}
        ),
        online_store=_online_config(settings),
        entity_key_serialization_version=3,
    )


def _online_config(settings: Settings) -> ForwardPostgresOnlineStoreConfig:
    url = make_url(settings.database_url("feast"))
    if url.get_backend_name() != "postgresql":
        raise ConfigError(
            f"EVERGREEN_FEAST_URL is a {url.get_backend_name()} URL; expected postgresql://…"
        )
    query = {name: value for name, value in url.query.items() if isinstance(value, str)}
    host = url.host or query.get("host") or "localhost"
    # What the URL does not say, these do, as for every other client.
    sslmode = query.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"
    return ForwardPostgresOnlineStoreConfig(
        host=host,
        port=url.port or int(query.get("port", 5432)),
        database=url.database or "feast",
        user=url.username or "postgres",
        password=url.password or "",
        # Over a Unix socket there is nothing to encrypt, and Postgres refuses to.
        sslmode="disable" if host.startswith("/") else sslmode,
        sslrootcert_path=query.get("sslrootcert") or os.environ.get("PGSSLROOTCERT", ""),
        sslcert_path=query.get("sslcert"),
        sslkey_path=query.get("sslkey"),
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
