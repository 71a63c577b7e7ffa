"""Fifty processes promote at once: the ledger lets one of them through, and the alias names it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest
from sqlalchemy import Engine, text

from evergreen.databases import take_lock
from evergreen.release import ledger
from evergreen.training import tracking
from racers import IMPORTS, race
from registry import aliases, register

pytestmark = pytest.mark.timeout(600)

PROCESSES = 50
_WAITING = """
SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
def crowd() -> Iterator[ProcessPoolExecutor]:
    """Processes forked from one that has imported everything and holds no connection."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTS))
    with ProcessPoolExecutor(PROCESSES, context) as pool:
        yield pool


def run_at_once(
    crowd: ProcessPoolExecutor, book: Engine, asked: Sequence[tuple[int, str]]
) -> dict[int, int | str]:
    """Let all of them come to the ledger's door before it is opened; return outcomes by process."""
    environment = {name: text for name, text in os.environ.items() if name.startswith("EVERGREEN_")}
    with book.connect() as door, book.connect() as looking:
        take_lock(door.exec_driver_sql, "release churn", 60)
        futures = [crowd.submit(race, environment, *request) for request in asked]
        while looking.scalar(text(_WAITING)) < len(asked):
            assert not [future.result() for future in futures if future.done()]
            time.sleep(0.1)
        door.rollback()
        outcomes = dict(future.result() for future in futures)
    assert len(outcomes) == len(asked)
    return outcomes


@pytest.mark.slow
def test_of_fifty_decisions_after_the_same_entry_one_is_appended(
    book: Engine, crowd: ProcessPoolExecutor
) -> None:
    tracking.initialise()
    register("churn", PROCESSES + 1)
    ledger.append(book, "churn", "promote", 1, actor="ann", reason="the first")
    outcomes = run_at_once(crowd, book, [(n, f"run {n}") for n in range(2, PROCESSES + 2)])

    assert [outcome for outcome in outcomes.values() if isinstance(outcome, int)] == [2]
    _, winner = ledger.entries(book, "churn")
    losers = [outcome for outcome in outcomes.values() if isinstance(outcome, str)]
    assert len(losers) == PROCESSES - 1
    for told in losers:
        assert f"entry 2: version {winner.version} was put in charge (promote) by " in told
    assert aliases("churn") == {"champion": winner.version}
    assert ledger.verify(book, "churn") == ()


@pytest.mark.slow
def test_retries_of_one_decision_append_one_entry_and_all_of_them_get_it(
    book: Engine, crowd: ProcessPoolExecutor
) -> None:
    tracking.initialise()
    register("churn", 2)
    ledger.append(book, "churn", "promote", 1, actor="ann", reason="the first")
    outcomes = run_at_once(crowd, book, [(2, "the same run")] * 8)

    assert set(outcomes.values()) == {2}
    assert [entry.version for entry in ledger.entries(book, "churn")] == [1, 2]
    assert aliases("churn") == {"champion": 2}
    assert ledger.verify(book, "churn") == ()
