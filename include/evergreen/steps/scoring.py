"""Scoring: `features` of one day to `predictions` of that day, by one resolved version."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from evergreen.contract import Period, UseCase, load_use_case, parse_day
from evergreen.errors import NotReadyError, TransientError, ValidationError
from evergreen.provenance.staging import (
    Staged,
    drop_staging,
    new_staging,
    publish_chunk,
    publish_staged,
)
from evergreen.sql.shards import Shard

if TYPE_CHECKING:
    import pyarrow as pa

    from evergreen.scoring.variants import Split

logger = logging.getLogger(__name__)


def has_champion(use_case: str) -> bool:
    """Whether there is a version to score by."""
    from evergreen.release import ledger

    return ledger.champion(ledger.engine(), use_case) is not None


def resolve_model(use_case: str, day: str) -> dict[str, Any]:
    """Decide, once per run, which version scores the day.

    A day that was scored before keeps its version; a new day gets the champion. So it is with a
    challenger that is being rolled out, and with whose scores come from it.
    """
    from evergreen.provenance import receipts
    from evergreen.release import ledger
    from evergreen.release.registry import look_up
    from evergreen.release.rollout import rolling
    from evergreen.scoring.variants import Split
    from evergreen.training.compatibility import require_fit

    declared, wanted = load_use_case(use_case), parse_day(day, use_case)
    recorded = receipts.latest(use_case, "publish_predictions", wanted, wanted + timedelta(days=1))
    if recorded:
        inputs = recorded[wanted].inputs
        version, split = int(inputs["model_version"]), Split.of(inputs)
        require_fit(
            declared,
            version,
            look_up(declared, version, wanted),
            f"It has scored {day} before; {use_case}_release scores that day with another version.",
        )
        return _resolved(use_case, day, version, "recorded", split)
    champion = ledger.champion(ledger.engine(), use_case)
    if champion is None:
        raise NotReadyError(
            f"{use_case} has no champion yet, so {day} cannot be scored. Trigger {use_case}_train "
            "with a day as its partition key; then clear this run."
        )
    require_fit(declared, champion.version, look_up(declared, champion.version))
    found, split = rolling(ledger.engine(), use_case), None
    if found and found.champion == champion.version:
        split = Split(found.challenger, found.share, found.salt, found.began)
    return _resolved(use_case, day, champion.version, "champion", split)


def _resolved(
    use_case: str, day: str, version: int, because: str, split: Split | None
) -> dict[str, Any]:
    return {
        "use_case": use_case,
        "day": day,
        "version": version,
        "because": because,
        "split": split.to_inputs() if split else {},
    }


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
        inputs={
            "features": found.snapshot_id,
            "model_version": resolved["version"],
            **resolved.get("split", {}),
        },
        facts={"lock": receipts.lock_digest()},
        basis=basis,
    )


def _score(staged: Staged, shard: int | None = None) -> Staged:
    from evergreen.scoring.population import read_population
    from evergreen.scoring.variants import CHALLENGER, Split

    started = time.monotonic()
    declared, period = staged.load_use_case(), Period.parse(staged.period)
    features = read_population(
        declared, period.last, staged.inputs["features"], Shard.of(declared.shards, shard)
    )
    read = time.monotonic()
    predictions, unseen = _score_by(declared, staged.inputs["model_version"], period, features)
    staged.write("predictions", period, predictions)
    counts = {"population": features.num_rows, "rows": predictions.num_rows, "unseen": unseen}
    if split := Split.of(staged.inputs):
        begun = time.monotonic()
        counts["challenger_rows"] = 0
        try:
            theirs, _ = _score_by(declared, split.challenger, period, features, CHALLENGER)
        except TransientError:
            raise
        except Exception:
            # Whatever is wrong with it, the day is scored by the champion; the night stops it.
            logger.exception("version %d, which is rolled out, does not score", split.challenger)
        else:
            staged.write(CHALLENGER, period, theirs)
            counts["challenger_rows"] = theirs.num_rows
        counts["champion_ms"] = int(1000 * (begun - read))
        counts["challenger_ms"] = int(1000 * (time.monotonic() - begun))
    return staged.with_seconds(started, counts={staged.period: counts})


def _score_by(
    use_case: UseCase, version: int, period: Period, features: pa.Table, variant: str = "champion"
) -> tuple[pa.Table, int]:
    """Score by one version; also count the values that it does not know."""
    from evergreen.scoring.score import predictions_schema, score
    from evergreen.settings import load_settings
    from evergreen.training.compatibility import require_computed, require_fit
    from evergreen.training.tracking import load_version

    model = load_version(use_case, version)
    require_fit(use_case, version, model)
    require_computed(use_case, [(period.last, features)], model.inputs.names)
    unseen = model.inputs.count_unseen(features)
    for name, values in unseen.items():
        logger.warning(
            "%d values of %s are unknown to version %d and count as missing",
            *(values, name, version),
        )
    if not features.num_rows:
        return predictions_schema(use_case).empty_table(), 0
    threads = load_settings().threads
    scored = score(model, features, use_case, threads=threads, variant=variant)
    return scored, sum(unseen.values())


def validate_predictions(staged: dict[str, Any] | Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rank the scores, of all shards, and hold them against what scores must look like.

    In a rollout each entity gets the score of one version; the other's stays in the shadow. If the
    challenger has not scored everybody, or not as scores must look like, all are the champion's.
    """
    from evergreen.quality.validate import validate_predictions as validate
    from evergreen.scoring.score import rank
    from evergreen.scoring.variants import FAILED, Split, divide, without_split

    started = time.monotonic()
    batch = Staged.gather(staged)
    declared, period = batch.load_use_case(), Period.parse(batch.period)
    scored, population = batch.read("predictions", period), batch.counts[batch.period]["population"]
    split = Split.of(batch.inputs)
    theirs = _read_challenger(batch, declared, period, split) if split else None
    if batch.is_sharded or split:
        batch = batch.new_attempt()
        if split and theirs is not None:
            scored, shadows = divide(scored, theirs, split, declared)
            batch.write("shadows", period, shadows)
        else:
            scored = rank(scored, declared)
            if split:
                kept = {**without_split(batch.inputs), FAILED: split.challenger}
                batch = replace(batch, inputs=kept)
        batch.write("predictions", period, scored)
    validate(
        declared,
        scored,
        population=population,
        run_name=batch.period,
        versions=1 if theirs is None else 2,
    ).require()
    return batch.with_seconds(started).to_dict()


