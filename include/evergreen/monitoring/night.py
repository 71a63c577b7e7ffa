"""What a night measures of its own day: drift, freshness, staleness; and what all measuring shares.

Every measurement publishes its table and returns what the governor is told: JSON-able, with
`incidents`, one text each, and `bad`, the tables and periods that are to be made again. What is
published of a night does not depend on which nights ran before it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import Period, UseCase, join_days
from evergreen.decisions.alarm import find_alarm, summarise_nights
from evergreen.decisions.governor import (
    Champion,
    RetrainingEvidence,
    RetrainingVerdict,
    read_retraining,
)
from evergreen.errors import NotReadyError, PermanentError, ValidationError
from evergreen.monitoring.drift import (
    DriftRow,
    drift_table,
    measure_drift,
    measure_labels,
    measure_together,
)
from evergreen.monitoring.estimate import (
    Matrix,
    Vector,
)
from evergreen.monitoring.expected import weeks_before
from evergreen.monitoring.freshness import freshness_table, measure_freshness
from evergreen.monitoring.onset import estimate_onset, nights_around
from evergreen.monitoring.reference import SCORE, Reference
from evergreen.monitoring.sampling import is_sampled
from evergreen.monitoring.volume import Volume, measure_volume
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.provenance.staleness import find_stale, staleness_table, summarise
from evergreen.release import ledger
from evergreen.settings import load_settings
from evergreen.training.compatibility import require_computed, require_fit
from evergreen.training.model import LoadedModel
from evergreen.training.slices import find_slices
from evergreen.training.tracking import describe_version, load_version

logger = logging.getLogger(__name__)

# Measured by nights, and mended by them.
_OF_NIGHTS = ("drift", "performance")
_ONE_DAY = timedelta(days=1)
# Entities that stand for a night, and rows that are read at once.
SAMPLE = 20_000
_ROWS = 100_000


def drift(use_case: UseCase, tonight: date) -> dict[str, Any]:
    """Hold features and scores of the last nights against what was expected of them.

    The governor asks for persistence over several nights. All of them are measured here, by the
    same version, so the verdict of a night does not depend on which nights ran before it.
    """
    version = version_of_night(use_case, tonight)
    if version is None:
        return {"nights": [], "change": None, "incidents": [], "bad": []}
    basis = receipts.newest_sequence()
    model = load_version(use_case, version)
    reference = watched(use_case, model)
    found: dict[date, list[DriftRow]] = {}
    first = tonight - timedelta(days=use_case.monitoring.persistence[1] - 1)
    for night in Period(first, tonight + _ONE_DAY).days:
        try:
            nights = _nights_of(use_case, model, reference, night)
            found[night] = _drift_of(use_case, model, reference, nights)
            if night == tonight:
                found[night] += _told_of(use_case, reference, nights, night)
        except PermanentError as error:
            if night == tonight:
                return {"nights": [], "change": None, **incident_of(error, "features", tonight)}
            logger.warning("drift of %s could not be measured: %s", night, error)
    tables = {night: drift_table(night, version, rows) for night, rows in found.items()}
    inputs = {"model_version": version}
    publish(use_case, tonight, "measure_drift", "drift", tables[tonight], tonight, basis, inputs)
    rows = [row for table in tables.values() for row in table.to_pylist()]
    summaries = summarise_nights(rows, use_case.monitoring)
    alarm = find_alarm(summaries, version, tonight, use_case.monitoring)
    change = None
    if alarm:
        began = _onset(use_case, model, reference, alarm.day, found[alarm.day])
        change = {"began": began.isoformat(), "what": [*alarm.what]}
    nights = [night.to_dict() for night in summaries]
    return {"nights": nights, "change": change, "incidents": [], "bad": []}


def freshness(use_case: UseCase, tonight: date) -> dict[str, Any]:
    """Measure how far each table lies behind the day, what it owes, and how many rows came last.

    Attributes and references come when they change, so being silent says nothing of them.
    """
    tables, owed_after = [*use_case.events, "features"], {}
    if releases := ledger.releases(ledger.engine(), use_case.name):
        tables.append("predictions")
        # Days that had come before there was a champion are owed no scores.
        seen = receipts.newest_day(
            use_case.owner_of("features"), "publish_features", releases[0].recorded_at
        )
        owed_after = {"predictions": seen} if seen else {}
    standing = {table: {*receipts.standing(use_case.owner_of(table), table)} for table in tables}
    newest = {table: max(days, default=None) for table, days in standing.items()}
    rows = measure_freshness(
        newest,
        tonight,
        {table: use_case.max_staleness_days(table) for table in tables},
        owed_after,
        {table: _gaps(use_case, table, days) for table, days in standing.items()},
        {table: volume for table in tables if (volume := _volume(use_case, table, tonight))},
    )
    table = freshness_table(tonight, rows)
    publish(use_case, tonight, "measure_freshness", "freshness", table, tonight)
    incidents, bad, owed = [], [], []
    for row in rows:
        # Of a delivered day its batch rule has judged the number of rows; that is told.
        is_broken = row.volume == "extreme" and row.table not in use_case.events
        if row.stale:
            days = row.owed or Period(use_case.first_day, tonight + _ONE_DAY).days
            bad += [[row.table, period.label] for period in join_days(days)]
            if row.table == "features":
                owed = [day.isoformat() for day in row.owed]
        elif is_broken and row.newest_day:
            bad.append([row.table, min(row.newest_day, tonight).isoformat()])
        if row.stale or is_broken:
            incidents.append(row.reason)
        elif row.volume in ("unusual", "extreme"):
            logger.warning("%s", row.reason)
    return {"incidents": incidents, "bad": bad, "owed": owed}


def _gaps(use_case: UseCase, table: str, standing: set[date]) -> list[date]:
    """Return the days before the newest that a table should have; nobody is owed old scores."""
    if not standing or table == "predictions":
        return []
    begin = min(standing) if table == "features" else use_case.first_day
    return [day for day in Period(begin, max(standing)).days if day not in standing]


def _volume(use_case: UseCase, table: str, tonight: date) -> Volume | None:
    """Judge the rows of the newest day up to the night; None if nobody counted them."""
    known = receipts.latest(
        use_case.owner_of(table),
        f"publish_{table}",
        tonight - timedelta(weeks=len(weeks_before(tonight)) + 1),
        tonight + _ONE_DAY,
    )
    rows = {
        day: count
        for day, receipt in known.items()
        if "without_data" not in receipt.counts
        and (count := receipt.counts.get("published", receipt.counts.get("rows"))) is not None
    }
    unusual = use_case.events[table].batch.unusual_days if table in use_case.events else ()
    newest = max(known, default=None)
    if newest is None or newest not in rows or newest in unusual:
        return None
    return measure_volume(rows, newest)


def staleness(use_case: UseCase, tonight: date) -> dict[str, Any]:
    """List the days of tables whose inputs have changed since, with the commands that mend them.

    Not those of `drift` and `performance`: other nights mend them, and what a night records must
    not depend on which of them ran before it.
    """
    stale = [item for item in find_stale(use_case) if item.table not in _OF_NIGHTS]
    findings = summarise(use_case, stale)
    for finding in findings:
        logger.warning(
            "stale: %s of %s (%s); mend it with: %s",
            *(finding.table, finding.period.label, finding.reason, "; ".join(finding.mend)),
        )
    table = staleness_table(tonight, findings)
    publish(use_case, tonight, "measure_staleness", "staleness", table, tonight)
    return {"stale": len(findings)}


def champion_of(use_case: UseCase, night: date) -> Champion | None:
    """Return the last released of the versions that were trained by that night.

    A training that a later night asked for must not change what this one says. Before the first,
    it is the first.
    """
    champion = None
    for entry in reversed(ledger.releases(ledger.engine(), use_case.name)):
        day = date.fromisoformat(describe_version(use_case, entry.version).tags["day"])
        champion = Champion(entry.version, day)
        if day <= night:
            break
    return champion


def publish(
    use_case: UseCase,
    night: date,
    step: str,
    table: str,
    rows: pa.Table,
    day: date,
    basis: int = 0,
    inputs: Mapping[str, Any] | None = None,
    part: Mapping[str, str] | None = None,
) -> None:
    """Publish what a night says of one day; the receipt names the night as the run."""
    counts = {day.isoformat(): {"rows": rows.num_rows}}
    batch = Staged(
        use_case.name, night.isoformat(), "", inputs=inputs or {}, counts=counts, basis=basis
    )
    publish_chunk(batch, step, table, rows, [day], part=part)


def labelled_scores(use_case: UseCase, scored: date) -> pa.Table | None:
    """Return key, score, version and label of the entities of a day that have all of them."""
    name, key = use_case.name, use_case.entity.key
    if not all(lake.exists(name, table) for table in ("predictions", "labels")):
        return None
    day = scored, scored + _ONE_DAY
    scores = lake.read(name, "predictions", *day, columns=(key, "score", "model_version"))
    labels = lake.read(name, "labels", *day, columns=(key, "label"))
    known = labels.filter(pc.is_valid(labels["label"]))
    return scores.join(known, keys=key, join_type="inner").sort_by(key)


def decided_on(
    use_case: UseCase, night: date
) -> tuple[RetrainingEvidence, RetrainingVerdict] | None:
    """Return what the governor saw and decided on a night; None if it was not asked."""
    for row in lake.rows(use_case.name, "decisions", night, night, equal={"kind": "governor"}):
        return read_retraining(row)
    return None


def version_of_night(use_case: UseCase, night: date) -> int | None:
    """Return the version a night was held against; the first time, the champion of that night."""
    recorded = receipts.latest(use_case.name, "measure_drift", night, night + _ONE_DAY)
    if recorded:
        return int(recorded[night].inputs["model_version"])
    champion = champion_of(use_case, night)
    return champion.version if champion else None


def watched(use_case: UseCase, model: LoadedModel) -> Reference:
    """Return what the champion was trained on, of the columns whose drift counts."""
    declared = use_case.features.columns
    watched = {SCORE, *(name for name, feature in declared.items() if feature.drift)}
    frozen = Reference.from_dict(model.reference).columns
    return Reference(tuple(column for column in frozen if column.name in watched))


def _nights_of(
    use_case: UseCase, model: LoadedModel, reference: Reference, night: date
) -> list[pa.Table | None]:
    """Return a night, and a sample of those it is held against."""
    owner = use_case.owner_of("features")
    tonight = lake.read_day(owner, "features", night)
    if not tonight.num_rows:
        raise NotReadyError(f"{owner}.features has no rows for {night}.")
    require_fit(use_case, model.version, model)
    require_computed(use_case, [(night, tonight)], model.inputs.names)
    weeks = weeks_before(night)
    before = sample_nights(use_case, model, reference, weeks, tonight.num_rows)
    return [_scored(use_case, model, tonight), *(before.get(day) for day in weeks)]


def _drift_of(
    use_case: UseCase,
    model: LoadedModel,
    reference: Reference,
    nights: Sequence[pa.Table | None],
) -> list[DriftRow]:
    return measure_drift(
        reference,
        nights,
        use_case.monitoring,
        model.importances,
        lambda rows: dict(find_slices(use_case, rows)),
    )


def _told_of(
    use_case: UseCase, reference: Reference, nights: Sequence[pa.Table | None], night: date
) -> list[DriftRow]:
    """Return what is told of a night besides: its columns together, and the newest labels."""
    key, monitoring, seed = use_case.entity.key, use_case.monitoring, use_case.training.seed
    newest = night - timedelta(days=use_case.target.horizon_days)
    days = [newest, *weeks_before(newest)]
    found = lake.scan(use_case.name, "labels", days=days)
    labels: dict[date, pa.Table] = {}
    for day, pieces in _stream_days(found, ["label"]):
        labels[day] = pa.concat_tables(p.filter(pc.is_valid(p["label"])) for p in pieces)
    return [
        measure_together(reference, nights, key, monitoring, seed=seed),
        *measure_labels([labels.get(day) for day in days], monitoring),
    ]


def _onset(
    use_case: UseCase,
    model: LoadedModel,
    reference: Reference,
    night: date,
    rows: Sequence[DriftRow],
) -> date:
    """Estimate when the change began that a night shows."""
    frozen = {column.name: column for column in reference.columns}
    drifted = {(row.feature, row.test) for row in rows if row.drifted and row.feature in frozen}
    size = max(row.current_rows for row in rows)
    return estimate_onset(
        [(frozen[feature], test) for feature, test in sorted(drifted)],
        sample_nights(use_case, model, reference, nights_around(night), size),
        night,
    )


def sample_nights(
    use_case: UseCase, model: LoadedModel, reference: Reference, days: Sequence[date], rows: int
) -> dict[date, pa.Table]:
    """Read and score a sample of the entities of some days, the same ones on all of them.

    Days on which a column was not computed are left out.
    """
    owner, key = use_case.owner_of("features"), use_case.entity.key
    read = {*model.inputs.names, *reference.names, *use_case.training.slices} - {SCORE}
    columns = sorted(read)
    sampled = {}
    found = lake.scan(owner, "features", days=days)
    for day, pieces in _stream_days(found, [key, *columns]):
        sample = pa.concat_tables(p.filter(is_sampled(p[key], SAMPLE, rows)) for p in pieces)
        try:
            require_computed(use_case, [(day, sample)], columns)
        except NotReadyError as error:
            logger.warning("%s is not compared with: %s", day, error)
            continue
        if sample:
            sampled[day] = _scored(use_case, model, sample)
    return sampled


def _stream_days(
    found: lake.Scan, columns: Sequence[str]
) -> Iterator[tuple[date, Iterator[pa.Table]]]:
    """Read planned files day by day, each of them piece by piece."""
    for day, paths in found.by_day.items():
        yield day, lake.stream(replace(found, by_day={day: paths}), columns, _ROWS)


def read_and_scored(
    use_case: UseCase, model: LoadedModel, features: pa.Table
) -> tuple[Matrix, Vector]:
    """Return what a model reads of features, rows x columns, and its scores of them."""
    matrix = model.inputs.prepare(features)
    threads = load_settings().threads
    return matrix, model.model.predict(matrix, use_case.target, threads=threads)[SCORE]


def _scored(use_case: UseCase, model: LoadedModel, features: pa.Table) -> pa.Table:
    """Score a night with the champion.

    Its score's drift is about the population, not about which version happened to score the day.
    """
    _, scores = read_and_scored(use_case, model, features)
    return features.append_column(SCORE, pa.array(scores))


def incident_of(error: PermanentError, table: str, day: date) -> dict[str, Any]:
    """Tell the governor of an incident and, where it lies in a table, which day is to be made."""
    bad = isinstance(error, NotReadyError | ValidationError)
    return {
        "incidents": [str(error).rstrip(".")],
        "bad": [[table, day.isoformat()]] if bad else [],
    }
