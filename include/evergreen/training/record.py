"""Everything one training run leaves behind, as tags, parameters, metrics and files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from evergreen.contract import UseCase
from evergreen.decisions.gate import Difference
from evergreen.targets import TargetModel
from evergreen.training.cluster import describe
from evergreen.training.evaluate import Evaluation, Holdout
from evergreen.training.fit import Fitter, Recipe
from evergreen.training.frame import Frame, LabelledRows
from evergreen.training.importance import Importance
from evergreen.training.model import Model
from evergreen.training.plots import draw_calibration, draw_importances
from evergreen.training.refit import Pair
from evergreen.training.slices import Bias
from evergreen.training.split import SplitPlan
from evergreen.training.tune import Choice

REFERENCE_FILE = "reference.json"
IMPORTANCES_FILE = "importances.json"
PERMUTATION_FILE = "permutation_importances.json"
SLICES_FILE = "slices.json"
# The model that was measured; the one that serves is the version's own.
MEASURED_FILE = "measured.ubj"

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
    plan, rows
        Days, and the rows of all of them.
    choice
        The recipe, and what else was tried.
    pair
        The models that were made of it.
    fitter
        How they were fitted.
    importances
        What each feature is worth to the recipe on the tuning days.
    evaluation, holdout
        Measurements, and on what.
    bias
        What the slices of each feature get, beside each other.
    leakage
        What a random split would have promised beyond what the holdout shows.
    inputs
        Iceberg snapshot id of each table that was read; None for a table without snapshots.
    left_out
        Per day, labelled entities that have no features and are in no part of the split.
    reference
        The drift reference, JSON-serialisable.
    code_digest, lock_digest
        Digests of the code that trained, and of the lock file.
    """

    day: date
    request_key: str
    reason: str
    plan: SplitPlan
    rows: LabelledRows
    choice: Choice
    pair: Pair
    fitter: Fitter
    importances: Sequence[Importance]
    evaluation: Evaluation
    holdout: Holdout
    bias: Mapping[str, Bias]
    leakage: Difference
    inputs: Mapping[str, int | None]
    left_out: Mapping[str, int]
    reference: Mapping[str, Any]
    code_digest: str
    lock_digest: str

    @property
    def model(self) -> Model:
        """The model that serves."""
        return self.pair.final

    @property
    def replay_needs(self) -> dict[str, str]:
        """What replaying it needs beyond one machine; empty if nothing."""
        workers = self.rows.workers
        return {"replay_needs": describe(workers, self.fitter.threads)} if workers else {}

    @property
    def frames(self) -> dict[str, Frame]:
        """The rows by what they were used for, as the model that serves would read them."""
        return frames_of(self.rows, self.plan, self.model)


def frames_of(rows: LabelledRows, plan: SplitPlan, model: Model) -> dict[str, Frame]:
    """Prepare the rows of every part of a plan for one model."""
    return {part: rows.to_fit(days, model.inputs) for part, days in plan.parts.items()}


def run_tags(record: TrainingRecord, use_case: UseCase) -> dict[str, str]:
    """Tags of the run and of the version."""
    return {
        "use_case": use_case.name,
        "day": str(record.day),
        "request_key": record.request_key,
        "reason": record.reason,
        "seed": str(record.fitter.seed),
        "code_digest": record.code_digest,
        "lock_digest": record.lock_digest,
        "inputs": json.dumps(dict(record.inputs), sort_keys=True),
        "plan": record.plan.to_json(),
        "model_digest": record.model.digest,
        "measured_digest": record.pair.measured.digest,
        "family": record.choice.recipe.family,
        "chosen": record.choice.reason,
        "trials": json.dumps(dict(record.choice.trials), sort_keys=True),
        "calibration": record.model.calibration.kind,
        **record.replay_needs,
        **(record.model.interval.tags if record.model.interval else {}),
    }


def run_metrics(record: TrainingRecord) -> dict[str, float]:
    """Numbers: `holdout_<metric>` of the measured model, `<baseline>_<metric>` of the baselines.

    `unseen_<feature>` counts the categories of the holdout that the measured model does not know,
    `calibration_<kind>` is the log loss by kind on the calibration day.
    """
    numbers = {f"{HOLDOUT}{name}": value for name, value in record.evaluation.numbers().items()}
    for end in ("estimate", "lower", "upper"):
        if (gap := getattr(record.leakage, end)) is not None:
            numbers["leakage_gap" if end == "estimate" else f"leakage_gap_{end}"] = gap
    numbers["left_out_rows"] = float(sum(record.left_out.values()))
    for baseline, metrics in record.evaluation.baselines.items():
        numbers |= {f"{baseline}_{name}": value for name, value in metrics.items()}
    for name, count in record.pair.measured.inputs.count_unseen(record.holdout.features).items():
        numbers[f"unseen_{name}"] = float(count)
    for kind, loss in record.pair.calibration_losses.items():
        numbers[f"calibration_{kind}"] = loss
    return numbers


def told_parameters(fitter: Fitter, recipe: Recipe, model: Model) -> dict[str, Any]:
    """Return what the use case declares of training, and what XGBoost is told."""
    training = fitter.use_case.training
    return {
        **fitter.parameters(recipe, model.inputs),
        "models": " ".join(training.models),
        "drop_features": training.drop_features,
    }


def run_parameters(record: TrainingRecord) -> dict[str, Any]:
    """Parameters: what was told, the rounds, where rows were, the days of the parts."""
    recipe = record.choice.recipe
    return {
        **told_parameters(record.fitter, recipe, record.model),
        "family": recipe.family,
        "rounds": recipe.rounds,
        "rounds_measured": record.pair.measured.booster.num_boosted_rounds(),
        "rounds_final": record.model.booster.num_boosted_rounds(),
        "features": len(record.model.inputs.names),
        "external_memory": record.rows.external,
        "dask_workers": record.rows.workers,
        **{part: " ".join(map(str, days)) for part, days in record.plan.parts.items()},
    }


def write_artifacts(record: TrainingRecord, target: TargetModel, folder: Path) -> None:
    """Write drift reference, importances, calibration, choice and plots below a folder."""
    documents: dict[str, Any] = {
        REFERENCE_FILE: record.reference,
        IMPORTANCES_FILE: record.model.importances,
        PERMUTATION_FILE: [one.to_dict() for one in record.importances],
        "choice.json": record.choice.to_dict(),
        SLICES_FILE: {name: bias.to_dict() for name, bias in record.bias.items()},
        "left_out.json": dict(record.left_out),
        "calibration.json": [asdict(bin_) for bin_ in record.evaluation.calibration],
    }
    for name, content in documents.items():
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / MEASURED_FILE).write_bytes(record.pair.measured.ubj)
    plots = folder / "plots"
    plots.mkdir()
    target.draw(record.holdout.labels, record.holdout.score(record.pair.measured), plots)
    draw_calibration(record.evaluation.calibration, plots / "calibration.png")
    draw_importances(record.model.importances, plots / "importances.png")
