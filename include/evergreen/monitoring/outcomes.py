"""What scores are worth: realised, of days whose labels have matured, and estimated, of tonight's.

As `evergreen.monitoring.night` does, every measurement publishes its table and returns what the
governor is told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.decisions.governor import Performance
from evergreen.errors import NotReadyError, PermanentError
from evergreen.monitoring.effect import measure_effect
from evergreen.monitoring.estimate import (
    Estimate,
    Matrix,
    Vector,
    estimate_performance,
    estimates_table,
)
from evergreen.monitoring.night import (
    SAMPLE,
    incident_of,
    publish,
    read_and_scored,
    version_of_night,
)
from evergreen.monitoring.performance import (
    ALL,
    Holdouts,
    PerformanceRow,
    performance_table,
    realised_performance,
)
from evergreen.monitoring.sampling import is_sampled
from evergreen.provenance import receipts
from evergreen.provenance.staleness import find_stale
from evergreen.settings import load_settings
from evergreen.training.model import LoadedModel
from evergreen.training.tracking import describe_version, fetch_slices, load_version

logger = logging.getLogger(__name__)

# A night measures so many scored days, its own and those before it that are owed.
PERFORMANCE_DAYS = 31
# Labelled days that performance is estimated by.
_LABELLED_WEEKS = 4
_ONE_DAY = timedelta(days=1)


def performance(use_case: UseCase, tonight: date) -> dict[str, Any]:
    """Compare scores with what happened: of the day whose labels matured today, and of owed ones.

    A day is owed when its labels came after its night, or when it says something else than it was
    measured on. Of those, every night measures the last `PERFORMANCE_DAYS` up to its own, and what
    a row says does not depend on the night; so nights may come in any order, and at once.
    """
    matured = tonight - timedelta(days=use_case.target.horizon_days)
    oldest = matured - timedelta(days=PERFORMANCE_DAYS - 1)
    owed = {stale.day for stale in find_stale(use_case) if stale.table == "performance"}
    for scored in sorted(day for day in owed if oldest <= day < matured):
        try:
            _measure_day(use_case, tonight, scored, owed=True)
        except PermanentError as error:
            # It stays owed, and is listed; that is no reason to judge this night without its own.
            logger.warning("the performance of %s could not be measured: %s", scored, error)
    try:
        summary = _measure_day(use_case, tonight, matured, owed=matured in owed)
    except PermanentError as error:
        return {"performance": None, **incident_of(error, "labels", matured)}
    if summary:
        summary = replace(summary, degraded_before=_degraded_before(use_case, summary))
        try:
            measure_effect(use_case, matured, summary.model_version)
        except NotReadyError as error:
            logger.warning("what the last promotion was worth could not be measured: %s", error)
    return {"performance": summary and summary.to_dict(), "incidents": [], "bad": []}


def estimates(use_case: UseCase, tonight: date) -> dict[str, Any]:
    """Estimate what tonight's scores will turn out to be worth; told, and no evidence.

    By the version of the night.
    """
    version, basis = version_of_night(use_case, tonight), receipts.newest_sequence()
    rows = estimate_night(use_case, tonight, version) if version is not None else []
    if version is None or not rows:
        logger.info("%s: no performance is estimated for %s", use_case.name, tonight)
        return {"rows": 0}
    table = estimates_table(tonight, version, rows)
    inputs = {"model_version": version}
    publish(use_case, tonight, "measure_estimates", "estimates", table, tonight, basis, inputs)
    return {"rows": len(rows)}


def estimate_night(use_case: UseCase, tonight: date, version: int) -> list[Estimate]:
    """Estimate what a version's scores of a night will turn out to be worth.

    By the newest labelled days of tonight's weekday, scored by the same version. Nothing where
    there are no features, or scores are no probabilities.
    """
    features = lake.read_day(use_case.owner_of("features"), "features", tonight)
    if not use_case.target.is_probability or not features:
        return []
    model = load_version(use_case, version)
    keys = features[use_case.entity.key]
    features = features.filter(is_sampled(keys, SAMPLE, features.num_rows))
    newest = tonight - timedelta(days=use_case.target.horizon_days)
    # The horizon need not be whole weeks.
    newest -= timedelta(days=(newest - tonight).days % 7)
    days = [newest - timedelta(weeks=n) for n in range(_LABELLED_WEEKS)]
    found = filter(None, (_labelled(use_case, model, day) for day in days))
    return estimate_performance(
        use_case.target,
        read_and_scored(use_case, model, features),
        [*found],
        seed=use_case.training.seed,
        threads=load_settings().threads,
    )


def _degraded_before(use_case: UseCase, newest: Performance) -> tuple[date, ...]:
    """Return on which of the days before it the same version had degraded, oldest first.

    As far back as one after the other had, with as many gaps as `monitoring.persistence` forgives;
    of at least the days that it asks for. All are measured here: what a night says does not depend
    on which nights ran before it.
    """
    needed, window = use_case.monitoring.persistence
    found: list[date] = []
    day, calm = newest.day, 0
    while newest.degraded and calm <= window - needed and len(found) < PERFORMANCE_DAYS:
        day -= _ONE_DAY
        try:
            before = _summary(use_case, day, _performance_of(use_case, day))
        except PermanentError as error:
            logger.warning("the performance of %s could not be measured: %s", day, error)
            before = None
        if before and before.degraded and before.model_version == newest.model_version:
            found.append(day)
            calm = 0
        else:
            calm += 1
    return tuple(reversed(found))


def _measure_day(
    use_case: UseCase, tonight: date, scored: date, *, owed: bool
) -> Performance | None:
    """Publish the performance of one scored day; None if there is nothing to compare."""
    basis = receipts.newest_sequence()
    rows = _performance_of(use_case, scored)
    if not rows and not owed:
        logger.info("%s: no scored day with matured labels (looked at %s)", use_case.name, scored)
        return None
    table = performance_table(scored, rows)
    publish(use_case, tonight, "measure_performance", "performance", table, scored, basis)
    return _summary(use_case, scored, rows)


def _performance_of(use_case: UseCase, scored: date) -> list[PerformanceRow]:
    """Measure one scored day; nothing without scores and labels."""
    predictions, labels = (
        lake.read_day(use_case.name, table, scored) if lake.exists(use_case.name, table) else None
        for table in ("predictions", "labels")
    )
    if not predictions or not labels:
        return []
    features = None
    if slices := use_case.training.slices:
        owner, columns = use_case.owner_of("features"), [use_case.entity.key, *slices]
        features = lake.read(owner, "features", scored, scored + _ONE_DAY, columns=columns)
    versions = predictions["model_version"].unique().to_pylist()
    holdouts = _holdouts(use_case, versions)
    return realised_performance(predictions, labels, use_case, holdouts, features)


def _summary(use_case: UseCase, scored: date, rows: Iterable[PerformanceRow]) -> Performance | None:
    main = use_case.target.main_metric
    whole = [row for row in rows if (row.slice, row.metric) == (ALL, main)]
    if not whole:
        return None
    overall = max(whole, key=lambda row: row.rows)
    return Performance(
        day=scored,
        model_version=overall.model_version,
        rows=overall.rows,
        metric=main,
        value=overall.value,
        holdout=overall.holdout,
        degraded=overall.degraded,
    )


def _holdouts(use_case: UseCase, versions: Iterable[int]) -> Holdouts:
    """Look up what versions reached on their holdouts, of those that are still registered."""
    holdouts = {}
    for version in versions:
        try:
            slices = fetch_slices(use_case, version) if use_case.training.slices else {}
            holdouts[version] = {ALL: describe_version(use_case, version).holdout, **slices}
        except NotReadyError as error:
            logger.warning("version %d is measured and not judged: %s", version, error)
    return holdouts


def _labelled(
    use_case: UseCase, model: LoadedModel, day: date
) -> tuple[Matrix, Vector, Vector] | None:
    """Return what the model reads of a sample of a day, its scores, and what came of them."""
    key, owner = use_case.entity.key, use_case.owner_of("features")
    if not lake.exists(use_case.name, "labels"):
        return None
    labels = lake.read_day(use_case.name, "labels", day)
    labels = labels.filter(pc.is_valid(labels["label"]))
    features = lake.read_day(owner, "features", day)
    features = features.filter(pc.is_in(features[key], labels[key].combine_chunks()))
    features = features.filter(
        is_sampled(features[key], SAMPLE, _LABELLED_WEEKS * features.num_rows)
    )
    if not features:
        return None
    places = pc.index_in(features[key], labels[key].combine_chunks())
    known = use_case.target.read_labels(labels["label"].take(places))
    return (*read_and_scored(use_case, model, features), known)
