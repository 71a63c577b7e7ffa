import dataclasses
import json
from datetime import date
from pathlib import Path

import pytest

from evergreen.errors import NotReadyError, PermanentError, ServiceDownError
from evergreen.settings import load_settings
from evergreen.training import tracking
from evergreen.training.baselines import measure_baselines
from evergreen.training.evaluate import evaluate
from evergreen.training.record import TrainingRecord
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
def record(fitted, split, plan, use_case):
    return TrainingRecord(
        day=date(2025, 1, 1),
        request_key="2025-01-01 it's drift",
        reason="drift of idle_days",
        plan=plan,
        split=split,
        fitted=fitted,
        evaluation=evaluate(fitted.booster, split, use_case.target, threads=2),
        baselines=measure_baselines(split, use_case),
        inputs={"features": 123, "labels": None},
        left_out={"2025-01-01": 3},
        reference={"idle_days": {"quantiles": [1.0, 2.0]}},
        code_digest="c0de",
        lock_digest="10c4",
        seed=3,
    )


@pytest.fixture(scope="module")
def trained(record, use_case, settings):
    return tracking.log_training_run(record, use_case, settings)


def test_version_comes_back_as_it_was_trained(trained, record, use_case, settings):
    model = tracking.load_version(use_case, trained.version, settings)
    assert bytes(model.booster.save_raw("ubj")) == record.fitted.ubj
    assert model.inputs == record.fitted.inputs
    assert model.run_id == trained.run_id
    assert model.reference == record.reference
    assert model.importances == record.fitted.importances
    facts = tracking.describe_version(use_case, trained.version, settings)
    assert facts.holdout == pytest.approx(record.evaluation.numbers())
    assert facts.metrics["idle_days_auc"] == record.baselines["idle_days"]["auc"]
    assert facts.metrics["left_out_rows"] == 3
    assert model.tags["day"] == "2025-01-01"
    assert model.tags["lifecycle"] == "challenger"
    assert model.tags["reason"] == "drift of idle_days"
    assert list(model.reads.items()) == [
        ("orders", "int64"),
        ("idle_days", "float64"),
        ("gap_days", "float64"),
        ("vip", "bool"),
    ]


def test_artifacts_hold_ubj_and_plots_but_no_pickle(trained, settings):
    files = [path for path in Path(settings.artifacts).rglob("*") if path.is_file()]
    names = {path.name for path in files}
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
    assert set(inputs) == {"tiny.fit", "tiny.validation", "tiny.refit", "tiny.holdout"}
    source = json.loads(inputs["tiny.holdout"].dataset.source)
    assert source == {
        "snapshots": {"features": 123, "labels": None},
        "days": [str(plan.holdout[0])],
    }
    assert run.data.params["max_depth"] == "3"


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
        patched.setattr(tracking.runs, "_log_model", die)
        with pytest.raises(KeyboardInterrupt):
            tracking.log_training_run(killed, use_case, settings)
    client = connect(settings)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    stuck = client.create_run(experiment, tags={"model_digest": record.fitted.digest})
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


def test_changed_model_file_is_refused(record, use_case, settings):
    version = tracking.log_training_run(
        dataclasses.replace(record, request_key="tampered"), use_case, settings
    ).version
    newest = max(Path(settings.artifacts).rglob("model.ubj"), key=lambda p: p.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-40] + b"\0" * 40)
    with pytest.raises(PermanentError, match="SHA-256"):
        tracking.load_version(use_case, version, settings)


def test_store_that_is_down_is_a_passing_trouble(use_case, settings, tmp_path):
    down = dataclasses.replace(settings, urls={}, home=tmp_path)
    with pytest.raises(ServiceDownError, match="not running"):
        tracking.set_champion(use_case, 1, down)
