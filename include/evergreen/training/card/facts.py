"""What a card says, as plain values: gathered when a version is trained, completed by the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow.compute as pc
from scipy import stats

from evergreen.contract import UseCase
from evergreen.decisions.gate import Difference, PromotionEvidence, PromotionVerdict
from evergreen.decisions.stored import Stored
from evergreen.training.evaluate import Vector
from evergreen.training.frame import LABEL
from evergreen.training.importance import Importance
from evergreen.training.inputs import Matrix
from evergreen.training.model import Model
from evergreen.training.record import TrainingRecord
from evergreen.training.slices import Bias

# Rows of the holdout that explanations are the mean of, spread evenly over its entities.
_EXPLAINED = 2_000
# Features whose partial dependence is drawn, and at how many of their values.
_DRAWN, _POINTS = 4, 10
# Categories that are named; of the others the number is said.
_NAMED = 10


@dataclass(frozen=True)
class Part(Stored):
    """Rows of some days; the label rate of what is true or false, else the mean label."""

    days: tuple[date, ...]
    rows: int
    mean_label: float


@dataclass(frozen=True)
class Tested(Stored):
    """Days that a model was fitted on, and the later day it was tested on."""

    used_for: str
    fit: tuple[date, ...]
    test: date


@dataclass(frozen=True)
class Feature(Stored):
    """What the measured model makes of a feature.

    Parameters
    ----------
    missing
        Share of the rows of the holdout that have no value the model knows.
    explained
        Mean absolute SHAP value on the holdout, in what the model adds up; of a linear model, of
        its terms.
    direction
        Rank correlation of value and SHAP value; None of a category, or where one is constant.
    categories
        How many the model knows, and the first of them by name.
    """

    name: str
    description: str
    unit: str
    monotone: str
    missing: float
    explained: float
    direction: float | None
    known_categories: int | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dependence(Stored):
    """Mean score of a sample of the holdout if one feature had these values for everybody."""

    feature: str
    values: tuple[float | str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Decision(Stored):
    """What the gate saw and said, of which version, and what follows from a yes."""

    mode: str
    evidence: PromotionEvidence
    verdict: PromotionVerdict


@dataclass(frozen=True)
class CardFacts(Stored):
    """Everything on a card.

    Parameters
    ----------
    target
        As it is declared: name, kind, description, horizon in days, and what else its kind has.
    parts
        Rows by what they were used for.
    snapshots
        Iceberg snapshot id of each table that was read; None for a table without snapshots.
    left_out
        Per day, labelled entities without features.
    recipe, tried
        What was chosen, and all that competed with its loss.
    evaluation
        Every measurement on the holdout, by name.
    leakage, bias
        As in `TrainingRecord`.
    known_entities
        Share of the holdout's entities that the measured model has learned from on earlier days.
    decision
        None until the gate has judged.
    """

    use_case: str
    title: str
    description: str
    entity: str
    target: dict[str, Any]
    zone: str
    day: date
    reason: str
    cutoff_every_days: int
    parts: dict[str, Part]
    folds: tuple[Tested, ...]
    snapshots: dict[str, int | None]
    left_out: dict[str, int]
    recipe: dict[str, Any]
    chosen: str
    tried: tuple[dict[str, Any], ...]
    main_metric: str
    evaluation: dict[str, Any]
    leakage: Difference
    bias: dict[str, Bias]
    calibration: str
    calibration_losses: dict[str, float]
    features: tuple[Feature, ...]
    importances: tuple[Importance, ...]
    dependences: tuple[Dependence, ...]
    known_entities: float
    unseen_categories: dict[str, int]
    made_by: dict[str, str]
    decision: Decision | None = field(default=None)


def gather_card(record: TrainingRecord) -> CardFacts:
    """Gather what training knows; explanations are of the measured model, on its holdout.

    Notes
    -----
    Cost: explains at most 2,000 rows, and scores them some forty times.
    """
    use_case, holdout, measured = record.fitter.use_case, record.holdout, record.pair.measured
    target, plan = use_case.target, record.plan
    sample = _sample(measured.inputs.prepare(holdout.features))
    features = _describe_features(use_case, measured, sample, record.fitter.threads)
    used_for = ["tuning"] * len(plan.tuning) + ["calibration"] * (plan.calibration is not None)
    folds = zip([*used_for, "holdout"], plan.folds, strict=True)
    top = [one.feature for one in record.importances] or [one.name for one in features]
    return CardFacts(
        use_case=use_case.name,
        title=use_case.title,
        description=use_case.description,
        entity=use_case.entity.name,
        target=target.model_dump(mode="json"),
        zone=use_case.zone,
        day=record.day,
        reason=record.reason,
        cutoff_every_days=use_case.training.cutoff_every_days,
        parts={name: _describe_part(record, days) for name, days in plan.parts.items()},
        folds=tuple(Tested(what, fold.fit, fold.test) for what, fold in folds),
        snapshots=dict(sorted(record.inputs.items())),
        left_out={day: count for day, count in record.left_out.items() if count},
        recipe=record.choice.recipe.to_dict(),
        chosen=record.choice.reason,
        tried=tuple(tried.to_dict() for tried in record.choice.tried),
        main_metric=target.main_metric,
        evaluation=_plain(record.evaluation),
        leakage=record.leakage,
        bias=dict(record.bias),
        calibration=measured.calibration.kind,
        calibration_losses=dict(record.pair.calibration_losses),
        features=features,
        importances=tuple(record.importances),
        dependences=tuple(_depend(record, sample, name) for name in top[:_DRAWN]),
        known_entities=_share_known(record),
        unseen_categories=measured.inputs.count_unseen(holdout.features),
        made_by={
            "code digest": record.code_digest,
            "lock digest": record.lock_digest,
            "digest of the measured model": measured.digest,
            "digest of the model that serves": record.model.digest,
            "seed": str(record.fitter.seed),
            "threads": str(record.fitter.threads),
            **{name.replace("_", " "): told for name, told in record.replay_needs.items()},
        },
    )


def _describe_part(record: TrainingRecord, days: tuple[date, ...]) -> Part:
    labels = record.fitter.use_case.target.read_labels(record.rows.of(days)[LABEL])
    return Part(days, len(labels), float(labels.mean()))


def _sample(matrix: Matrix) -> Matrix:
    # Rows are ordered by entity, so every n-th is as good as a draw and needs no seed.
    count = min(len(matrix), _EXPLAINED)
    sample: Matrix = matrix[np.linspace(0, len(matrix) - 1, count).astype(int)]
    return sample


def _describe_features(
    use_case: UseCase, model: Model, sample: Matrix, threads: int
) -> tuple[Feature, ...]:
    """Describe all features, the one that moves scores most first."""
    added = model.explain(sample, use_case.target.explained_output, threads=threads)
    found = []
    for place, name in enumerate(model.inputs.names):
        declared, values = use_case.features.columns[name], sample[:, place]
        known = model.inputs.categories.get(name)
        found.append(
            Feature(
                name,
                declared.description,
                declared.unit,
                declared.monotone,
                missing=float(np.isnan(values).mean()),
                explained=float(np.abs(added[:, place]).mean()),
                direction=None if known is not None else _direction(values, added[:, place]),
                known_categories=None if known is None else len(known),
                categories=() if known is None else known[:_NAMED],
            )
        )
    return tuple(sorted(found, key=lambda one: (-one.explained, one.name)))


def _direction(values: Vector, added: Vector) -> float | None:
    there = ~np.isnan(values)
    values, added = values[there], added[there]
    if len(values) < 2 or not np.ptp(values) or not np.ptp(added):
        return None
    return float(stats.spearmanr(values, added).statistic)


def _depend(record: TrainingRecord, sample: Matrix, feature: str) -> Dependence:
    """Partial dependence (Friedman 2001), at quantiles of a number or at the first categories."""
    model, target = record.pair.measured, record.fitter.use_case.target
    place = model.inputs.names.index(feature)
    column = sample[:, place]
    there = column[~np.isnan(column)]
    if feature in model.inputs.categories:
        grid = np.unique(there)[:_POINTS]
        values = tuple(model.inputs.decode(place, grid).to_pylist())
    else:
        shares = np.linspace(0.05, 0.95, _POINTS)
        grid = np.unique(np.quantile(there, shares, method="nearest")) if len(there) else there
        values = tuple(map(float, grid))
    scores = []
    for value in grid:
        everybody = sample.copy()
        everybody[:, place] = value
        found = model.predict(everybody, target, threads=record.fitter.threads)["score"]
        scores.append(float(found.mean()))
    return Dependence(feature, values, tuple(scores))


def _share_known(record: TrainingRecord) -> float:
    key, plan = record.fitter.use_case.entity.key, record.plan
    learned = record.rows.of(plan.evaluation.fit)[key]
    known = pc.is_in(record.rows.of([plan.holdout])[key], value_set=pc.unique(learned))
    return float(pc.mean(known).as_py())


def _plain(value: Any) -> Any:
    """Return JSON-able values, whatever is measured; what is not finite was not measured."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
