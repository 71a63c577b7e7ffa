"""Whether a rollout goes on, holds, ends well or is stopped: once a night, by what is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import pyarrow as pa

from evergreen.contract import Rollout
from evergreen.decisions.stored import Stored, decision_table

Step = Literal["advance", "hold", "stop", "finish"]
Compared = Literal["better", "equivalent", "worse", "unclear"]

# Sizes of both groups that lie so far from the declared share come by chance once in a thousand
# nights; groups are the same every night, so that hardly adds up.
_MISMATCH = 0.001


@dataclass(frozen=True)
class Agreement(Stored):
    """How both versions score the same entities of a night.

    Parameters
    ----------
    rows
        Entities.
    correlation
        Spearman's, of both scores; None where one of them is constant.
    shift
        Mean of the challenger's less the champion's, in standard deviations of the champion's.
    band_change
        The greatest difference between the shares of the entities that both put into a band.
    slowdown
        Seconds of the challenger by those of the champion; None where nobody took the time.
    """

    rows: int
    correlation: float | None
    shift: float | None
    band_change: float
    slowdown: float | None


@dataclass(frozen=True)
class Paired(Stored):
    """Losses of both versions on the same matured labels: the challenger's less the champion's.

    Parameters
    ----------
    days, rows, entities
        What there was to compare.
    champion
        Its mean loss.
    difference, lower, upper
        Mean, and an interval that holds at all nights at once.
    """

    days: int
    rows: int
    entities: int
    champion: float
    difference: float
    lower: float | None
    upper: float | None

    def compare(self, margin: float) -> Compared:
        """Say what is sure about the challenger's loss.

        Parameters
        ----------
        margin
            See `Rollout.margin`.
        """
        if self.lower is None or self.upper is None:
            return "unclear"
        allowed = margin * abs(self.champion)
        if self.upper < 0:
            return "better"
        if self.lower > 0:
            return "worse"
        return "equivalent" if -allowed < self.lower and self.upper < allowed else "unclear"


@dataclass(frozen=True)
class RolloutEvidence(Stored):
    """What a night knows of a rollout.

    Parameters
    ----------
    day, newest_day
        The night's day, and the newest that has features: no other night decides anything.
    sequence
        Of the step that the ledger ends with.
    stage_nights, nights
        Days that were scored by both since that step, and since the rollout began.
    horizon_days
        Of the target: so much later the labels of a day are due.
    published
        Entities whose score comes from each version; empty if both have not scored the day.
    mismatch
        How likely sizes as far from the share are; None in shadow and at a share of 1.
    failure
        Why the challenger has not scored the day; empty if it has.
    estimated
        Of each version the main metric that is expected of the night, where there is an estimate.
        Told, and no reason for anything.
    """

    use_case: str
    day: date
    newest_day: date | None
    sequence: int
    champion: int
    challenger: int
    share: float
    stage_nights: int
    nights: int
    horizon_days: int
    published: Mapping[str, int] = field(default_factory=dict)
    mismatch: float | None = None
    failure: str = ""
    agreement: Agreement | None = None
    paired: Paired | None = None
    estimated: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RolloutVerdict(Stored):
    """What follows, and why; `share` is the challenger's from now on."""

    decision: Step
    share: float
    reasons: tuple[str, ...]


def decide_rollout(evidence: RolloutEvidence, demands: Rollout) -> RolloutVerdict:
    """Decide what becomes of a rollout.

    What speaks against the challenger stops it on any night. Up to the unproven share it goes on by
    nights alone; further, and into charge, once labels have shown what is required.
    """
    if evidence.day != evidence.newest_day:
        return _hold(evidence, f"{evidence.newest_day} is the newest day, and decides")
    if not (evidence.published or evidence.failure):
        return _hold(evidence, f"{evidence.day} has not been scored by both versions")
    if against := tuple(_against(evidence, demands)):
        return RolloutVerdict("stop", 0.0, against)
    following = [share for share in demands.shares if share > evidence.share]
    needed = demands.nights_per_share if evidence.share else demands.shadow_nights
    told = tuple(_told(evidence, demands))
    if evidence.stage_nights < needed:
        waits = f"night {evidence.stage_nights} of {needed} at {_name(evidence)}"
        return _hold(evidence, waits, *told)
    share = following[0] if following else None
    shown = evidence.paired.compare(demands.margin) if evidence.paired else "unclear"
    is_shown = demands.require == "nothing" or shown in ("better", demands.require)
    if not is_shown and (share is None or share > demands.unproven_share):
        wanted = f"labels are required to show that it is {demands.require}; so far it is {shown}"
        return _hold(evidence, wanted, *told)
    if share is not None:
        enough = f"{evidence.stage_nights} nights at {_name(evidence)} show nothing against it"
        return RolloutVerdict("advance", share, (enough, *told))
    return RolloutVerdict("finish", 1.0, (f"nothing speaks against it at {_name(evidence)}", *told))


