"""Runs whose process was killed before their version was registered."""

from __future__ import annotations

from datetime import datetime

from mlflow import MlflowClient

from evergreen.contract import UseCase
from evergreen.settings import Settings
from evergreen.training.tracking.client import connect, explained

FAILED_BECAUSE = "failed_because"
"""The tag that says why a run was marked as failed by somebody else."""


def fail_dead_runs(
    use_case: UseCase, before: datetime, settings: Settings | None = None
) -> list[str]:
    """Mark runs as failed that began before an instant, still run and have no version.

    Their processes were killed and nobody tried again; a retry of the same request marks them
    itself. A run that may still be at work must be younger than `before`.

    Returns
    -------
    list of str
        The ids of the runs.
    """
    client = connect(settings)
    with explained():
        experiment = client.get_experiment_by_name(use_case.name)
        if experiment is None:
            return []
        return fail_unfinished(
            client,
            experiment.experiment_id,
            f"attributes.start_time < {int(before.timestamp() * 1000)}",
            f"it began before {before:%Y-%m-%d %H:%M} UTC and never registered a version",
        )


def fail_unfinished(
    client: MlflowClient, experiment_id: str, condition: str, because: str
) -> list[str]:
    """Mark the unfinished runs that meet a condition and have no version as failed, and say why."""
    found = client.search_runs([experiment_id], f"attributes.status = 'RUNNING' and {condition}")
    dead = [
        run.info.run_id
        for run in found
        if not client.search_model_versions(f"run_id = '{run.info.run_id}'")
    ]
    for run_id in dead:
        client.set_tag(run_id, FAILED_BECAUSE, because)
        client.set_terminated(run_id, "FAILED")
    return dead
