"""What a measurement on finitely many rows says about others: intervals and comparisons."""

from evergreen.statistics.bootstrap import (
    Metrics,
    Rows,
    Weights,
    interval,
    of_rows,
    once,
    resample,
    weigh,
)
from evergreen.statistics.clustered import clustered_mean, ratio
from evergreen.statistics.delong import Areas, areas_under_curve
from evergreen.statistics.sequential import always_valid

__all__ = [
    "Areas",
    "Metrics",
    "Rows",
    "Weights",
    "always_valid",
    "areas_under_curve",
    "clustered_mean",
    "interval",
    "of_rows",
    "once",
    "ratio",
    "resample",
    "weigh",
]
