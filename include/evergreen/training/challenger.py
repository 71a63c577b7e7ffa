"""From a training set to a registered challenger, and the evidence by which it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from evergreen.contract import UseCase
from evergreen.decisions.gate import MeasuredChampion, PromotionEvidence
from evergreen.monitoring.reference import SCORE, Reference, build_reference
from evergreen.provenance import receipts
from evergreen.release import ledger
from evergreen.training.assemble import TrainingInputs, keep
from evergreen.training.baselines import measure_baselines
from evergreen.training.compatibility import find_misfit
from evergreen.training.evaluate import evaluate
from evergreen.training.fit import FittedModel, fit_booster, predict
from evergreen.training.frame import LabelledSplit, label_split
from evergreen.training.record import TrainingRecord
from evergreen.training.split import plan_training
from evergreen.training.tracking import load_version, log_training_run

if TYPE_CHECKING:
    from evergreen.release.ledger import Entry


def train_challenger(
    use_case: UseCase,
    day: date,
    rows: pa.Table,
    inputs: TrainingInputs,
    *,
    reason: str,
    left_out: Mapping[str, int],
    threads: int,
) -> PromotionEvidence:
    """Fit on the rows, measure model, baselines and champion on one holdout, register a version.

    Parameters
    ----------
    day
        Partition key of the run.
    rows
        The training set of `plan_training(use_case, day)`; see `evergreen.training.assemble`.
    inputs
        The versions it is made of; their snapshots are kept for as long as the version is.
    reason
        Why the training was requested, for people; with the day, the identity of the request.
    left_out
        Per day, labelled entities that are in no row.
    """
    plan = plan_training(use_case, day)
    split = label_split(rows, plan, use_case)
    seed = use_case.training.seed
    fitted = fit_booster(split, use_case, threads=threads, seed=seed)
    evaluation = evaluate(fitted.booster, split, use_case.target, threads=threads)
    baselines = measure_baselines(split, use_case)
    # Before the version is registered: what fails until then can be repeated as if never begun.
    entry = ledger.champion(ledger.engine(), use_case.name)
    champion = measure_champion(use_case, entry, split, threads=threads)
    version = log_training_run(
        TrainingRecord(
            day=day,
            request_key=f"{day} {reason}",
            reason=reason,
            plan=plan,
            split=split,
            fitted=fitted,
            evaluation=evaluation,
            baselines=baselines,
            inputs=inputs.to_dict(),
            left_out=left_out,
            reference=freeze_reference(use_case, split, fitted, threads=threads).to_dict(),
            code_digest=receipts.code_digest(use_case),
            lock_digest=receipts.lock_digest(),
            seed=seed,
        ),
        use_case,
    ).version
    keep(use_case, version, inputs)
    return PromotionEvidence(
        day=day,
        use_case=use_case.name,
        version=version,
        holdout_as_of=use_case.as_of(plan.holdout[-1]),
        counts=dict(evaluation.counts),
        challenger=dict(evaluation.metrics),
        latency_ms_per_1k=evaluation.latency_ms_per_1k,
        baselines={name: dict(metrics) for name, metrics in baselines.items()},
        champion=champion,
        ledger_sequence=entry.sequence if entry else 0,
    )


def measure_champion(
    use_case: UseCase, entry: Entry | None, split: LabelledSplit, *, threads: int
) -> MeasuredChampion | None:
    """Measure the model in charge on the challenger's holdout; None if there is none."""
    if entry is None:
        return None
    model = load_version(use_case, entry.version)
    if misfit := find_misfit(use_case, model.reads):
        return MeasuredChampion(entry.version, unfit=f"it reads {misfit}")
    matrix = model.inputs.prepare(split.holdout_features)
    scores = predict(model.booster, matrix, use_case.target, threads=threads)["score"]
    return MeasuredChampion(
        entry.version, dict(use_case.target.measure(split.holdout.labels, scores))
    )


def freeze_reference(
    use_case: UseCase, split: LabelledSplit, fitted: FittedModel, *, threads: int
) -> Reference:
    """Freeze the features the model was fitted on, and its score on rows it had not seen."""
    inputs = build_reference(split.inputs.as_table(split.refit.matrix), split.inputs.names)
    scores = predict(fitted.booster, split.holdout.matrix, use_case.target, threads=threads)
    output = build_reference(pa.table({SCORE: scores[SCORE]}), [SCORE])
    return replace(inputs, columns=inputs.columns + output.columns)
