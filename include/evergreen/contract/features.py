"""What is computed of every entity, every day."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evergreen.contract.base import Bounds, Identifier, Model, raise_if
from evergreen.contract.dtypes import NUMBER_DTYPES, FeatureDtype


class Feature(Model):
    """One column of `features.sql`, and all that follows from it."""

    dtype: FeatureDtype
    description: str
    unit: str = ""
    nullable: bool = False
    # Inclusive bounds of a number.
    range: Bounds = (None, None)
    # The values a category may have; all of them are allowed if none is named.
    values: tuple[str, ...] | None = None
    # How the score may move when the feature grows; the model is constrained to it.
    monotone: Literal["increasing", "decreasing", "none"] = "none"
    # Whether a shift of its distribution counts as drift. Clocks (tenure) move by themselves.
    drift: bool = True

    @model_validator(mode="after")
    def _fits_dtype(self) -> Self:
        problems = []
        if self.dtype not in NUMBER_DTYPES and self.range != (None, None):
            problems.append(f"range: found {list(self.range)}, expected none of a {self.dtype}")
        if self.dtype == "category" and self.monotone != "none":
            problems.append(f"monotone: found {self.monotone!r}; categories have no order")
        if self.dtype != "category" and self.values is not None:
            problems.append(f"values: expected only of a category, found them of a {self.dtype}")
        raise_if(problems)
        return self


class Features(Model):
    """The one feature view of the use case."""

    columns: Annotated[dict[Identifier, Feature], Field(min_length=1)]
    # How many days an as-of value stays usable in a point-in-time join.
    ttl_days: Annotated[int, Field(ge=1)] = 1
    # They may lie at most this far behind a night; by default as monitoring says.
    max_staleness_days: Annotated[int, Field(ge=0)] | None = None
