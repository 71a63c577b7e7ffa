"""A night as text or page: one sentence, the reasons, then what they rest on.

Tables are shown by what is in them: a test or a metric that nights begin to measure appears here by
itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from evergreen.monitoring.reference import SCORE
from evergreen.monitoring.report.distributions import Distribution
from evergreen.monitoring.report.facts import NightFacts, Rows, needs_labels
from evergreen.pages import (
    Block,
    Bullets,
    Code,
    Figure,
    Format,
    Mark,
    Pair,
    Section,
    Table,
    figures,
    render_page,
    show,
    table,
)
from evergreen.provenance import commands

# Columns of which there are pictures; the score is always one of them.
_DRAWN = 6
# Columns that have a place of their own here; others are shown as they are.
_OF_FRESHNESS = ("day", "table", "newest_day", "lag_days", "stale", "reason")
_OF_PERFORMANCE = (
    *("day", "model_version", "slice", "metric", "value"),
    *("rows", "unlabelled", "holdout", "degraded", "reason"),
)
# Rows of a table that is shown as it is.
_MOST = 60
# What may be measured of a column beside how its values are distributed.
_OF_SHARES = ("missing", "unseen")


@dataclass(frozen=True)
class _Column:
    """What a night says of one column: `main` is the row that says most of it."""

    name: str
    main: Mapping[str, Any]
    drifted: tuple[str, ...]
    rank: float


def render_night(facts: NightFacts, format: Format = "md") -> str:
    """Render the report of a night.

    Drifted columns come first, then by effect times importance; parts that were not measured say
    so.

    Parameters
    ----------
    format
        `md` for a log; `html` is one file that loads nothing, small enough to be mailed.

    Returns
    -------
    str
        The same text for the same facts.
    """
    sections = [Section(title, tuple(make(facts))) for title, make in _SECTIONS.items()]
    sections += [
        Section(name.replace("_", " ").capitalize(), tuple(_other(rows)))
        for name, rows in sorted(facts.others.items())
        if rows
    ]
    lead, alert = _lead(facts)
    title = f"{facts.use_case.name}, night of {facts.day}"
    return render_page(title, [s for s in sections if s.blocks], format, lead, alert)


def rank_columns(facts: NightFacts) -> list[str]:
    """Return the columns of which pictures are shown, the most important first."""
    ranked = [column.name for column in _columns(facts)]
    return [name for place, name in enumerate(ranked) if place < _DRAWN or name == SCORE]


# --- one sentence --------------------------------------------------------------------------------


def _lead(facts: NightFacts) -> tuple[str, bool]:
    """Say what happened, and whether somebody should look."""
    evidence, verdict = facts.evidence, facts.verdict
    drifted = [column.name for column in _columns(facts) if column.drifted]
    changed = f" Drifted: {_some(drifted)}." if drifted else ""
    if evidence is None or verdict is None:
        return f"Nothing was decided on this night; see decide_retraining's log.{changed}", True
    if verdict.decision == "retrain":
        why = _reason(verdict.reasons, f"{verdict.trigger}: ")
        return f"Retraining is asked for because of {verdict.trigger}: {why}.", True
    if evidence.incidents:
        more = len(evidence.incidents) - 1
        others = f" (and {more} more)" if more else ""
        return f"Wait, and mend the data: {evidence.incidents[0]}{others}.{changed}", True
    if evidence.champion is None:
        return "Wait: there is no champion yet, so there is nothing to watch.", False
    if not verdict.triggers:
        return f"Wait: nothing calls for retraining.{changed}", bool(drifted)
    called = " and ".join(verdict.triggers)
    block = verdict.blocks[0]
    why = _reason(verdict.reasons, f"blocked, {block}: ")
    until = f" A challenger can learn it from {verdict.learnable_from} on."
    until = until if verdict.learnable_from and block != "not_learnable" else ""
    return f"Wait, though {called} calls for retraining: {why}.{until}{changed}", True


def _reason(reasons: Sequence[str], prefix: str) -> str:
    found = [text.removeprefix(prefix) for text in reasons if text.startswith(prefix)]
    return (found or [prefix.rstrip(": ")])[0].rstrip(".")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


# --- the sections --------------------------------------------------------------------------------


def _verdict(facts: NightFacts) -> Iterator[Block]:
    evidence, verdict = facts.evidence, facts.verdict
    if evidence is None or verdict is None:
        return
    champion = evidence.champion
    yield Bullets(verdict.reasons)
    stated: list[tuple[str, Any]] = [
        ("decision", Mark(verdict.decision) if verdict.decision == "retrain" else "wait"),
        ("because of", ", ".join(verdict.triggers) or None),
        ("blocked by", ", ".join(verdict.blocks) or None),
        ("learnable from", verdict.learnable_from),
        (
            "champion",
            champion and f"version {champion.version}, trained on {champion.trained_on}",
        ),
        ("newest day of features", evidence.newest_day),
    ]
    stated += [
        (f"change seen on {change.seen}", f"{', '.join(change.what)}, since about {change.began}")
        for change in evidence.changes
    ]
    if champion:
        card = commands.show_card(facts.use_case.name, champion.version)
        stated.append(("what the champion rests on", card))
    yield table(("", "tonight"), stated)


def _drift(facts: NightFacts) -> Iterator[Block]:
    columns = _columns(facts)
    if not columns:
        yield "Not measured."
        return
    drifted = sum(bool(column.drifted) for column in columns)
    yield (
        f"{drifted} of {len(columns)} columns drifted, held against the same weekday of the four "
        f"weeks before by version {facts.version}. Drifted ones come first, then by effect times "
        "importance. The effect is the greatest difference of two shares of rows (KS D, total "
        "variation distance), usual that of nights before, the floor monitoring.min_ks."
    )
    if facts.missing:
        yield f"Distributions cannot be shown: {facts.missing}"
    drawn = rank_columns(facts)
    for column in columns:
        if column.name in drawn and (pictures := tuple(_pictures(facts, column))):
            title = f"{column.name}: drifted" if column.drifted else column.name
            yield Pair(title, _describe(facts, column), pictures)
    yield _drift_table(facts, columns)


def _describe(facts: NightFacts, column: _Column) -> str:
    declared = facts.use_case.features.columns.get(column.name)
    parts = [declared.description.rstrip(".")] if declared else []
    if declared and declared.unit:
        parts[0] += f" ({declared.unit})"
    parts.append(str(column.main["reason"]))
    if column.main.get("importance") is not None:
        parts.append(f"Importance {column.main['importance']:.3f}")
    others = [what for what in column.drifted if what != _what(column.main)]
    if others:
        parts.append(f"Also drifted: {_some(others)}")
    return ". ".join(parts) + "."


def _pictures(facts: NightFacts, column: _Column) -> Iterator[Figure]:
    name, main = column.name, column.main
    found = facts.distributions.get(name)
    if found:
        caption = f"Tonight's {found.rows:,} rows beside the four weeks before, and the training"
        draw = partial(_draw_distribution, found, f"distribution of {name}")
        yield Figure(draw, caption)
    test = main["test"]
    rows: dict[date, Mapping[str, Any]] = {}
    for day, of_night in facts.earlier.items():
        for row in of_night:
            if (row["feature"], row["test"]) == (name, test) and row["reference"] != "training":
                rows[day] = row
    if len(rows) < 2:
        return
    lines = {"effect": [row["statistic"] for row in rows.values()]}
    if test != "chi2":
        lines["usual"] = [row["usual"] for row in rows.values()]
    alarms = {
        day
        for day, of_night in facts.earlier.items()
        if any(row["feature"] == name and row["drifted"] for row in of_night)
    }
    draw = partial(
        figures.draw_history,
        [*rows],
        lines,
        f"history of {name}",
        alarms=alarms,
        alarm="drifted",
        floor=("floor", facts.use_case.monitoring.min_ks),
    )
    yield Figure(draw, f"Effect ({test}) by night")


def _draw_distribution(found: Distribution, salt: str) -> str:
    shares = {"tonight": found.tonight}
    shares |= {"expected": found.expected} if found.expected else {}
    shares["training"] = found.training
    return figures.draw_shares(found.bins, shares, salt, ordered=found.ordered)


def _drift_table(facts: NightFacts, columns: Sequence[_Column]) -> Table:
    known = {
        (row["feature"], row["slice"]): _effect(row)
        for row in facts.drift
        if row["reference"] == "training"
    }
    places = {column.name: place for place, column in enumerate(columns)}
    tonight = [row for row in facts.drift if row["reference"] != "training"]
    # Slices in which nothing is unusual are many.
    shown = [row for row in tonight if row["drifted"] or row["slice"] == "all"]
    shown.sort(
        key=lambda row: (
            not row["drifted"],
            places[row["feature"]],
            row["slice"] != "all",
            row["slice"],
            row["test"] in _OF_SHARES,
            row["test"],
        )
    )
    cells = [
        (
            Mark(row["feature"]) if row["drifted"] else row["feature"],
            row["slice"],
            row["test"],
            _effect(row),
            _number(row["usual"]),
            _number(row["p_adjusted"], "#.2g"),
            "" if row["test"] in _OF_SHARES else known.get((row["feature"], row["slice"]), ""),
            _number(row["importance"]),
            Mark("extreme" if row.get("extreme") else "drifted") if row["drifted"] else "",
        )
        for row in shown
    ]
    header = ["column", "slice", "test", "effect (PSI)", "usual", "adjusted p"]
    header += ["from training", "importance", ""]
    left_out = len(tonight) - len(shown)
    more = f"; {left_out} rows of slices that did not drift are in the table drift"
    return table(header, cells, f"All columns{more if left_out else ''}")


def _nights(facts: NightFacts) -> Iterator[Block]:
    days = sorted({*facts.earlier, *facts.decided})
    if len(days) < 2:
        return
    drifted: dict[date, list[str]] = {
        day: sorted({row["feature"] for row in rows if row["drifted"]})
        for day, rows in facts.earlier.items()
    }
    asked = {day for day, decision in facts.decided.items() if decision == "retrain"}
    counts = [float(len(drifted[day])) if day in drifted else None for day in days]
    draw = partial(
        figures.draw_history,
        days,
        {"columns that drifted": counts},
        "nights",
        alarms=asked,
        alarm="retraining asked for",
        counts=True,
    )
    yield Figure(draw, "Columns that drifted, by night")
    rows = [
        (
            day,
            Mark("retrain") if day in asked else facts.decided.get(day),
            ", ".join(drifted[day]) if day in drifted else "not measured",
        )
        for day in reversed(days)
    ]
    yield table(("night", "decision", "drifted"), rows, f"The last {len(days)} nights", folded=True)


def _performance(facts: NightFacts) -> Iterator[Block]:
    main = facts.use_case.target.main_metric
    by_metric: dict[str, dict[date, Mapping[str, Any]]] = {}
    for day, rows in facts.performance.items():
        for row in sorted(rows, key=lambda row: row["rows"]):
            if row["slice"] == "all" and row["value"] is not None:
                by_metric.setdefault(row["metric"], {})[day] = row
    of_labels = [
        day
        for day, rows in facts.performance.items()
        if any(needs_labels(facts.use_case, row["metric"]) for row in rows)
    ]
    others = [name for name in by_metric if not needs_labels(facts.use_case, name)]
    if not of_labels:
        yield "No labels have matured."
    for metric in (main, *others):
        if len(by_metric.get(metric, {})) > 1:
            yield _performance_history(metric, by_metric[metric])
    if of_labels:
        newest = of_labels[-1]
        known = [
            row for row in facts.performance[newest] if needs_labels(facts.use_case, row["metric"])
        ]
        yield f"Of {newest}, the newest scored day whose labels have matured:"
        yield _realised(known)
        yield from (
            f"Version {row['model_version']}, {row['slice']}: {row['reason']}."
            for row in known
            if row["reason"]
        )
    if others:
        yield _unrealised({name: by_metric[name] for name in others})


def _performance_history(metric: str, rows: Mapping[date, Mapping[str, Any]]) -> Figure:
    lines = {
        metric.replace("_", " "): [row["value"] for row in rows.values()],
        "on the holdout": [row["holdout"] for row in rows.values()],
    }
    degraded = {day for day, row in rows.items() if row["degraded"]}
    draw = partial(
        figures.draw_history,
        [*rows],
        lines,
        f"performance {metric}",
        alarms=degraded,
        alarm="degraded",
        from_zero=False,
    )
    return Figure(draw, f"{metric} by scored day, of all rows")


def _realised(rows: Rows) -> Table:
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    slices: dict[tuple[int, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        slices.setdefault((row["model_version"], row["slice"]), {})[row["metric"]] = row
    cells = [
        (
            version,
            name,
            next(iter(found.values()))["rows"],
            *(_measured(found[metric]) if metric in found else "" for metric in metrics),
        )
        for (version, name), found in slices.items()
    ]
    header = ["version", "slice", "rows", *(metric.replace("_", " ") for metric in metrics)]
    return table(header, cells)


def _measured(row: Mapping[str, Any]) -> str:
    text = _number(row["value"])
    return Mark(f"{text} degraded") if row["degraded"] else text


def _unrealised(by_metric: Mapping[str, Mapping[date, Mapping[str, Any]]]) -> Table:
    """Show the newest of what was measured without labels, with all that its rows say."""
    newest = [(metric, *max(days.items())) for metric, days in by_metric.items()]
    more = _more([row for *_, row in newest], _OF_PERFORMANCE)
    rows = [
        (
            metric,
            day,
            row["value"],
            row["holdout"],
            *(_any(row.get(name)) for name in more),
            row["reason"],
        )
        for metric, day, row in newest
    ]
    header = ["without labels", "scored day", "value", "on the holdout", *more, ""]
    return table([name.replace("_", " ") for name in header], rows)


def _freshness(facts: NightFacts) -> Iterator[Block]:
    if not facts.freshness:
        yield "Not measured."
        return
    more = _more(facts.freshness, _OF_FRESHNESS)
    rows = [
        (
            row["table"],
            str(row["newest_day"] or "none"),
            "" if row["lag_days"] is None else row["lag_days"],
            *(_any(row[name]) for name in more),
            Mark("stale") if row["stale"] else "",
            row["reason"],
        )
        for row in sorted(facts.freshness, key=lambda row: str(row["table"]))
    ]
    header = ["table", "newest day", "lag in days", *(name.replace("_", " ") for name in more)]
    yield table([*header, "", "why"], rows)


def _staleness(facts: NightFacts) -> Iterator[Block]:
    if not facts.staleness:
        return
    yield "Days that no longer follow from what they were made of, and the commands that mend them:"
    rows = [
        (row["table"], f"{row['first_day']} to {row['last_day']}", row["reason"])
        for row in facts.staleness
    ]
    yield table(("table", "days", "why"), rows)
    yield Code(tuple(dict.fromkeys(line for row in facts.staleness for line in row["mend"])))


def _other(rows: Rows) -> Iterator[Block]:
    """Show what this page knows nothing of, as it is."""
    columns = _more(rows, ("day",))
    shown = [tuple(_any(row[name]) for name in columns) for row in rows[:_MOST]]
    left_out = f"; {len(rows) - _MOST} more rows are in the table" if len(rows) > _MOST else ""
    names = [name.replace("_", " ") for name in columns]
    yield table(names, shown, f"{len(rows)} rows{left_out}", folded=len(rows) > _DRAWN)


_SECTIONS = {
    "Decision": _verdict,
    "Drift": _drift,
    "Nights": _nights,
    "Performance": _performance,
    "Freshness": _freshness,
    "Staleness": _staleness,
}


# --- what is said of a column --------------------------------------------------------------------


def _columns(facts: NightFacts) -> list[_Column]:
    """Return the columns of a night: what drifted first, then by effect times importance."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in facts.drift:
        if row["reference"] != "training":
            rows.setdefault(row["feature"], []).append(row)
    found = [_column(name, of_column) for name, of_column in rows.items()]
    return sorted(found, key=lambda column: (not column.drifted, -column.rank, column.name))


