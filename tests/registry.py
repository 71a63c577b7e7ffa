"""The model registry, as another client of MLflow sees it."""

from __future__ import annotations

from mlflow import MlflowClient

from evergreen.settings import Settings, load_settings


def aliases(name: str, settings: Settings | None = None) -> dict[str, int]:
    """Versions of a registered model by their aliases."""
    url = (settings or load_settings()).database_url("mlflow")
    # Else the registry is the one that this process was last told of.
    client = MlflowClient(url, registry_uri=url)
    found = client.get_registered_model(name).aliases
    return {alias: int(version) for alias, version in found.items()}
