"""Scoring: `features` of one day to `predictions` of that day, by one resolved version."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from evergreen.contract import Period, load_use_case, parse_day
from evergreen.errors import NotReadyError
from evergreen.provenance.staging import Staged, drop_staging, new_staging, publish_staged

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
    from evergreen import lake
    from evergreen.provenance import receipts
    from evergreen.scoring.score import score
    from evergreen.settings import load_settings
    from evergreen.training.compatibility import require_computed, require_fit
    from evergreen.training.tracking import load_version

    started = time.monotonic()
    declared = load_use_case(resolved["use_case"])
    day = parse_day(resolved["day"], declared.name)
    period = Period.parse(resolved["day"])
    basis = receipts.newest_sequence()
    owner = declared.owner_of("features")
    snapshot = lake.snapshot_id(owner, "features")
    features = lake.read_day(owner, "features", day, snapshot_id=snapshot)
    if not features.num_rows:
        raise NotReadyError(
            f"{owner}.features has no rows for {day}. Run {owner}_features for that day first (it "
            "follows a backfill of the ingest DAG)."
        )
    model = load_version(declared, resolved["version"])
    require_fit(declared, model.version, model)
    require_computed(declared, [(day, features)], model.inputs.names)
    staged = Staged(
        declared.name,
        period.label,
        str(new_staging(declared.name, "predictions", period.label, run)),
        chunks=(period.label,),
        inputs={"features": snapshot, "model_version": resolved["version"]},
        basis=basis,
    )
    predictions = score(model, features, declared, threads=load_settings().threads)
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
    return staged.with_seconds(started, counts={resolved["day"]: counts}).to_dict()


def validate_predictions(staged: dict[str, Any]) -> dict[str, Any]:
    """Hold the scores against what scores must look like."""
    from evergreen.quality.validate import validate_predictions as validate

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    period = Period.parse(batch.period)
    validate(
        batch.load_use_case(),
        batch.read("predictions", period),
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
    drop_staging(Path(batch.folder))
    return {
        "use_case": batch.use_case,
        "period": batch.period,
        "snapshot": snapshot,
        "rows": batch.counts[batch.period]["rows"],
        "version": batch.inputs["model_version"],
    }
