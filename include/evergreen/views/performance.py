"""What scores were worth, and may turn out to be worth, on one time line with what was decided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np

from evergreen.contract import UseCase
from evergreen.errors import ConfigError
from evergreen.monitoring.night import labelled_scores
from evergreen.release import ledger
from evergreen.views import days as partitions
from evergreen.views.decided import decisions, judged_on, of_governor
from evergreen.views.measured import order_metrics
from evergreen.views.reading import read_rows
from evergreen.views.remembered import remembered

# Scored days that are shown unless others are asked for.
_DAYS = 180
# How long before them alarms are looked for that may still go on.
_GOES_ON = timedelta(days=92)
_BINS = 10
_Z = 1.96
_MEANS = ("mean_label", "mean_score")

Kind = Literal[
    "promotion", "roll_back", "alarm", "retraining", "learnable_from", "degradation", "effect"
]


@dataclass(frozen=True)
class Point:
    """A metric of one scored day, with bounds at 95 %, and what the holdout had promised."""

    day: date
    version: int
    value: float | None
    lower: float | None
    upper: float | None
    rows: int
    holdout: float | None
    degraded: bool


@dataclass(frozen=True)
class RealisedSeries:
    """The days of one slice, oldest first."""

    slice: str
    points: list[Point]


@dataclass(frozen=True)
class EstimatePoint:
    """What a night expected its scores to be worth, before their labels were known."""

    day: date
    version: int
    method: str
    value: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class Event:
    """Something on the time line; `day` is a day of data where one is known, else a local day."""

    day: date
    kind: Kind
    version: int | None
    text: str


@dataclass(frozen=True)
class Bin:
    """A tenth of a day's rows, of the highest scores first.

    Parameters
    ----------
    lower, upper
        Bounds of the mean label at 95 %.
    lift
        Mean label of these rows and all with higher scores, over that of all.
    """

    rows: int
    mean_score: float
    mean_label: float
    lower: float
    upper: float
    lift: float | None


@dataclass(frozen=True)
class Reliability:
    """What was predicted beside what happened, on one day."""

    day: date
    version: int
    rows: int
    mean_label: float
    bins: list[Bin]


@dataclass(frozen=True)
class Performance:
    """One metric over time; `metrics` are those that can be asked for, the main one first."""

    use_case: str
    metric: str
    metrics: list[str]
    is_probability: bool
    series: list[RealisedSeries]
    estimates: list[EstimatePoint]
    events: list[Event]
    reliability: Reliability | None


@remembered
def performance(
    use_case: UseCase,
    metric: str | None = None,
    first: date | None = None,
    last: date | None = None,
) -> Performance:
    """Return a metric of the scored days from `first` to `last`; by default of the newest 180.

    Raises
    ------
    ConfigError
        There is no such metric.
    """
    known = order_metrics(use_case, [*use_case.target.all_metrics, *_MEANS])
    metric = metric or known[0]
    if metric not in known:
        raise ConfigError(f"There is no metric {metric!r}; expected one of {', '.join(known)}.")
    published = partitions.published(use_case)
    measured = published["performance"]
    last = last or partitions.newest_day(published) or use_case.first_day
    first = first or last - timedelta(days=_DAYS - 1)
    newest = max((day for day in measured if day <= last), default=None)
    return Performance(
        use_case.name,
        metric,
        known,
        use_case.target.is_probability,
        list(_series(use_case, metric, first, last)),
        [
            EstimatePoint(**{name: row[name] for name in ("day", "method", *_BOUNDS)}, version=v)
            for row in read_rows(use_case, "estimates", first, last)
            if row["metric"] == metric and (v := row["model_version"]) is not None
        ],
        sorted(
            (event for event in _events(use_case, first, last) if first <= event.day),
            key=lambda event: (event.day, event.kind),
        ),
        _reliability(use_case, newest) if newest else None,
    )


_BOUNDS = ("value", "lower", "upper")


def _series(use_case: UseCase, metric: str, first: date, last: date) -> Iterator[RealisedSeries]:
    columns = ("model_version", "slice", "metric", *_BOUNDS, "rows", "holdout", "degraded")
    by_slice: dict[str, list[Point]] = {"all": []}
    for row in read_rows(use_case, "performance", first, last, columns):
        if row["metric"] == metric:
            point = Point(
                row["day"],
                row["model_version"],
                row["value"],
                row["lower"],
                row["upper"],
                row["rows"],
                row["holdout"],
                row["degraded"],
            )
            by_slice.setdefault(row["slice"], []).append(point)
    for name, points in by_slice.items():
        yield RealisedSeries(name, points)


def _events(use_case: UseCase, first: date, last: date) -> Iterator[Event]:
    """Return what changed who is in charge, and when alarms began.

    What can be learned on a day was announced up to a horizon before, and alarms go on for weeks.
    """
    since = first - timedelta(days=use_case.target.horizon_days) - _GOES_ON
    trained = judged_on(use_case)
    zone = ZoneInfo(use_case.zone)
    for entry in ledger.releases(ledger.engine(), use_case.name):
        day = entry.recorded_at.astimezone(zone).date()
        if entry.action == "promote" and entry.request.startswith("train "):
            # A backfilled training promotes today what the timeline knows under another day.
            day = trained.get(entry.version, day)
        kind: Kind = "promotion" if entry.action == "promote" else "roll_back"
        yield Event(day, kind, entry.version, f"version {entry.version}: {entry.reason}")
    before: set[str] = set()
    announced: set[date] = set()
    for row in of_governor(use_case, since, last):
        verdict = json.loads(row["verdict"])
        for trigger in sorted({*verdict["triggers"]} - before):
            reasons = [r for r in row["reasons"] if r.startswith(f"{trigger}: ")]
            kind = "degradation" if trigger == "degradation" else "alarm"
            yield Event(row["day"], kind, row["version"], "; ".join(reasons) or trigger)
        before = {*verdict["triggers"]}
        learnable = verdict.get("learnable_from")
        if learnable and (day := date.fromisoformat(learnable)) not in announced:
            announced.add(day)
            text = f"a change seen on {row['day']} can be learned from this day on"
            yield Event(day, "learnable_from", row["version"], text)
        if row["decision"] == "retrain":
            yield Event(row["day"], "retraining", row["version"], "retraining was asked for")
    for row in decisions(use_case, since, last):
        if row["kind"] == "effect":
            text = f"{row['decision']}: {'; '.join(row['reasons'])}"
            yield Event(row["day"], "effect", row["version"], text)


def _reliability(use_case: UseCase, day: date) -> Reliability | None:
    rows = labelled_scores(use_case, day)
    if rows is None or rows.num_rows < _BINS:
        return None
    rows = rows.sort_by([("score", "descending"), (use_case.entity.key, "ascending")])
    happened = use_case.target.read_labels(rows["label"])
    scores, overall = rows["score"].to_numpy(), float(happened.mean())
    least, most = use_case.target.score_range
    bins, seen, total = [], 0, 0.0
    for part in np.array_split(np.arange(rows.num_rows), _BINS):
        mean = float(happened[part].mean())
        reach = _Z * float(happened[part].std(ddof=1)) / len(part) ** 0.5 if len(part) > 1 else 0.0
        seen, total = seen + len(part), total + float(happened[part].sum())
        bins.append(
            Bin(
                *(len(part), float(scores[part].mean()), mean),
                lower=mean - reach if least is None else max(mean - reach, least),
                upper=mean + reach if most is None else min(mean + reach, most),
                lift=total / seen / overall if overall else None,
            )
        )
    return Reliability(day, rows["model_version"][0].as_py(), rows.num_rows, overall, bins)