def _read_challenger(
    batch: Staged, use_case: UseCase, period: Period, split: Split
) -> pa.Table | None:
    """Return what a challenger has said of everybody; None if it has not, or nothing usable."""
    from evergreen.quality.validate import validate_predictions as validate
    from evergreen.scoring.score import rank
    from evergreen.scoring.variants import CHALLENGER

    population = batch.counts[batch.period]["population"]
    if not population or batch.counts[batch.period]["challenger_rows"] != population:
        return None
    theirs = rank(batch.read(CHALLENGER, period), use_case)
    try:
        validate(
            use_case, theirs, population=population, run_name=batch.period, suite=CHALLENGER
        ).require()
    except ValidationError as error:
        logger.warning("nothing of version %d is published: %s", split.challenger, error)
        return None
    return theirs


def publish_predictions(staged: dict[str, Any]) -> dict[str, Any]:
    """Replace the day's partition of `predictions`; before it, that of `shadows`."""
    from evergreen.scoring.variants import Split

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    batch.require_unchanged()
    period = Period.parse(batch.period)
    timed = batch.with_seconds(started)
    if Split.of(batch.inputs):
        publish_staged(timed, "publish_shadows", "shadows", period)
    else:
        _clear_shadows(timed, period)
    snapshot = publish_staged(timed, "publish_predictions", "predictions", period)
    drop_staging(batch.folder)
    return {
        "use_case": batch.use_case,
        "period": batch.period,
        "snapshot": snapshot,
        "rows": batch.counts[batch.period]["rows"],
        "version": batch.inputs["model_version"],
    }


def _clear_shadows(batch: Staged, period: Period) -> None:
    """Forget what another version would have said of a day that is scored again by one."""
    from evergreen import lake
    from evergreen.scoring.variants import shadows_schema

    if lake.exists(batch.use_case, "shadows") and period.last in lake.partitions(
        batch.use_case, "shadows"
    ):
        nothing = shadows_schema(batch.load_use_case()).empty_table()
        publish_chunk(batch, "publish_shadows", "shadows", nothing, period.days)


def take_back(use_case: str, day: str) -> dict[str, Any]:
    """Let a day that was scored by both versions be the champion's again, without scoring it."""
    from evergreen import lake
    from evergreen.provenance import receipts
    from evergreen.scoring.variants import Split, of_champion

    declared, wanted = load_use_case(use_case), parse_day(day, use_case)
    period, basis = Period.parse(wanted.isoformat()), receipts.newest_sequence()
    recorded = receipts.latest(use_case, "publish_predictions", wanted, period.end)[wanted]
    split = Split.of(recorded.inputs)
    assert split is not None
    published, shadows = of_champion(
        lake.read_day(use_case, "predictions", wanted),
        lake.read_day(use_case, "shadows", wanted),
        declared,
    )
    batch = Staged(
        use_case,
        period.label,
        "",
        inputs={**recorded.inputs, **replace(split, share=0.0).to_inputs()},
        counts={period.label: recorded.counts},
        basis=basis,
    )
    publish_chunk(batch, "publish_shadows", "shadows", shadows, period.days)
    done = publish_chunk(batch, "publish_predictions", "predictions", published, period.days)
    return {
        "use_case": use_case,
        "period": period.label,
        "snapshot": done.snapshot_id,
        "rows": published.num_rows,
        "version": recorded.inputs["model_version"],
    }
