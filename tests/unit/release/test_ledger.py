from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from evergreen.errors import LedgerConflictError, PermanentError, ServiceDownError
from evergreen.release import ledger
from evergreen.release.ledger_table import create_tables
from evergreen.settings import load_settings

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def append(engine, version, expected, *, action="promote", use_case="churn", **changes):
    arguments = {"actor": "gate", "reason": "better", "request": f"run {version}", **changes}
    return ledger.append(engine, use_case, action, version, expected_sequence=expected, **arguments)


def three_entries(engine):
    append(engine, 1, 0, recorded_at=START, evidence={"auc": 0.7})
    append(engine, 2, 1, recorded_at=START + timedelta(days=1), evidence={"auc": 0.8})
    return append(
        engine, 1, 2, action="roll_back", request="hand", recorded_at=START + timedelta(days=2)
    )


def tamper(engine, statement):
    with engine.begin() as connection:
        for event in ("update", "delete"):
            connection.execute(text(f"DROP TRIGGER IF EXISTS release_ledger_no_{event}"))
        connection.execute(text(statement))


def test_an_empty_ledger_has_no_champion_and_is_intact(sqlite_ledger):
    assert ledger.champion(sqlite_ledger, "churn") is None
    assert ledger.entries(sqlite_ledger, "churn") == []
    assert ledger.verify(sqlite_ledger, "churn") == ()


def test_entries_follow_one_another(sqlite_ledger):
    newest = three_entries(sqlite_ledger)
    found = ledger.entries(sqlite_ledger, "churn")
    assert [(entry.sequence, entry.version, entry.previous_version) for entry in found] == [
        (1, 1, None),
        (2, 2, 1),
        (3, 1, 2),
    ]
    assert found[-1] == newest == ledger.champion(sqlite_ledger, "churn")
    assert found[0].previous_hash == ledger.GENESIS
    assert [entry.hash for entry in found[:2]] == [entry.previous_hash for entry in found[1:]]
    assert ledger.verify(sqlite_ledger, "churn") == ()


def test_use_cases_have_their_own_ledgers(sqlite_ledger):
    append(sqlite_ledger, 1, 0)
    append(sqlite_ledger, 7, 0, use_case="retail")
    assert ledger.champion(sqlite_ledger, "churn").version == 1
    assert ledger.champion(sqlite_ledger, "retail").sequence == 1


def test_champion_at_an_instant_is_the_entry_then_in_force(sqlite_ledger):
    three_entries(sqlite_ledger)

    def version(instant):
        entry = ledger.champion_at(sqlite_ledger, "churn", instant)
        return entry and entry.sequence

    assert version(START - timedelta(microseconds=1)) is None
    assert version(START) == 1
    assert version(START + timedelta(hours=30)) == 2
    # The same instant in another zone.
    assert version((START + timedelta(days=2)).astimezone(timezone(timedelta(hours=9)))) == 3
    with pytest.raises(ValueError, match="without a zone"):
        version(START.replace(tzinfo=None))


def test_the_second_actor_after_the_same_entry_is_refused(sqlite_ledger):
    append(sqlite_ledger, 1, 0)
    append(sqlite_ledger, 2, 1)
    with pytest.raises(LedgerConflictError, match="after entry 1: the ledger ends with entry 2"):
        append(sqlite_ledger, 3, 1)
    with pytest.raises(LedgerConflictError, match="after entry 0"):
        append(sqlite_ledger, 3, 0)
    with pytest.raises(LedgerConflictError, match="after entry 5"):
        append(sqlite_ledger, 3, 5)
    assert len(ledger.entries(sqlite_ledger, "churn")) == 2


def test_a_retried_promotion_finds_its_own_entry(sqlite_ledger):
    first = append(sqlite_ledger, 1, 0)
    assert append(sqlite_ledger, 1, 0) == first
    append(sqlite_ledger, 2, 1)
    # Others went on in the meantime: the retry must not put version 1 back in charge.
    assert append(sqlite_ledger, 1, 0) == first
    assert ledger.champion(sqlite_ledger, "churn").version == 2
    assert len(ledger.entries(sqlite_ledger, "churn")) == 2


def test_promoting_the_champion_again_appends_nothing(sqlite_ledger):
    first = append(sqlite_ledger, 1, 0)
    assert append(sqlite_ledger, 1, 1, request="another") == first


def test_a_decision_by_hand_appends_after_whatever_is_newest(sqlite_ledger):
    append(sqlite_ledger, 1, 0)
    append(sqlite_ledger, 2, None, request=None)
    back = append(sqlite_ledger, 1, None, action="roll_back", request=None)
    assert back.sequence == 3
    assert append(sqlite_ledger, 1, None, action="roll_back", request=None) == back


def test_roll_back_goes_to_former_champions_only(sqlite_ledger):
    with pytest.raises(PermanentError, match="Former champions: none"):
        append(sqlite_ledger, 1, 0, action="roll_back")
    append(sqlite_ledger, 1, 0)
    append(sqlite_ledger, 2, 1)
    with pytest.raises(PermanentError, match="in charge now"):
        append(sqlite_ledger, 2, 2, action="roll_back", request="hand")
    with pytest.raises(PermanentError, match=r"never was champion\. Former champions: 1"):
        append(sqlite_ledger, 3, 2, action="roll_back", request="hand")
    assert append(sqlite_ledger, 1, 2, action="roll_back", request="hand").previous_version == 2


