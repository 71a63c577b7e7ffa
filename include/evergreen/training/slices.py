"""Groups of entities that a model must serve as well as the rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evergreen.contract import UseCase

Mask = NDArray[np.bool_]


def find_slices(use_case: UseCase, features: pa.Table) -> Iterator[tuple[str, Mask]]:
    """Give each slice of `training.slices` that has rows: its name, and which rows it has.

    Categories and booleans are sliced by value (`country=DE`), numbers between the declared bounds
    (`tenure_days<90`, `90<=tenure_days`). Rows without a value are a slice of their own.
    """
    for name, bounds in use_case.training.slices.items():
        column = features[name].combine_chunks()
        missing = column.is_null().to_numpy(zero_copy_only=False)
        if bounds:
            numbers = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy()
            places = np.searchsorted(bounds, numbers, side="right")
            named = {place: _between(name, bounds, place) for place in range(len(bounds) + 1)}
        else:
            encoded = column.cast(pa.string()).dictionary_encode()
            places = pc.fill_null(encoded.indices, -1).to_numpy()
            named = {i: f"{name}={value}" for i, value in enumerate(encoded.dictionary.to_pylist())}
        found = {named[place]: (places == place) & ~missing for place in named}
        found[f"{name} missing"] = missing
        yield from sorted((label, mask) for label, mask in found.items() if mask.any())


def _between(name: str, bounds: tuple[float, ...], place: int) -> str:
    low = f"{bounds[place - 1]:g}<=" if place else ""
    high = f"<{bounds[place]:g}" if place < len(bounds) else ""
    return f"{low}{name}{high}"
