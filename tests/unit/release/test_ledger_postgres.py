"""The ledger on the embedded Postgres: what only a real server can show."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from threading import Barrier

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from evergreen.errors import LedgerConflictError
from evergreen.ops.local.postgres import embedded_postgres
from evergreen.release import ledger
from evergreen.release.ledger_table import create_tables
from evergreen.settings import DATABASES, load_settings

pytestmark = pytest.mark.integration

RACER = """
import sys
from sqlalchemy import create_engine
from evergreen.errors import LedgerConflictError
from evergreen.release import ledger
from evergreen.release.ledger_table import create_tables
engine = create_engine(sys.argv[1])
create_tables(engine)
print("ready", flush=True)
sys.stdin.readline()
won = []
for sequence in range(10):
    while sequence and ledger.champion(engine, "race").sequence < sequence:
        pass
    try:
        ledger.append(engine, "race", "promote", int(sys.argv[2]) * 100 + sequence,
                      expected_sequence=sequence, actor=sys.argv[2], reason="race")
        won.append(sequence)
    except LedgerConflictError:
        pass
print(won, flush=True)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    home = tmp_path_factory.mktemp("pg")
    # Only the ledger's database is wanted.
    elsewhere = {name: "sqlite://" for name in DATABASES if name != "ledger"}
    settings = replace(load_settings(), home=home, urls=elsewhere)
    with embedded_postgres(settings):
        yield settings.database_url("ledger")


@pytest.fixture
def engine(url):
    created = create_engine(url, poolclass=NullPool)
    with created.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS release_ledger"))
    create_tables(created)
    return created


def append(engine, version, expected, **changes):
    arguments = {"actor": "gate", "reason": "better", "request": f"run {version}", **changes}
    return ledger.append(
        engine, "churn", "promote", version, expected_sequence=expected, **arguments
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE release_ledger SET version = 9",
        "DELETE FROM release_ledger",
        "TRUNCATE release_ledger",
    ],
)
def test_the_server_refuses_changes(engine, statement):
    append(engine, 1, 0)
    create_tables(engine)
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(statement))
    assert ledger.champion(engine, "churn").version == 1


def test_a_missing_trigger_comes_back(engine):
    append(engine, 1, 0)
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER release_ledger_append_only ON release_ledger"))
    create_tables(engine)
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text("DELETE FROM release_ledger"))


def test_instants_and_hashes_survive_the_server(engine):
    given = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
    first = append(engine, 1, 0, recorded_at=given, evidence={"auc": 0.1 + 0.2, "name": "Zoë"})
    second = append(engine, 2, 1)
    assert ledger.entries(engine, "churn") == [first, second]
    assert second.recorded_at > given
    assert ledger.champion_at(engine, "churn", given) == first
    assert ledger.verify(engine, "churn") == ()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE release_ledger DISABLE TRIGGER ALL"))
        connection.execute(text("UPDATE release_ledger SET actor = 'me' WHERE sequence = 1"))
    assert ledger.verify(engine, "churn") != ()


def test_tables_are_created_by_many_at_once(engine):
    for _ in range(3):
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE release_ledger"))
        barrier = Barrier(6)

        def create(_, barrier=barrier):
            barrier.wait()
            create_tables(engine)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(create, range(6)))
        append(engine, 1, 0)


def test_retries_of_one_request_at_once_append_once(engine):
    barrier = Barrier(6)

    def retry(_):
        barrier.wait()
        return append(engine, 1, 0)

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(retry, range(6)))) == 1
    assert len(ledger.entries(engine, "churn")) == 1


def test_racing_threads_give_one_winner_per_entry(engine):
    for sequence in range(5):
        barrier = Barrier(8)

        def race(version, barrier=barrier, sequence=sequence):
            barrier.wait()
            try:
                return append(engine, version, sequence)
            except LedgerConflictError:
                return None

        with ThreadPoolExecutor(8) as pool:
            won = [e for e in pool.map(race, range(100 * sequence, 100 * sequence + 8)) if e]
        assert [entry.sequence for entry in won] == [sequence + 1]


def test_racing_processes_give_one_winner_per_entry(engine, url):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url, str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in (1, 2, 3)
    ]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            racer.stdin.write("\n")
            racer.stdin.flush()
        won = [racer.communicate(timeout=60)[0] for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert sorted(n for line in won for n in json.loads(line)) == list(range(10))
    assert len(ledger.entries(engine, "race")) == 10
    assert ledger.verify(engine, "race") == ()
