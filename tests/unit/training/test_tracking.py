import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

from evergreen.errors import NotReadyError, PermanentError, ServiceDownError
from evergreen.settings import load_settings
from evergreen.training import tracking
from evergreen.training.tracking.client import connect


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("tracking")
    settings = dataclasses.replace(
        load_settings(),
        artifacts=str(root / "artifacts"),
        tracking_url=None,
        urls={"mlflow": f"sqlite:///{root}/mlflow.db"},
    )
    tracking.initialise(settings)
    return settings


@pytest.fixture(scope="module")
def trained(record, use_case, settings):
    return tracking.log_training_run(record, use_case, settings)


def test_version_comes_back_as_it_was_trained(trained, record, use_case, settings):
    model = tracking.load_version(use_case, trained.version, settings)
    assert model.model.ubj == record.pair.final.ubj
    assert model.measured.ubj == record.pair.measured.ubj
    assert model.inputs == record.model.inputs
    assert model.run_id == trained.run_id
    assert model.reference == record.reference
    assert model.importances == record.model.importances
    facts = tracking.describe_version(use_case, trained.version, settings)
    assert facts.holdout == pytest.approx(record.evaluation.numbers())
    assert facts.metrics["idle_days_auc"] == record.evaluation.baselines["idle_days"]["auc"]
    assert facts.holdout["auc_low"] < facts.holdout["auc"] < facts.holdout["auc_high"]
    assert facts.metrics["left_out_rows"] == 3
    assert (facts.metrics["leakage_gap"], facts.metrics["leakage_gap_upper"]) == (0.02, 0.03)
    assert model.tags["day"] == "2025-01-01"
    assert model.tags["lifecycle"] == "challenger"
    assert model.tags["reason"] == "drift of idle_days"
    assert list(model.reads.items()) == [
        ("orders", "int64"),
        ("idle_days", "float64"),
        ("gap_days", "float64"),
        ("vip", "bool"),
    ]


def test_artifacts_hold_ubj_and_plots_but_no_pickle(trained, record, settings):
    files = [path for path in Path(settings.artifacts).rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert json.loads(next(path for path in files if path.name == "slices.json").read_text()) == {
        "vip": record.bias["vip"].to_dict()
    }
    assert {"model.ubj", "MLmodel", "input_example.json", "roc.png", "calibration.png"} <= names
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".joblib")]
    # Protocol 2 and later begin with 0x80; no file of ours may.
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"]
    model = next(path for path in files if path.name == "MLmodel").read_text()
    assert "python_function" in model
    assert "idle_days" in model


def test_run_states_its_datasets_with_snapshots(trained, plan, settings):
    run = connect(settings).get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    inputs = {entry.dataset.name: entry for entry in run.inputs.dataset_inputs}
    assert set(inputs) == {f"tiny.{part}" for part in plan.parts}
    source = json.loads(inputs["tiny.holdout"].dataset.source)
    assert source == {
        "snapshots": {"features": 123, "labels": None},
        "days": [str(plan.holdout)],
    }
    assert run.data.params["family"] == "linear"


def test_recipes_that_were_tried_are_nested_runs(trained, record, settings):
    client = connect(settings)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    nested = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{trained.run_id}'", order_by=["start_time"]
    )
    tried = record.choice.tried
    assert [run.data.params["family"] for run in nested] == [one.recipe.family for one in tried]
    assert [run.data.metrics["loss"] for run in nested] == [one.loss for one in tried]
    assert {run.info.status for run in nested} == {"FINISHED"}


def test_retry_returns_the_same_version(trained, record, use_case, settings):
    assert tracking.log_training_run(record, use_case, settings) == trained
    other = dataclasses.replace(record, request_key="another")
    later = tracking.log_training_run(other, use_case, settings)
    assert later.version > trained.version
    assert tracking.log_training_run(other, use_case, settings) == later


def test_killed_attempt_is_marked_and_its_retry_registers(
    record, use_case, settings, monkeypatch, trained
):
    killed = dataclasses.replace(record, request_key="killed")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tracking.runs, "log_model", die)
        with pytest.raises(KeyboardInterrupt):
            tracking.log_training_run(killed, use_case, settings)
    client = connect(settings)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    stuck = client.create_run(experiment, tags={"model_digest": record.model.digest})
    version = tracking.log_training_run(killed, use_case, settings)
    assert version.version > trained.version
    failed = client.get_run(stuck.info.run_id)
    assert failed.info.status == "FAILED"
    assert "the request was repeated" in failed.data.tags["failed_because"]
    assert not client.search_runs([experiment], "attributes.status = 'RUNNING'")


def test_unknown_version_is_named(trained, use_case, settings):
    with pytest.raises(NotReadyError, match="version 999 of tiny"):
        tracking.load_version(use_case, 999, settings)
    with pytest.raises(NotReadyError, match="version 999 of tiny"):
        tracking.set_champion(use_case, 999, settings)
    with pytest.raises(NotReadyError, match=f"version {2**70} of tiny"):
        tracking.describe_version(use_case, 2**70, settings)


@pytest.mark.parametrize("name", ["model.ubj", "measured.ubj"])
def test_changed_model_file_is_refused(name, record, use_case, settings):
    version = tracking.log_training_run(
        dataclasses.replace(record, request_key=f"tampered {name}"), use_case, settings
    ).version
    newest = max(Path(settings.artifacts).rglob(name), key=lambda p: p.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-40] + b"\0" * 40)
    with pytest.raises(PermanentError, match=f"{name} of version .* SHA-256"):
        tracking.load_version(use_case, version, settings)


def test_mlflow_serves_what_scoring_publishes(trained, record, use_case, settings):
    """Calibrated, from named features: nobody who serves the version can forget either."""
    mlflow.set_tracking_uri(settings.database_url("mlflow"))
    served = mlflow.pyfunc.load_model(f"models:/tiny/{trained.version}")
    features = record.holdout.features.slice(0, 20)
    frame = features.to_pandas().astype(dict.fromkeys(features.column_names, float))
    expected = record.model.predict(
        record.model.inputs.prepare(features), use_case.target, threads=1
    )
    np.testing.assert_array_equal(served.predict(frame)["score"], expected["score"])


def test_a_served_version_needs_none_of_the_services():
    """Who serves it elsewhere installs what is listed: no database, no Feast, no Airflow."""
    listed = "import sys, evergreen.training.served; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in ran.stdout.split()}
    assert {"xgboost", "scipy", "pyarrow", "pydantic", "yaml"} <= modules
    assert not modules & {"airflow", "duckdb", "feast", "great_expectations", "pyiceberg", "ibis"}
    assert not modules & {"sqlalchemy", "psycopg2", "optuna", "venn_abers"}


@pytest.mark.slow
def test_store_that_is_down_is_a_passing_trouble(use_case, settings, tmp_path):
    down = dataclasses.replace(settings, urls={}, home=tmp_path)
    with pytest.raises(ServiceDownError, match="not running"):
        tracking.set_champion(use_case, 1, down)
