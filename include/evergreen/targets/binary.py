"""Whether something will happen: churned, bought, answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from evergreen.contract.dtypes import Dtype
from evergreen.targets.base import TargetModel


class BinaryTarget(TargetModel):
    """A label that is true or false; the score is the probability that it is true."""

    kind: Literal["binary"] = "binary"

    label_dtype: ClassVar[Dtype] = "bool"
    metrics: ClassVar[tuple[str, ...]] = ("auc", "logloss", "brier")
    limits: ClassVar[Mapping[str, float]] = {"min_auc": 0.6, "max_logloss": 0.69}
    max_drop: ClassVar[float] = 0.05
    lowest_score: ClassVar[float | None] = 0.0
    default_bands: ClassVar[Mapping[str, float]] = {"high": 0.7, "medium": 0.4, "low": 0.0}
