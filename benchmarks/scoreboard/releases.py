"""Rows 14 to 16: who is in charge, and how they came to be, by rules as published and by ours.

The rules are those of two published templates, in a few lines each on MLflow's client:
`Train.py.tmpl` and `deploy.py.tmpl` of databricks/mlops-stacks; `promote_with_metric_compare` of
zenml-io/template-e2e-batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from sqlalchemy import Engine

from benchmarks import gate
from benchmarks.scoreboard.finding import OURS, PLAIN, STACKS, ZENML, Seen, compare
from evergreen.contract import load_use_case
from evergreen.errors import LedgerConflictError
from evergreen.release import ledger, ledger_table

CHAMPION, MODEL = "champion", "churn"
# Of row 16: challengers that are as good, customers of each holdout, most that may be promoted.
_CHALLENGERS, _CUSTOMERS, _MOST = 400, 2_000, 10.0


def newest_version(client: MlflowClient) -> int:
    """Choose what to deploy as mlops-stacks does at the end of a training."""
    latest = 1
    for version in client.search_model_versions(f"name='{MODEL}'"):
        latest = max(latest, int(version.version))
    return latest


def promote_by_metric(
    client: MlflowClient, version: int, metric: float, current_metric: float
) -> None:
    """Promote as the ZenML template does: at least as good as what was current, by force."""
    if metric >= current_metric:
        client.set_registered_model_alias(MODEL, CHAMPION, str(version))


def who_was_in_charge(folder: Path) -> Iterable[Seen]:
    """Put versions 1, 2 and 1 in charge, then ask who was, at an instant after each."""
    in_turn = [1, 2, 1]
    expected = {"in charge": tuple(in_turn)}
    client, book = _registry(folder, 2), _ledger()
    instants = []
    for number, version in enumerate(in_turn):
        client.set_registered_model_alias(MODEL, CHAMPION, str(version))
        action: ledger.Action = "promote" if number < 2 else "roll_back"
        ledger.append(book, MODEL, action, version, actor="ann", reason="a test")
        time.sleep(0.01)
        instants.append(datetime.now(UTC))
        time.sleep(0.01)
    # Nothing that the registry is asked takes an instant, so it has one answer for all of them.
    answers = tuple(_in_charge(client) for _ in instants)
    yield compare(PLAIN, {"in charge": answers}, expected)
    found = [ledger.champion_at(book, MODEL, instant) for instant in instants]
    yield compare(OURS, {"in charge": tuple(one and one.version for one in found)}, expected)


def race(folder: Path) -> Iterable[Seen]:
    """Let two trainings that began under version 1 end at once: 2 with 0.80, 3 with 0.75."""
    metrics = {1: 0.70, 2: 0.80, 3: 0.75}
    expected = {"deployed by the training of 2": 2, "in charge in the end": 2}
    name, end = expected
    client = _registry(folder / "stacks", 3)
    # Both have registered what they made; then the first asks which version to deploy.
    deployed = newest_version(client)
    client.set_registered_model_alias(MODEL, CHAMPION, str(deployed))
    yield compare(STACKS, {name: deployed, end: _in_charge(client)}, expected)
    client = _registry(folder / "zenml", 3)
    promote_by_metric(client, 1, metrics[1], 0.0)
    current = metrics[_in_charge(client)]
    deployed = 0
    for version in (2, 3):
        promote_by_metric(client, version, metrics[version], current)
        deployed = deployed or _in_charge(client)
    yield compare(ZENML, {name: deployed, end: _in_charge(client)}, expected)
    book = _ledger()
    before = ledger.append(book, "race", "promote", 1, actor="ann", reason="the first").sequence
    deployed, refused = 0, []
    for version in (2, 3):
        try:
            entry = ledger.append(
                *(book, "race", "promote", version),
                actor="training",
                reason=f"{metrics[version]} >= {metrics[1]}",
                expected_sequence=before,
            )
        except LedgerConflictError:
            refused.append(version)
        else:
            deployed = deployed or entry.version
    champion = ledger.champion(book, "race")
    found = {name: deployed, end: champion and champion.version}
    seen = compare(OURS, found, expected)
    yield Seen(OURS, f"{seen.found}, refused: {refused}", bool(seen.passed) and refused == [3])


def equal_models(folder: Path) -> Iterable[Seen]:
    """Judge challengers that are exactly as good as the champion."""
    ((_, _, ours, naive),) = gate.rates(
        load_use_case("churn"),
        gate.draw_churn,
        gate.score_churn,
        (_CUSTOMERS,),
        (0.0,),
        _CHALLENGERS,
        resamples=2,
    )
    for contender, promoted in ((ZENML, naive), (OURS, ours)):
        yield Seen(contender, f"{promoted:.1f} % promoted", promoted <= _MOST)


def _in_charge(client: MlflowClient) -> int:
    return int(client.get_model_version_by_alias(MODEL, CHAMPION).version)


def _registry(folder: Path, versions: int) -> MlflowClient:
    folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(url, registry_uri=url)
    client.create_registered_model(MODEL)
    for number in range(versions):
        client.create_model_version(MODEL, source=f"nowhere/{number}")
    return client


def _ledger() -> Engine:
    book = ledger.engine()
    ledger_table.create_tables(book)
    return book
