"""How much or how many: orders, spend, demand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from evergreen.contract.base import raise_if
from evergreen.contract.dtypes import Dtype
from evergreen.targets.base import TargetModel

Share = Annotated[float, Field(gt=0, lt=1)]


class NumberTarget(TargetModel):
    """A label that is a number; the score is its mean, or its median where quantiles are asked for.

    `distribution` says what scatters around the score: `poisson` for counts, `tweedie` for amounts
    that are often zero, `normal` (squared error) for numbers of any sign, `quantile` where no mean
    is wanted but `quantiles`.
    """

    kind: Literal["number"]
    unit: str = ""
    distribution: Literal["poisson", "tweedie", "normal", "quantile"] = "normal"
    # Between 1 (Poisson) and 2 (gamma).
    tweedie_power: Annotated[float, Field(gt=1, lt=2)] = 1.5
    # Published beside the score, as q<percent>; ascending, the median among them.
    quantiles: tuple[Share, ...] = ()

    label_dtype: ClassVar[Dtype] = "float64"
    metrics: ClassVar[tuple[str, ...]] = ("d2", "deviance", "mae", "rmse")
    limits: ClassVar[Mapping[str, float]] = {"min_d2": 0.0}
    max_drop: ClassVar[float] = 0.1
    default_bands: ClassVar[Mapping[str, float]] = {"all": 0.0}

    @model_validator(mode="after")
    def _quantiles(self) -> Self:
        problems = []
        if (self.distribution == "quantile") != bool(self.quantiles):
            problems.append(
                f"quantiles: found {list(self.quantiles)} with distribution {self.distribution!r}; "
                "expected quantiles with distribution: quantile, and only with it"
            )
        if list(self.quantiles) != sorted(set(self.quantiles)):
            problems.append(f"quantiles: found {list(self.quantiles)}, expected them ascending")
        if self.quantiles and 0.5 not in self.quantiles:
            problems.append("quantiles: 0.5 is missing; the median is the score")
        raise_if(problems)
        return self
