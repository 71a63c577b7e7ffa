"""The model registry, as another client of MLflow sees it."""

from __future__ import annotations

from mlflow import MlflowClient

from evergreen.settings import Settings, load_settings


def _client(settings: Settings | None = None) -> MlflowClient:
    url = (settings or load_settings()).database_url("mlflow")
    # Else the registry is the one that this process was last told of.
    return MlflowClient(url, registry_uri=url)


def register(name: str, versions: int) -> None:
    """Register versions without a model, for what happens to versions only."""
    client = _client()
    client.create_registered_model(name)
    for number in range(1, versions + 1):
        client.create_model_version(name, source=f"nowhere/{number}")


def aliases(name: str, settings: Settings | None = None) -> dict[str, int]:
    """Versions of a registered model by their aliases."""
    found = _client(settings).get_registered_model(name).aliases
    return {alias: int(version) for alias, version in found.items()}
