"""Who is in which group of an experiment."""

from __future__ import annotations

from datetime import date
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase
from evergreen.scoring.hashing import chooses

Group = Literal["hold_out", "treatment"]


def groups_of(
    use_case: UseCase, keys: pa.Array | pa.ChunkedArray, bands: pa.ChunkedArray, day: date
) -> pa.Array | pa.ChunkedArray:
    """Return each entity's group, `[n]` string; null for whom the experiment is not about that day.

    The same entity is always in the same group, whoever computes it.
    """
    experiment = use_case.experiment
    if experiment is None or not experiment.is_on(day):
        return pa.nulls(len(keys), pa.string())
    held_out = chooses(keys, experiment.salt or experiment.name, experiment.hold_out)
    is_about = pc.is_in(bands, pa.array(use_case.treated_bands, pa.string()))
    return pc.if_else(is_about, pc.if_else(held_out, "hold_out", "treatment"), None)
