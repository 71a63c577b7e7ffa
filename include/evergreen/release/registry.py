"""The registry held against ledger and gate: what MLflow shows otherwise, and what it has lost.

MLflow can be changed by hand. Its alias and tags are only shown to people, so they are written
anew from what ledger and gate say; a version that is gone is gone, and somebody has to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.errors import NotReadyError
from evergreen.provenance import commands
from evergreen.release import ledger
from evergreen.release.lifecycle import lifecycle
from evergreen.release.promote import project
from evergreen.training.tracking import (
    Registry,
    VersionFacts,
    describe_registry,
    describe_version,
    set_champion,
    tag_version,
)
from evergreen.training.tracking.standing import CHAMPION, DECISION, LIFECYCLE


@dataclass(frozen=True)
class Findings:
    """What is wrong with the releases of a use case, in sentences.

    Parameters
    ----------
    broken
        What only a person can put right: a ledger that was changed, a champion that is gone.
    differing
        What MLflow shows otherwise than ledger and gate say; `repair` puts it right.
    gone
        Former champions that are gone. Nobody can roll back to them, and the days they scored
        cannot be scored again by them; nothing else follows.
    """

    broken: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def find_problems(use_case: UseCase) -> Findings:
    """Compare ledger, gate and registry of a use case.

    Raises
    ------
    ServiceDownError
        A database or the tracking store does not answer.
    """
    book = ledger.engine()
    if damage := ledger.verify(book, use_case.name):
        # What a damaged ledger says is nothing to hold anything against.
        return Findings(broken=(ledger.tell_damage(use_case.name, damage),))
    entries = ledger.releases(book, use_case.name)
    registry = describe_registry(use_case)
    lost = {entry.version: entry for entry in entries if entry.version not in registry.tags}
    broken = []
    if entries and (entry := lost.pop(entries[-1].version, None)):
        broken.append(_tell_lost(use_case, entry, entries, registry))
    return Findings(
        broken=tuple(broken),
        differing=tuple(_find_differences(use_case, entries, registry)),
        gone=tuple(_name_lost(use_case, entry) for entry in lost.values()),
    )


def repair(use_case: UseCase) -> Findings:
    """Let alias and tags follow ledger and gate again; safe to repeat and beside promotions.

    Returns
    -------
    Findings
        What was found before; all that differed is put right now.
    """
    found = find_problems(use_case)
    if not found.differing:
        return found
    entries = ledger.releases(ledger.engine(), use_case.name)
    registry = describe_registry(use_case)
    for version, tags in _wrong_tags(use_case, entries, registry).items():
        tag_version(use_case, version, tags)
    if not entries and registry.champion:
        with ledger.projecting(ledger.engine(), use_case.name):
            if ledger.champion(ledger.engine(), use_case.name) is None:
                set_champion(use_case, None)
    elif entries and entries[-1].version in registry.tags:
        project(ledger.engine(), use_case.name, lambda version: set_champion(use_case, version))
    return found


def look_up(use_case: UseCase, version: int, day: date | None = None) -> VersionFacts:
    """Look up a version that the ledger names, or say what to do when it is gone.

    Parameters
    ----------
    day
        What it is to score.

    Raises
    ------
    NotReadyError
        It is not in the registry.
    """
    try:
        return describe_version(use_case, version)
    except NotReadyError as error:
        entries = ledger.releases(ledger.engine(), use_case.name)
        named = [entry for entry in entries if entry.version == version]
        if not named:
            raise
        registry = describe_registry(use_case)
        raise NotReadyError(_tell_lost(use_case, named[-1], entries, registry, day)) from error


def _find_differences(
    use_case: UseCase, entries: Sequence[ledger.Entry], registry: Registry
) -> list[str]:
    found = []
    in_charge = entries[-1].version if entries else None
    if registry.champion != in_charge and (in_charge is None or in_charge in registry.tags):
        names = f"version {registry.champion}" if registry.champion else "no version"
        says = f"entry {entries[-1].sequence} says {in_charge}" if entries else "it has no entry"
        found.append(f"MLflow's alias `{CHAMPION}` names {names}; by the ledger, {says}")
    for version, tags in _wrong_tags(use_case, entries, registry).items():
        found += [
            f"MLflow's tag `{key}` of version {version} is {registry.tags[version].get(key)}; "
            f"by ledger and gate it is {value}"
            for key, value in tags.items()
        ]
    return found


def _wrong_tags(
    use_case: UseCase, entries: Sequence[ledger.Entry], registry: Registry
) -> dict[int, dict[str, str | None]]:
    """Return what tags should be, by version, where they are not."""
    decisions = _decisions(use_case)
    wrong = {}
    for version, tags in sorted(registry.tags.items()):
        decision = decisions.get(version)
        expected = {DECISION: decision, LIFECYCLE: lifecycle(version, entries, decision)}
        wrong[version] = {key: is_ for key, is_ in expected.items() if tags.get(key) != is_}
    return {version: tags for version, tags in wrong.items() if tags}


def _decisions(use_case: UseCase) -> dict[int, str]:
    """Return what the gate decided, by version."""
    columns = ("version", "decision")
    rows = lake.rows(use_case.name, "decisions", columns=columns, equal={"kind": "gate"})
    return {row["version"]: row["decision"] for row in rows}


def _name_lost(use_case: UseCase, entry: ledger.Entry) -> str:
    return (
        f"Version {entry.version} of {use_case.name} is not in MLflow any more (deleted by hand?); "
        f"entry {entry.sequence} of the release ledger put it in charge"
    )


def _tell_lost(
    use_case: UseCase,
    entry: ledger.Entry,
    entries: Sequence[ledger.Entry],
    registry: Registry,
    day: date | None = None,
) -> str:
    """Say which version is gone, what the ledger says of it, and how to do without it."""
    name, reason = use_case.name, f"version {entry.version} is gone"
    left = [found.version for found in reversed(entries) if found.version in registry.tags]
    if left and left[0] == entries[-1].version:
        # It is in charge already: promoted again, it only scores the day.
        how = "Go on with the champion"
        command = commands.put_in_charge(name, "promote", left[0], reason, day)
    elif left:
        how = f"Roll back to version {left[0]}, the last champion that is left"
        command = commands.put_in_charge(name, "roll_back", left[0], reason, day)
    elif registry.tags:
        how = "No former champion is left; put another version in charge"
        command = commands.put_in_charge(name, "promote", max(registry.tags), reason, day)
    else:
        how = "No version is left; bring MLflow back from a backup"
        command = "evergreen restore"
    return f"{_name_lost(use_case, entry)}. {how}: {command}"
