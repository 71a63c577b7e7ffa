"""From a training set to a registered challenger, and the evidence by which it is judged."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evergreen.contract import UseCase
from evergreen.decisions.gate import Difference, MeasuredChampion, PromotionEvidence
from evergreen.monitoring.reference import SCORE, Reference, build_reference
from evergreen.provenance import receipts
from evergreen.release import ledger
from evergreen.training.assemble import TrainingInputs, keep
from evergreen.training.baselines import score_baselines
from evergreen.training.compatibility import find_misfit
from evergreen.training.evaluate import Evaluation, Holdout, compare, evaluate, score_features
from evergreen.training.fit import Fitter
from evergreen.training.folds import prepare_folds
from evergreen.training.frame import LabelledRows
from evergreen.training.importance import measure_importances, tell_importances
from evergreen.training.leakage import measure_leakage
from evergreen.training.model import Model
from evergreen.training.record import TrainingRecord
from evergreen.training.refit import Pair, fit_pair, measure_agreement
from evergreen.training.slices import find_slices, measure_bias
from evergreen.training.split import SplitPlan, plan_training
from evergreen.training.tracking import load_version, log_training_run
from evergreen.training.tune import Choice

if TYPE_CHECKING:
    from evergreen.release.ledger import Entry

Vector = NDArray[np.float64]

logger = logging.getLogger(__name__)


def train_challenger(
    use_case: UseCase,
    day: date,
    labelled: LabelledRows,
    inputs: TrainingInputs,
    choice: Choice,
    newest: pa.Table,
    *,
    reason: str,
    left_out: Mapping[str, int],
    threads: int,
) -> PromotionEvidence:
    """Fit what was chosen, measure it beside baselines and champion, and register a version.

    Parameters
    ----------
    day
        Partition key of the run.
    labelled
        The training set of `plan_training(use_case, day)`; see `evergreen.training.assemble`.
    inputs
        The versions it is made of; their snapshots are kept for as long as the version is.
    choice
        The recipe; see `evergreen.training.tune`.
    newest
        Features of `day`, whose labels nobody knows: on them the model that serves is held against
        the one that was measured. Without rows the holdout's are used.
    reason
        Why the training was requested, for people; with the day, the identity of the request.
    left_out
        Per day, labelled entities that are in no row.
    """
    plan = plan_training(use_case, day)
    fitter = Fitter(use_case, threads, use_case.training.seed)
    pair = fit_pair(labelled, plan, choice.recipe, fitter)
    # Before the version is registered: what fails until then can be repeated as if never begun.
    found = measure_challenger(use_case, day, labelled, pair.measured, fitter)
    importances = measure_importances(choice.recipe, prepare_folds(labelled, plan), fitter)
    logger.info("%s", tell_importances(importances))
    holdout, scores = found.holdout, found.scores
    version = log_training_run(
        TrainingRecord(
            day=day,
            request_key=f"{day} {reason}",
            reason=reason,
            plan=plan,
            rows=labelled,
            choice=choice,
            pair=pair,
            fitter=fitter,
            importances=importances,
            evaluation=found.evaluation,
            holdout=holdout,
            bias=measure_bias(use_case, holdout, scores),
            leakage=measure_leakage(labelled, plan, choice.recipe, fitter, holdout, scores),
            inputs=inputs.to_dict(),
            left_out=left_out,
            reference=freeze_reference(labelled, plan, pair, scores).to_dict(),
            code_digest=receipts.code_digest(use_case),
            lock_digest=receipts.lock_digest(),
        ),
        use_case,
    ).version
    keep(use_case, version, inputs)
    return gather_evidence(use_case, day, version, found, (pair.measured, pair.final), newest)


@dataclass(frozen=True)
class Measured:
    """A challenger beside baselines and champion.

    Parameters
    ----------
    scores
        Its scores of the holdout.
    entry, champion
        Who is in charge, by the ledger, and measured on the same holdout.
    """

    holdout: Holdout
    scores: Vector
    evaluation: Evaluation
    entry: Entry | None
    champion: MeasuredChampion | None


def measure_challenger(
    use_case: UseCase, day: date, labelled: LabelledRows, model: Model, fitter: Fitter
) -> Measured:
    """Measure a model that knew nothing of the holdout of a day's plan."""
    plan = plan_training(use_case, day)
    holdout = Holdout.of(labelled, plan, fitter)
    scores = holdout.score(model)
    baselines = score_baselines(labelled, plan.evaluation, fitter)
    entry = ledger.champion(ledger.engine(), use_case.name)
    return Measured(
        holdout,
        scores,
        evaluate(model, scores, holdout, baselines),
        entry,
        measure_champion(use_case, entry, holdout, scores, day),
    )


