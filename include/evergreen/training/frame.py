"""The one way from a table of features to what a model reads, for training and scoring alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase, as_of
from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.training.split import SplitPlan

LABEL = "label"
AS_OF = "as_of"

Matrix = npt.NDArray[np.float32]


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
        float32 `[n, k]`, NaN where a feature is null.
    target
        float32 `[n]`, 1.0 where the label is true.
    feature_names
        The `k` features, in the order of the columns of `matrix`.
    """

    keys: pa.Array
    as_of: pa.Array
    matrix: Matrix
    target: Matrix
    feature_names: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.target)

    @property
    def positives(self) -> int:
        """Number of rows whose label is true."""
        return int(self.target.sum())

    @property
    def digest(self) -> str:
        """SHA-256 of inputs and outcomes, hexadecimal."""
        content = hashlib.sha256("\x1f".join(self.feature_names).encode())
        content.update(np.ascontiguousarray(self.matrix).tobytes())
        content.update(np.ascontiguousarray(self.target).tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class LabelledSplit:
    """The rows of a `SplitPlan`; `fit` and `validation` are None when the plan has no such days."""

    fit: LabelledFrame | None
    validation: LabelledFrame | None
    refit: LabelledFrame
    holdout: LabelledFrame


def prepare(features: pa.Table, feature_names: Sequence[str]) -> Matrix:
    """Turn features into the model's matrix.

    Parameters
    ----------
    features
        Any table with the named columns, in any order, of integers, floats or booleans; further
        columns are ignored. Not modified.
    feature_names
        The features the model reads: `use_case.feature_names` while training,
        `model.feature_names` while scoring.

    Returns
    -------
    numpy.ndarray
        float32 `[n, k]`, columns in the order of `feature_names`, NaN where a value is null.

    Raises
    ------
    ConfigError
        A column is missing or is not a number.
    ValidationError
        A value is infinite, in the table or as a float32.
    """
    missing = [name for name in feature_names if name not in features.column_names]
    if missing:
        raise ConfigError(
            f"The features lack {missing}; found {features.column_names}. Recompute the features "
            "with the present features.sql, or choose a model version that was trained on these."
        )
    matrix = np.empty((features.num_rows, len(feature_names)), dtype=np.float32)
    for index, name in enumerate(feature_names):
        column = features.column(name)
        kind = column.type
        if pa.types.is_boolean(kind):
            column = column.cast(pa.uint8())
        elif not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        ):
            raise ConfigError(
                f"The feature {name} has type {kind}; expected an integer, float or boolean. "
                "Cast it in features.sql."
            )
        # A float64 beyond float32 becomes infinite and is refused below, with a better message.
        with np.errstate(over="ignore"):
            values = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float32)
        if np.isinf(values).any():
            raise ValidationError(
                f"The feature {name} has {int(np.isinf(values).sum())} infinite values; expected "
                "finite numbers or null. Guard the division in features.sql with nullif."
            )
        matrix[:, index] = values
    return matrix


def label_frame(rows: pa.Table, use_case: UseCase) -> LabelledFrame:
    """Build the labelled frame of a point-in-time training set.

    Parameters
    ----------
    rows
        Entity key, `as_of` (timestamp, UTC), the features, and `label` (boolean or 0/1), one row
        per entity and as-of, in any order. Not modified.

    Raises
    ------
    ConfigError
        A column is missing or has a wrong type.
    ValidationError
        A key, as-of or label is null, a label is neither 0 nor 1, or a row appears twice.
    """
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
    identity = rows.select([key, AS_OF])
    distinct = identity.group_by([key, AS_OF]).aggregate([]).num_rows
    if distinct != rows.num_rows:
        raise ValidationError(
            f"The training set has {rows.num_rows} rows but only {distinct} different pairs of "
            f"{key} and as_of; expected one row each. Check GROUP BY in features.sql, labels.sql."
        )
    ordered = rows.take(pc.sort_indices(rows, [(AS_OF, "ascending"), (key, "ascending")]))
    target = ordered.column(LABEL).cast(pa.float32()).to_numpy()
    if not np.isin(target, (0.0, 1.0)).all():
        raise ValidationError(
            f"The label takes the values {np.unique(target)[:5].tolist()}; expected true and false."
        )
    return LabelledFrame(
        keys=ordered.column(key).combine_chunks(),
        as_of=ordered.column(AS_OF).cast(pa.timestamp("us", "UTC")).combine_chunks(),
        matrix=prepare(ordered, use_case.feature_names),
        target=target,
        feature_names=tuple(use_case.feature_names),
    )


def label_split(rows: pa.Table, plan: SplitPlan, use_case: UseCase) -> LabelledSplit:
    """Divide one training set among the parts of a plan.

    Parameters
    ----------
    rows
        As for `label_frame`, with the rows of all `plan.days`; rows of other days are ignored.

    Raises
    ------
    NotReadyError
        A planned day has no rows.
    ConfigError, ValidationError
        As `label_frame`.
    """
    frame = label_frame(rows, use_case)
    present = set(pc.unique(frame.as_of).to_pylist())
    if absent := [day for day in plan.days if as_of(day) not in present]:
        raise NotReadyError(
            f"The training set has no labelled rows for {', '.join(map(str, absent))}; expected "
            "features and labels of every planned day. Compute those days first."
        )

    def part(days: Sequence[date]) -> LabelledFrame:
        wanted = pa.array([as_of(day) for day in days], pa.timestamp("us", "UTC"))
        mask = pc.is_in(frame.as_of, wanted)
        chosen = mask.to_numpy(zero_copy_only=False)
        return LabelledFrame(
            keys=frame.keys.filter(mask),
            as_of=frame.as_of.filter(mask),
            matrix=frame.matrix[chosen],
            target=frame.target[chosen],
            feature_names=frame.feature_names,
        )

    return LabelledSplit(
        fit=part(plan.fit) if plan.fit else None,
        validation=part(plan.validation) if plan.validation else None,
        refit=part(plan.refit),
        holdout=part(plan.holdout),
    )
