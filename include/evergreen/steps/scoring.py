"""Scoring: `features` of one day to `predictions` of that day, by one resolved version."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from evergreen.contract import Period, load_use_case, parse_day
from evergreen.errors import NotReadyError
from evergreen.provenance.staging import Staged, drop_staging, new_staging, publish_staged
from evergreen.sql.shards import Shard

logger = logging.getLogger(__name__)


def has_champion(use_case: str) -> bool:
    """Whether there is a version to score by."""
    from evergreen.release import ledger

    return ledger.champion(ledger.engine(), use_case) is not None


def resolve_model(use_case: str, day: str) -> dict[str, Any]:
    """Decide, once per run, which version scores the day.

    A day that was scored before keeps its version; a new day gets the champion.
    """
    from evergreen.provenance import receipts
    from evergreen.release import ledger
    from evergreen.release.registry import look_up
    from evergreen.training.compatibility import require_fit

    declared, wanted = load_use_case(use_case), parse_day(day, use_case)
    recorded = receipts.latest(use_case, "publish_predictions", wanted, wanted + timedelta(days=1))
    if recorded:
        version = int(recorded[wanted].inputs["model_version"])
        require_fit(
            declared,
            version,
            look_up(declared, version, wanted),
            f"It has scored {day} before; {use_case}_release scores that day with another version.",
        )
        return {"use_case": use_case, "day": day, "version": version, "because": "recorded"}
    champion = ledger.champion(ledger.engine(), use_case)
    if champion is None:
        raise NotReadyError(
            f"{use_case} has no champion yet, so {day} cannot be scored. Trigger {use_case}_train "
            "with a day as its partition key; then clear this run."
        )
    require_fit(declared, champion.version, look_up(declared, champion.version))
    return {"use_case": use_case, "day": day, "version": champion.version, "because": "champion"}


def score_customers(resolved: dict[str, Any], run: str | None = None) -> dict[str, Any]:
    """Score everybody who has features on the day."""
    return _score(_plan_scores(resolved, run)).to_dict()


def plan_scores(resolved: dict[str, Any], run: str | None = None) -> dict[str, Any]:
    """Choose which state of the features all shards of the day's scores are made from."""
    return _plan_scores(resolved, run).to_dict()


def score_customers_of(planned: dict[str, Any], shard: int) -> dict[str, Any]:
    """Score one shard's customers; see `plan_scores`."""
    return _score(Staged.shard_of(planned), shard).to_dict()


def _plan_scores(resolved: dict[str, Any], run: str | None) -> Staged:
    from evergreen import lake
    from evergreen.provenance import receipts

    declared = load_use_case(resolved["use_case"])
    period = Period.parse(parse_day(resolved["day"], declared.name).isoformat())
    basis = receipts.newest_sequence()
    owner = declared.owner_of("features")
    found = lake.scan(owner, "features", period.start, period.end)
    if not found.paths:
        raise NotReadyError(
            f"{owner}.features has no rows for {period.label}. Run {owner}_features for that day "
            "first (it follows a backfill of the ingest DAG)."
        )
    return Staged(
        declared.name,
        period.label,
        new_staging(declared.name, "predictions", period.label, run),
        chunks=(period.label,),
        inputs={"features": found.snapshot_id, "model_version": resolved["version"]},
        facts={"lock": receipts.lock_digest()},
        basis=basis,
    )


def _score(staged: Staged, shard: int | None = None) -> Staged:
    from evergreen.scoring.population import read_population
    from evergreen.scoring.score import predictions_schema, score
    from evergreen.settings import load_settings
    from evergreen.training.compatibility import require_computed, require_fit
    from evergreen.training.tracking import load_version

    started = time.monotonic()
    declared, period = staged.load_use_case(), Period.parse(staged.period)
    features = read_population(
        declared, period.last, staged.inputs["features"], Shard.of(declared.shards, shard)
    )
    model = load_version(declared, staged.inputs["model_version"])
    require_fit(declared, model.version, model)
    require_computed(declared, [(period.last, features)], model.inputs.names)
    if features.num_rows:
        predictions = score(model, features, declared, threads=load_settings().threads)
    else:
        predictions = predictions_schema(declared).empty_table()
    staged.write("predictions", period, predictions)
    unseen = model.inputs.count_unseen(features)
    for name, values in unseen.items():
        logger.warning(
            "%d values of %s are unknown to version %d and count as missing",
            *(values, name, model.version),
        )
    counts = {
        "population": features.num_rows,
        "rows": predictions.num_rows,
        "unseen": sum(unseen.values()),
    }
    return staged.with_seconds(started, counts={staged.period: counts})


def validate_predictions(staged: dict[str, Any] | Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rank the scores, of all shards, and hold them against what scores must look like."""
    from evergreen.quality.validate import validate_predictions as validate
    from evergreen.scoring.score import rank

    started = time.monotonic()
    batch = Staged.gather(staged)
    declared, period = batch.load_use_case(), Period.parse(batch.period)
    scored = batch.read("predictions", period)
    if batch.is_sharded:
        scored, batch = rank(scored, declared), batch.new_attempt()
        batch.write("predictions", period, scored)
    validate(
        declared,
        scored,
        population=batch.counts[batch.period]["population"],
        run_name=batch.period,
    ).require()
    return batch.with_seconds(started).to_dict()


def publish_predictions(staged: dict[str, Any]) -> dict[str, Any]:
    """Replace the day's partition of `predictions`."""
    started = time.monotonic()
    batch = Staged.from_dict(staged)
    batch.require_unchanged()
    period = Period.parse(batch.period)
    timed = batch.with_seconds(started)
    snapshot = publish_staged(timed, "publish_predictions", "predictions", period)
    drop_staging(batch.folder)
    return {
        "use_case": batch.use_case,
        "period": batch.period,
        "snapshot": snapshot,
        "rows": batch.counts[batch.period]["rows"],
        "version": batch.inputs["model_version"],
    }
