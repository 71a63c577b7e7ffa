"""How many cases are tried, and the shop they are tried on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from effort import Effort
from fault_shop import Shop, write_shop
from killer import Nursery

from embedded import apart, home, migrated, postgres_server
from evergreen import lake
from evergreen.features import store
from evergreen.provenance import receipts
from evergreen.release import ledger, ledger_table
from evergreen.settings import Settings
from evergreen.training import tracking

_lines = pytest.StashKey[list[str]]()


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Effort:
    """A few cases in passing, many for those marked `faults`.

    `FAULTS_KILLS` and `FAULTS_CASES` change how many are many, `FAULTS_SEED` what is drawn.
    """
    many = request.param == "many"
    kills = int(os.environ.get("FAULTS_KILLS", "1000")) if many else 4
    cases = int(os.environ.get("FAULTS_CASES", "200")) if many else 2
    return Effort(
        order_free=cases,
        corrected=max(1, cases // 5),
        data_kills=kills * 17 // 20,
        model_kills=kills - kills * 17 // 20,
        seed=int(os.environ.get("FAULTS_SEED", "13")),
    )


@pytest.fixture
def plain_shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shop:
    """The shop, delivered, with nothing loaded and no model registry."""
    written = write_shop(tmp_path)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(written.use_cases))
    monkeypatch.setenv("EVERGREEN_THREADS", "1")
    lake.catalog(home).create_tables()
    receipts.create_tables()
    ledger_table.create_tables(ledger.engine(home))
    store.apply([written.use_case])
    return written


@pytest.fixture
def shop(home: Settings, plain_shop: Shop) -> Shop:
    """The shop with a model registry."""
    tracking.initialise(home)
    return plain_shop


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """The process that steps are forked from."""
    started = Nursery(tmp_path_factory.mktemp("nursery"))
    yield started
    started.close()


@pytest.fixture
def report(request: pytest.FixtureRequest, record_property):
    """Add lines to the summary at the end of the session, and to the XML report."""

    def add(lines: list[str]) -> None:
        title = request.node.name
        request.config.stash.setdefault(_lines, []).extend(
            [title, *(f"  {line}" for line in lines)]
        )
        for number, line in enumerate(lines):
            record_property(f"{title}.{number}", line)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(_lines, [])
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)
