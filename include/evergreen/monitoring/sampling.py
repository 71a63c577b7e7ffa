"""Samples of entities by the hash of their key: the same ones on every night."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray


def hash_keys(keys: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return the hash of each key, string or int64, `[n]`; the same on every machine."""
    return np.asarray(
        pd.util.hash_array(keys.to_numpy(zero_copy_only=False), categorize=False), np.uint64
    )


def is_sampled(keys: pa.ChunkedArray, size: int, rows: int) -> pa.Array:
    """Return whether each entity is one of a sample of about `size` out of so many rows."""
    if rows <= size:
        return pa.array(np.ones(len(keys), np.bool_))
    return pa.array(hash_keys(keys) < np.uint64(size / rows * 2**64))
