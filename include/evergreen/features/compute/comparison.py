"""The comparison behind the proofs that features stand on their own past only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# Sums of floats depend on the order of rows in the last digits; a leak moves more than that.
_RELATIVE_TOLERANCE = 1e-9
_EXAMPLES = 3


def difference(key: str, columns: Sequence[str], found: pa.Table, expected: pa.Table) -> str | None:
    """Say how one day's rows differ from the same day computed otherwise.

    Parameters
    ----------
    key
        The column that names rows; unique, and both tables are sorted by it.
    columns
        The columns to compare; none compares the keys only.
    found, expected
        The two results.

    Returns
    -------
    str | None
        The columns, with up to three keys; None when they are equal.
    """
    keys, expected_keys = found[key].combine_chunks(), expected[key].combine_chunks()
    if not keys.equals(expected_keys):
        only = sorted(set(keys.to_pylist()) ^ set(expected_keys.to_pylist()))
        rows = ", ".join(map(str, only[:_EXAMPLES]))
        return f"which rows exist ({len(only)} differ, e.g. {key} {rows})"
    findings = []
    for name in columns:
        same = same_values(found[name], expected[name])
        differing = np.flatnonzero(~same).tolist()
        if differing:
            examples = "; ".join(
                f"{key} {keys[row]}: {found[name][row]} instead of {expected[name][row]}"
                for row in differing[:_EXAMPLES]
            )
            findings.append(f"{name} in {len(differing)} of {len(keys)} rows ({examples})")
    return ", ".join(findings) or None


def same_values(left: pa.ChunkedArray, right: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Equal, both null, both NaN, or floats as near as the order of a sum explains."""
    alike: npt.NDArray[np.bool_] = pc.equal(pc.is_null(left), pc.is_null(right)).to_numpy()
    if not pa.types.is_floating(left.type):
        same: npt.NDArray[np.bool_] = pc.fill_null(pc.equal(left, right), True).to_numpy()
        return alike & same
    # Null becomes NaN here.
    x, y = left.to_numpy(), right.to_numpy()
    near: npt.NDArray[np.bool_] = np.isclose(
        x, y, rtol=_RELATIVE_TOLERANCE, atol=0.0, equal_nan=True
    )
    return alike & near
