"""The report of a night: what was decided and why, then the evidence, as text and as a page."""

from evergreen.monitoring.report.distributions import Distribution, compare_distributions
from evergreen.monitoring.report.facts import NightFacts, gather_night
from evergreen.monitoring.report.file import keep_report, newest_night, write_report
from evergreen.monitoring.report.page import render_night

__all__ = [
    "Distribution",
    "NightFacts",
    "compare_distributions",
    "gather_night",
    "keep_report",
    "newest_night",
    "render_night",
    "write_report",
]
