"""From one score back to what it was made of: each step, its receipt, and how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.errors import EvergreenError, NotReadyError
from evergreen.provenance import commands, receipts
from evergreen.provenance.receipts import Receipt
from evergreen.release import ledger
from evergreen.training.tracking import describe_run, describe_version
from evergreen.views import days as partitions
from evergreen.views.entity import read_key
from evergreen.views.remembered import remembered

Kind = Literal[
    "prediction", "scoring", "release", "training", "training_data", "features", "delivery"
]


@dataclass(frozen=True)
class Fact:
    """A name and a value, both as text."""

    label: str
    value: str


@dataclass(frozen=True)
class Link:
    """One step back; `command` repeats or shows it, `notes` say what is different by now."""

    kind: Kind
    title: str
    facts: list[Fact]
    command: str = ""
    notes: list[str] | tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """A score and all it follows from, the nearest first."""

    use_case: str
    key: str
    day: date
    score: float
    links: list[Link]


@remembered
def lineage(use_case: UseCase, day: date, key: str) -> Lineage:
    """Return where the score of an entity on a day comes from.

    Raises
    ------
    ConfigError
        The key is none of this use case's kind.
    NotReadyError
        The entity was not scored on that day.
    """
    named = {use_case.entity.key: read_key(use_case, key)}
    rows = lake.rows(use_case.name, "predictions", day, day, equal=named)
    if not rows:
        raise NotReadyError(
            f"{use_case.entity.key} {key!r} was not scored on {day}. Look for it on its own page, "
            "which lists the days on which it was."
        )
    (row,) = rows
    links = [_prediction(use_case, key, row), *_links(use_case, day, row["model_version"])]
    return Lineage(use_case.name, key, day, row["score"], links)


def replay_command(receipt: Receipt) -> str:
    """Return the command that makes a receipt's day again; empty if its step is not replayed."""
    table = receipt.output_table.rpartition(".")[2]
    published = receipt.step == f"publish_{table}" and not table.endswith("_totals")
    return commands.replay(str(receipt.sequence)) if published and receipt.content else ""


def _links(use_case: UseCase, day: date, version: int) -> Iterator[Link]:
    scored = receipts.latest(use_case.name, "publish_predictions", day, day + timedelta(days=1))
    if day in scored:
        yield _of_receipt(use_case, "scoring", f"Scores of {day}", scored[day])
    yield from _release(use_case, version)
    yield from _training(use_case, version)
    owner, end = use_case.owner_of("features"), day + timedelta(days=1)
    computed = receipts.latest(owner, "publish_features", day, end)
    if day in computed:
        yield _of_receipt(use_case, "features", f"Features of {day}", computed[day])
    for table in use_case.read_by(use_case.features_sql):
        delivered = receipts.latest(owner, f"publish_{table.name}", day, end)
        if day in delivered:
            title = f"{table.name} of {day}, the newest of the days that features rest on"
            yield _of_receipt(use_case, "delivery", title, delivered[day])


def _prediction(use_case: UseCase, key: str, row: dict[str, Any]) -> Link:
    facts = {
        use_case.entity.key: key,
        "score": f"{row['score']:.6g}",
        "rank": f"{row['rank']:,}",
        "band": row["band"],
        "reasons": "; ".join(row["reasons"] or []) or "none were asked for in this band",
        "as of": row["as_of"].isoformat(),
        "model version": str(row["model_version"]),
    }
    return Link("prediction", f"Score of {key} on {row['day']}", _facts(facts))


def _of_receipt(use_case: UseCase, kind: Kind, title: str, receipt: Receipt) -> Link:
    facts = {
        "receipt": str(receipt.sequence),
        "ran for": receipt.run,
        "recorded at": receipt.recorded_at.isoformat() if receipt.recorded_at else "",
        **{
            f"snapshot of {name}" if name in use_case.tables or name == "features" else name: str(
                value
            )
            for name, value in receipt.inputs.items()
        },
        **{name.replace("_", " "): f"{count:,}" for name, count in receipt.counts.items()},
        f"snapshot of {receipt.output_table}": str(receipt.output_snapshot),
        "content": receipt.content,
        "declaration": receipt.contract_digest,
        "code": receipt.code_digest,
        "lock file": receipt.lock_digest,
    }
    table = receipt.output_table.rpartition(".")[2]
    notes = list(_differences(use_case, receipt.code_digest, receipt.lock_digest))
    notes += [
        f"since then: {found.reason}"
        for found in partitions.stale(use_case)
        if (found.table, found.day) == (table, receipt.day)
    ]
    return Link(kind, title, _facts(facts), replay_command(receipt), notes)


def _release(use_case: UseCase, version: int) -> Iterator[Link]:
    entries = ledger.releases(ledger.engine(), use_case.name)
    for entry in [one for one in entries if one.version == version][-1:]:
        facts = {
            "entry": f"{entry.sequence} of the ledger ({entry.action.replace('_', ' ')})",
            "by": entry.actor,
            "because": entry.reason,
            "recorded at": entry.recorded_at.isoformat(),
            "hash": entry.hash,
        }
        command = commands.show_card(use_case.name, version)
        yield Link("release", f"Version {version} in charge", _facts(facts), command)


def _training(use_case: UseCase, version: int) -> Iterator[Link]:
    title = f"Training of version {version}"
    try:
        run = describe_run(describe_version(use_case, version).run_id)
    except EvergreenError as error:
        yield Link("training", title, [], notes=[f"MLflow does not say more: {error}"])
        return
    tags = run.tags
    facts = {
        "trained for": tags["day"],
        "because": tags.get("reason", ""),
        "MLflow run": run.run_id,
        "kind of model": tags.get("chosen", tags.get("family", "")),
        "calibration": tags.get("calibration", ""),
        "seed": tags.get("seed", ""),
        "model file (SHA-256)": tags.get("model_digest", ""),
        "code": tags.get("code_digest", ""),
        "lock file": tags.get("lock_digest", ""),
    }
    notes = [*_differences(use_case, tags.get("code_digest", ""), tags.get("lock_digest", ""))]
    again = commands.replay(f"{use_case.name}/{version}")
    yield Link("training", title, _facts(facts), again, notes)
    parts = {
        f"rows of {part}": f"{_days(run.plan.parts[part])}, digest {digest}"
        for part, digest in run.frame_digests.items()
    }
    snapshots = {
        f"snapshot of {name}": str(snapshot)
        for name, snapshot in json.loads(tags.get("inputs", "{}")).items()
    }
    yield Link("training_data", f"What version {version} learned from", _facts(snapshots | parts))


def _days(days: tuple[date, ...]) -> str:
    return f"{len(days)} days from {min(days)} to {max(days)}" if len(days) > 1 else str(days[0])


def _differences(use_case: UseCase, code: str, lock: str) -> Iterator[str]:
    if code != receipts.code_digest(use_case):
        yield "made by other code than is installed now"
    if lock != receipts.lock_digest():
        yield "made with another lock file than is installed now"


def _facts(facts: dict[str, str]) -> list[Fact]:
    return [Fact(label, value) for label, value in facts.items() if value]
