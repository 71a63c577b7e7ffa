"""The model registry, as another client of MLflow sees it, and as a person may change it."""

from __future__ import annotations

from mlflow import MlflowClient

from evergreen.settings import Settings, load_settings


def client(settings: Settings | None = None) -> MlflowClient:
    url = (settings or load_settings()).database_url("mlflow")
    # Else the registry is the one that this process was last told of.
    return MlflowClient(url, registry_uri=url)


def register(name: str, versions: int) -> None:
    """Register versions without a model, for what happens to versions only."""
    mlflow = client()
    mlflow.create_registered_model(name)
    for number in range(1, versions + 1):
        mlflow.create_model_version(name, source=f"nowhere/{number}")


def aliases(name: str, settings: Settings | None = None) -> dict[str, int]:
    """Versions of a registered model by their aliases."""
    found = client(settings).get_registered_model(name).aliases
    return {alias: int(version) for alias, version in found.items()}


def tags(name: str, key: str) -> dict[int, str | None]:
    """One tag of every version."""
    found = client().search_model_versions(f"name = '{name}'")
    return {int(version.version): version.tags.get(key) for version in found}
