"""The watched shop with all that a shop leaves behind: a folder that builds on it, a day that was
corrected, reports of nights, and rows of one customer that were rejected every day."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

import tiny_shop
import watched_shop
from evergreen import steps
from evergreen.settings import load_settings
from tiny_shop import NAME, compute, ingest, label
from watched_shop import ADDRESS, DAYS, NIGHTS, TRAINED, deliver, read_delivery

# Joined on the twelfth day and never left.
WHO = "c11-06"
SECOND = "loyal"
CORRECTED = DAYS[12]
# What each day's file holds of WHO beside its order: too cheap, and torn.
REJECTED = 2


def build_lived_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = watched_shop.write_watched_shop(root, monkeypatch)
    write_second(folder)
    for day in DAYS[11:]:
        deliver(folder, day, [*read_delivery(folder, day), *rejected(day)])
    tiny_shop.apply()
    history = f"{DAYS[0]}..{TRAINED}"
    ingest(history)
    label(compute(history))
    steps.publish_labels(_labels(SECOND, history))
    champion(NAME, TRAINED)
    champion(SECOND, TRAINED)
    score(TRAINED)
    correct(folder)
    for day in NIGHTS:
        new_day(day)
        watched_shop.watch(day)
        steps.report_night(NAME, str(day))
    leave_traces()
    return folder


def write_second(folder: Path) -> None:
    """Declare a use case with the features of the shop and a target of its own."""
    second = folder.parent / SECOND
    second.mkdir()
    declared = yaml.safe_load((folder / "use_case.yaml").read_text())
    kept = {name: declared[name] for name in ("title", "target", "training", "gate")}
    of_it = {"name": SECOND, "features": {"of": NAME}}
    (second / "use_case.yaml").write_text(yaml.safe_dump(of_it | kept))
    shutil.copy(folder / "labels.sql", second)


def rejected(day: date) -> list[str]:
    at = f"{day}T12:00:00Z"
    return [
        f"cheap/{day},{WHO},{at},-7,{WHO}{ADDRESS}",
        f"broken/{day},{WHO},{at},1,{WHO}{ADDRESS},more",
    ]


def champion(name: str, day: date) -> int:
    request = steps.accept_request(name, str(day), "by hand")
    judged = steps.judge_challenger(
        steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    )
    steps.release_version(name, "promote", str(judged["version"]), "a test", "ann")
    version: int = judged["version"]
    return version


def new_day(day: date) -> None:
    ingest(day)
    label(compute(day))
    steps.publish_labels(_labels(SECOND, str(day)))
    score(day)


def score(day: date) -> None:
    for name in (NAME, SECOND):
        scored = steps.score_customers(steps.resolve_model(name, str(day)))
        steps.publish_predictions(steps.validate_predictions(scored))


def correct(folder: Path) -> None:
    """Deliver a day again with another amount of somebody else, and mend what follows."""
    first, *others = read_delivery(folder, CORRECTED)
    parts = first.split(",")
    assert parts[1] != WHO
    deliver(folder, CORRECTED, [",".join([*parts[:3], "44", *parts[4:]]), *others])
    ingest(CORRECTED)
    label(compute(f"{CORRECTED}..{TRAINED}"))
    steps.publish_labels(_labels(SECOND, f"{CORRECTED}..{TRAINED}"))
    score(TRAINED)


def leave_traces() -> None:
    """Leave what a running Airflow leaves: logs, what tasks handed on, staged and scratch files."""
    settings = load_settings()
    for place, text in {
        settings.home / "airflow/logs/dag_id=shop_ingest/attempt=1.log": f'{{"event": "no {WHO}"}}',
        settings.scratch / "search-1/rows.csv": f"1,{WHO},2",
        settings.staging / NAME / "orders-x/y/orders.json": f'{{"customer": "{WHO}"}}',
    }.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    engine = sa.create_engine(settings.database_url("ledger"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE xcom (key TEXT, value JSONB)"))
        connection.execute(
            sa.text("INSERT INTO xcom VALUES ('a', CAST(:v AS JSONB)), ('b', '{\"n\": 1}')"),
            {"v": f'{{"examples": ["{WHO}"], "text": "of {WHO}, and others"}}'},
        )


def _labels(name: str, period: str) -> dict[str, Any]:
    return {"use_case": name, "period": period}
