"""The nightly look at a rollout: both versions on the same entities, and what follows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import binomtest, spearmanr

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.decisions.rollout import (
    Agreement,
    Paired,
    RolloutEvidence,
    RolloutVerdict,
    decide_rollout,
    record_rollout,
)
from evergreen.errors import ConfigError, NotReadyError
from evergreen.monitoring.estimate import Vector
from evergreen.monitoring.night import publish
from evergreen.monitoring.outcomes import estimate_night
from evergreen.provenance import receipts
from evergreen.provenance.receipts import Receipt
from evergreen.release import ledger
from evergreen.release.promote import promote
from evergreen.release.rollout import Rolling, go_on, rolling, stop
from evergreen.scoring.variants import CHALLENGER, CHAMPION, FAILED, Split
from evergreen.statistics import always_valid, clustered_mean
from evergreen.training.tracking import set_champion

logger = logging.getLogger(__name__)

Numbers = NDArray[np.intp]

_ONE_DAY = timedelta(days=1)
_FAILURE = "see the logs of score_customers and validate_predictions"


def judge(use_case: UseCase, tonight: date) -> dict[str, Any]:
    """Decide what becomes of the rollout that is on, and do it; repeated, it changes nothing.

    Returns
    -------
    dict
        `decision`, None without a rollout; `take_back`, whether scores of the night that come from
        the challenger are to be the champion's again.
    """
    if use_case.rollout is None:
        raise ConfigError(f"{use_case.name} declares no rollout.")
    book, name = ledger.engine(), use_case.name
    with receipts.recording(f"{name}.decisions of the rollout"):
        found = rolling(book, name)
        told = {"use_case": name, "day": tonight.isoformat(), "reasons": []}
        if found is None or found.decided_on >= tonight.isoformat():
            # Of a stop that was not followed to the end, too.
            back = found is None and _stopped_on(use_case, tonight)
            return {**told, "decision": None, "take_back": back}
        evidence = _gather(use_case, tonight, found)
        verdict = decide_rollout(evidence, use_case.rollout)
        table = record_rollout(evidence, use_case.rollout, verdict)
        part = {"kind": "rollout"}
        publish(use_case, tonight, "judge_rollout", "decisions", table, tonight, part=part)
        _follow(use_case, found, evidence, verdict)
    logger.info("rollout of version %d: %s", found.challenger, "; ".join(verdict.reasons))
    return {
        **told,
        "decision": verdict.decision,
        "reasons": [*verdict.reasons],
        "take_back": verdict.decision == "stop" and _is_taken(evidence),
    }


def _follow(
    use_case: UseCase, found: Rolling, evidence: RolloutEvidence, verdict: RolloutVerdict
) -> None:
    night, book = evidence.day.isoformat(), ledger.engine()
    told: dict[str, Any] = {
        "actor": f"{use_case.name}_monitor",
        "reason": "; ".join(verdict.reasons),
        "evidence": {"evidence": evidence.to_dict(), "verdict": verdict.to_dict()},
    }
    if verdict.decision == "advance":
        go_on(book, use_case.name, found, verdict.share, night, **told)
    elif verdict.decision == "stop":
        told["evidence"]["night"] = night
        stop(book, use_case.name, found, request=f"night {night}", **told)
    elif verdict.decision == "finish":
        promote(
            book,
            use_case.name,
            found.challenger,
            set_alias=lambda version: set_champion(use_case, version),
            expected_sequence=found.sequence,
            request=f"night {night}",
            **told,
        )


def _stopped_on(use_case: UseCase, tonight: date) -> bool:
    """Whether the night has stopped a rollout whose challenger still scores somebody that day."""
    last = ledger.entries(ledger.engine(), use_case.name)[-1:]
    if not last or (last[0].action, last[0].request) != ("stop", f"night {tonight}"):
        return False
    split = _scored_by_both(use_case).get(tonight)
    return split is not None and split.share > 0


def _is_taken(evidence: RolloutEvidence) -> bool:
    return evidence.published.get(CHALLENGER, 0) > 0


def _gather(use_case: UseCase, tonight: date, found: Rolling) -> RolloutEvidence:
    scored = {
        day: split
        for day, split in _scored_by_both(use_case).items()
        if split.rollout == found.began and day <= tonight
    }
    stage = [day for day, split in scored.items() if split.share == found.share]
    evidence = RolloutEvidence(
        use_case=use_case.name,
        day=tonight,
        newest_day=receipts.newest_day(use_case.owner_of("features"), "publish_features"),
        sequence=found.sequence,
        champion=found.champion,
        challenger=found.challenger,
        share=found.share,
        stage_nights=len(stage),
        nights=len(scored),
        horizon_days=use_case.target.horizon_days,
        paired=_paired(use_case, sorted(scored)),
    )
    receipt = receipts.latest(
        use_case.name, "publish_predictions", tonight, tonight + _ONE_DAY
    ).get(tonight)
    if receipt is None or tonight not in scored:
        has_failed = receipt and receipt.inputs.get(FAILED) == found.challenger
        return replace(evidence, failure=_FAILURE if has_failed else "")
    rows = _both(use_case, tonight)
    counted = rows["published"].value_counts().to_pylist()
    groups = {row["values"]: row["counts"] for row in counted}
    return replace(
        evidence,
        published=groups,
        mismatch=_mismatch(groups, scored[tonight].share),
        agreement=_agreement(use_case, rows, receipt),
        estimated=_estimated(use_case, tonight, found),
    )


def _scored_by_both(use_case: UseCase) -> dict[date, Split]:
    latest = receipts.latest(use_case.name, "publish_predictions")
    found = {day: Split.of(receipt.inputs) for day, receipt in latest.items()}
    return {day: split for day, split in found.items() if split}


def _both(use_case: UseCase, day: date) -> pa.Table:
    """Return key, both scores and bands, and whose is `published`, of one day's entities."""
    key, found = use_case.entity.key, {}
    columns = [key, "score", "band", "variant"]
    tables = {
        name: lake.read_day(use_case.name, name, day).select(columns)
        for name in ("predictions", "shadows")
    }
    for variant in (CHAMPION, CHALLENGER):
        parts = []
        for name, table in tables.items():
            part = table.filter(pc.equal(table["variant"], variant)).drop_columns(["variant"])
            is_published = pa.array(np.full(part.num_rows, name == "predictions"))
            parts.append(part.append_column("is_published", is_published))
        found[variant] = pa.concat_tables(parts).sort_by(key)
    ours, theirs = found[CHAMPION], found[CHALLENGER]
    if not ours[key].equals(theirs[key]):
        raise NotReadyError(
            f"{use_case.name}: predictions and shadows of {day} are not about the same entities. "
            f"Score the day again: run {use_case.name}_score for it."
        )
    published = pc.if_else(theirs["is_published"], CHALLENGER, CHAMPION)
    return pa.table(
        {
            key: ours[key],
            "champion": ours["score"],
            "challenger": theirs["score"],
            "champion_band": ours["band"],
            "challenger_band": theirs["band"],
            "published": published,
        }
    )


