"""Skew: whether the online store serves what features are, by Chronon's consistency metrics.

Two values are the same when they are equal in the feature's dtype, without any tolerance: online
values are written from the lake's and read back without rounding. Only what is computed again from
events may differ as much as the order of a sum of floats explains. A value that is null and an
entity that is not there are the same to a client, and here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.decisions.stored import Stored
from evergreen.monitoring.sampling import hash_keys

AgainstWhat = Literal["features", "recomputed", "pushed"]

SKEW = pa.schema(
    [
        ("day", pa.date32()),
        ("feature", pa.string()),
        ("reference", pa.string()),
        ("served_day", pa.date32()),
        ("keys", pa.int64()),
        ("mismatch", pa.int64()),
        ("missing", pa.int64()),
        ("extra", pa.int64()),
        ("largest", pa.float64()),
        ("examples", pa.list_(pa.string())),
    ]
)
"""Arrow schema of the table `skew`: one row per night, feature and reference."""

AS_OF = "as_of"
"""In place of a feature: the row that says whether the served values are of the right day."""

_EXAMPLES = 3


@dataclass(frozen=True)
class SkewRow(Stored):
    """One feature, held against one reference.

    Parameters
    ----------
    reference
        `features`, the stored row of the day that the served value claims to be of, or
        `recomputed`, that row computed again from events. `pushed` holds what was pushed last on
        the night's day against the stored row of it.
    served_day
        The newest day that any of the served values claims to be of.
    keys
        Entities that were compared: those of the three kinds below, and all others, which agree.
    mismatch, missing, extra
        Both have a value and they differ; only the reference has one; only the online store has.
    largest
        The greatest absolute difference of two numbers; None where none differ.
    examples
        Some of the keys, as text.
    """

    feature: str
    reference: AgainstWhat
    served_day: date | None
    keys: int
    mismatch: int
    missing: int
    extra: int
    largest: float | None
    examples: Sequence[str]

    @property
    def differing(self) -> int:
        """How many of the keys disagree."""
        return self.mismatch + self.missing + self.extra

    def describe(self) -> str:
        """Say in words what differs."""
        against = {"recomputed": "what events give"}.get(self.reference, "the table features")
        rows = "pushed" if self.reference == "pushed" else "served"
        what = "the day" if self.feature == AS_OF else self.feature
        kinds = {name: getattr(self, name) for name in ("mismatch", "missing", "extra")}
        told = ", ".join(f"{name} {count:,}" for name, count in kinds.items() if count)
        return (
            f"{what} of {self.differing:,} of {self.keys:,} {rows} rows is not that of "
            f"{against} ({told}; e.g. {', '.join(self.examples)})"
        )


@dataclass(frozen=True)
class Outcome:
    """How each key fared, one flag per kind; at most one of the three is set.

    `largest` is the greatest difference of numbers that do not match.
    """

    mismatch: npt.NDArray[np.bool_]
    missing: npt.NDArray[np.bool_]
    extra: npt.NDArray[np.bool_]
    largest: float | None = None

    @property
    def differing(self) -> npt.NDArray[np.bool_]:
        """Whether a key disagrees."""
        differing: npt.NDArray[np.bool_] = self.mismatch | self.missing | self.extra
        return differing


def compare(
    served: pa.ChunkedArray,
    expected: pa.ChunkedArray,
    same: Callable[[pa.ChunkedArray, pa.ChunkedArray], npt.NDArray[np.bool_]] | None = None,
) -> Outcome:
    """Hold served values against what they should be, row by row.

    Parameters
    ----------
    served, expected
        Of one type and length; null is no value.
    same
        Whether values are the same, where both are there; by default if they are equal.
    """
    online, offline = _is_there(served), _is_there(expected)
    mismatch = online & offline & ~(same or _equal)(served, expected)
    largest = None
    if mismatch.any() and (pa.types.is_floating(served.type) or pa.types.is_integer(served.type)):
        both = (column.filter(pa.array(mismatch)).cast("float64") for column in (served, expected))
        largest = pc.max(pc.abs(pc.subtract(*both))).as_py()
    return Outcome(mismatch, offline & ~online, online & ~offline, largest)


def sample_keys(pieces: Iterable[pa.Array], size: int) -> pa.Array:
    """Return the keys with the least hashes: every night the same ones, as long as they exist.

    Parameters
    ----------
    pieces
        Keys of one type, string or int64; may repeat.
    size
        How many different ones are wanted.

    Returns
    -------
    pa.Array
        By hash. O(keys), in memory that does not grow with the number of pieces.
    """
    least: pa.Array | None = None
    for piece in pieces:
        keys = (piece if least is None else pa.concat_arrays([least, piece])).unique()
        least = keys.take(pa.array(np.argsort(hash_keys(keys), kind="stable")[:size]))
    return pa.array([]) if least is None else least


def summarise(
    feature: str,
    reference: AgainstWhat,
    served_day: date | None,
    keys: Sequence[str | int],
    outcome: Outcome,
) -> SkewRow:
    """Count how the keys of one feature fared."""
    examples = [str(keys[row]) for row in np.flatnonzero(outcome.differing)[:_EXAMPLES]]
    mismatch, missing, extra = (
        int(kind.sum()) for kind in (outcome.mismatch, outcome.missing, outcome.extra)
    )
    counts = (len(keys), mismatch, missing, extra)
    return SkewRow(feature, reference, served_day, *counts, outcome.largest, tuple(examples))


def skew_table(night: date, rows: Sequence[SkewRow]) -> pa.Table:
    """Return a night's rows with the schema `SKEW`."""
    return pa.Table.from_pylist([{"day": night} | asdict(row) for row in rows], schema=SKEW)


def _is_there(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    there: npt.NDArray[np.bool_] = pc.is_valid(values).to_numpy()
    return there


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    equal: npt.NDArray[np.bool_] = pc.fill_null(pc.equal(left, right), False).to_numpy()
    return equal
