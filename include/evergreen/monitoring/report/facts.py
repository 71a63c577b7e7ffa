"""What the tables say of a night, and of the nights before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.decisions.governor import (
    RetrainingEvidence,
    RetrainingVerdict,
)
from evergreen.monitoring.night import decided_on
from evergreen.monitoring.report.distributions import Distribution
from evergreen.provenance import receipts

_PLACED = ("drift", "performance", "freshness", "staleness", "decisions")

Rows = Sequence[Mapping[str, Any]]

NIGHTS = 60
"""Nights, and scored days, that a report looks back on."""


@dataclass(frozen=True)
class NightFacts:
    """Everything a report says; rows are those of the tables, columns of later releases included.

    Parameters
    ----------
    evidence, verdict
        The governor's; None if it has not decided on this night.
    drift
        Of the night.
    earlier
        Rows of `drift` about all rows of a night, of this night and those before it, by day.
    decided
        What the governor said on these nights.
    performance
        By day, of scored days whose labels had matured by this night, and what is known of others
        without labels.
    freshness, staleness
        Of the night.
    others
        What else nights measure: rows of this one by table.
    distributions
        By column, of those that a page shows pictures of.
    missing
        Why there are no distributions; empty if nobody asked for any.
    """

    use_case: UseCase
    day: date
    evidence: RetrainingEvidence | None = None
    verdict: RetrainingVerdict | None = None
    drift: Rows = ()
    earlier: Mapping[date, Rows] = field(default_factory=dict)
    decided: Mapping[date, str] = field(default_factory=dict)
    performance: Mapping[date, Rows] = field(default_factory=dict)
    freshness: Rows = ()
    staleness: Rows = ()
    others: Mapping[str, Rows] = field(default_factory=dict)
    distributions: Mapping[str, Distribution] = field(default_factory=dict)
    missing: str = ""

    @property
    def version(self) -> int | None:
        """The version that the night was held against, or else the champion's."""
        if self.drift:
            return int(self.drift[0]["model_version"])
        champion = self.evidence.champion if self.evidence else None
        return champion.version if champion else None

    @property
    def is_recorded(self) -> bool:
        """Whether any table knows of the night."""
        return bool(self.evidence or self.drift or self.freshness or self.staleness)


def gather_night(use_case: UseCase, day: date, nights: int = NIGHTS) -> NightFacts:
    """Read what the tables hold of a night, distributions apart; absent tables say nothing.

    Parameters
    ----------
    nights
        How far to look back, this night included.
    """
    back = timedelta(days=nights - 1)
    matured = day - timedelta(days=use_case.target.horizon_days)
    evidence, verdict = decided_on(use_case, day) or (None, None)
    drift = lake.rows(use_case.name, "drift", day, day)
    governor = {"kind": "governor"}
    decided = lake.rows(use_case.name, "decisions", day - back, day, ("decision",), governor)
    measured = lake.rows(use_case.name, "performance", matured - back, day)
    return NightFacts(
        use_case,
        day,
        evidence,
        verdict,
        drift,
        _by_day(lake.rows(use_case.name, "drift", day - back, day, equal={"slice": "all"})),
        {row["day"]: row["decision"] for row in decided},
        _by_day(
            [
                row
                for row in measured
                if row["day"] <= matured or not needs_labels(use_case, row["metric"])
            ]
        ),
        lake.rows(use_case.name, "freshness", day, day),
        lake.rows(use_case.name, "staleness", day, day),
        {table: lake.rows(use_case.name, table, day, day) for table in _measured(use_case, day)},
    )


def _measured(use_case: UseCase, night: date) -> list[str]:
    """Return the tables that a night has measured, beside those that have a place of their own."""
    end = night + timedelta(days=1)
    return [
        table
        for table in lake.tables(use_case.name)
        if table not in _PLACED and receipts.latest(use_case.name, f"measure_{table}", night, end)
    ]


def needs_labels(use_case: UseCase, metric: str) -> bool:
    """Return whether labels are needed to measure it: later nights know more of them."""
    return metric in (*use_case.target.all_metrics, "mean_label", "mean_score")


def _by_day(rows: Rows) -> dict[date, Rows]:
    found: dict[date, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["day"], []).append(row)
    return dict(found)