def record_rollout(
    evidence: RolloutEvidence, demands: Rollout, verdict: RolloutVerdict
) -> pa.Table:
    """Return the decision as one row of `decisions`, of the night's day."""
    return decision_table(
        day=evidence.day,
        use_case=evidence.use_case,
        kind="rollout",
        decision=verdict.decision,
        trigger=None,
        version=evidence.challenger,
        reasons=verdict.reasons,
        evidence=evidence,
        demands=demands.model_dump(mode="json"),
        verdict=verdict,
    )


def _against(evidence: RolloutEvidence, demands: Rollout) -> Iterator[str]:
    if evidence.failure:
        yield f"it has not scored {evidence.day}: {evidence.failure}"
    if evidence.mismatch is not None and evidence.mismatch < _MISMATCH:
        share = evidence.published.get("challenger", 0) / max(1, sum(evidence.published.values()))
        yield (
            f"{share:.2%} of the entities get its scores, not {evidence.share:.0%} (p "
            f"{evidence.mismatch:.1g}): who is in which group no longer depends on the key alone"
        )
    if found := evidence.agreement:
        if found.correlation is not None and found.correlation < demands.min_correlation:
            yield (
                f"its scores correlate {found.correlation:.2f} with the champion's, expected at "
                f"least {demands.min_correlation:g}"
            )
        if found.shift is not None and abs(found.shift) > demands.max_shift:
            yield (
                f"its scores lie {found.shift:+.2f} standard deviations beside the champion's, "
                f"expected at most {demands.max_shift:g}"
            )
        if found.band_change > demands.max_band_change:
            yield (
                f"a band holds {found.band_change:.0%} more or fewer of the entities than the "
                f"champion's, expected at most {demands.max_band_change:.0%}"
            )
        if found.slowdown is not None and found.slowdown > demands.max_slowdown:
            yield (
                f"it takes {found.slowdown:.1f} times as long as the champion, expected at most "
                f"{demands.max_slowdown:g}"
            )
    if evidence.paired and evidence.paired.compare(demands.margin) == "worse":
        yield f"labels show that it is worse: {_differs(evidence.paired)}"
    if evidence.nights > evidence.horizon_days + demands.max_nights:
        yield (
            f"it has been rolled out for {evidence.nights} nights, expected at most "
            f"{demands.max_nights} more than the horizon of {evidence.horizon_days}; labels have "
            f"not shown what is required ({demands.require})"
        )


def _told(evidence: RolloutEvidence, demands: Rollout) -> Iterator[str]:
    if found := evidence.paired:
        yield f"labels: {found.compare(demands.margin)}, {_differs(found)}"
    if evidence.estimated:
        each = (f"{value:.4f} of the {name}" for name, value in evidence.estimated.items())
        yield f"estimated before labels: {', '.join(each)}"


def _differs(found: Paired) -> str:
    bounds = "no interval yet"
    if found.lower is not None and found.upper is not None:
        bounds = f"{found.lower:+.5f} to {found.upper:+.5f}"
    return (
        f"a loss {found.difference:+.5f} ({bounds}) beside the champion's {found.champion:.5f}, on "
        f"{found.rows} labelled scores of {found.days} days"
    )


def _hold(evidence: RolloutEvidence, *reasons: str) -> RolloutVerdict:
    return RolloutVerdict("hold", evidence.share, reasons)


def _name(evidence: RolloutEvidence) -> str:
    return f"a share of {evidence.share:.0%}" if evidence.share else "no share (in shadow)"
