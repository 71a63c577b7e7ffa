"""A training that is killed between the start of its run and its version, and never repeated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from evergreen import steps
from evergreen.settings import Settings
from evergreen.steps import maintenance
from registry import client, tags
from tiny_shop import DAYS, NAME, compute, label, open_shop

pytestmark = pytest.mark.timeout(600)

KILLED = """
import json, os, signal, sys
from evergreen import steps
from evergreen.training.tracking import runs

runs.log_model = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
steps.train_challenger(json.loads(sys.argv[1]))
"""


def statuses() -> dict[str, str]:
    """Of the trainings, not of the recipes they tried."""
    experiment = client().get_experiment_by_name(NAME)
    found = client().search_runs([experiment.experiment_id])
    trainings = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return {run.info.run_id: run.info.status for run in trainings}


@pytest.mark.slow
def test_maintenance_fails_the_run_of_a_killed_training_and_no_other(
    home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_shop(tmp_path, monkeypatch)
    label(compute())
    assert steps.fail_dead_runs() == {NAME: []}
    request = steps.accept_request(NAME, str(DAYS[-1]), "by hand")
    registered = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))

    other = steps.accept_request(NAME, str(DAYS[-1]), "another reason")
    staged = steps.choose_recipe(steps.assemble_training_set(other))
    command = [sys.executable, "-W", "ignore", "-c", KILLED, json.dumps(staged)]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (dead,) = [run_id for run_id, status in statuses().items() if status == "RUNNING"]
    assert list(tags(NAME, "day")) == [registered["version"]]

    # It is minutes old, and might be at work.
    assert steps.fail_dead_runs() == {NAME: []}
    assert statuses()[dead] == "RUNNING"
    monkeypatch.setattr(maintenance, "_DEAD_RUN_AGE", timedelta(0))
    assert steps.fail_dead_runs() == {NAME: [dead]}
    assert sorted(statuses().values()) == ["FAILED", "FINISHED"]
    why = client().get_run(dead).data.tags["failed_because"]
    assert why.startswith("it began before ")
    assert why.endswith(" UTC and never registered a version")
    assert steps.fail_dead_runs() == {NAME: []}

    # Whoever repeats the training after all gets a version.
    assert steps.train_challenger(staged)["version"] == registered["version"] + 1
    assert sorted(statuses().values()) == ["FAILED", "FINISHED", "FINISHED"]
