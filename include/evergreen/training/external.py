"""Training sets that do not fit into memory: ordered on disk, read day by day.

Where a cluster shares the fits, each of its workers reads its piece of the staged rows itself; the
rows on disk here are for everything else (measures, a linear model, the drift reference).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import xgboost as xgb
from numpy.typing import NDArray
from pyarrow import feather

from evergreen.contract import Period, UseCase
from evergreen.disk import room_on, scratch
from evergreen.errors import PermanentError
from evergreen.provenance.staging import Staged, drop_staging, new_staging
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


def place_of(rows: int, use_case: UseCase) -> dict[str, Any]:
    """Decide, once per run, where a training set is fitted: in memory, from the disk, on a cluster.

    A cluster gets what else would be fitted from the disk.
    """
    settings, external = load_settings(), exceeds_budget(rows, use_case)
    workers = settings.dask_workers if external and settings.dask_url else 0
    return {"external_memory": external, "dask_workers": workers}


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
        workers = staged.facts.get("dask_workers", 0)
        shared = Shared(StagedRows(staged, use_case), workers) if workers else None
        dataset = staged.scan("training_set", period)
        yield replace(store_rows(dataset, plan, use_case, Path(folder)), shared=shared)


@contextmanager
def open_assembled(
    rows: pa.Table, use_case: UseCase, plan: SplitPlan, period: Period, facts: Mapping[str, Any]
) -> Iterator[LabelledRows]:
    """Stage rows, and open them where `facts` say (see `place_of`); nothing of them stays."""
    folder = new_staging(use_case.name, "again", period.label)
    staged = Staged(use_case.name, period.label, folder, chunks=(period.label,), facts=facts)
    try:
        staged.write("training_set", period, rows)
        with open_rows(staged, plan) as opened:
            yield opened
    finally:
        drop_staging(folder)


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
        ordered = _rows_of(rows, day, use_case)
        if not ordered.num_rows:
            absent.append(day)
        with room_on(str(folder)):
            feather.write_feather(ordered, str(stored.path(day)), compression="uncompressed")
    require_all(absent)
    return stored


def _rows_of(rows: ds.Dataset, day: date, use_case: UseCase) -> pa.Table:
    as_of = pa.scalar(use_case.as_of(day), pa.timestamp("us", "UTC"))
    # With those of no day, which are refused.
    part = rows.to_table(filter=(ds.field(AS_OF) == as_of) | ds.field(AS_OF).is_null())
    return order(part, use_case)


class Source(Protocol):
    """Where rows are."""

    @property
    def use_case(self) -> UseCase:
        """What they are declared as."""

    def of(self, days: Collection[date]) -> pa.Table:
        """Return the rows of some days, ordered."""


@dataclass(frozen=True)
class StagedRows:
    """A training set as it was staged; who reads a day of it orders it."""

    staged: Staged
    use_case: UseCase

    def of(self, days: Collection[date]) -> pa.Table:
        """Return the rows of some days."""
        return pa.concat_tables(_rows_of(self._dataset, day, self.use_case) for day in sorted(days))

    @cached_property
    def _dataset(self) -> ds.Dataset:
        (period,) = self.staged.periods()
        return self.staged.scan("training_set", period)


@dataclass(frozen=True)
class Shared:
    """What the workers of a cluster fit on.

    Parameters
    ----------
    rows
        Where each of them finds its piece.
    workers
        How many pieces there are.
    """

    rows: StagedRows
    workers: int


@dataclass(frozen=True)
class StoredRows(LabelledRows):
    """A training set on disk.

    Parameters
    ----------
    folder
        Holds a file per day.
    shared
        What a cluster fits trees on; None where they are fitted here.
    """

    folder: Path
    use_case: UseCase
    shared: Shared | None = None
    external = True

    @property
    def workers(self) -> int:
        """How many workers of a cluster share a fit; 0 where it is done here."""
        return self.shared.workers if self.shared else 0

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
            shared=self.shared,
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
    shared
        What a cluster fits on instead of these; None where it is done here.
    """

    labels: NDArray[np.float64]
    inputs: Inputs
    source: Source
    days: tuple[date, ...]
    kept: NDArray[np.bool_]
    shared: Shared | None = None

    def batches(self) -> Iterator[Matrix]:
        """Give the matrix of each day."""
        return (self.inputs.prepare(part) for part in self.parts())

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
        return to_frame(pa.concat_tables(wanted.parts()), self.inputs, self.source.use_case)

    def to_data(self, *, threads: int) -> xgb.DMatrix:
        """Give XGBoost the features in quantiles.

        Of rows on disk it keeps them there until they are let go, else in memory.
        """
        told = {"missing": float("nan"), "nthread": threads, "enable_categorical": True}
        if isinstance(self.source, StoredRows):
            # XGBoost adds what is unique in this process, and removes its file with the matrix.
            cache = str(self.source.folder / "quantiles")
            return xgb.ExtMemQuantileDMatrix(_Days(self, cache), **told)
        return xgb.QuantileDMatrix(_Days(self), **told)

    def pieces(self) -> list[StoredFrame]:
        """Divide the rows among the workers of a cluster: pieces of one size, in their order.

        A piece carries no labels; who fits on it reads them with the features.
        """
        if self.shared is None or self.rows < self.shared.workers:
            raise PermanentError(
                f"{self.rows} rows cannot be shared by a cluster; expected one for each of "
                "EVERGREEN_DASK_WORKERS. Fit them on one machine: unset EVERGREEN_DASK_URL."
            )
        place = np.full(len(self.kept), -1)
        place[self.kept] = np.arange(self.rows) * self.shared.workers // self.rows
        ends = np.cumsum([self.source.of([day]).num_rows for day in self.days])
        by_day = dict(zip(self.days, np.split(place, ends[:-1]), strict=True))
        pieces = []
        for piece in range(self.shared.workers):
            kept = {day: found == piece for day, found in by_day.items() if piece in found}
            pieces.append(
                StoredFrame(
                    np.empty(0),
                    self.inputs,
                    self.shared.rows,
                    tuple(kept),
                    np.concatenate([*kept.values()]),
                )
            )
        return pieces

    def parts(self) -> Iterator[pa.Table]:
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

    def __init__(self, frame: StoredFrame, cache: str | None = None) -> None:
        self._frame = frame
        self.reset()
        super().__init__(cache_prefix=cache)

    def reset(self) -> None:
        """Begin again."""
        self._days = self._frame.parts()

    def next(self, input_data: Callable[..., Any]) -> bool:
        """Hand the next day over, if there is one."""
        part = next(self._days, None)
        if part is None:
            return False
        inputs = self._frame.inputs
        input_data(
            data=inputs.prepare(part),
            label=self._frame.source.use_case.target.read_labels(part[LABEL]),
            feature_names=list(inputs.names),
            feature_types=inputs.types,
        )
        return True
