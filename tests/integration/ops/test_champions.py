"""`evergreen champions`, over a ledger whose instants are known."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from evergreen.cli import main
from evergreen.release import ledger
from evergreen.release.ledger_table import create_tables
from evergreen.settings import Settings
from small_shop import write_small_shop

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(
    home: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Ask:
    """Ask about a shop of Berlin; return the code and what was printed."""
    folder = write_small_shop(tmp_path / "use_cases", zone="Europe/Berlin")
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    monkeypatch.setenv("COLUMNS", "200")
    create_tables(ledger.engine())

    def run(*options: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["evergreen", "champions", "shop", *options])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(str(end.code))
        shown = capsys.readouterr()
        return code, " ".join((shown.out + shown.err).split())

    return run


@pytest.fixture
def three_champions(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of the evening of 2 March, of the night clocks go on, and of the summer."""
    instants = iter(
        [
            datetime(2026, 3, 2, 22, 59, 59, tzinfo=UTC),
            datetime(2026, 3, 29, 1, 0, tzinfo=UTC),
            datetime(2026, 7, 1, 12, 0, tzinfo=UTC),
        ]
    )
    monkeypatch.setattr(ledger, "_now", lambda *_: next(instants))
    for version, action, reason in ((1, "promote", "first"), (2, "promote", "drift of [x]")):
        ledger.append(ledger.engine(), "shop", action, version, actor="shop_train", reason=reason)
    ledger.append(ledger.engine(), "shop", "roll_back", 1, actor="ann", reason="worse on Mondays")


def test_who_was_in_charge_at_an_instant(ask: Ask, three_champions: None) -> None:
    # Midnight in Berlin, one second after the promotion.
    code, shown = ask("--at", "2026-03-03T00:00")
    assert code == 0
    assert shown == (
        "shop at 2026-03-03 00:00:00+01:00: version 1 from 2026-03-02 23:59:59+01:00 "
        "until 2026-03-29 03:00:00+02:00 by shop_train (promote), entry 1 of the ledger "
        "because first"
    )
    assert "nobody was in charge yet" in ask("--at", "2026-03-02T23:59:58")[1]
    # The same clock in UTC is an hour later.
    assert "version 1" in ask("--at", "2026-03-02T23:59:58Z")[1]
    assert "version 1 " in ask("--at", "2026-03-29T01:59")[1]
    assert "version 2 " in ask("--at", "2026-03-29T03:00")[1]
    assert "because drift of [x]" in ask("--at", "2026-04-01")[1]
    assert (
        "version 1 from 2026-07-01 14:00:00+02:00 until now by ann (roll back), entry 3"
        in ask("--at", "2026-12-24")[1]
    )


def test_all_champions_with_their_terms(ask: Ask, three_champions: None) -> None:
    code, shown = ask()
    assert code == 0
    for row in (
        "1 │ 1 │ 2026-03-02 23:59:59+01:00 │ 2026-03-29 03:00:00+02:00 │ shop_train (promote)",
        "2 │ 2 │ 2026-03-29 03:00:00+02:00 │ 2026-07-01 14:00:00+02:00 │ shop_train (promote)",
        "3 │ 1 │ 2026-07-01 14:00:00+02:00 │ now │ ann (roll back) │ worse on Mondays",
    ):
        assert row in shown
    assert "drift of [x]" in shown


def test_nobody_yet_and_no_instant(ask: Ask) -> None:
    assert ask() == (0, "shop: nobody has been in charge yet.")
    assert ask("--at", "2026-03-03") == (
        0,
        "shop at 2026-03-03 00:00:00+01:00: nobody was in charge yet",
    )
    code, shown = ask("--at", "3 March")
    assert code == 1
    assert "The instant is '3 March'; expected a date and time" in shown


def test_a_ledger_that_was_changed_is_shown_and_not_believed(
    ask: Ask, three_champions: None
) -> None:
    with ledger.engine().begin() as connection:
        connection.execute(text("ALTER TABLE release_ledger DISABLE TRIGGER ALL"))
        connection.execute(
            text("UPDATE release_ledger SET recorded_at = '2026-06-30' WHERE sequence = 2")
        )
        connection.execute(text("ALTER TABLE release_ledger ENABLE TRIGGER ALL"))
    code, shown = ask()
    assert code == 1
    assert "2026-06-30" in shown
    assert "LedgerDamagedError: The release ledger of shop" in shown
    code, shown = ask("--at", "2026-04-01")
    assert code == 1
    assert "entry 2: its content does not give its hash" in shown
