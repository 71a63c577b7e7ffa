"""What MLflow shows of a version's standing, for people who look there.

Alias and tags are a projection: the ledger says who is in charge, the gate whom it refused. Nothing
of ours reads them but `evergreen.release.registry`, which compares and repairs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from evergreen.contract import UseCase
from evergreen.release import ledger
from evergreen.release.lifecycle import lifecycle
from evergreen.settings import Settings
from evergreen.training.tracking.client import connect, explained

CHAMPION = "champion"
"""The alias."""
DECISION, LIFECYCLE = "decision", "lifecycle"
"""Tags of a version: what the gate decided, and what follows from that and the ledger."""


@dataclass(frozen=True)
class Registry:
    """A registered model as MLflow has it.

    Parameters
    ----------
    champion
        The version that the alias names; None without alias.
    tags
        Of every version.
    """

    champion: int | None
    tags: dict[int, dict[str, str]]


def describe_registry(use_case: UseCase, settings: Settings | None = None) -> Registry:
    """Look up all versions of a use case, and which of them the alias names.

    Raises
    ------
    ServiceDownError
        The tracking store does not answer.
    """
    client = connect(settings)
    with explained():
        tags = _tags(client, use_case)
        try:
            aliases = client.get_registered_model(use_case.name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return Registry(None, {})
    named = aliases.get(CHAMPION)
    return Registry(None if named is None else int(named), tags)


def set_champion(use_case: UseCase, version: int | None, settings: Settings | None = None) -> None:
    """Let alias and lifecycles follow the release ledger; setting them again changes nothing.

    Parameters
    ----------
    version
        None where nobody is in charge: the alias is removed.

    Raises
    ------
    NotReadyError
        There is no such version.

    Notes
    -----
    MLflow fails when two set the same tag at once: to be called inside `ledger.projecting`.
    """
    client = connect(settings)
    with explained(f"version {version} of {use_case.name}"):
        if version is None:
            client.delete_registered_model_alias(use_case.name, CHAMPION)
        else:
            client.set_registered_model_alias(use_case.name, CHAMPION, str(version))
        _show_lifecycles(client, use_case, settings)


def tag_version(
    use_case: UseCase,
    version: int,
    tags: Mapping[str, str | None],
    settings: Settings | None = None,
) -> None:
    """Set tags of a version, e.g. the gate's decision; its lifecycle follows. None removes a tag.

    Raises
    ------
    NotReadyError
        There is no such version.
    """
    client = connect(settings)
    projecting = ledger.projecting(ledger.engine(settings), use_case.name)
    with projecting, explained(f"version {version} of {use_case.name}"):
        for key, value in tags.items():
            if value is None:
                client.delete_model_version_tag(use_case.name, str(version), key)
            else:
                client.set_model_version_tag(use_case.name, str(version), key, value)
        _show_lifecycles(client, use_case, settings)


def _tags(client: MlflowClient, use_case: UseCase) -> dict[int, dict[str, str]]:
    found = client.search_model_versions(f"name = '{use_case.name}'")
    return {int(version.version): dict(version.tags) for version in found}


def _show_lifecycles(client: MlflowClient, use_case: UseCase, settings: Settings | None) -> None:
    entries = ledger.releases(ledger.engine(settings), use_case.name)
    for version, known in _tags(client, use_case).items():
        state = lifecycle(version, entries, known.get(DECISION))
        if known.get(LIFECYCLE) != state:
            client.set_model_version_tag(use_case.name, str(version), LIFECYCLE, state)
