"""What MLflow shows of who is in charge: alias and tags of versions."""

from __future__ import annotations

from collections.abc import Mapping

from evergreen.contract import UseCase
from evergreen.settings import Settings
from evergreen.training.tracking.client import connect, explained

CHAMPION = "champion"


def set_champion(use_case: UseCase, version: int, settings: Settings | None = None) -> None:
    """Let the registry's alias follow the release ledger; setting it again changes nothing.

    Raises
    ------
    NotReadyError
        There is no such version.
    """
    with explained(f"version {version} of {use_case.name}"):
        connect(settings).set_registered_model_alias(use_case.name, CHAMPION, str(version))


def tag_version(
    use_case: UseCase, version: int, tags: Mapping[str, str], settings: Settings | None = None
) -> None:
    """Set tags of a version, e.g. the gate's decision; a tag that exists is replaced.

    Raises
    ------
    NotReadyError
        There is no such version.
    """
    with explained(f"version {version} of {use_case.name}"):
        client = connect(settings)
        for key, value in tags.items():
            client.set_model_version_tag(use_case.name, str(version), key, value)
