"""What is watched of the use cases, as Prometheus reads it.

Every value is what tables, receipts, ledger and registry say now; nothing is counted a second time.
No label names an entity, a day or a person, so the number of series is that of use cases times
tables, steps and features.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from evergreen.contract import UseCase
from evergreen.errors import EvergreenError
from evergreen.ops.backup import manifest
from evergreen.provenance import receipts
from evergreen.release import ledger, registry
from evergreen.settings import Settings
from evergreen.training import requests
from evergreen.views import days as partitions
from evergreen.views.decided import decisions
from evergreen.views.drift import drift
from evergreen.views.measured import Measurement
from evergreen.views.overview import Champion, Overview, overview
from evergreen.views.quality import quality
from evergreen.views.reading import read_refusals, read_rows
from evergreen.views.remembered import remembered

__all__ = ["CONTENT_TYPE", "METRICS", "render"]

logger = logging.getLogger(__name__)

METRICS: Mapping[str, str] = {
    "evergreen_readable": "Whether the use case and all that is told here of it can be read.",
    "evergreen_rows": "Rows that a table holds.",
    "evergreen_days": "Days of which a table has rows.",
    "evergreen_newest_day_rows": "Rows of the newest day of a table.",
    "evergreen_newest_day_end_timestamp_seconds": "End of the newest day of a table.",
    "evergreen_due_timestamp_seconds": "When the day after the newest one of a table is late.",
    "evergreen_lag_days": "How far a table lay behind the newest night.",
    "evergreen_allowed_lag_days": "How far it may.",
    "evergreen_owed_days": "Days that a table owed on the newest night.",
    "evergreen_stale_days": "Days that no longer follow from their inputs, or are missing.",
    "evergreen_delivered_rows": "Rows delivered of the newest day, by what became of them.",
    "evergreen_quarantined_ratio": "Share of them that was quarantined.",
    "evergreen_unaccounted_rows": "Rows of the newest thirty days of which nobody knows.",
    "evergreen_refused_days": "Newest thirty days and later ones that are not accepted.",
    "evergreen_night_end_timestamp_seconds": "End of the day of the newest night.",
    "evergreen_incidents": "What the newest night found wrong with the data.",
    "evergreen_retraining_called_for": "Whether a trigger called for retraining on that night.",
    "evergreen_drift_effect_ratio": "How far a column lay from what was expected of that night.",
    "evergreen_drifted": "Whether that is drift.",
    "evergreen_online_skew_ratio": "Share of served values that differ from what they should be.",
    "evergreen_allowed_online_skew_ratio": "How much may.",
    "evergreen_champion_version": "The version in charge; 0 while there is none.",
    "evergreen_champion_since_timestamp_seconds": "Since when.",
    "evergreen_holdout_performance": "What the champion's scores were worth on its holdout.",
    "evergreen_realised_performance": "What they were worth on the newest day with labels.",
    "evergreen_estimated_performance": "What the newest night expects them to be worth.",
    "evergreen_degraded": "Whether realised performance is too far below the holdout's.",
    "evergreen_approval_pending": "Whether a version has passed the gate and waits for a person.",
    "evergreen_unfinished_training_timestamp_seconds": (
        "End of the day of the oldest training that is waited for."
    ),
    "evergreen_decisions": "Decisions that stand in the table of decisions.",
    "evergreen_ledger_entries": "Entries of the release ledger.",
    "evergreen_ledger_problems": "What is wrong with the release ledger.",
    "evergreen_registry_problems": "What the registry lacks or shows otherwise than the ledger.",
    "evergreen_step_runs_total": "Runs of a step that have published.",
    "evergreen_step_seconds_total": "Seconds that they took, from staging to commit.",
    "evergreen_backup_timestamp_seconds": "When the newest complete backup was begun.",
}
"""What is told, in which words; all of it but the last has the label `use_case`."""

_ONE_DAY = timedelta(days=1)
# Of a delivered row.
_BECAME = ("accepted", "quarantined", "duplicates", "erased")


@dataclass(frozen=True)
class _Sample:
    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def render(use_cases: Iterable[UseCase], broken: Iterable[str], settings: Settings) -> bytes:
    """Return what is watched, in Prometheus' text format.

    Parameters
    ----------
    use_cases
        Those that are told of.
    broken
        Names of those whose declaration cannot be loaded.
    settings
        Where backups are.

    Raises
    ------
    ServiceDownError
        The databases do not answer; no value is better than an old one.

    Notes
    -----
    Between two changes of its tables, a use case costs some queries by key, its ledger, and a look
    into the registry.
    """
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    samples = [*(_Sample("evergreen_readable", 0, {"use_case": name}) for name in broken)]
    for use_case in use_cases:
        samples += _of_use_case(use_case)
    samples += _of_backups(settings)
    for sample in samples:
        if sample.name not in families:
            kind = CounterMetricFamily if sample.name.endswith("_total") else GaugeMetricFamily
            families[sample.name] = kind(sample.name, METRICS[sample.name], labels=[*sample.labels])
        families[sample.name].add_metric([*sample.labels.values()], sample.value)
    found = CollectorRegistry()
    found.register(_Collected([families[name] for name in METRICS if name in families]))
    return generate_latest(found)


class _Collected:
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _of_use_case(use_case: UseCase) -> Iterator[_Sample]:
    """Yield what can be read; what raises ends it, and is told as such."""
    # Asked first: it raises when the databases do not answer.
    receipts.newest_sequence(use_case.name)
    readable = True
    try:
        for sample in (*_of_tables(use_case), *_of_releases(use_case)):
            yield _Sample(sample.name, sample.value, {"use_case": use_case.name, **sample.labels})
    except EvergreenError as error:
        logger.warning("not all of %s can be read: %s", use_case.name, error)
        readable = False
    yield _Sample("evergreen_readable", readable, {"use_case": use_case.name})


@remembered
def _of_tables(use_case: UseCase) -> tuple[_Sample, ...]:
    """Return all that changes with tables, receipts and releases only."""
    found = overview(use_case)
    return (
        *_standing(use_case, found),
        *_deliveries(use_case),
        *_night(use_case, found),
        *_champion(use_case, found.champion),
        *_decided(use_case, found),
        *_work(use_case),
    )


def _of_releases(use_case: UseCase) -> Iterator[_Sample]:
    """Yield what anybody may change by hand, past all that is remembered."""
    book = ledger.engine()
    yield _Sample("evergreen_ledger_entries", len(ledger.entries(book, use_case.name)))
    yield _Sample("evergreen_ledger_problems", len(ledger.verify(book, use_case.name)))
    wrong = registry.find_problems(use_case)
    yield _Sample("evergreen_registry_problems", len(wrong.broken) + len(wrong.differing))


def _of_backups(settings: Settings) -> Iterator[_Sample]:
    for newest in manifest.complete_in(settings.backups)[-1:]:
        made_at = datetime.fromisoformat(manifest.read(newest).made_at)
        yield _Sample("evergreen_backup_timestamp_seconds", made_at.timestamp())


# --- tables and rows -----------------------------------------------------------------------------


def _standing(use_case: UseCase, found: Overview) -> Iterator[_Sample]:
    stale: Counter[str] = Counter()
    for stretch in found.stale:
        stale[stretch.table] += (stretch.last_day - stretch.first_day).days + 1
    published = partitions.published(use_case)
    for table in found.tables:
        if use_case.owner_of(table.table) != use_case.name:
            continue
        of = {"table": table.table}
        yield _Sample("evergreen_rows", table.rows, of)
        yield _Sample("evergreen_days", table.days, of)
        yield _Sample("evergreen_stale_days", stale[table.table], of)
        if table.newest_day:
            rows = partitions.rows_of(published[table.table][table.newest_day])
            end = use_case.as_of(table.newest_day).timestamp()
            yield _Sample("evergreen_newest_day_rows", rows, of)
            yield _Sample("evergreen_newest_day_end_timestamp_seconds", end, of)
        if due := _due(use_case, table.table, max(published[table.table], default=None)):
            yield _Sample("evergreen_due_timestamp_seconds", due.timestamp(), of)
        if table.lag_days is not None and table.allowed_days is not None:
            yield _Sample("evergreen_lag_days", table.lag_days, of)
            yield _Sample("evergreen_allowed_lag_days", table.allowed_days, of)
            yield _Sample("evergreen_owed_days", table.owed_days, of)


def _due(use_case: UseCase, table: str, newest: date | None) -> datetime | None:
    """Return when the day after the newest is late; None for what nobody waits for."""
    if table not in (*use_case.events, "features", "predictions") or newest is None:
        return None
    expected = newest + _ONE_DAY
    if use_case.last_day and expected > use_case.last_day:
        return None
    hours = use_case.monitoring.max_delay_hours
    patience = (
        timedelta(days=use_case.max_staleness_days(table))
        if hours is None
        else timedelta(hours=hours)
    )
    return use_case.as_of(expected) + patience


def _deliveries(use_case: UseCase) -> Iterator[_Sample]:
    if use_case.base is not None:
        return
    found = quality(use_case)
    # Also those after the newest day that was accepted.
    since = min((day.day for day in found.days), default=use_case.first_day)
    refused = Counter(refusal["table"] for refusal in read_refusals(use_case, since))
    for table in use_case.tables:
        counted = [day for day in found.days if day.table == table]
        of = {"table": table}
        lost = sum(d.rows_in - sum(getattr(d, became) for became in _BECAME) for d in counted)
        yield _Sample("evergreen_refused_days", refused[table], of)
        yield _Sample("evergreen_unaccounted_rows", lost, of)
        for newest in counted[:1]:
            for outcome in _BECAME:
                rows = getattr(newest, outcome)
                yield _Sample("evergreen_delivered_rows", rows, {**of, "outcome": outcome})
            share = newest.quarantined / newest.rows_in if newest.rows_in else 0.0
            yield _Sample("evergreen_quarantined_ratio", share, of)


# --- nights and models ---------------------------------------------------------------------------


def _night(use_case: UseCase, found: Overview) -> Iterator[_Sample]:
    night = found.night
    if night is None:
        return
    end = use_case.as_of(night.day).timestamp()
    yield _Sample("evergreen_night_end_timestamp_seconds", end)
    yield _Sample("evergreen_incidents", len(night.incidents))
    for trigger in ("degradation", "drift", "schedule"):
        called = trigger in night.triggers
        yield _Sample("evergreen_retraining_called_for", called, {"trigger": trigger})
    for column in drift(use_case, night.day, night.day).features:
        of = {"feature": column.feature}
        yield _Sample("evergreen_drifted", column.drifted[-1], of)
        if (effect := column.effects[-1]) is not None:
            yield _Sample("evergreen_drift_effect_ratio", effect, of)
    for row in read_rows(use_case, "skew", night.day, night.day):
        differ = row["mismatch"] + row["missing"] + row["extra"]
        of = {"feature": row["feature"], "reference": row["reference"]}
        share = differ / row["keys"] if row["keys"] else 0.0
        yield _Sample("evergreen_online_skew_ratio", share, of)
    yield _Sample("evergreen_allowed_online_skew_ratio", use_case.monitoring.max_skew)
    for row in read_rows(use_case, "estimates", night.day, night.day):
        if row["value"] is not None:
            of = {"metric": row["metric"], "method": row["method"]}
            yield _Sample("evergreen_estimated_performance", row["value"], of)


def _champion(use_case: UseCase, champion: Champion | None) -> Iterator[_Sample]:
    yield _Sample("evergreen_champion_version", champion.version if champion else 0)
    if champion is None:
        return
    yield _Sample("evergreen_champion_since_timestamp_seconds", champion.since.timestamp())
    yield from _measured("evergreen_holdout_performance", champion.holdout)
    if realised := champion.realised:
        yield from _measured("evergreen_realised_performance", realised.metrics)
        yield _Sample("evergreen_degraded", realised.degraded)


def _measured(name: str, metrics: Iterable[Measurement]) -> Iterator[_Sample]:
    for metric in metrics:
        if metric.value is not None:
            yield _Sample(name, metric.value, {"metric": metric.metric})


def _decided(use_case: UseCase, found: Overview) -> Iterator[_Sample]:
    yield _Sample("evergreen_approval_pending", found.pending is not None)
    rows = decisions(use_case, date.min, date.max - _ONE_DAY)
    counted = Counter((row["kind"], row["decision"]) for row in rows)
    for (kind, decision), times in sorted(counted.items()):
        yield _Sample("evergreen_decisions", times, {"kind": kind, "decision": decision})
    if found.night is None:
        return
    asked = [r["day"] for r in rows if (r["kind"], r["decision"]) == ("governor", "retrain")]
    expired = found.night.day - timedelta(days=use_case.monitoring.request_expires_days)
    waited_for = [
        training.day
        for training in requests.trainings_before(use_case.name, date.max, asked)
        if training.state in ("asked", "started") and training.day > expired
    ]
    if waited_for:
        end = use_case.as_of(min(waited_for)).timestamp()
        yield _Sample("evergreen_unfinished_training_timestamp_seconds", end)


def _work(use_case: UseCase) -> Iterator[_Sample]:
    for step, (runs, seconds) in receipts.work(use_case.name).items():
        yield _Sample("evergreen_step_runs_total", runs, {"step": step})
        # Steps of nights do not say how long they took; Airflow does.
        if seconds:
            yield _Sample("evergreen_step_seconds_total", seconds, {"step": step})
