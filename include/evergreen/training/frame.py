"""Labelled rows of a training set, divided among the parts of a plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase
from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.training.inputs import Inputs, Matrix
from evergreen.training.split import SplitPlan

LABEL = "label"
AS_OF = "as_of"

_INSTANT = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class LabelledFrame:
    """Model inputs with known outcomes, ordered by (as-of, entity key).

    The order is canonical because boosting samples rows by position: the same rows in another
    order would give another model.

    Parameters
    ----------
    keys
        Entity keys, string or integer, length `n`.
    as_of
        Instants, timestamp[us, UTC], length `n`.
    matrix
        float32 `[n, k]`, as `inputs.prepare` gave it.
    labels
        float64 `[n]`, as the target reads them.
    inputs
        What the columns of `matrix` are.
    """

    keys: pa.Array
    as_of: pa.Array
    matrix: Matrix
    labels: npt.NDArray[np.float64]
    inputs: Inputs

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 of inputs and outcomes, hexadecimal."""
        read = [self.inputs.names, dict(self.inputs.categories)]
        content = hashlib.sha256(json.dumps(read).encode())
        content.update(np.ascontiguousarray(self.matrix).tobytes())
        content.update(np.ascontiguousarray(self.labels).tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class LabelledSplit:
    """The rows of a `SplitPlan`.

    Parameters
    ----------
    fit, validation
        None when the plan has no such days.
    refit, holdout
        The rows the model is fitted on, and those it is measured on.
    holdout_features
        The features of `holdout` as they were computed, row by row: a model with other inputs is
        measured on these.
    """

    fit: LabelledFrame | None
    validation: LabelledFrame | None
    refit: LabelledFrame
    holdout: LabelledFrame
    holdout_features: pa.Table

    @property
    def inputs(self) -> Inputs:
        """What a model of this split reads; categories are those of `refit`."""
        return self.refit.inputs

    @property
    def unseen(self) -> dict[str, int]:
        """Values of the holdout that `refit` does not have, per category feature."""
        return self.inputs.count_unseen(self.holdout_features)


def label_split(rows: pa.Table, plan: SplitPlan, use_case: UseCase) -> LabelledSplit:
    """Divide one training set among the parts of a plan.

    Parameters
    ----------
    rows
        Entity key, `as_of` (timestamp, UTC), the features, and `label`, one row per entity and
        as-of, in any order, with the rows of all `plan.days`; rows of other days are ignored.
        Not modified.

    Raises
    ------
    NotReadyError
        A planned day has no rows.
    ConfigError
        A column is missing or has a wrong type.
    ValidationError
        A key, as-of or label is null, a label is impossible, or a row appears twice.
    """
    ordered = _ordered(rows, use_case)
    present = {*pc.unique(ordered[AS_OF]).to_pylist()}
    if absent := [day for day in plan.days if use_case.as_of(day) not in present]:
        raise NotReadyError(
            f"The training set has no labelled rows for {', '.join(map(str, absent))}; expected "
            "features and labels of every planned day. Compute those days first."
        )

    def of_days(days: Sequence[date]) -> pa.Table:
        wanted = pa.array([use_case.as_of(day) for day in days], _INSTANT)
        return ordered.filter(pc.is_in(ordered[AS_OF], wanted))

    refit, holdout = of_days(plan.refit), of_days(plan.holdout)
    inputs = Inputs.freeze(use_case, refit)

    def frame(part: pa.Table) -> LabelledFrame:
        return LabelledFrame(
            keys=part[use_case.entity.key].combine_chunks(),
            as_of=part[AS_OF].combine_chunks(),
            matrix=inputs.prepare(part),
            labels=use_case.target.read_labels(part[LABEL]),
            inputs=inputs,
        )

    return LabelledSplit(
        fit=frame(of_days(plan.fit)) if plan.fit else None,
        validation=frame(of_days(plan.validation)) if plan.validation else None,
        refit=frame(refit),
        holdout=frame(holdout),
        holdout_features=holdout.select(list(inputs.names)),
    )


def _ordered(rows: pa.Table, use_case: UseCase) -> pa.Table:
    """Return the rows by (as-of, key), if they are what a training set must be."""
    key = use_case.entity.key
    for name in (key, AS_OF, LABEL):
        if name not in rows.column_names:
            raise ConfigError(
                f"The training set lacks the column {name}; found {rows.column_names}."
            )
        if nulls := rows.column(name).null_count:
            raise ValidationError(
                f"The training set's column {name} is null in {nulls} of {rows.num_rows} rows; "
                "expected none. Check labels.sql and the point-in-time join."
            )
    distinct = rows.group_by([key, AS_OF]).aggregate([]).num_rows
    if distinct != rows.num_rows:
        raise ValidationError(
            f"The training set has {rows.num_rows} rows but only {distinct} different pairs of "
            f"{key} and as_of; expected one row each. Check GROUP BY in features.sql, labels.sql."
        )
    ordered = rows.take(pc.sort_indices(rows, [(AS_OF, "ascending"), (key, "ascending")]))
    instants = ordered[AS_OF].cast(_INSTANT)
    return ordered.set_column(ordered.column_names.index(AS_OF), AS_OF, instants)
