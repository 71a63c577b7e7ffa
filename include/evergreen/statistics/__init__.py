"""What a measurement on finitely many rows says about others: intervals and comparisons."""

from evergreen.statistics.bootstrap import interval, once, resample
from evergreen.statistics.clustered import clustered_mean
from evergreen.statistics.delong import Areas, areas_under_curve

__all__ = ["Areas", "areas_under_curve", "clustered_mean", "interval", "once", "resample"]
