"""A year of nights of a real shop: what is alarmed, asked for and promoted, day after day.

    EVERGREEN_ONLINE_RETAIL=../shared/data/online_retail .venv/bin/python -m benchmarks.nights

Two years of Online Retail. The first champion is trained on the last day of 2010; from then on each
day is computed, scored and monitored in its turn, and what the governor asks for is trained, judged
by the gate and, where the gate says so, promoted. Nothing is known before its day: neither features
nor labels; only the orders lie there. Without the folder there is nothing to measure.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click

from benchmarks.bench import report, workspace
from benchmarks.models import EARLIER, RETAIL, join_years
from evergreen import lake, steps
from evergreen.contract import UseCase, load_use_case
from evergreen.ops import deploy
from evergreen.settings import load_settings

TRAINED, LAST = date(2010, 12, 31), date(2011, 12, 8)
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Night:
    """What one night said."""

    day: date
    decision: str
    triggers: list[str]
    blocks: list[str]
    reasons: list[str]
    learnable_from: str | None
    drifted: dict[str, str]
    performance: dict[str, Any] | None
    training: dict[str, Any] | None = None


@dataclass
class Alarm:
    """Nights on end on which the same called for retraining, or something had drifted."""

    first: date
    last: date
    triggers: list[str]
    reasons: list[str]
    columns: Counter[str] = field(default_factory=Counter)
    nights: int = 0


def main() -> None:
    """Run the nights and report them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", type=date.fromisoformat, default=LAST, help="the last night")
    until = parser.parse_args().until
    folder = os.environ.get(RETAIL)
    if folder is None or not (Path(folder) / EARLIER).exists():
        click.echo(f"{RETAIL} names no folder with {EARLIER}: no nights to run.")
        return
    with workspace("nights") as settings:
        join_years(Path(folder).resolve(), settings.home / "two_years")
        list(deploy.initialise(load_settings()))
        nights = list(_run(load_use_case("two_years"), until))
    alarms = find_alarms(nights)
    measured = [night for night in nights if night.performance]
    report(
        "nights",
        f"{len(nights)} nights of Online Retail, "
        f"{sum(bool(night.triggers) for night in nights)} that called for retraining, "
        f"{len(measured)} with realised performance",
        ("from", "to", "nights", "called for by", "columns (nights)", "on the first night"),
        [
            (
                *(str(alarm.first), str(alarm.last), alarm.nights),
                ", ".join(alarm.triggers) or "told",
                ", ".join(f"{name} {count}" for name, count in alarm.columns.most_common()),
                "; ".join(alarm.reasons),
            )
            for alarm in alarms
        ],
        nights=[json.loads(json.dumps(asdict(night), default=str)) for night in nights],
    )


def _run(use_case: UseCase, until: date) -> Iterator[Night]:
    name, first = use_case.name, f"{use_case.first_day}..{TRAINED}"
    orders = f"{use_case.first_day}..{until}"
    steps.publish_rows(steps.validate_rows(steps.stage_rows(name, orders, "orders")))
    _compute(name, first)
    judged = _train(name, TRAINED, "the first")
    assert judged["decision"] == "promote", judged["reasons"]
    day = TRAINED
    while day < until:
        day += _ONE_DAY
        _compute(name, str(day))
        scored = steps.score_customers(steps.resolve_model(name, str(day)))
        steps.publish_predictions(steps.validate_predictions(scored))
        told = steps.decide_retraining(
            name,
            str(day),
            [
                steps.measure_drift(name, str(day)),
                steps.measure_performance(name, str(day)),
                steps.measure_freshness(name, str(day)),
                steps.measure_skew(name, str(day)),
            ],
        )
        training = None
        if told["decision"] == "retrain":
            judged = _train(name, day, told["reasons"][0])
            training = {key: judged[key] for key in ("version", "decision", "reasons")}
        night = _night(name, day, training)
        click.echo(f"{day} {night.decision}: {'; '.join(night.reasons)} {training or ''}")
        yield night


def _compute(name: str, period: str) -> None:
    """Compute the features of days and the labels that they complete."""
    features = steps.validate_features(steps.compute_features(name, period))
    published = steps.publish_features(features)
    steps.materialize_online(published)
    steps.publish_labels(published)


def _train(name: str, day: date, reason: str) -> dict[str, Any]:
    """Train on a day, and promote what the gate is for."""
    request = steps.accept_request(name, str(day), reason)
    assembled = steps.choose_recipe(steps.assemble_training_set(request))
    judged = steps.judge_challenger(steps.train_challenger(assembled))
    if judged["decision"] == "promote":
        steps.promote_challenger(judged)
    return judged


def _night(name: str, day: date, training: dict[str, Any] | None) -> Night:
    (row,) = (
        row
        for row in lake.read_day(name, "decisions", day).to_pylist()
        if row["kind"] == "governor"
    )
    verdict, evidence = (json.loads(row["verdict"]), json.loads(row["evidence"])["evidence"])
    drifted = {
        row["feature"]: row["reason"]
        for row in lake.read_day(name, "drift", day).to_pylist()
        if row["drifted"] and row["slice"] == "all"
    }
    return Night(
        day,
        *(verdict[key] for key in ("decision", "triggers", "blocks", "reasons", "learnable_from")),
        drifted,
        evidence["performance"],
        training,
    )


def find_alarms(nights: list[Night]) -> list[Alarm]:
    """Join nights on end on which the same called for retraining, or drift was only told."""
    alarms: list[Alarm] = []
    for night in nights:
        if not (night.triggers or night.drifted):
            continue
        newest = alarms[-1] if alarms else None
        if (
            newest is None
            or newest.triggers != night.triggers
            or night.day > newest.last + _ONE_DAY
        ):
            newest = Alarm(night.day, night.day, night.triggers, night.reasons)
            alarms.append(newest)
        newest.last = night.day
        newest.nights += 1
        newest.columns.update([*night.drifted])
    return alarms


if __name__ == "__main__":
    main()
