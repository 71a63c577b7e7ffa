"""Features and nights: how far each column lay from what was expected of it, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from evergreen.contract import UseCase
from evergreen.decisions.alarm import TOLD
from evergreen.errors import EvergreenError, NotReadyError
from evergreen.monitoring.reference import SCORE
from evergreen.monitoring.report.distributions import Distribution, compare_distributions
from evergreen.views import days as partitions
from evergreen.views.decided import of_governor
from evergreen.views.reading import Row, read_rows
from evergreen.views.remembered import remembered

# Nights that are shown unless others are asked for.
_NIGHTS = 60
# Rows of a night that its distribution is made from.
_ROWS = 20_000
# The tests whose statistic says how far a whole column moved; others are of shares of its rows.
_WHOLE = ("ks", "chi2", "classifier")


@dataclass(frozen=True)
class DriftFeature:
    """One column, by night: its effect in [0, 1], whether it drifted, and by which test."""

    feature: str
    importance: float | None
    unit: str
    description: str
    effects: list[float | None]
    drifted: list[bool]
    worst: list[str]


@dataclass(frozen=True)
class Drift:
    """A stretch of nights; `alarmed` are those on which drift called for retraining."""

    use_case: str
    nights: list[date]
    versions: list[int]
    decisions: list[str]
    alarmed: list[bool]
    features: list[DriftFeature]


@dataclass(frozen=True)
class DriftTest:
    """One test of one column on one night; see the table `drift`."""

    slice: str
    reference: str
    test: str
    statistic: float | None
    usual: float | None
    p_value: float | None
    p_adjusted: float | None
    psi: float | None
    psi_band: str | None
    wasserstein: float | None
    drifted: bool
    extreme: bool
    reason: str
    reference_rows: int | None
    current_rows: int | None


@dataclass(frozen=True)
class FeatureNight:
    """All tests of a column on a night, and its distribution, or why there is none."""

    use_case: str
    night: date
    feature: str
    unit: str
    version: int
    tests: list[DriftTest]
    distribution: Distribution | None
    problem: str


@remembered
def drift(use_case: UseCase, first: date | None = None, last: date | None = None) -> Drift:
    """Return the nights from `first` to `last`; by default the newest sixty days of them."""
    measured = partitions.published(use_case)["drift"]
    last = last or max(measured, default=use_case.first_day)
    first = first or last - timedelta(days=_NIGHTS - 1)
    whole = {"slice": "all", "reference": "expected"}
    rows = read_rows(use_case, "drift", first, last, _SHOWN, whole)
    by_night: dict[date, dict[str, list[Row]]] = {}
    for row in rows:
        by_night.setdefault(row["day"], {}).setdefault(row["feature"], []).append(row)
    nights = sorted(by_night)
    decided = {row["day"]: row for row in of_governor(use_case, first, last)}
    return Drift(
        use_case.name,
        nights,
        [next(iter(by_night[night].values()))[0]["model_version"] for night in nights],
        [decided[night]["decision"] if night in decided else "" for night in nights],
        [_is_alarm(decided.get(night)) for night in nights],
        [
            _feature(use_case, name, [by_night[night].get(name, []) for night in nights])
            for name in _ranked(by_night)
        ],
    )


@remembered
def feature_night(use_case: UseCase, night: date, feature: str) -> FeatureNight:
    """Return all that was measured of a column on a night.

    Raises
    ------
    NotReadyError
        Nothing was.
    """
    rows = read_rows(use_case, "drift", night, night, equal={"feature": feature})
    if not rows:
        raise NotReadyError(
            f"Drift of {feature!r} was not measured on {night}. Expected a night on which "
            f"{use_case.name}_monitor ran with a champion, and a column it watches."
        )
    version, distribution, problem = rows[0]["model_version"], None, ""
    if feature in TOLD:
        problem = f"{feature} has no distribution of its own."
    else:
        try:
            found = compare_distributions(use_case, night, version, [feature], _ROWS)
            distribution = found.get(feature)
            problem = "" if distribution else f"features of {night} have no rows."
        except EvergreenError as error:
            problem = str(error)
    return FeatureNight(
        use_case.name,
        night,
        feature,
        _words(use_case, feature)[0],
        version,
        [DriftTest(**{name: row[name] for name in DriftTest.__annotations__}) for row in rows],
        distribution,
        problem,
    )


_SHOWN = (
    *("model_version", "feature", "test"),
    *("statistic", "importance", "drifted", "reason"),
)


def _is_alarm(decided: Row | None) -> bool:
    reasons = decided["reasons"] if decided else ()
    return any(reason.startswith("drift: ") for reason in reasons)


def _ranked(by_night: Mapping[date, Mapping[str, Sequence[Row]]]) -> list[str]:
    """Return the columns: the score, features by importance, then what is only told."""
    importance: dict[str, float] = {}
    for night in sorted(by_night):
        for name, rows in by_night[night].items():
            importance[name] = rows[0]["importance"] or 0.0

    def rank(name: str) -> tuple[bool, bool, float, str]:
        return name in TOLD, name != SCORE, -importance[name], name

    return sorted(importance, key=rank)


def _feature(use_case: UseCase, name: str, nights: Sequence[Sequence[Row]]) -> DriftFeature:
    unit, description = _words(use_case, name)
    importances = [rows[0]["importance"] for rows in nights if rows]
    drifted = [[row for row in rows if row["drifted"]] for rows in nights]
    return DriftFeature(
        name,
        importances[-1],
        unit,
        description,
        [
            next((row["statistic"] for row in rows if row["test"] in _WHOLE), None)
            for rows in nights
        ],
        [bool(rows) for rows in drifted],
        ["; ".join(row["reason"] for row in rows) for rows in drifted],
    )


def _words(use_case: UseCase, name: str) -> tuple[str, str]:
    feature = use_case.features.columns.get(name)
    return (feature.unit, feature.description) if feature else ("", "")