def test_time_never_runs_backwards(sqlite_ledger):
    append(sqlite_ledger, 1, 0, recorded_at=datetime(2999, 1, 1, tzinfo=UTC))
    with pytest.raises(PermanentError, match="before entry 1"):
        append(sqlite_ledger, 2, 1, recorded_at=START)
    # The database's clock is behind that entry; the order holds all the same.
    second = append(sqlite_ledger, 2, 1)
    assert second.recorded_at == datetime(2999, 1, 1, tzinfo=UTC)


def test_the_database_clock_is_utc(sqlite_ledger):
    before = datetime.now(UTC) - timedelta(seconds=2)
    assert before <= append(sqlite_ledger, 1, 0).recorded_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE release_ledger SET version = 9 WHERE sequence = 2", "entry 2: its content"),
        ("UPDATE release_ledger SET reason = 'none' WHERE sequence = 1", "entry 1: its content"),
        (
            "UPDATE release_ledger SET recorded_at = '2026-02-01 00:00:00' WHERE sequence = 3",
            "entry 3 is older",
        ),
        ("UPDATE release_ledger SET evidence = '{}' WHERE sequence = 1", "evidence was changed"),
        ("UPDATE release_ledger SET use_case = 'x' WHERE sequence = 1", "first entry is number 2"),
        ("DELETE FROM release_ledger WHERE sequence = 1", "first entry is number 2"),
        ("DELETE FROM release_ledger WHERE sequence = 2", "between 1 and 3 are missing"),
        (
            "UPDATE release_ledger SET sequence = iif(sequence = 2, 13, sequence + 9)",
            "does not follow",
        ),
    ],
)
def test_verify_finds_tampering(sqlite_ledger, statement, problem):
    three_entries(sqlite_ledger)
    tamper(sqlite_ledger, statement)
    assert any(problem in found for found in ledger.verify(sqlite_ledger, "churn"))


def test_a_ledger_cut_off_at_its_end_shows_against_an_anchor(sqlite_ledger):
    newest = three_entries(sqlite_ledger)
    anchor = (newest.sequence, newest.hash)
    assert ledger.verify(sqlite_ledger, "churn", anchor) == ()
    tamper(sqlite_ledger, "DELETE FROM release_ledger WHERE sequence = 3")
    assert ledger.verify(sqlite_ledger, "churn") == ()
    assert "entry 3" in ledger.verify(sqlite_ledger, "churn", anchor)[0]


@pytest.mark.parametrize(
    "statement", ["DELETE FROM release_ledger", "UPDATE release_ledger SET version = 9"]
)
def test_the_table_refuses_changes(sqlite_ledger, statement):
    newest = three_entries(sqlite_ledger)
    with pytest.raises(DBAPIError, match="append-only"), sqlite_ledger.begin() as connection:
        connection.execute(text(statement))
    assert ledger.champion(sqlite_ledger, "churn") == newest


def test_create_tables_keeps_what_is_there(sqlite_ledger):
    append(sqlite_ledger, 1, 0)
    create_tables(sqlite_ledger)
    assert len(ledger.entries(sqlite_ledger, "churn")) == 1


def test_racing_threads_give_one_winner_per_entry(sqlite_ledger):
    threads, rounds = 6, 4
    for sequence in range(rounds):
        barrier = Barrier(threads)

        def race(version, barrier=barrier, sequence=sequence):
            barrier.wait()
            try:
                return append(sqlite_ledger, version, sequence)
            except LedgerConflictError:
                return None

        with ThreadPoolExecutor(threads) as pool:
            versions = [100 * sequence + n for n in range(threads)]
            won = [entry for entry in pool.map(race, versions) if entry]
        assert [entry.sequence for entry in won] == [sequence + 1]
    assert ledger.verify(sqlite_ledger, "churn") == ()


def test_a_ledger_that_does_not_answer_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("EVERGREEN_LEDGER_URL", f"sqlite:///{tmp_path}/absent/ledger.db")
    with pytest.raises(ServiceDownError, match="make up"):
        ledger.engine(load_settings())


operations = st.lists(
    st.tuples(
        st.sampled_from(["promote", "roll_back"]),
        st.integers(1, 4),
        st.integers(0, 6) | st.none(),
        st.integers(1, 3),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(operations)
def test_any_history_is_a_chain_without_gaps_and_without_empty_steps(history):
    engine = create_engine("sqlite://", poolclass=StaticPool)
    create_tables(engine)
    for action, version, expected, request in history:
        before = ledger.entries(engine, "churn")
        try:
            entry = append(engine, version, expected, action=action, request=f"run {request}")
        except (LedgerConflictError, PermanentError):
            assert ledger.entries(engine, "churn") == before
        else:
            assert entry in ledger.entries(engine, "churn")
            assert ledger.entries(engine, "churn")[: len(before)] == before
    found = ledger.entries(engine, "churn")
    assert [entry.sequence for entry in found] == list(range(1, len(found) + 1))
    assert all(entry.version != entry.previous_version for entry in found)
    assert ledger.verify(engine, "churn") == ()
    engine.dispose()
