"""The card of a version, kept with the run that made it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

from mlflow import MlflowClient

from evergreen.contract import UseCase
from evergreen.disk import scratch
from evergreen.errors import NotReadyError
from evergreen.pages import Format
from evergreen.settings import Settings
from evergreen.training.card import CardFacts, Decision, render_card
from evergreen.training.record import SLICES_FILE
from evergreen.training.tracking.client import connect, explained
from evergreen.training.tracking.runs import CARD_FACTS_FILE, describe_version


def complete_card(
    use_case: UseCase, decision: Decision, settings: Settings | None = None
) -> CardFacts | None:
    """Render the card of a version that was judged, and keep it with the version's run.

    Safe to repeat: the same decision gives the same files.

    Returns
    -------
    CardFacts or None
        None if the version was trained before cards were kept.
    """
    version = decision.evidence.version
    run_id = describe_version(use_case, version, settings).run_id
    with explained(f"version {version} of {use_case.name}"):
        client = connect(settings)
        found = _fetch(client, run_id, CARD_FACTS_FILE)
        if found is None:
            return None
        facts = replace(CardFacts.from_dict(json.loads(found)), decision=decision)
        for format_ in get_args(Format):
            client.log_text(run_id, render_card(facts, format_), f"card.{format_}")
    return facts


def fetch_card(
    use_case: UseCase, version: int, format_: Format, settings: Settings | None = None
) -> str:
    """Fetch the card of a version.

    Raises
    ------
    NotReadyError
        There is no such version, or it has no card.
    """
    run_id = describe_version(use_case, version, settings).run_id
    with explained(f"version {version} of {use_case.name}"):
        found = _fetch(connect(settings), run_id, f"card.{format_}")
    if found is None:
        raise NotReadyError(
            f"Version {version} of {use_case.name} has no card: the gate has not judged it yet, or "
            "it was trained before cards were kept. Let its run of "
            f"{use_case.name}_train go on, or train a new version."
        )
    return found


def fetch_slices(
    use_case: UseCase, version: int, settings: Settings | None = None
) -> dict[str, dict[str, float]]:
    """Fetch what the slices of `training.slices` reached on the holdout of a version, by metric."""
    run_id = describe_version(use_case, version, settings).run_id
    with explained(f"version {version} of {use_case.name}"):
        found = _fetch(connect(settings), run_id, SLICES_FILE)
    features = json.loads(found).values() if found else ()
    return {
        name: part["metrics"] for feature in features for name, part in feature["slices"].items()
    }


def _fetch(client: MlflowClient, run_id: str, name: str) -> str | None:
    """Read a text of a run; None if there is none."""
    if name not in {found.path for found in client.list_artifacts(run_id)}:
        return None
    with scratch("card") as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_text("utf-8")
