"""What is computed and what is predicted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from evergreen.contract.base import Bounds, FeatureDtype, Identifier, Model, ordered


class DailyColumn(Model):
    """What one column of `daily` says of an entity's day, and how days become one row.

    `sql` is one DuckDB aggregate over the published columns of the orders.
    """

    sql: str
    merge: Literal["sum", "min", "max"]


class Daily(Model):
    """Orders by entity and day: what the SQL reads where it must not read the whole history."""

    # Days further than this before an as-of may stand merged into one row per entity.
    lookback_days: Annotated[int, Field(ge=1)]
    columns: Annotated[dict[Identifier, DailyColumn], Field(min_length=1)]


class Feature(Model):
    """One column of `features.sql`, and all that follows from it."""

    dtype: FeatureDtype
    description: str
    unit: str = ""
    nullable: bool = False
    range: Bounds = (None, None)
    # How the score may move when the feature grows; the model is constrained to it.
    monotone: Literal["increasing", "decreasing", "none"] = "none"
    # Whether a shift of its distribution counts as drift. Clocks (tenure) move by themselves.
    drift: bool = True

    @field_validator("range")
    @classmethod
    def _ascending(cls, bounds: Bounds) -> Bounds:
        return ordered(bounds)


class Features(Model):
    """The one feature view of the use case."""

    columns: Annotated[dict[Identifier, Feature], Field(min_length=1)]
    # How many days an as-of value stays usable in a point-in-time join.
    ttl_days: Annotated[int, Field(ge=1)] = 1
    # The feature that ranks customers on its own: the first baseline.
    recency: Identifier


class Label(Model):
    """What is predicted: `labels.sql` gives one row per entity and as-of with column `label`."""

    name: Identifier
    description: str
    horizon_days: Annotated[int, Field(ge=1)]