def _column(name: str, rows: Rows) -> _Column:
    whole = [row for row in rows if row["slice"] == "all"] or list(rows)
    # What drifted says most; of the rest, how values are distributed.
    main = min(
        whole,
        key=lambda row: (
            not row["drifted"],
            row["test"] in _OF_SHARES,
            -(row["statistic"] or 0.0),
            row["test"],
        ),
    )
    effect = max(row["statistic"] or 0.0 for row in whole)
    importance = main.get("importance")
    drifted = tuple(sorted(_what(row) for row in rows if row["drifted"]))
    # What has no importance, such as the score, is as important as can be.
    return _Column(name, main, drifted, effect * (1.0 if importance is None else importance))


def _what(row: Mapping[str, Any]) -> str:
    return str(row["test"]) + ("" if row["slice"] == "all" else f" of {row['slice']}")


def _effect(row: Mapping[str, Any]) -> str:
    psi = f" ({row['psi']:.3f})" if row.get("psi") is not None else ""
    return _number(row["statistic"]) + psi


def _more(rows: Rows, known: Sequence[str]) -> list[str]:
    """Return the other columns of rows, those in which there is anything."""
    names = [name for name in rows[0] if name not in known]
    return [name for name in names if any(row.get(name) not in (None, []) for row in rows)]


def _any(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else show(value)


def _number(value: float | None, spec: str = ".3f") -> str:
    return "" if value is None else format(value, spec)
