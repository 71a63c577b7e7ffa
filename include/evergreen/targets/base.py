"""What every kind of target declares and can do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from evergreen.contract.base import Identifier, Model
from evergreen.contract.dtypes import Dtype
from evergreen.errors import NotReadyError, ValidationError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from evergreen.statistics.bootstrap import Metrics, Weights

    Vector = NDArray[np.float64]


class TargetModel(Model):
    """What is predicted: `labels.sql` gives one row per entity and as-of with column `label`.

    What is particular to a kind is a class variable or a method of its class; everything else
    treats all kinds alike. Measurements are mappings of metric to number; a metric that does not
    exist for the measured rows is absent. Every main metric is better when it is higher.
    """

    name: Identifier
    description: str
    # Calendar days of the use case's zone after the as-of.
    horizon_days: Annotated[int, Field(ge=1)]

    # dtype of the column `label`.
    label_dtype: ClassVar[Dtype]
    # Metrics, and the least and greatest they can be; the first is the main one, by which models
    # are compared.
    metrics: ClassVar[Mapping[str, tuple[float, float]]]
    # Bounds that the gate demands where the use case does not.
    limits: ClassVar[Mapping[str, float]]
    # How far the main metric may fall before a model counts as degraded.
    max_drop: ClassVar[float]
    # Of what `count` counts, how many say enough to judge a model by.
    enough: ClassVar[Mapping[str, int]] = {"rows": 200}
    default_bands: ClassVar[Mapping[str, float]]
    # Whether a score is a probability, which can be calibrated.
    is_probability: ClassVar[bool] = False

    @property
    def all_metrics(self) -> Mapping[str, tuple[float, float]]:
        """The metrics, and those that exist because something is declared."""
        return {**self.metrics, **self.interval_metrics}

    @property
    def main_metric(self) -> str:
        """The metric by which models are compared."""
        return next(iter(self.metrics))

    @property
    def score_range(self) -> tuple[float | None, float | None]:
        """Least and greatest a score can be; None where there is no such bound."""
        return (None, None)

    @property
    def lowest_score(self) -> float | None:
        """Least a score can be; None where there is no such bound."""
        return self.score_range[0]

    @property
    def score_columns(self) -> tuple[str, ...]:
        """Columns of a prediction; one is `score`."""
        return ("score",)

    @property
    def ascending_columns(self) -> tuple[tuple[str, ...], ...]:
        """Columns whose values ascend in every row, series by series."""
        return (self.score_columns,)

    @property
    def level(self) -> float | None:
        """Share of outcomes that intervals promise to hold; None where no interval is asked for."""
        return None

    @property
    def interval_metrics(self) -> Mapping[str, tuple[float, float]]:
        """Metrics of intervals, like `metrics`; none where no interval is asked for."""
        return {}

    def read_labels(self, labels: pa.ChunkedArray) -> Vector:
        """Return labels without nulls as numbers, float64 `[n]`.

        Raises
        ------
        ValidationError
            One is no such label.
        """
        import pyarrow as pa

        values: Vector = labels.cast(pa.float64(), safe=False).to_numpy()
        if expected := self.impossible_labels(values):
            raise ValidationError(f"{expected} of {self.name}. Check labels.sql.")
        return values

    def require_learnable(self, labels: Vector, part: str) -> None:
        """Refuse rows that nothing can be learned from.

        Raises
        ------
        NotReadyError
            All labels are equal.
        """
        if (labels == labels[0]).all():
            raise NotReadyError(
                f"All {len(labels)} labels of the {part} rows are {labels[0]:g}; a model needs "
                "different ones. Check labels.sql and the horizon, or wait for more days."
            )

    def count(self, labels: Vector) -> dict[str, int]:
        """Count the rows, and what else says whether they are enough to judge a model by."""
        return {"rows": len(labels)}

    def too_few(self, counts: Mapping[str, int]) -> str | None:
        """Say what of it is not enough to judge a model by; None if all is."""
        few = [
            f"{counts[what]} {what}" for what, least in self.enough.items() if counts[what] < least
        ]
        expected = ", ".join(f"{least} {what}" for what, least in self.enough.items())
        return f"found {', '.join(few)}; expected {expected}".replace("_", " ") if few else None

    @property
    def explained_output(self) -> int:
        """Which of several outputs of the booster is the score."""
        return 0

    @abstractmethod
    def impossible_labels(self, labels: Vector) -> str | None:
        """Say how many labels are impossible, and what is expected; None if all are possible."""

    @abstractmethod
    def booster_parameters(self) -> dict[str, Any]:
        """Return what XGBoost is told about this target: objective, eval metric and their own."""

    def to_columns(self, raw: Vector) -> dict[str, Vector]:
        """Turn what the booster predicts, `[n]` or `[n, m]`, into the columns of a prediction."""
        return {"score": raw}

    def ends(self, columns: Mapping[str, Vector]) -> tuple[Vector, Vector, Vector]:
        """Return both ends that an interval is widened from, and the unit of widening, `[n]` each.

        Only of targets with a `level`.
        """
        raise NotImplementedError

    @property
    def is_linear(self) -> bool:
        """Whether a linear model of it exists."""
        return True

    def constant(self, labels: Vector) -> float:
        """Return the best score that is the same for everybody."""
        return float(labels.mean())

    @abstractmethod
    def losses(self, labels: Vector, scores: Vector) -> Vector:
        """Loss of each row, `[n]`, whose mean is the proper loss that models are tuned by."""

    @abstractmethod
    def resampled(self, labels: Vector, scores: Vector) -> Metrics:
        """Prepare the metrics of scores against labels, both `[n]`, under weights of the rows.

        The result takes weights `[b, n]`, and gives `[b]` per metric, NaN where one does not exist.
        """

    def resampled_intervals(self, labels: Vector, lower: Vector, upper: Vector) -> Metrics:
        """Prepare `interval_metrics` of intervals, as `resampled` does the metrics of scores.

        Share of the labels that their intervals hold, and mean width.
        """
        import numpy as np

        from evergreen.statistics import weigh

        held = ((lower <= labels) & (labels <= upper)).astype(float)
        width = upper - lower

        def metrics(weights: Weights) -> dict[str, Vector]:
            drawn = weights.astype(float)
            rows = drawn.sum(axis=1)
            with np.errstate(invalid="ignore"):
                return {
                    "coverage": weigh(drawn, held) / rows,
                    "interval_width": weigh(drawn, width) / rows,
                }

        return metrics

    def measure(self, labels: Vector, scores: Vector) -> dict[str, float]:
        """Measure scores against labels, both `[n]`; metrics that do not exist are absent."""
        from evergreen.statistics import of_rows, once

        return once(of_rows(self.resampled, labels, scores), len(labels))

    def rates(
        self, labels: Vector, scores: Vector, acted: Vector
    ) -> dict[str, tuple[Vector, Vector]]:
        """Say what groups of rows are compared by: per rate, what is summed over what, `[n]` each.

        Parameters
        ----------
        acted
            1 where a score is acted on, else 0.
        """
        import numpy as np

        everybody = np.ones(len(labels))
        return {"selection_rate": (acted, everybody), "mean_error": (scores - labels, everybody)}

    def difference(
        self, labels: Vector, first: Vector, second: Vector, *, level: float
    ) -> tuple[float, float, float, float] | None:
        """Compare two scores by the main metric: first minus second, its bounds, its error.

        None where only the bootstrap can tell.
        """
        return None

    def draw(self, labels: Vector, scores: Vector, folder: Path) -> None:
        """Draw what only this kind of target has a picture of."""
