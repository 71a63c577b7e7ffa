"""How much or how many: orders, spend, demand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from evergreen.contract.base import raise_if
from evergreen.contract.dtypes import Dtype
from evergreen.targets.base import TargetModel

if TYPE_CHECKING:
    from evergreen.statistics.bootstrap import Metrics, Weights
    from evergreen.targets.base import Vector

Share = Annotated[float, Field(gt=0, lt=1)]

# A mean of a count or an amount is positive; in single precision it may round to zero.
_LEAST_MEAN = 1e-9


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
    metrics: ClassVar[Mapping[str, tuple[float, float]]] = {
        "d2": (-math.inf, 1.0),
        "deviance": (0.0, math.inf),
        "mae": (0.0, math.inf),
        "rmse": (0.0, math.inf),
    }
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

    @property
    def score_range(self) -> tuple[float | None, float | None]:
        """Counts and amounts are not negative."""
        return (0.0, None) if self._is_positive else (None, None)

    @property
    def score_columns(self) -> tuple[str, ...]:
        """One per quantile; the median is the score."""
        names = tuple("score" if q == 0.5 else f"q{100 * q:g}" for q in self.quantiles)
        return tuple(name.replace(".", "_") for name in names) or ("score",)

    def impossible_labels(self, labels: Vector) -> str | None:
        """Labels are finite, and not negative where the distribution is not."""
        import numpy as np

        low, what = (0.0, "no negative ones") if self._is_positive else (-math.inf, "finite ones")
        # Also as XGBoost reads them, in single precision.
        with np.errstate(over="ignore"):
            possible = np.isfinite(labels.astype(np.float32)) & (labels >= low)
        wrong = labels[~possible]
        if not len(wrong):
            return None
        return f"Found {len(wrong)} labels such as {wrong[0]:g}; expected finite numbers, {what}"

    def booster_parameters(self) -> dict[str, Any]:
        """Deviance of the distribution; pinball loss of all quantiles at once."""
        told: dict[str, dict[str, Any]] = {
            "normal": {"objective": "reg:squarederror", "eval_metric": "rmse"},
            "poisson": {"objective": "count:poisson", "eval_metric": "poisson-nloglik"},
            "tweedie": {
                "objective": "reg:tweedie",
                "eval_metric": f"tweedie-nloglik@{self.tweedie_power:g}",
                "tweedie_variance_power": self.tweedie_power,
            },
            "quantile": {
                "objective": "reg:quantileerror",
                "eval_metric": "quantile",
                "quantile_alpha": list(self.quantiles),
            },
        }
        return told[self.distribution]

    @property
    def is_linear(self) -> bool:
        """Steps of the pinball loss are of one size, however far the quantile is."""
        return self.distribution != "quantile"

    def constant(self, labels: Vector) -> float:
        """Return the mean, of quantiles the median."""
        import numpy as np

        return float(np.median(labels) if self.distribution == "quantile" else labels.mean())

    @property
    def explained_output(self) -> int:
        """The median."""
        return self.score_columns.index("score")

    def to_columns(self, raw: Vector) -> dict[str, Vector]:
        """Sort the quantiles of each row, because trees may let them cross."""
        import numpy as np

        if raw.ndim == 1:
            return {"score": raw}
        return dict(zip(self.score_columns, np.sort(raw, axis=1).T, strict=True))

    def resampled(self, labels: Vector, scores: Vector) -> Metrics:
        """Share of the deviance explained, mean deviance, mean absolute and root mean square error.

        The deviance is the distribution's own: squared error, Poisson, Tweedie, or the pinball loss
        at the median. `d2` is 1 - deviance / deviance of the best constant for these very labels
        (their mean or median); equal labels have none.
        """
        import numpy as np

        losses, errors = self.losses(labels, scores), scores - labels
        constant = self.losses(labels, np.full(len(labels), self.constant(labels)))
        # Rounding keeps the mean of equal labels from being exact.
        differ = bool((labels != labels[0]).any())

        def metrics(weights: Weights) -> dict[str, Vector]:
            drawn = weights.astype(np.float64)
            rows = drawn.sum(axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                explained = 1 - (drawn @ losses) / (drawn @ constant)
                return {
                    "d2": np.where(differ, explained, np.nan),
                    "deviance": drawn @ losses / rows,
                    "mae": drawn @ np.abs(errors) / rows,
                    "rmse": np.sqrt(drawn @ errors**2 / rows),
                }

        return metrics

    @property
    def _is_positive(self) -> bool:
        return self.distribution in ("poisson", "tweedie")

    def losses(self, labels: Vector, scores: Vector) -> Vector:
        """Deviance of the distribution; of quantiles the pinball loss of the median."""
        import numpy as np
        from scipy.special import xlogy

        if self.distribution == "quantile":
            return np.asarray(np.abs(labels - scores) / 2)
        if self.distribution == "normal":
            return np.asarray((labels - scores) ** 2)
        means = np.maximum(scores, _LEAST_MEAN)
        if self.distribution == "poisson":
            return np.asarray(2 * (xlogy(labels, labels / means) - labels + means))
        p = self.tweedie_power
        return np.asarray(
            2
            * (
                labels ** (2 - p) / ((1 - p) * (2 - p))
                - labels * means ** (1 - p) / (1 - p)
                + means ** (2 - p) / (2 - p)
            )
        )
