"""Training sets that do not fit into memory: ordered on disk, read day by day."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import xgboost as xgb
from numpy.typing import NDArray
from pyarrow import feather

from evergreen.contract import UseCase
from evergreen.disk import room_on, scratch
from evergreen.provenance.staging import Staged
from evergreen.settings import load_settings
from evergreen.training.frame import (
    AS_OF,
    LABEL,
    Frame,
    LabelledFrame,
    LabelledRows,
    label_rows,
    order,
    require_all,
    to_frame,
)
from evergreen.training.inputs import Inputs, Matrix
from evergreen.training.split import SplitPlan

# Of float32, as a model reads them.
_BYTES_PER_VALUE = 4


def exceeds_budget(rows: int, use_case: UseCase) -> bool:
    """Whether a training set's matrix is larger than `EVERGREEN_TRAINING_MB` (of 10^6 bytes)."""
    size = rows * len(use_case.feature_names) * _BYTES_PER_VALUE
    return size > load_settings().training_mb * 1_000_000


@contextmanager
def open_rows(staged: Staged, plan: SplitPlan) -> Iterator[LabelledRows]:
    """Check and order a staged training set, in memory or on disk as its run has decided.

    What is put on disk is removed with the context.

    Raises
    ------
    StagingError
        What was staged is missing or damaged.
    """
    use_case, (period,) = staged.load_use_case(), staged.periods()
    if not staged.facts["external_memory"]:
        yield label_rows(staged.read("training_set", period), plan, use_case)
        return
    with scratch("external") as folder:
        yield store_rows(staged.scan("training_set", period), plan, use_case, Path(folder))


def store_rows(rows: ds.Dataset, plan: SplitPlan, use_case: UseCase, folder: Path) -> StoredRows:
    """Check and order a training set as `label_rows` does, holding one day at a time.

    Parameters
    ----------
    folder
        Gets a file per day, uncompressed, and what XGBoost keeps of a matrix while it is fitted.

    Raises
    ------
    DiskFullError
        There is no room for it.
    """
    # A column that is missing is missing of no rows, too.
    order(rows.schema.empty_table(), use_case)
    stored, absent = StoredRows(folder, use_case), []
    for day in plan.days:
        as_of = pa.scalar(use_case.as_of(day), pa.timestamp("us", "UTC"))
        # With those of no day, which are refused.
        part = rows.to_table(filter=(ds.field(AS_OF) == as_of) | ds.field(AS_OF).is_null())
        ordered = order(part, use_case)
        if not ordered.num_rows:
            absent.append(day)
        with room_on(str(folder)):
            feather.write_feather(ordered, str(stored.path(day)), compression="uncompressed")
    require_all(absent)
    return stored


@dataclass(frozen=True)
class StoredRows(LabelledRows):
    """A training set on disk.

    Parameters
    ----------
    folder
        Holds a file per day.
    """

    folder: Path
    use_case: UseCase
    external = True

    def path(self, day: date) -> Path:
        """Return where the rows of a day are."""
        return self.folder / f"{day}.arrow"

    def of(self, days: Collection[date]) -> pa.Table:
        """Return the rows of some days; mapped, so that only columns that are used are read."""
        return pa.concat_tables(
            feather.read_table(str(self.path(day)), memory_map=True) for day in sorted(days)
        )

    def to_fit(self, days: Collection[date], inputs: Inputs | None = None) -> StoredFrame:
        """Prepare the rows of some days where they are."""
        part = self.of(days)
        return StoredFrame(
            labels=self.use_case.target.read_labels(part[LABEL]),
            inputs=inputs or Inputs.freeze(self.use_case, part),
            source=self,
            days=tuple(sorted(days)),
            kept=np.ones(part.num_rows, dtype=np.bool_),
        )


@dataclass(frozen=True)
class StoredFrame(Frame):
    """Rows whose matrix is made day by day, each time it is read.

    Parameters
    ----------
    source, days
        Where they are.
    kept
        Which rows of those days they are.
    """

    labels: NDArray[np.float64]
    inputs: Inputs
    source: StoredRows
    days: tuple[date, ...]
    kept: NDArray[np.bool_]

    def batches(self) -> Iterator[Matrix]:
        """Give the matrix of each day."""
        return (self.inputs.prepare(part) for part in self._parts())

    def without(self, features: Collection[str]) -> Self:
        """Return the same rows without some features; those it does not have are no matter."""
        return replace(self, inputs=self.inputs.without(features))

    def filter(self, wanted: NDArray[np.bool_]) -> Self:
        """Return some of the rows; `[n]`."""
        kept = self.kept.copy()
        kept[self.kept] = wanted
        return replace(self, labels=self.labels[wanted], kept=kept)

    def load(self, values: int | None = None) -> LabelledFrame:
        """Return rows in memory: all, or evenly spaced ones if they have more than `values`."""
        every = -(-self.rows * len(self.inputs.names) // values) if values else 1
        wanted = self.filter(np.arange(self.rows) % max(every, 1) == 0)
        return to_frame(pa.concat_tables(wanted._parts()), self.inputs, self.source.use_case)

    def to_data(self, *, threads: int) -> xgb.DMatrix:
        """Give XGBoost the features in quantiles, which it keeps on disk until they are let go."""
        return xgb.ExtMemQuantileDMatrix(
            _Days(self), missing=float("nan"), nthread=threads, enable_categorical=True
        )

    def _parts(self) -> Iterator[pa.Table]:
        """Give the rows of each day that has some."""
        use_case, begun = self.source.use_case, 0
        for day in self.days:
            part = self.source.of([day]).select(
                [use_case.entity.key, AS_OF, LABEL, *self.inputs.names]
            )
            kept = self.kept[begun : begun + part.num_rows]
            begun += part.num_rows
            if kept.any():
                yield part if kept.all() else part.filter(pa.array(kept))


class _Days(xgb.DataIter):
    """What XGBoost asks for the days of a frame, several times over."""

    def __init__(self, frame: StoredFrame) -> None:
        self._frame = frame
        self.reset()
        # XGBoost adds what is unique in this process, and removes its file with the matrix.
        super().__init__(cache_prefix=str(frame.source.folder / "quantiles"))

    def reset(self) -> None:
        """Begin again."""
        self._batches, self._row = self._frame.batches(), 0

    def next(self, input_data: Callable[..., Any]) -> bool:
        """Hand the next day over, if there is one."""
        matrix = next(self._batches, None)
        if matrix is None:
            return False
        labels = self._frame.labels[self._row : self._row + len(matrix)]
        self._row += len(matrix)
        inputs = self._frame.inputs
        input_data(
            data=matrix,
            label=labels,
            feature_names=list(inputs.names),
            feature_types=inputs.types,
        )
        return True
