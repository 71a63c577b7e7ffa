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
# Shares that are closer are the same: (1 - 0.9) / 2 is not quite 0.05.
_SAME = 1e-9


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
    # Share of outcomes that lie between `lower` and `upper`, which are published beside the score.
    interval: Share | None = None

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
        if self.quantiles and self.interval and not self._interval_quantiles:
            tail = round((1 - self.interval) / 2, 6)
            problems.append(
                f"interval: found {self.interval:g} with quantiles {list(self.quantiles)}; "
                f"expected {tail:g} and {1 - tail:g} among them, from which it is made"
            )
        raise_if(problems)
        return self

    @property
    def score_range(self) -> tuple[float | None, float | None]:
        """Counts and amounts are not negative."""
        return (0.0, None) if self._is_positive else (None, None)

    @property
    def score_columns(self) -> tuple[str, ...]:
        """One per quantile, of which the median is the score; and the interval."""
        return self._means_or_quantiles + (("lower", "upper") if self.interval else ())

    @property
    def ascending_columns(self) -> tuple[tuple[str, ...], ...]:
        """The quantiles; and the score in its interval."""
        interval = (("lower", "score", "upper"),) if self.interval else ()
        return (self._means_or_quantiles, *interval)

    @property
    def _means_or_quantiles(self) -> tuple[str, ...]:
        return tuple(map(_column, self.quantiles)) or ("score",)

    @property
    def _interval_quantiles(self) -> tuple[str, ...]:
        """Columns of the two quantiles between which the interval's share lies; or none."""
        tail = (1 - (self.interval or 0.0)) / 2
        wanted = [q for q in self.quantiles if min(abs(q - tail), abs(1 - q - tail)) < _SAME]
        return tuple(map(_column, wanted)) if len(wanted) == 2 else ()

    @property
    def level(self) -> float | None:
        """What `interval` declares."""
        return self.interval

    @property
    def interval_metrics(self) -> Mapping[str, tuple[float, float]]:
        """Coverage and mean width, where an interval is declared."""
        return {"coverage": (0.0, 1.0), "interval_width": (0.0, math.inf)} if self.interval else {}

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
        return self._means_or_quantiles.index("score")

    def to_columns(self, raw: Vector) -> dict[str, Vector]:
        """Sort the quantiles of each row, because trees may let them cross."""
        import numpy as np

        if raw.ndim == 1:
            return {"score": raw}
        return dict(zip(self._means_or_quantiles, np.sort(raw, axis=1).T, strict=True))

    def ends(self, columns: Mapping[str, Vector]) -> tuple[Vector, Vector, Vector]:
        """Of a mean, the score and its standard deviation but for a factor; else two quantiles.

        The standard deviation is the root of the distribution's variance function: of the score
        (Poisson), of its `tweedie_power` (Tweedie), or of 1.
        """
        import numpy as np

        if self.quantiles:
            low, high = (columns[name] for name in self._interval_quantiles)
            return low, high, np.ones(len(low))
        score = columns["score"]
        power = {"poisson": 1.0, "tweedie": self.tweedie_power}.get(self.distribution, 0.0)
        return score, score, np.maximum(score, _LEAST_MEAN) ** (power / 2)

    def resampled(self, labels: Vector, scores: Vector) -> Metrics:
        """Share of the deviance explained, mean deviance, mean absolute and root mean square error.

        The deviance is the distribution's own: squared error, Poisson, Tweedie, or the pinball loss
        at the median. `d2` is 1 - deviance / deviance of the best constant for these very labels
        (their mean or median); equal labels have none.
        """
        import numpy as np

        from evergreen.statistics import weigh

        losses, errors = self.losses(labels, scores), scores - labels
        constant = self.losses(labels, np.full(len(labels), self.constant(labels)))
        # Rounding keeps the mean of equal labels from being exact.
        differ = bool((labels != labels[0]).any())

        def metrics(weights: Weights) -> dict[str, Vector]:
            drawn = weights.astype(np.float64)
            rows = drawn.sum(axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                explained = 1 - weigh(drawn, losses) / weigh(drawn, constant)
                return {
                    "d2": np.where(differ, explained, np.nan),
                    "deviance": weigh(drawn, losses) / rows,
                    "mae": weigh(drawn, np.abs(errors)) / rows,
                    "rmse": np.sqrt(weigh(drawn, errors**2) / rows),
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


def _column(quantile: float) -> str:
    return "score" if quantile == 0.5 else f"q{100 * quantile:g}".replace(".", "_")
