"""Labelled rows of a training set, divided among the parts of a plan."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Self

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


class Frame(ABC):
    """Model inputs with known outcomes, ordered by (as-of, entity key), wherever they are.

    The order is canonical because boosting samples rows by position: the same rows in another
    order would give another model.

    Parameters
    ----------
    labels
        float64 `[n]`, as the target reads them.
    inputs
        What the columns are.
    """

    labels: npt.NDArray[np.float64]
    inputs: Inputs

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @abstractmethod
    def batches(self) -> Iterator[Matrix]:
        """Give the matrix in pieces of some rows each, float32 `[m, k]`."""

    @abstractmethod
    def without(self, features: Collection[str]) -> Self:
        """Return the same rows without some features; those it does not have are no matter."""

    @abstractmethod
    def filter(self, wanted: npt.NDArray[np.bool_]) -> Self:
        """Return some of the rows; `[n]`."""

    @abstractmethod
    def load(self, values: int | None = None) -> LabelledFrame:
        """Return rows in memory: all, or evenly spaced ones if they have more than `values`.

        What is in memory already is returned as it is.
        """

    @property
    def digest(self) -> str:
        """SHA-256 of inputs and outcomes, hexadecimal."""
        read = [self.inputs.names, dict(self.inputs.categories)]
        content = hashlib.sha256(json.dumps(read).encode())
        for matrix in self.batches():
            content.update(np.ascontiguousarray(matrix).data)
        content.update(np.ascontiguousarray(self.labels).data)
        return content.hexdigest()


@dataclass(frozen=True)
class LabelledFrame(Frame):
    """Rows whose matrix is in memory.

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

    def batches(self) -> Iterator[Matrix]:
        """Give the matrix, which is one piece."""
        yield self.matrix

    def load(self, values: int | None = None) -> LabelledFrame:
        """Return this frame."""
        return self

    def filter(self, wanted: npt.NDArray[np.bool_]) -> Self:
        """Return some of the rows; `[n]`."""
        return replace(
            self,
            keys=self.keys.filter(wanted),
            as_of=self.as_of.filter(wanted),
            matrix=self.matrix[wanted],
            labels=self.labels[wanted],
        )

    def without(self, features: Collection[str]) -> Self:
        """Return the same rows without some features; those it does not have are no matter."""
        kept = [place for place, name in enumerate(self.inputs.names) if name not in features]
        if len(kept) == len(self.inputs.names):
            return self
        inputs = self.inputs.without(features)
        return replace(self, matrix=self.matrix.take(kept, axis=1), inputs=inputs)


class LabelledRows(ABC):
    """The rows of a training set, ordered by (as-of, entity key), wherever they are.

    Parameters
    ----------
    use_case
        What they are declared as.
    """

    use_case: UseCase

    @property
    @abstractmethod
    def external(self) -> bool:
        """Whether they are fitted on without being in memory."""

    @property
    def workers(self) -> int:
        """How many workers of a cluster share a fit; 0 where it is done here."""
        return 0

    @abstractmethod
    def of(self, days: Collection[date]) -> pa.Table:
        """Return the rows of some days: entity key, `as_of`, the features and `label`."""

    @abstractmethod
    def to_fit(self, days: Collection[date], inputs: Inputs | None = None) -> Frame:
        """Prepare many days to fit on, as `frame` does, where the rows are."""

    def frame(self, days: Collection[date], inputs: Inputs | None = None) -> LabelledFrame:
        """Prepare the rows of some days for a model that reads `inputs`; by default a new one."""
        part = self.of(days)
        return to_frame(part, inputs or Inputs.freeze(self.use_case, part), self.use_case)


@dataclass(frozen=True)
class RowsInMemory(LabelledRows):
    """A training set that fits into memory.

    Parameters
    ----------
    rows
        Entity key, `as_of`, the features and `label`.
    """

    rows: pa.Table
    use_case: UseCase
    external = False

    def of(self, days: Collection[date]) -> pa.Table:
        """Return the rows of some days."""
        wanted = pa.array([self.use_case.as_of(day) for day in days], _INSTANT)
        return self.rows.filter(pc.is_in(self.rows[AS_OF], wanted))

    def to_fit(self, days: Collection[date], inputs: Inputs | None = None) -> LabelledFrame:
        """Prepare the rows of some days."""
        return self.frame(days, inputs)


def to_frame(rows: pa.Table, inputs: Inputs, use_case: UseCase) -> LabelledFrame:
    """Prepare ordered rows."""
    return LabelledFrame(
        keys=rows[use_case.entity.key].combine_chunks(),
        as_of=rows[AS_OF].combine_chunks(),
        matrix=inputs.prepare(rows),
        labels=use_case.target.read_labels(rows[LABEL]),
        inputs=inputs,
    )


def label_rows(rows: pa.Table, plan: SplitPlan, use_case: UseCase) -> RowsInMemory:
    """Check and order a training set.

    Parameters
    ----------
    rows
        Entity key, `as_of` (timestamp, UTC), the features, and `label`, one row per entity and
        as-of, in any order, with the rows of all `plan.days`. Not modified.

    Raises
    ------
    NotReadyError
        A planned day has no rows.
    ConfigError
        A column is missing or has a wrong type.
    ValidationError
        A key, as-of or label is null, or a row appears twice.
    """
    ordered = order(rows, use_case)
    present = {*pc.unique(ordered[AS_OF]).to_pylist()}
    require_all([day for day in plan.days if use_case.as_of(day) not in present])
    return RowsInMemory(ordered, use_case)


def require_all(absent: Sequence[date]) -> None:
    """Refuse a training set that has no rows of some planned days."""
    if absent:
        raise NotReadyError(
            f"The training set has no labelled rows for {', '.join(map(str, absent))}; expected "
            "features and labels of every planned day. Compute those days first."
        )


def order(rows: pa.Table, use_case: UseCase) -> pa.Table:
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
