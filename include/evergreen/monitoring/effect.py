"""The effect of a promotion: what the new version realised, beside what the former would have."""

from __future__ import annotations

import json
import logging
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.decisions.effect import EffectEvidence, judge_effect, record_effect
from evergreen.decisions.gate import Difference
from evergreen.monitoring.night import labelled_scores
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.release import ledger
from evergreen.settings import load_settings
from evergreen.training.evaluate import compare, score_features
from evergreen.training.tracking import VersionFacts, describe_version, load_version

logger = logging.getLogger(__name__)

_STEP = "measure_effect"


def measure_effect(use_case: UseCase, scored: date, version: int) -> None:
    """Record what the promotion of the version that scored a day was worth, by its labels.

    The first labelled day that a version has scored alone counts, whichever night comes first: days
    share customers, so more of them would hardly say more.

    Raises
    ------
    NotReadyError
        A version is not in MLflow any more, or the features of the day are missing.
    """
    history = ledger.releases(ledger.engine(), use_case.name)
    promotions = (e for e in reversed(history) if (e.action, e.version) == ("promote", version))
    entry = next(promotions, None)
    if entry is None or entry.previous_version is None:
        return
    facts = describe_version(use_case, version)
    trained_on = date.fromisoformat(facts.tags["day"])
    # Nearly every night finds that it is known, and reads no more.
    if (known := _measured_on(use_case, trained_on, version)) and known <= scored:
        return
    basis = receipts.newest_sequence()
    rows = labelled_scores(use_case, scored)
    if rows is None or {*rows["model_version"].to_pylist()} != {version}:
        return
    evidence = _compare(use_case, scored, rows, entry, facts)
    verdict = judge_effect(evidence)
    logger.info("effect of version %d: %s", entry.version, "; ".join(verdict.reasons))
    batch = Staged(
        use_case.name,
        trained_on.isoformat(),
        "",
        inputs={"scored": scored.isoformat(), "version": entry.version},
        basis=basis,
    )
    publish_chunk(
        batch,
        _STEP,
        "decisions",
        record_effect(evidence, verdict),
        [trained_on],
        part={"kind": "effect", "version": entry.version},
    )


def _compare(
    use_case: UseCase, scored: date, rows: pa.Table, entry: ledger.Entry, facts: VersionFacts
) -> EffectEvidence:
    assert entry.previous_version is not None
    target, key = use_case.target, use_case.entity.key
    features = lake.read_day(use_case.owner_of("features"), "features", scored)
    places = pc.index_in(rows[key], features[key].combine_chunks())
    rows, features = rows.filter(pc.is_valid(places)), features.take(places.drop_null())
    labels, ours = target.read_labels(rows["label"]), rows["score"].to_numpy()
    former = load_version(use_case, entry.previous_version)
    theirs = score_features(former.model, features, target, load_settings().threads)
    metric = target.main_metric
    differences = compare(target, labels, ours, theirs, seed=use_case.training.seed)
    return EffectEvidence(
        use_case=use_case.name,
        version=entry.version,
        former_version=entry.previous_version,
        trained_on=date.fromisoformat(facts.tags["day"]),
        sequence=entry.sequence,
        run_id=facts.run_id,
        day=scored,
        rows=rows.num_rows,
        metric=metric,
        realised=target.measure(labels, ours).get(metric),
        former=target.measure(labels, theirs).get(metric),
        difference=differences.get(metric, Difference(None, None, None)),
        promised=facts.holdout.get(metric),
    )


def _measured_on(use_case: UseCase, trained_on: date, version: int) -> date | None:
    """Return the day that the effect of a version has been measured on."""
    found = lake.rows(
        *(use_case.name, "decisions", trained_on, trained_on),
        equal={"kind": "effect", "version": version},
    )
    for row in found:
        return EffectEvidence.from_dict(json.loads(row["evidence"])["evidence"]).day
    return None
