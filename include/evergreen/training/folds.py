"""The rows of the tuning folds: what recipes are chosen by, and features are tried on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evergreen.training.frame import Frame, LabelledFrame, LabelledRows
from evergreen.training.split import SplitPlan

SURE = 1.645
"""One-sided 95 %, in standard errors: how sure a difference on the test days must be."""


@dataclass(frozen=True)
class FoldFrames:
    """Rows to fit on and rows to test on."""

    fit: Frame
    test: LabelledFrame

    def without(self, features: Collection[str]) -> FoldFrames:
        """Return the same rows without some features."""
        return FoldFrames(self.fit.without(features), self.test.without(features))


def prepare_folds(rows: LabelledRows, plan: SplitPlan) -> list[FoldFrames]:
    """Prepare the rows of the tuning folds; a bad recipe shows on the newest, which comes first."""
    folds = []
    for fold in reversed(plan.tuning):
        fit = rows.to_fit(fold.fit)
        folds.append(FoldFrames(fit, rows.frame([fold.test], fit.inputs)))
    return folds


def number_entities(folds: Sequence[FoldFrames]) -> NDArray[np.intp]:
    """Return the number, from 0, of the entity of every test row."""
    keys = pa.concat_arrays([fold.test.keys for fold in folds])
    return np.asarray(keys.dictionary_encode().indices.to_numpy(), dtype=np.intp)
