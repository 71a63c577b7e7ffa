"""One night of the monitor as Markdown, for the run's log and its page."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen.decisions.governor import RetrainingEvidence, RetrainingVerdict
from evergreen.monitoring.drift import DriftRow
from evergreen.monitoring.freshness import FreshnessRow
from evergreen.monitoring.performance import PerformanceRow


def render_night(
    evidence: RetrainingEvidence,
    verdict: RetrainingVerdict,
    drift: Sequence[DriftRow] = (),
    performance: Sequence[PerformanceRow] = (),
    freshness: Sequence[FreshnessRow] = (),
) -> str:
    """Return a short Markdown text: verdict, reasons, drift, performance, freshness.

    Drifted columns come first, then by effect; parts that were not measured say so.
    """
    champion = evidence.champion
    headline = f"**{verdict.decision}**"
    if verdict.trigger:
        headline += f", because of {verdict.trigger}"
    lines = [
        f"# {evidence.use_case}, night of {evidence.day}",
        "",
        f"{headline}. Champion: {f'version {champion.version}' if champion else 'none'}.",
        "",
        *(f"- {reason}" for reason in verdict.reasons),
        *_drift(drift),
        *_performance(performance),
        *_freshness(freshness),
    ]
    return "\n".join(lines) + "\n"


def _drift(rows: Sequence[DriftRow]) -> list[str]:
    if not rows:
        return ["", "## Drift", "", "Not measured."]
    ranked = sorted(rows, key=lambda row: (not row.drifted, -(row.statistic or 0.0), row.feature))
    cells = [
        [
            row.feature,
            row.test,
            _number(row.statistic),
            _number(row.p_adjusted, "#.2g"),
            f"{row.psi:.3f} {row.psi_band}",
            _number(row.importance),
            "**drifted**" if row.drifted else "",
        ]
        for row in ranked
    ]
    drifted = sum(row.drifted for row in rows)
    return [
        "",
        "## Drift",
        "",
        f"{drifted} of {len(rows)} columns drifted.",
        "",
        *_table(["column", "test", "effect", "adjusted p", "PSI", "importance", ""], cells),
    ]


def _performance(rows: Sequence[PerformanceRow]) -> list[str]:
    if not rows:
        return ["", "## Realised performance", "", "No labels have matured."]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    slices: dict[tuple[int, str], dict[str, PerformanceRow]] = {}
    for row in rows:
        slices.setdefault((row.model_version, row.slice), {})[row.metric] = row
    cells = [
        [
            str(version),
            name,
            f"{found[metrics[0]].rows:,}",
            *(_number(found[metric].value) for metric in metrics),
            "**degraded**"
            if any(row.degraded for row in found.values())
            else "; ".join(row.reason for row in found.values() if row.reason),
        ]
        for (version, name), found in slices.items()
    ]
    header = ["version", "slice", "rows", *(metric.replace("_", " ") for metric in metrics), ""]
    return ["", "## Realised performance", "", *_table(header, cells)]


def _freshness(rows: Sequence[FreshnessRow]) -> list[str]:
    if not rows:
        return ["", "## Freshness", "", "Not measured."]
    cells = [
        [
            row.table,
            str(row.newest_day or "none"),
            "" if row.lag_days is None else str(row.lag_days),
            "**stale**" if row.stale else "",
        ]
        for row in rows
    ]
    return ["", "## Freshness", "", *_table(["table", "newest day", "lag in days", ""], cells)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    # A pipe inside a cell would end it.
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]


def _number(value: float | None, spec: str = ".3f") -> str:
    return "" if value is None else format(value, spec)
