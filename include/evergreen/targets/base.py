"""What every kind of target declares and can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from evergreen.contract.base import Identifier, Model
from evergreen.contract.dtypes import Dtype


class TargetModel(Model):
    """What is predicted: `labels.sql` gives one row per entity and as-of with column `label`.

    What is particular to a kind is a class variable or a method of its class; everything else
    treats all kinds alike. Every main metric is better when it is higher.
    """

    name: Identifier
    description: str
    # Calendar days of the use case's zone after the as-of.
    horizon_days: Annotated[int, Field(ge=1)]

    # dtype of the column `label`.
    label_dtype: ClassVar[Dtype]
    # Metrics by name; the first is the main one, by which models are compared.
    metrics: ClassVar[tuple[str, ...]]
    # Bounds that the gate demands where the use case does not.
    limits: ClassVar[Mapping[str, float]]
    # How far the main metric may fall before a model counts as degraded.
    max_drop: ClassVar[float]
    # Least a score can be; None where there is no such bound.
    lowest_score: ClassVar[float | None] = None
    default_bands: ClassVar[Mapping[str, float]]
