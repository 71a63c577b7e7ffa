"""A keyed hash of entity keys, by which some of them are chosen: the same ones everywhere."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa


def chooses(keys: pa.Array | pa.ChunkedArray, salt: str, share: float) -> pa.Array:
    """Return whether each entity is among a share of all, `[n]`.

    Parameters
    ----------
    keys
        string or int64, without nulls.
    salt
        Another one chooses others, independently.
    share
        0 to 1. Who is chosen at one share is at every greater one.
    """
    keyed = hashlib.sha256(salt.encode()).hexdigest()[:16]
    texts = keys.cast(pa.string()).to_numpy(zero_copy_only=False)
    hashed = pd.util.hash_array(texts, hash_key=keyed, categorize=False)
    # Half the bits: what is left of a float's 53 must not round up to the share.
    return pa.array((hashed >> np.uint64(32)) < share * 2**32)
