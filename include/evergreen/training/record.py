"""Everything one training run leaves behind, as tags, parameters, metrics and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from evergreen.contract import UseCase
from evergreen.targets import TargetModel
from evergreen.training.evaluate import Evaluation
from evergreen.training.fit import FittedModel, predict
from evergreen.training.frame import LabelledSplit
from evergreen.training.plots import draw_calibration, draw_importances
from evergreen.training.split import SplitPlan

REFERENCE_FILE = "reference.json"
IMPORTANCES_FILE = "importances.json"

# What a metric of the holdout is called in a run begins with this.
HOLDOUT = "holdout_"


@dataclass(frozen=True)
class TrainingRecord:
    """Everything one training run leaves behind.

    Parameters
    ----------
    day
        Partition key of the run.
    request_key
        Identity of the request; a retry of the same request has the same key.
    reason
        Why the training was requested, for people.
    plan, split
        Days, and their rows.
    fitted
        The model.
    evaluation, baselines
        Measurements on the holdout; of baselines by their name.
    inputs
        Iceberg snapshot id of each table that was read; None for a table without snapshots.
    left_out
        Per day, labelled entities that have no features and are in no part of the split.
    reference
        The drift reference, JSON-serialisable.
    code_digest, lock_digest
        Digests of the code that trained, and of the lock file.
    seed
        Seed of the fit.
    """

    day: date
    request_key: str
    reason: str
    plan: SplitPlan
    split: LabelledSplit
    fitted: FittedModel
    evaluation: Evaluation
    baselines: Mapping[str, Mapping[str, float]]
    inputs: Mapping[str, int | None]
    left_out: Mapping[str, int]
    reference: Mapping[str, Any]
    code_digest: str
    lock_digest: str
    seed: int


def run_tags(record: TrainingRecord, use_case: UseCase) -> dict[str, str]:
    """Tags of the run and of the version."""
    return {
        "use_case": use_case.name,
        "day": str(record.day),
        "request_key": record.request_key,
        "reason": record.reason,
        "seed": str(record.seed),
        "code_digest": record.code_digest,
        "lock_digest": record.lock_digest,
        "inputs": json.dumps(dict(record.inputs), sort_keys=True),
        "model_digest": record.fitted.digest,
        "early_stopped": str(record.fitted.early_stopped).lower(),
    }


def run_metrics(record: TrainingRecord) -> dict[str, float]:
    """Numbers: `holdout_<metric>` of the model, `<baseline>_<metric>` of the baselines.

    `unseen_<feature>` counts the categories of the holdout that the model does not know.
    """
    numbers = {f"{HOLDOUT}{name}": value for name, value in record.evaluation.numbers().items()}
    numbers["left_out_rows"] = float(sum(record.left_out.values()))
    for baseline, metrics in record.baselines.items():
        numbers |= {f"{baseline}_{name}": value for name, value in metrics.items()}
    for name, count in record.split.unseen.items():
        numbers[f"unseen_{name}"] = float(count)
    if record.fitted.validation_loss is not None:
        numbers["validation_loss"] = record.fitted.validation_loss
    return numbers


def run_parameters(record: TrainingRecord) -> dict[str, Any]:
    """Parameters: what XGBoost was told, the rounds, and the days of every part."""
    return {
        **record.fitted.parameters,
        "rounds": record.fitted.rounds,
        "features": len(record.fitted.inputs.names),
        **{part: " ".join(map(str, days)) for part, days in asdict(record.plan).items()},
    }


def write_artifacts(record: TrainingRecord, target: TargetModel, folder: Path) -> None:
    """Write drift reference, importances, calibration and plots below an existing folder."""
    documents: dict[str, Any] = {
        REFERENCE_FILE: record.reference,
        IMPORTANCES_FILE: record.fitted.importances,
        "left_out.json": dict(record.left_out),
        "calibration.json": [asdict(bin_) for bin_ in record.evaluation.calibration],
    }
    for name, content in documents.items():
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        (folder / name).write_text(text, encoding="utf-8")
    plots = folder / "plots"
    plots.mkdir()
    holdout = record.split.holdout
    threads = int(record.fitted.parameters["nthread"])
    predicted = predict(record.fitted.booster, holdout.matrix, target, threads=threads)
    target.draw(holdout.labels, predicted["score"], plots)
    draw_calibration(record.evaluation.calibration, plots / "calibration.png")
    draw_importances(record.fitted.importances, plots / "importances.png")
