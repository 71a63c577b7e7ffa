"""A card as a page: sections of sentences, tables and pictures, in Markdown or HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any

from evergreen.decisions.gate import Difference, PromotionEvidence
from evergreen.pages import (
    NONE,
    Block,
    Figure,
    Format,
    Section,
    Table,
    figures,
    render_page,
    show,
    table,
)
from evergreen.provenance import commands
from evergreen.training.card.facts import CardFacts, Dependence

# Measurements that have a place of their own on the card.
_PLACED = {"metrics", "intervals", "counts", "calibration", "baselines", "over_baselines"}


def render_card(facts: CardFacts, format: Format = "md") -> str:
    """Render a card.

    Parameters
    ----------
    format
        `html` is one file that loads nothing: styles and pictures are in it, light and dark.

    Returns
    -------
    str
        The same text for the same facts.
    """
    sections = [Section(title, tuple(make(facts))) for title, make in _SECTIONS.items()]
    return render_page(_title(facts), sections, format)


def render_essence(facts: CardFacts) -> str:
    """Render what somebody who has to approve reads first: a few lines of Markdown."""
    blocks: list[Block] = [*_purpose(facts), _metrics(facts)]
    if facts.importances:
        strongest = [one.feature for one in facts.importances if one.helps][:5]
        blocks.append(f"Rests most on {', '.join(strongest) or 'no feature that surely helps'}.")
    blocks.append(f"The whole card: {_card_command(facts)}")
    return render_page("", [Section("In short", tuple(blocks))], "md")


# --- the sections --------------------------------------------------------------------------------


def _title(facts: CardFacts) -> str:
    version = f"version {facts.decision.evidence.version}" if facts.decision else "no version yet"
    return f"{facts.use_case}, {version}"


def _card_command(facts: CardFacts) -> str:
    version = facts.decision.evidence.version if facts.decision else None
    return commands.show_card(facts.use_case, version)


def _purpose(facts: CardFacts) -> Iterator[Block]:
    target = facts.target
    unit = f", in {target['unit']}" if target.get("unit") else ""
    yield f"{facts.title}. {facts.description}".strip()
    yield (
        f"Target: {target['name']} ({target['kind']}{unit}) of each {facts.entity}, in the "
        f"{target['horizon_days']} days after an as-of: {target['description']}"
    )
    yield f"Trained for {facts.day}, because: {facts.reason}"


def _decision(facts: CardFacts) -> Iterator[Block]:
    if facts.decision is None:
        yield "The gate has not judged it yet."
        return
    verdict = facts.decision.verdict
    yield f"The gate said {verdict.decision}; gate.mode is {facts.decision.mode}."
    checks = [
        (check.name, "passed" if check.passed else "failed", check.reason)
        for check in verdict.checks
    ]
    yield table(("demand", "outcome", "reason"), checks)


def _data(facts: CardFacts) -> Iterator[Block]:
    kind = "label rate" if facts.target["kind"] == "binary" else "mean label"
    parts = [
        (name, _days(part.days), part.rows, part.mean_label) for name, part in facts.parts.items()
    ]
    yield table(("rows for", "as-of days", "rows", kind), parts)
    tables = [(name, str(snapshot or NONE)) for name, snapshot in facts.snapshots.items()]
    yield table(("table", "snapshot"), tables)
    left_out = sum(facts.left_out.values())
    yield (
        f"Left out: {left_out} labelled rows without features, on {_days(facts.left_out)}."
        if left_out
        else "Left out: nobody; every label of these days has features."
    )


def _split(facts: CardFacts) -> Iterator[Block]:
    yield (
        "Every test day lies at least one horizon after the days its model was fitted on, so that "
        "their labels were known. Nothing was chosen on the holdout."
    )
    folds = [(fold.used_for, _days(fold.fit), fold.test) for fold in facts.folds]
    final = facts.parts["final"].days
    yield table(
        ("for", "fitted on", "tested on"),
        [*folds, ("the model that serves", _days(final), "nothing: it knows all labels")],
    )


def _recipe(facts: CardFacts) -> Iterator[Block]:
    recipe = facts.recipe
    grown = f", found on {recipe['rows']:,} rows" if recipe.get("rows") else ""
    yield f"Family: {recipe['family']}, {recipe['rounds']} rounds{grown}. {_settings(recipe)}"
    yield f"Chosen on the tuning folds: {facts.chosen}."
    if recipe["left_out"]:
        yield f"Declared, but left out of the model: {', '.join(recipe['left_out'])}."
    tried = [
        (
            each["recipe"]["family"],
            "declared" if each["declared"] else "searched",
            each["recipe"]["rounds"],
            _settings(each["recipe"]),
            show(each["loss"]) if each["loss"] is not None else "given up early",
        )
        for each in facts.tried
    ]
    if tried:
        columns = ("family", "recipe", "rounds", "settings", "out-of-fold loss")
        yield table(columns, tried, "Everything that was tried")


def _holdout(facts: CardFacts) -> Iterator[Block]:
    evaluation, part = facts.evaluation, facts.parts["holdout"]
    counts = ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in _of(evaluation, "counts"))
    yield f"Measured on {_days(part.days)}: {counts}. Intervals are of 95 %."
    yield _metrics(facts)
    over = [(name, _difference(found)) for name, found in _of(evaluation, "over_baselines")]
    if over:
        yield table(("baseline", f"{facts.main_metric} above it"), over)
    yield (
        f"A split of the rows at random would have promised {_difference(facts.leakage)} more of "
        f"{facts.main_metric}: rows of the same entities and days are no news."
    )
    # Whatever else is measured, now or by a later release.
    others = {name: found for name, found in evaluation.items() if name not in _PLACED}
    single = [(name, value) for name, value in others.items() if not _is_nested(value)]
    if single:
        yield table(("also measured", "value"), single)
    for name, value in others.items():
        if _is_nested(value) and value:
            yield _any_table(name.replace("_", " "), value)


def _metrics(facts: CardFacts) -> Table:
    """Metrics with intervals, beside those of the baselines; the main one first."""
    evaluation = facts.evaluation
    intervals, baselines = dict(_of(evaluation, "intervals")), dict(_of(evaluation, "baselines"))
    metrics = dict(_of(evaluation, "metrics"))
    names = sorted(metrics, key=lambda name: name != facts.main_metric)
    rows = [
        (
            name,
            metrics[name],
            " to ".join(show(bound) for bound in intervals.get(name, ())),
            *(found.get(name) for found in baselines.values()),
        )
        for name in names
    ]
    return table(("metric", "model", "interval", *baselines), rows)


def _champion(facts: CardFacts) -> Iterator[Block]:
    evidence = _evidence(facts)
    champion = evidence.champion if evidence else None
    if champion is None:
        yield "Nobody was in charge to be compared with."
        return
    yield (
        f"Held against version {champion.version}, {show(champion.age_days)} days older, on the "
        "same holdout: differences are this one's minus the champion's."
    )
    if champion.unfit:
        yield f"It could not be measured: {champion.unfit}."
        return
    rows = [
        (name, champion.metrics.get(name), _difference(difference))
        for name, difference in champion.differences.items()
    ]
    yield table(("metric", "champion", "difference"), rows)
    slices = [(name, _difference(found)) for name, found in champion.slices.items()]
    if slices:
        yield table(("slice", f"difference of {facts.main_metric}"), slices)


def _slices(facts: CardFacts) -> Iterator[Block]:
    if not facts.bias:
        yield "The use case declares no slices, so no group was looked at by itself."
        return
    yield (
        "Slices with too few rows to judge by are left out. Of a rate, the difference from "
        "everybody else stands in brackets. Somebody is selected whose band is acted on."
    )
    for feature, bias in facts.bias.items():
        slices = bias.slices
        metrics = list(dict.fromkeys(name for one in slices.values() for name in one.metrics))
        rows = [(name, one.rows, *map(one.metrics.get, metrics)) for name, one in slices.items()]
        yield table((feature, "rows", *metrics), rows)
        rates: list[Sequence[Any]] = [
            (
                name,
                *(
                    f"{show(rate)} [{_difference(one.beyond_rest[of])}]"
                    for of, rate in one.rates.items()
                ),
            )
            for name, one in slices.items()
        ]
        rates += [
            ("largest difference", *bias.difference.values()),
            ("least ratio", *bias.ratio.values()),
        ]
        yield table((feature, *bias.difference), rates)


def _calibration(facts: CardFacts) -> Iterator[Block]:
    kinds = [(kind, loss) for kind, loss in facts.calibration_losses.items()]
    yield f"Calibration: {facts.calibration}" + (
        ", which changes nothing." if facts.calibration == "identity" else "."
    )
    if kinds:
        yield table(("kind", "log loss on later days"), kinds)
    bins = facts.evaluation.get("calibration") or []
    if not bins:
        return
    predicted = [found["mean_score"] for found in bins]
    observed = [found["mean_label"] for found in bins]
    labels = ("mean score", "mean label")
    draw = partial(figures.draw_curve, predicted, observed, *labels, diagonal=True)
    yield Figure(draw, "What was predicted and what happened on the holdout, in equal bins")
    rows = [
        (found["rows"], score, label)
        for found, score, label in zip(bins, predicted, observed, strict=True)
    ]
    yield table(("rows", "mean score", "mean label"), rows)


def _features(facts: CardFacts) -> Iterator[Block]:
    yield from _importances(facts)
    yield (
        "What moves a score on the holdout: mean absolute SHAP value before calibration (of a "
        "linear model, of its terms). Positive direction: larger values raise the score."
    )
    rows = [
        (
            one.name,
            one.explained,
            one.direction,
            one.monotone,
            f"{one.missing:.1%}",
            f"{one.description} {f'({one.unit})' if one.unit else ''}".strip(),
        )
        for one in facts.features
    ]
    columns = ("feature", "mean |SHAP|", "direction", "declared monotone", "missing", "meaning")
    yield table(columns, rows)
    for dependence in facts.dependences:
        yield from _dependence(dependence)


def _importances(facts: CardFacts) -> Iterator[Block]:
    found = facts.importances
    if not found:
        yield "The history is too short for a tuning day, so no feature was permuted."
        return
    yield (
        "What a feature is worth: by how much the loss on the tuning days rises when its column "
        "is permuted (± one standard error, by customer). Features that say the same share it."
    )
    draw = partial(
        figures.draw_bars,
        [one.feature for one in found],
        [one.loss for one in found],
        "rise of the loss",
        [one.error for one in found],
    )
    yield Figure(draw, "Permutation importance")
    rows = [
        (
            one.feature,
            f"{show(one.loss)} ± {show(one.error)}",
            f"{one.helps_in} of {one.folds}",
            "yes" if one.helps else "not to be told from useless",
        )
        for one in found
    ]
    yield table(("feature", "rise of the loss", "days on which it helps", "helps"), rows)


def _dependence(found: Dependence) -> Iterator[Block]:
    if len(found.scores) < 2:
        return
    caption = f"Mean score if {found.feature} were the same for everybody"
    if isinstance(found.values[0], str):
        names = [str(value) for value in found.values]
        draw = partial(figures.draw_bars, names, found.scores, "mean score")
    else:
        numbers = [float(value) for value in found.values]
        draw = partial(figures.draw_curve, numbers, found.scores, found.feature, "mean score")
    yield Figure(draw, caption)
    yield table((found.feature, "mean score"), list(zip(found.values, found.scores, strict=True)))


def _serving(facts: CardFacts) -> Iterator[Block]:
    final = facts.parts["final"]
    yield (
        "All figures above belong to the recipe: they were measured on a model that knew no label "
        f"of the holdout. The model that serves is of the same recipe, fitted again on all "
        f"{final.rows:,} rows of {_days(final.days)}. Its own quality is known only when its "
        "scores have met their outcomes."
    )
    evidence = _evidence(facts)
    if evidence and evidence.refit:
        yield (
            f"On the newest day, whose labels nobody knew, the scores of both have a rank "
            f"correlation of {show(evidence.refit.correlation)}, and their means differ by "
            f"{show(evidence.refit.shift)} standard deviations."
        )


def _limits(facts: CardFacts) -> Iterator[Block]:
    horizon, newest = facts.target["horizon_days"], max(facts.parts["final"].days)
    yield (
        f"Meant for every {facts.entity} that features.sql returns at an as-of, at midnight in "
        f"{facts.zone}. For others nothing was measured."
    )
    yield (
        f"It says what follows within {horizon} days, no more; it ranks and estimates, and says "
        "nothing about what an action would change."
    )
    yield (
        f"The newest labels it has learned are those of {newest}, which were known {horizon} days "
        "later. What has changed since then it does not know."
    )
    yield (
        f"{facts.known_entities:.0%} of the holdout's rows are of entities it had learned from on "
        "earlier days: the figures say most about such."
    )
    if int(horizon) > facts.cutoff_every_days:
        yield (
            f"Days to fit on lie {facts.cutoff_every_days} days apart and labels reach {horizon} "
            "days, so rows of one entity share outcomes and say less than as many of different "
            "ones. Intervals are of one day, with one row per entity."
        )
    for one in facts.features:
        if one.known_categories is not None:
            named = ", ".join(one.categories)
            more = one.known_categories - len(one.categories)
            unseen = facts.unseen_categories.get(one.name, 0)
            yield (
                f"Of {one.name} it knows {one.known_categories} values ({named}"
                f"{f' and {more} more' if more else ''}); others count as missing, as did "
                f"{unseen:,} of the holdout."
            )
    if useless := [one.feature for one in facts.importances if not one.helps]:
        yield f"Features that cannot be told from useless: {', '.join(useless)}."


def _making(facts: CardFacts) -> Iterator[Block]:
    yield table(("made by", "value"), list(facts.made_by.items()))
    if facts.decision:
        replay = commands.replay(f"{facts.use_case}/{facts.decision.evidence.version}")
        yield f"Make it again and compare byte for byte: {replay}"


_SECTIONS = {
    "What it is for": _purpose,
    "Decision": _decision,
    "Data": _data,
    "Split": _split,
    "Recipe": _recipe,
    "Holdout": _holdout,
    "Beside the champion": _champion,
    "Slices": _slices,
    "Calibration": _calibration,
    "Features": _features,
    "The model that serves": _serving,
    "Limits": _limits,
    "How it was made": _making,
}


# --- values as texts -----------------------------------------------------------------------------


def _evidence(facts: CardFacts) -> PromotionEvidence | None:
    return facts.decision.evidence if facts.decision else None


def _of(evaluation: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    return list((evaluation.get(name) or {}).items())


def _settings(recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {show(value)}" for name, value in recipe["settings"].items())


def _days(days: Sequence[date] | Mapping[str, int]) -> str:
    """Say which days: the first, the last, how many."""
    first, *others = sorted(map(str, days))
    return f"{first} to {others[-1]}, {len(others) + 1} days" if others else first


def _difference(found: Difference | Mapping[str, Any]) -> str:
    stored = found if isinstance(found, Difference) else Difference.from_dict(found)
    return f"{show(stored.estimate)} ({show(stored.lower)} to {show(stored.upper)})"


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _any_table(name: str, value: Any) -> Table:
    """Show any measurement: one row per name or place, one column per key of what is nested."""
    items = list(value.items() if isinstance(value, Mapping) else enumerate(value, start=1))
    if not all(isinstance(item, Mapping) for _, item in items):
        return table((name, "value"), items)
    columns = list(dict.fromkeys(key for _, item in items for key in item))
    return table((name, *columns), [(key, *map(item.get, columns)) for key, item in items])