def gather_evidence(
    use_case: UseCase,
    day: date,
    version: int,
    found: Measured,
    models: tuple[Model, Model],
    newest: pa.Table,
    origin: Mapping[str, str] | None = None,
) -> PromotionEvidence:
    """Gather what the gate may look at.

    Parameters
    ----------
    models
        The one that was measured and the one that serves.
    newest
        See `train_challenger`.
    origin
        Of a version that was not trained here.
    """
    plan, evaluation, holdout = plan_training(use_case, day), found.evaluation, found.holdout
    features = newest if newest.num_rows else holdout.features
    return PromotionEvidence(
        day=day,
        use_case=use_case.name,
        version=version,
        holdout_as_of=use_case.as_of(plan.holdout),
        counts=dict(evaluation.counts),
        challenger=dict(evaluation.metrics),
        intervals=dict(evaluation.intervals),
        latency_ms_per_1k=evaluation.latency_ms_per_1k,
        baselines={name: dict(metrics) for name, metrics in evaluation.baselines.items()},
        over_baselines=dict(evaluation.over_baselines),
        champion=found.champion,
        ledger_sequence=found.entry.sequence if found.entry else 0,
        promoted_on_holdout=find_promoted(use_case, plan, version),
        refit=measure_agreement(
            *(score_features(model, features, holdout.target, holdout.threads) for model in models)
        ),
        origin=dict(origin or {}),
    )


def measure_champion(
    use_case: UseCase, entry: Entry | None, holdout: Holdout, challenger: Vector, day: date
) -> MeasuredChampion | None:
    """Measure the model in charge on the challenger's holdout; None if there is none.

    Of both recipes the model is measured that knew nothing of its holdout. The champion's model
    that serves has learned labels that reach into this holdout's window; the one it was measured by
    is as much older than the challenger's as the one that serves will be than its successor.
    """
    if entry is None:
        return None
    champion = load_version(use_case, entry.version)
    if misfit := find_misfit(use_case, champion):
        return MeasuredChampion(entry.version, unfit=f"it {misfit}")
    scores = holdout.score(champion.measured)
    return MeasuredChampion(
        entry.version,
        metrics=dict(holdout.target.measure(holdout.labels, scores)),
        differences=holdout.compare(challenger, scores),
        slices=compare_slices(use_case, holdout, challenger, scores),
        age_days=(day - date.fromisoformat(champion.tags["day"])).days,
    )


def compare_slices(
    use_case: UseCase, holdout: Holdout, challenger: Vector, champion: Vector
) -> dict[str, Difference]:
    """Compare by the main metric in every slice that has enough rows."""
    target, found = use_case.target, {}
    for name, mask in find_slices(use_case, holdout.features):
        labels = holdout.labels[mask]
        if not target.too_few(target.count(labels)):
            found[name] = compare(
                target, labels, challenger[mask], champion[mask], seed=holdout.seed
            ).get(target.main_metric)
    return {name: difference for name, difference in found.items() if difference}


def find_promoted(use_case: UseCase, plan: SplitPlan, version: int) -> int | None:
    """Find another version that was promoted, or rolled out, on this very holdout."""
    holdout = use_case.as_of(plan.holdout)
    for entry in ledger.entries(ledger.engine(), use_case.name):
        evidence = json.loads(entry.evidence).get("evidence") or {}
        decided_on = evidence.get("holdout_as_of")
        same = decided_on and datetime.fromisoformat(decided_on) == holdout
        if same and (decided := entry.challenger or entry.version) != version:
            return decided
    return None


def freeze_reference(rows: LabelledRows, plan: SplitPlan, pair: Pair, scores: Vector) -> Reference:
    """Freeze the features the model was fitted on, and its score on rows it had not seen."""
    fitted = rows.to_fit(plan.final, pair.final.inputs)
    parts = []
    # One by one: all features of all rows need not fit into memory.
    for name in fitted.inputs.names:
        one = fitted.without({*fitted.inputs.names} - {name})
        column = one.inputs.as_table(np.concatenate([*one.batches()]))
        parts.append(build_reference(column, [name]))
    parts.append(build_reference(pa.table({SCORE: scores}), [SCORE]))
    return Reference(tuple(column for part in parts for column in part.columns))
