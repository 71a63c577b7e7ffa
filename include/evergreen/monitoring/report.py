"""One night of the monitor as Markdown, for the run's log and its page."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen.decisions.governor import RetrainingEvidence, RetrainingVerdict
from evergreen.monitoring.drift import DriftRow
from evergreen.monitoring.freshness import FreshnessRow
from evergreen.monitoring.performance import PerformanceRow
from evergreen.monitoring.skew import SkewRow


def render_night(
    evidence: RetrainingEvidence,
    verdict: RetrainingVerdict,
    drift: Sequence[DriftRow] = (),
    performance: Sequence[PerformanceRow] = (),
    freshness: Sequence[FreshnessRow] = (),
    skew: Sequence[SkewRow] = (),
    skew_not_measured: str | None = None,
) -> str:
    """Return a short Markdown text: verdict, reasons, drift, performance, freshness, skew.

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
        *_skew(skew, skew_not_measured),
    ]
    return "\n".join(lines) + "\n"


def _drift(rows: Sequence[DriftRow]) -> list[str]:
    if not rows:
        return ["", "## Drift", "", "Not measured."]
    known = {(row.feature, row.slice): _effect(row) for row in rows if row.reference == "training"}
    tonight = [row for row in rows if row.reference == "expected"]
    ranked = sorted(
        tonight, key=lambda row: (not row.drifted, -(row.statistic or 0.0), row.feature, row.slice)
    )
    cells = [
        [
            row.feature,
            row.slice,
            row.test,
            _effect(row),
            _number(row.usual),
            _number(row.p_adjusted, "#.2g"),
            known.get((row.feature, row.slice), "") if row.test in ("ks", "chi2") else "",
            _number(row.importance),
            "**extreme**" if row.extreme else "**drifted**" if row.drifted else "",
        ]
        for row in ranked
    ]
    drifted = len({row.feature for row in tonight if row.drifted})
    header = ["column", "slice", "test", "effect (PSI)", "usual", "adjusted p"]
    header += ["from training", "importance", ""]
    return [
        "",
        "## Drift",
        "",
        f"{drifted} of {len({row.feature for row in tonight})} columns drifted.",
        "",
        *_table(header, cells),
    ]


def _effect(row: DriftRow) -> str:
    return _number(row.statistic) + (f" ({row.psi:.3f})" if row.psi is not None else "")


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
            str(len(row.owed or ())),
            _number(row.rows, ","),
            _number(row.usual_rows, ",.0f"),
            ", ".join(
                f"**{word}**"
                for word in ("stale" if row.stale else "", row.volume or "")
                if word not in ("", "usual")
            ),
        ]
        for row in rows
    ]
    header = ["table", "newest day", "lag in days", "days owed", "rows", "usual rows", ""]
    return ["", "## Freshness", "", *_table(header, cells)]


def _skew(rows: Sequence[SkewRow], not_measured: str | None) -> list[str]:
    head = ["", "## Online values", ""]
    if not rows or not_measured:
        return [*head, f"Not measured{f': {not_measured}' if not_measured else ''}."]
    cells = [
        [
            row.feature,
            row.reference,
            f"{row.keys:,}",
            *(f"{count:,}" for count in (row.mismatch, row.missing, row.extra)),
            ", ".join(row.examples),
        ]
        for row in rows
        if row.differing
    ]
    if not cells:
        return [*head, f"All of {rows[0].keys:,} served rows are what they should be."]
    header = ["feature", "against", "rows", "mismatch", "missing", "extra", "such as"]
    return [*head, *_table(header, cells)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    # A pipe inside a cell would end it.
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]


def _number(value: float | None, spec: str = ".3f") -> str:
    return "" if value is None else format(value, spec)