def _mismatch(groups: Mapping[str, int], share: float) -> float | None:
    total = sum(groups.values())
    if not 0 < share < 1 or not total:
        return None
    return float(binomtest(groups.get(CHALLENGER, 0), total, share).pvalue)


def _agreement(use_case: UseCase, rows: pa.Table, receipt: Receipt) -> Agreement:
    ours, theirs = (rows[name].to_numpy() for name in ("champion", "challenger"))
    spread, is_constant = ours.std(), ours.std() == 0 or theirs.std() == 0
    change = 0.0
    for band in use_case.bands:
        shares = [
            pc.sum(pc.equal(rows[f"{name}_band"], band)).as_py() / rows.num_rows
            for name in ("champion", "challenger")
        ]
        change = max(change, abs(shares[0] - shares[1]))
    before, after = (receipt.counts.get(f"{name}_ms", 0) for name in (CHAMPION, CHALLENGER))
    return Agreement(
        rows=rows.num_rows,
        correlation=None if is_constant else float(spearmanr(ours, theirs).statistic),
        shift=float((theirs.mean() - ours.mean()) / spread) if spread else None,
        band_change=change,
        slowdown=after / before if before else None,
    )


def _paired(use_case: UseCase, scored: Sequence[date]) -> Paired | None:
    """Compare losses on all days that both have scored and whose labels are there."""
    assert use_case.rollout is not None
    key, target = use_case.entity.key, use_case.target
    if not lake.exists(use_case.name, "labels"):
        return None
    labelled = lake.partitions(use_case.name, "labels")
    entities: list[Any] = []
    found: list[tuple[Any, ...]] = []
    for day in [day for day in scored if labelled.get(day)]:
        labels = lake.read(use_case.name, "labels", day, day + _ONE_DAY, columns=(key, "label"))
        known = labels.filter(pc.is_valid(labels["label"]))
        rows = _both(use_case, day).join(known, keys=key, join_type="inner").sort_by(key)
        if not rows.num_rows:
            continue
        happened = target.read_labels(rows["label"])
        entities.append(rows[key].to_numpy())
        losses = (target.losses(happened, rows[name].to_numpy()) for name in (CHAMPION, CHALLENGER))
        found.append((*losses, np.full(rows.num_rows, len(found))))
    if not entities:
        return None
    _, clusters = np.unique(np.concatenate(entities), return_inverse=True)
    ours, theirs, days = map(np.concatenate, zip(*found, strict=True))
    return compare_losses(ours, theirs, days, clusters)


def compare_losses(ours: Vector, theirs: Vector, days: Numbers, clusters: Numbers) -> Paired:
    """Compare losses of both versions on the same labels.

    Parameters
    ----------
    ours, theirs
        Losses of champion and challenger, `[n]`.
    days
        Number of the day of each row, `[n]`, from 0.
    clusters
        Number of the entity of each row, `[n]`, from 0: its days say much the same.
    """
    differences = theirs - ours
    difference, error = clustered_mean(differences, clusters)
    # Entities come again every day, so the error shrinks slowly from the first day's on.
    first = days == 0
    _, tuned_for = clustered_mean(differences[first], clusters[first])
    # The same model under another number differs nowhere, and no look can change that.
    lower, upper = (0.0, 0.0)
    if differences.any():
        lower, upper = always_valid(difference, error, tuned_for or error)
    return Paired(
        days=int(days.max()) + 1,
        rows=len(ours),
        entities=int(clusters.max()) + 1,
        champion=float(ours.mean()),
        difference=difference,
        lower=lower,
        upper=upper,
    )


def _estimated(use_case: UseCase, tonight: date, found: Rolling) -> dict[str, float]:
    estimated = {}
    for name, version in ((CHAMPION, found.champion), (CHALLENGER, found.challenger)):
        for row in estimate_night(use_case, tonight, version):
            is_it = (row.metric, row.method) == (use_case.target.main_metric, "pape")
            if is_it and row.value is not None:
                estimated[name] = row.value
    return estimated
