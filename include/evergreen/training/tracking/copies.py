"""Versions that go to another environment, and those that came from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from evergreen.contract import UseCase
from evergreen.errors import PermanentError
from evergreen.settings import Settings, load_settings
from evergreen.training.bundle import Bundle
from evergreen.training.model import Model
from evergreen.training.served import MODEL_FILE
from evergreen.training.tracking.client import connect, explained
from evergreen.training.tracking.runs import (
    ensure_registered_model,
    experiment,
    load_version,
    log_model,
    within_run,
)
from evergreen.training.tracking.standing import DECISION, LIFECYCLE

# Of the environment that decided or fitted; there they are as they were.
_NOT_TAKEN = (DECISION, LIFECYCLE)
ORIGIN = "origin"
"""Tag of a version that was trained elsewhere: by which environment, and its number there."""


def fetch_run(use_case: UseCase, version: int, folder: Path) -> dict[str, Any]:
    """Fetch models and files of a version into a folder; what its run says is returned.

    Raises
    ------
    NotReadyError
        There is no such version.
    PermanentError
        The stored model is not the one that was registered.
    """
    loaded = load_version(use_case, version)
    with explained(f"version {version} of {use_case.name}"):
        client = connect()
        run = client.get_run(loaded.run_id)
        for found in client.list_artifacts(loaded.run_id):
            client.download_artifacts(loaded.run_id, found.path, str(folder))
    (folder / MODEL_FILE).write_bytes(loaded.model.ubj)
    if loaded.model.digest != loaded.tags["model_digest"]:
        raise PermanentError(
            f"Version {version} of {use_case.name} was written by another release of XGBoost, "
            "which this one would not write again. Train a new version."
        )
    return {
        "reads": loaded.reads,
        "tags": loaded.tags,
        "parameters": dict(run.data.params),
        "metrics": dict(run.data.metrics),
        "datasets": tuple(
            {**given.dataset.to_dictionary(), "tags": {tag.key: tag.value for tag in given.tags}}
            for given in run.inputs.dataset_inputs
        ),
    }


def register_copy(
    use_case: UseCase,
    bundle: Bundle,
    folder: Path,
    features: pa.Table,
    settings: Settings | None = None,
) -> int:
    """Register a version that was trained elsewhere, as a challenger.

    Parameters
    ----------
    folder
        Its files.
    features
        Some of this environment, as an example.

    Returns
    -------
    int
        The new version or, if this one was registered before, that one.
    """
    settings, origin = settings or load_settings(), bundle.name
    model = Model.load((folder / MODEL_FILE).read_bytes())
    with explained():
        client = connect(settings)
        same = f"name = '{use_case.name}' and tag.model_digest = '{model.digest}'"
        known = [v for v in client.search_model_versions(same) if v.tags.get(ORIGIN) == origin]
        if known:
            return min(int(found.version) for found in known)
        kept = {name: tag for name, tag in bundle.tags.items() if name not in _NOT_TAKEN}
        tags = {**kept, ORIGIN: origin, **{f"origin_{k}": v for k, v in bundle.origin.items()}}
        place = experiment(client, use_case.name, settings)
        name = f"{use_case.name} {tags['day']} from {bundle.origin['environment']}"
        run_id = client.create_run(place, run_name=name, tags=tags).info.run_id
        with within_run(run_id, settings):
            client.log_batch(
                run_id,
                [Metric(key, value, timestamp=0, step=0) for key, value in bundle.metrics.items()],
                [Param(key, value) for key, value in bundle.parameters.items()],
            )
            client.log_inputs(run_id, datasets=[_dataset(given) for given in bundle.datasets])
            client.log_artifacts(run_id, str(folder))
            source, model_id = log_model(model, use_case.target, features)
        ensure_registered_model(client, use_case)
        found = client.create_model_version(
            use_case.name,
            source,
            run_id=run_id,
            tags={**tags, LIFECYCLE: "challenger"},
            description=f"{tags['reason']} ({origin})",
            model_id=model_id,
        )
    return int(found.version)


def _dataset(given: dict[str, Any]) -> DatasetInput:
    tags = [InputTag(key, value) for key, value in given["tags"].items()]
    return DatasetInput(Dataset(**{k: v for k, v in given.items() if k != "tags"}), tags)
