"""The release ledger, on the embedded Postgres."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Barrier
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from evergreen.errors import (
    LedgerConflictError,
    LedgerDamagedError,
    PermanentError,
    ServiceDownError,
)
from evergreen.release import ledger
from evergreen.release.ledger_table import LEDGER, create_tables
from evergreen.settings import load_settings

_numbers = count()


def append(engine, version, expected, *, action="promote", use_case="churn", **changes):
    arguments = {"actor": "gate", "reason": "better", "request": f"run {version}", **changes}
    return ledger.append(engine, use_case, action, version, expected_sequence=expected, **arguments)


def three_entries(engine):
    append(engine, 1, 0, evidence={"auc": 0.7})
    append(engine, 2, 1, evidence={"auc": 0.1 + 0.2, "name": "Zoë"})
    return append(engine, 1, 2, action="roll_back", request="hand")


def tamper(engine, statement):
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE release_ledger DISABLE TRIGGER ALL"))
        connection.execute(text(statement))
        connection.execute(text("ALTER TABLE release_ledger ENABLE TRIGGER ALL"))


def backdate(engine, instants):
    """Write the ledger anew, as if it had been appended to at these instants."""
    found, before = ledger.entries(engine, "churn"), ledger.GENESIS
    tamper(engine, "DELETE FROM release_ledger")
    for entry, instant in zip(found, instants, strict=True):
        moved = dataclasses.replace(entry, recorded_at=instant, previous_hash=before)
        before = ledger._hash(dataclasses.asdict(moved))
        moved = dataclasses.replace(moved, hash=before)
        with engine.begin() as connection:
            connection.execute(LEDGER.insert().values(**dataclasses.asdict(moved)))


def test_an_empty_ledger_has_no_champion_and_is_intact(book):
    assert ledger.champion(book, "churn") is None
    assert ledger.entries(book, "churn") == []
    assert ledger.verify(book, "churn") == ()


def test_entries_follow_one_another(book):
    newest = three_entries(book)
    found = ledger.entries(book, "churn")
    assert [(entry.sequence, entry.version, entry.previous_version) for entry in found] == [
        (1, 1, None),
        (2, 2, 1),
        (3, 1, 2),
    ]
    assert found[-1] == newest == ledger.champion(book, "churn")
    assert found[0].previous_hash == ledger.GENESIS
    assert [entry.hash for entry in found[:2]] == [entry.previous_hash for entry in found[1:]]
    assert ledger.verify(book, "churn") == ()


def test_use_cases_have_their_own_ledgers(book):
    append(book, 1, 0)
    append(book, 7, 0, use_case="retail")
    assert ledger.champion(book, "churn").version == 1
    assert ledger.champion(book, "retail").sequence == 1


def test_the_second_actor_after_the_same_entry_is_refused(book):
    append(book, 1, 0)
    append(book, 2, 1)
    with pytest.raises(LedgerConflictError, match="after entry 1: the ledger ends with entry 2"):
        append(book, 3, 1)
    with pytest.raises(LedgerConflictError, match="after entry 0"):
        append(book, 3, 0)
    with pytest.raises(LedgerConflictError, match="after entry 5"):
        append(book, 3, 5)
    assert len(ledger.entries(book, "churn")) == 2


def test_a_retried_promotion_finds_its_own_entry(book):
    first = append(book, 1, 0)
    assert append(book, 1, 0) == first
    append(book, 2, 1)
    # Others went on in the meantime: the retry must not put version 1 back in charge.
    assert append(book, 1, 0) == first
    assert ledger.champion(book, "churn").version == 2
    assert len(ledger.entries(book, "churn")) == 2


def test_promoting_the_champion_again_appends_nothing(book):
    first = append(book, 1, 0)
    assert append(book, 1, 1, request="another") == first


def test_a_decision_by_hand_appends_after_whatever_is_newest(book):
    append(book, 1, 0)
    append(book, 2, None, request=None)
    back = append(book, 1, None, action="roll_back", request=None)
    assert back.sequence == 3
    assert append(book, 1, None, action="roll_back", request=None) == back


def test_roll_back_goes_to_former_champions_only(book):
    with pytest.raises(PermanentError, match="Former champions: none"):
        append(book, 1, 0, action="roll_back")
    append(book, 1, 0)
    append(book, 2, 1)
    with pytest.raises(PermanentError, match="in charge now"):
        append(book, 2, 2, action="roll_back", request="hand")
    with pytest.raises(PermanentError, match=r"never was champion\. Former champions: 1"):
        append(book, 3, 2, action="roll_back", request="hand")
    assert append(book, 1, 2, action="roll_back", request="hand").previous_version == 2


def test_time_never_runs_backwards(book):
    before = datetime.now(UTC) - timedelta(seconds=2)
    assert before <= append(book, 1, 0).recorded_at <= datetime.now(UTC)
    late = datetime(2999, 1, 1, tzinfo=UTC)
    backdate(book, [late])
    # The database's clock is behind that entry; the order holds all the same.
    assert append(book, 2, 1).recorded_at == late
    assert ledger.verify(book, "churn") == ()


def test_who_was_in_charge_at_an_instant(book):
    three_entries(book)
    first, second, third = (datetime(2026, 3, day, 12, tzinfo=UTC) for day in (1, 3, 5))
    backdate(book, [first, second, third])
    tick = timedelta(microseconds=1)

    def version_at(instant):
        entry = ledger.champion_at(book, "churn", instant)
        return entry and (entry.sequence, entry.version)

    assert version_at(first - tick) is None
    # From the very instant on, and up to the next entry.
    assert version_at(first) == version_at(second - tick) == (1, 1)
    assert version_at(second) == version_at(third - tick) == (2, 2)
    assert version_at(third) == version_at(third + timedelta(days=900)) == (3, 1)
    # 13:00 in Berlin is noon in UTC.
    assert version_at(datetime(2026, 3, 3, 12, 59, tzinfo=ZoneInfo("Europe/Berlin"))) == (1, 1)
    assert version_at(datetime(2026, 3, 3, 13, 0, tzinfo=ZoneInfo("Europe/Berlin"))) == (2, 2)
    with pytest.raises(ValueError, match="has no zone"):
        version_at(third.replace(tzinfo=None))
    assert ledger.champion_at(book, "retail", third) is None


def test_what_is_read_does_not_depend_on_the_zone_of_the_server(book):
    known = [append(book, 1, 0), append(book, 2, 1)]
    with book.connect() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'"))
        connection.commit()
    book.dispose()
    assert ledger.entries(book, "churn") == known
    assert {entry.recorded_at.tzinfo for entry in known} == {UTC}
    assert ledger.verify(book, "churn") == ()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE release_ledger SET version = 9 WHERE sequence = 2", "entry 2: its content"),
        ("UPDATE release_ledger SET reason = 'none' WHERE sequence = 1", "entry 1: its content"),
        (
            "UPDATE release_ledger SET recorded_at = '2020-02-01 00:00+00' WHERE sequence = 3",
            "entry 3 is older",
        ),
        ("UPDATE release_ledger SET evidence = '{}' WHERE sequence = 1", "evidence was changed"),
        ("UPDATE release_ledger SET use_case = 'x' WHERE sequence = 1", "first entry is number 2"),
        ("DELETE FROM release_ledger WHERE sequence = 1", "first entry is number 2"),
        ("DELETE FROM release_ledger WHERE sequence = 2", "between 1 and 3 are missing"),
        (
            "UPDATE release_ledger SET sequence = sequence + 9 + (sequence = 2)::int * 2",
            "does not follow",
        ),
    ],
)
def test_verify_finds_tampering(book, statement, problem):
    three_entries(book)
    tamper(book, statement)
    assert any(problem in found for found in ledger.verify(book, "churn"))
    # Nothing is chained upon it, and nobody's retry is answered from it.
    before = ledger.entries(book, "churn")
    for expected, version in ((None, 4), (3, 4), (0, 1)):
        with pytest.raises(LedgerDamagedError, match=f"of churn.*{problem}.*evergreen restore"):
            append(book, version, expected)
    assert ledger.entries(book, "churn") == before


def test_a_changed_last_entry_names_no_champion(book):
    entry = three_entries(book)
    tamper(book, "UPDATE release_ledger SET version = 2 WHERE sequence = 3")
    for ask in (
        lambda: ledger.champion(book, "churn"),
        lambda: ledger.champion_at(book, "churn", entry.recorded_at),
    ):
        with pytest.raises(LedgerDamagedError, match="entry 3: its content"):
            ask()
    # Of any changed entry nobody knows when it came.
    with pytest.raises(LedgerDamagedError, match="entry 3: its content"):
        ledger.champion_at(book, "churn", entry.recorded_at - timedelta(days=1))


def test_a_ledger_cut_off_at_its_end_shows_against_an_anchor(book):
    newest = three_entries(book)
    anchor = (newest.sequence, newest.hash)
    assert ledger.verify(book, "churn", anchor) == ()
    tamper(book, "DELETE FROM release_ledger WHERE sequence = 3")
    assert ledger.verify(book, "churn") == ()
    assert "entry 3" in ledger.verify(book, "churn", anchor)[0]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM release_ledger",
        "UPDATE release_ledger SET version = 9",
        "TRUNCATE release_ledger",
    ],
)
def test_the_table_refuses_changes(book, statement):
    newest = three_entries(book)
    for trigger in ("append_only", "no_truncate"):
        with book.begin() as connection:
            connection.execute(text(f"DROP TRIGGER release_ledger_{trigger} ON release_ledger"))
    # What is there stays, and a missing trigger comes back.
    create_tables(book)
    with pytest.raises(DBAPIError, match="append-only"), book.begin() as connection:
        connection.execute(text(statement))
    assert ledger.champion(book, "churn") == newest


def test_tables_are_created_by_many_at_once(book):
    for _ in range(3):
        with book.begin() as connection:
            connection.execute(text("DROP TABLE release_ledger"))
        barrier = Barrier(6)

        def create(_, barrier=barrier):
            barrier.wait()
            create_tables(book)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(create, range(6)))
        append(book, 1, 0)


def test_retries_of_one_request_at_once_append_once(book):
    barrier = Barrier(6)

    def retry(_):
        barrier.wait()
        return append(book, 1, 0)

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(retry, range(6)))) == 1
    assert len(ledger.entries(book, "churn")) == 1


def test_racing_threads_give_one_winner_per_entry(book):
    threads, rounds = 8, 5
    for sequence in range(rounds):
        barrier = Barrier(threads)

        def race(version, barrier=barrier, sequence=sequence):
            barrier.wait()
            try:
                return append(book, version, sequence)
            except LedgerConflictError:
                return None

        with ThreadPoolExecutor(threads) as pool:
            versions = [100 * sequence + n for n in range(threads)]
            won = [entry for entry in pool.map(race, versions) if entry]
        assert [entry.sequence for entry in won] == [sequence + 1]
    assert ledger.verify(book, "churn") == ()


def test_racing_decisions_by_hand_all_land_in_a_row(book):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda version: append(book, version, None, request=None), range(1, 13)))
    assert [entry.sequence for entry in ledger.entries(book, "churn")] == list(range(1, 13))
    assert ledger.verify(book, "churn") == ()


def test_a_ledger_that_does_not_answer_says_what_to_do(monkeypatch, tmp_path):
    url = f"postgresql+psycopg2://postgres@/ledger?host={tmp_path}"
    monkeypatch.setenv("EVERGREEN_LEDGER_URL", url)
    with pytest.raises(ServiceDownError, match=r"(?s)`ledger`.*make up"):
        ledger.champion(ledger.engine(load_settings()), "churn")


operations = st.lists(
    st.tuples(
        st.sampled_from(["promote", "roll_back"]),
        st.integers(1, 4),
        st.integers(0, 6) | st.none(),
        st.integers(1, 3),
    ),
    max_size=12,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations)
def test_any_history_is_a_chain_without_gaps_and_without_empty_steps(book, history):
    name = f"shop{next(_numbers)}"
    for action, version, expected, request in history:
        before = ledger.entries(book, name)
        arguments = {"action": action, "request": f"run {request}", "use_case": name}
        try:
            entry = append(book, version, expected, **arguments)
        except (LedgerConflictError, PermanentError):
            assert ledger.entries(book, name) == before
        else:
            assert entry in ledger.entries(book, name)
            assert ledger.entries(book, name)[: len(before)] == before
    found = ledger.entries(book, name)
    assert [entry.sequence for entry in found] == list(range(1, len(found) + 1))
    assert all(entry.version != entry.previous_version for entry in found)
    assert ledger.verify(book, name) == ()


def roll_out(engine, challenger, share, expected, **changes):
    step = {"challenger": challenger, "share": share, "action": "roll_out"}
    return append(engine, 1, expected, **{"request": f"night {share}", **step, **changes})


def test_a_rollout_changes_nobody_in_charge_until_it_ends(book):
    append(book, 1, 0)
    assert ledger.rollout(book, "churn") is None
    roll_out(book, 2, 0.0, 1)
    step = roll_out(book, 2, 0.25, 2)
    assert ledger.champion(book, "churn").sequence == 1
    assert ledger.rollout(book, "churn") == step
    assert (step.version, step.challenger, step.share) == (1, 2, 0.25)
    assert [entry.sequence for entry in ledger.releases(book, "churn")] == [1]
    assert ledger.champion_at(book, "churn", step.recorded_at).sequence == 1
    append(book, 1, 3, action="stop", request="hand")
    assert ledger.rollout(book, "churn") is None
    roll_out(book, 3, 0.0, 4, request="again")
    append(book, 3, 5)
    assert ledger.rollout(book, "churn") is None
    assert ledger.champion(book, "churn").version == 3
    assert ledger.verify(book, "churn") == ()


def test_repeated_steps_are_made_once(book):
    append(book, 1, 0)
    first = roll_out(book, 2, 0.0, 1)
    assert roll_out(book, 2, 0.0, 1) == first
    # Where it is on already, whoever asks.
    assert roll_out(book, 2, 0.0, None, request="somebody") == first
    assert append(book, 1, 1, request="once more").sequence == 1
    ended = append(book, 1, 2, action="stop", request="night")
    assert append(book, 1, 2, action="stop", request="night") == ended


def test_a_promotion_decided_beside_a_rollout_holds_and_a_step_on_an_older_one_does_not(book):
    append(book, 1, 0)
    roll_out(book, 2, 0.0, 1)
    roll_out(book, 2, 0.1, 2)
    with pytest.raises(LedgerConflictError, match="cannot roll_out version 2 after entry 2"):
        roll_out(book, 2, 0.5, 2)
    # The gate has compared with the champion, who is the same.
    assert append(book, 4, 1).sequence == 4
    with pytest.raises(LedgerConflictError):
        append(book, 5, 1)
    with pytest.raises(LedgerConflictError):
        append(book, 5, 9)


def test_what_is_no_rollout_is_refused(book):
    with pytest.raises(PermanentError, match="nobody"):
        roll_out(book, 2, 0.0, 0)
    append(book, 1, 0)
    for challenger, share in ((1, 0.5), (2, 1.5), (None, 0.5)):
        with pytest.raises(PermanentError, match="expected another version"):
            roll_out(book, challenger, share, 1)
    with pytest.raises(PermanentError, match="none to stop"):
        append(book, 1, 1, action="stop")
    assert [entry.sequence for entry in ledger.entries(book, "churn")] == [1]


def test_a_ledger_of_before_there_were_rollouts_goes_on(book):
    first = append(book, 1, 0)
    with book.begin() as connection:
        connection.execute(
            text(
                "ALTER TABLE release_ledger DROP COLUMN challenger; "
                "ALTER TABLE release_ledger DROP COLUMN share; "
                "ALTER TABLE release_ledger DROP CONSTRAINT release_ledger_action; "
                "ALTER TABLE release_ledger ADD CONSTRAINT release_ledger_action "
                "CHECK (action IN ('promote', 'roll_back'))"
            )
        )
    create_tables(book)
    create_tables(book)
    assert ledger.entries(book, "churn") == [first]
    roll_out(book, 2, 0.0, 1)
    assert ledger.verify(book, "churn") == ()


def test_a_changed_share_is_noticed(book):
    append(book, 1, 0)
    roll_out(book, 2, 0.1, 1)
    tamper(book, "UPDATE release_ledger SET share = 1.0 WHERE sequence = 2")
    with pytest.raises(LedgerDamagedError):
        ledger.rollout(book, "churn")
