"""The comparison behind the proof that features did not see their future."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.errors import LookAheadError

# Sums of floats depend on the order of rows in the last digits; a leak moves more than that.
_RELATIVE_TOLERANCE = 1e-9
_EXAMPLES = 3


def require_equal(
    path: Path, day: date, key: str, columns: Sequence[str], among: pa.Table, alone: pa.Table
) -> None:
    """Compare one day computed among others with the same day computed without its future.

    Parameters
    ----------
    path
        The SQL file, for the message.
    day
        The day.
    key
        The column that names rows; unique, and both tables are sorted by it.
    columns
        The columns to compare; none compares the keys only.
    among, alone
        The two results.

    Raises
    ------
    LookAheadError
        They differ; names the columns and up to three keys.
    """
    keys, honest_keys = among[key].combine_chunks(), alone[key].combine_chunks()
    if not keys.equals(honest_keys):
        only = sorted(set(keys.to_pylist()) ^ set(honest_keys.to_pylist()))
        rows = ", ".join(map(str, only[:_EXAMPLES]))
        raise _error(path, day, f"which rows exist ({len(only)} differ, e.g. {key} {rows})")
    findings = []
    for name in columns:
        same = _same(among[name], alone[name])
        differing = np.flatnonzero(~same).tolist()
        if differing:
            examples = "; ".join(
                f"{key} {keys[row]}: {among[name][row]} instead of {alone[name][row]}"
                for row in differing[:_EXAMPLES]
            )
            findings.append(f"{name} in {len(differing)} of {len(keys)} rows ({examples})")
    if findings:
        raise _error(path, day, ", ".join(findings))


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Equal, both null, or floats that differ by no more than the order of a sum explains."""
    both_null = pc.and_(pc.is_null(left), pc.is_null(right))
    same: npt.NDArray[np.bool_] = pc.or_(
        pc.fill_null(pc.equal(left, right), False), both_null
    ).to_numpy()
    if not pa.types.is_floating(left.type):
        return same
    # Null becomes NaN here; null against NaN is the one difference this cannot see.
    x, y = left.to_numpy(), right.to_numpy()
    near: npt.NDArray[np.bool_] = np.isclose(x, y, rtol=_RELATIVE_TOLERANCE, atol=0.0)
    return same | near


def _error(path: Path, day: date, what: str) -> LookAheadError:
    return LookAheadError(
        f"{path} reads the future: for {day}, orders that its rows must not know changed {what}. "
        "Expected each row to depend on earlier orders only: compare the time of every order with "
        "as_of (in labels also with horizon_end)."
    )
