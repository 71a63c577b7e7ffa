"""Whether a night's columns are unusual together: how well a classifier tells it from others.

Columns may each be distributed as ever, and not belong together any more. A few trees learn to tell
a night from the nights before it on half of the entities, and are asked about the other half, so
that nobody is recognised. That they can tell is no news, as bases grow and age; that they can
tell better than they could of earlier nights is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evergreen.monitoring.expected import (
    BACKTESTED,
    LEAST_WEEKS,
    WEEKS,
    Departure,
    judge_distances,
)
from evergreen.monitoring.sampling import hash_keys, is_sampled

Matrix = NDArray[np.float32]

# Entities of a night that are told apart from as many of each of four others.
_ENTITIES = 1_000
_ROUNDS = 15
_FEWEST_ROWS = 200


def measure_joint(
    nights: Sequence[pa.Table | None], columns: Sequence[str], key: str, *, seed: int
) -> Departure:
    """Measure how well a night is told from the four before it, and whether that is usual.

    Parameters
    ----------
    nights
        The night, and those of `weeks_before` it; None, or without rows, for nights that are not
        there. With the columns and the key of the entities. Not modified.

    Returns
    -------
    Departure
        Its value is Kolmogorov-Smirnov's D of the classifier's answers, in [0, 1].
    """
    rows = max(night.num_rows if night else 0 for night in nights)
    sampled = [
        night.filter(is_sampled(night[key], _ENTITIES, rows)) if night else None for night in nights
    ]
    codes = {name: _codes(sampled, name) for name in columns}
    read = [(_matrix(night, codes), _halves(night, key)) if night else None for night in sampled]
    found = dict(_distances(read, seed))
    return judge_distances(found, least=1 / _ENTITIES)


def _distances(
    nights: Sequence[tuple[Matrix, NDArray[np.bool_]] | None], seed: int
) -> Iterator[tuple[int, float]]:
    for week in BACKTESTED:
        tonight = nights[week] if week < len(nights) else None
        before = [night for night in nights[week + 1 : week + 1 + WEEKS] if night]
        if tonight and len(tonight[0]) >= _FEWEST_ROWS and len(before) >= LEAST_WEEKS:
            rows = np.concatenate([tonight[0], *(night[0] for night in before)])
            halves = np.concatenate([tonight[1], *(night[1] for night in before)])
            is_tonight = np.arange(len(rows)) < len(tonight[0])
            yield week, _told_apart(rows, halves, is_tonight, seed)


def _told_apart(
    rows: Matrix, halves: NDArray[np.bool_], is_tonight: NDArray[np.bool_], seed: int
) -> float:
    import xgboost as xgb
    from scipy.stats import ks_2samp

    told = np.zeros(len(rows))
    for half in (halves, ~halves):
        learned = xgb.QuantileDMatrix(rows[~half], label=is_tonight[~half], nthread=1)
        trees = xgb.train(
            {
                "objective": "binary:logistic",
                "max_depth": 3,
                "eta": 0.3,
                "min_child_weight": 5.0,
                "base_score": 0.5,
                "seed": seed,
                "nthread": 1,
            },
            learned,
            num_boost_round=_ROUNDS,
        )
        told[half] = trees.inplace_predict(rows[half])
    # The same trees answer of either side, so two sets of them may be held against each other.
    answers = [told[is_tonight], told[~is_tonight]]
    return float(ks_2samp(*answers, method="asymp").statistic)


def _halves(night: pa.Table, key: str) -> NDArray[np.bool_]:
    return (hash_keys(night[key]) & np.uint64(1)).astype(np.bool_)


def _codes(nights: Sequence[pa.Table | None], name: str) -> pa.Array | None:
    """Return the values of a category on any night; None of numbers."""
    columns = [night[name] for night in nights if night]
    if not columns or not (
        pa.types.is_string(columns[0].type) or pa.types.is_dictionary(columns[0].type)
    ):
        return None
    words = [pc.unique(column.cast(pa.string())) for column in columns]
    return pc.unique(pa.concat_arrays(words)).drop_null().sort()


def _matrix(night: pa.Table, codes: dict[str, pa.Array | None]) -> Matrix:
    matrix = np.empty((night.num_rows, len(codes)), np.float32)
    most = np.finfo(np.float32).max
    for place, (name, known) in enumerate(codes.items()):
        column = night[name]
        if known is not None:
            column = pc.index_in(column.cast(pa.string()), known)
        numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        matrix[:, place] = np.clip(numbers, -most, most)
    return matrix
