"""What a search has found, for people: a table, and what to paste where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from evergreen.contract import UseCase
from evergreen.contract.base import Model
from evergreen.discovery.candidates import Candidate
from evergreen.discovery.search import ALPHA, Judged, Outcome
from evergreen.discovery.sql import write_features


def tell_outcome(use_case: UseCase, candidates: Sequence[Candidate], outcome: Outcome) -> str:
    """Tell which candidates were judged, and how to adopt those that are proposed.

    Parameters
    ----------
    candidates
        All that were tried.
    """
    return "\n".join(_lines(use_case, candidates, outcome)) + "\n"


def _lines(use_case: UseCase, candidates: Sequence[Candidate], outcome: Outcome) -> Iterator[str]:
    yield (
        f"{use_case.name}: {outcome.tried} candidates tried, {len(outcome.judged)} judged by "
        f"{outcome.entities:,} entities that had no part in choosing them ({outcome.rows:,} rows "
        f"of {outcome.test_days} test days before the holdout)."
    )
    yield (
        f"Gain: by how much the mean loss of a row, {outcome.loss:.5f} with the present features, "
        f"is less. p: chance of the gain where there is nothing, of any of the "
        f"{len(outcome.judged)} (Holm)."
    )
    if outcome.judged:
        yield ""
        yield from _table(outcome)
    yield ""
    adopted = [one for name in outcome.proposed for one in candidates if one.name == name]
    if not adopted or outcome.together is None:
        yield f"Nothing is proposed: no candidate has p up to {ALPHA}."
        return
    gain, lower, upper = outcome.together
    yield (
        f"Proposed: {', '.join(outcome.proposed)}. Together they gain {gain:.5f} "
        f"({lower:.5f} to {upper:.5f}). Nothing uses them until they are pasted:"
    )
    yield from _pasted(use_case, adopted)


def _table(outcome: Outcome) -> Iterator[str]:
    width = max(len(one.name) for one in outcome.judged)
    yield f"{'candidate':{width}}  {'gain':>8}  {'95 % interval':>20}  {'days':>5}  {'p':>7}"
    for one in outcome.judged:
        between = f"{one.lower:+.5f} to {one.upper:+.5f}"
        days = f"{one.helps_in}/{outcome.test_days}"
        yield (
            f"{one.name:{width}}  {one.gain:+.5f}  {between:>20}  {days:>5}  "
            f"{one.corrected:7.2g}  {_verdict(one)}"
        ).rstrip()


def _verdict(one: Judged) -> str:
    if not one.passes:
        return ""
    return f"adds nothing beside {', '.join(one.beside)}" if one.beside else "proposed"


def _pasted(use_case: UseCase, adopted: Sequence[Candidate]) -> Iterator[str]:
    owner = use_case.owner_of("features")
    declared = use_case.features_path.parent / "use_case.yaml"
    for table in dict.fromkeys(one.table for one in adopted):
        daily = {
            name: column
            for one in adopted
            if one.table == table
            for name, column in one.daily.items()
        }
        if daily:
            yield f"\n# {declared}, below events.{table}.daily.columns:"
            yield from _declared(daily, 8)
    yield f"\n# {declared}, below features.columns:"
    yield from _declared({one.name: one.feature for one in adopted}, 4)
    yield f"\n-- {use_case.features_path}, instead of what is there:"
    yield write_features(use_case, adopted)
    yield (
        f"\nThen `evergreen check {owner}`, `evergreen plan {owner}`, and what that says; the gate "
        "judges the model that reads them."
    )


def _declared(parts: Mapping[str, Model], indent: int) -> Iterator[str]:
    """Write declarations as YAML, a line each, as they stand in a use case."""
    for name, part in parts.items():
        content: dict[str, Any] = part.model_dump(mode="json", exclude_defaults=True)
        flow = yaml.safe_dump(
            content, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True
        )
        yield f"{' ' * indent}{name}: {flow.strip()}"
