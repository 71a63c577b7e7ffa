"""What all tests share: how they are spread, and that nothing from outside reaches them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis

# Before Feast, whose import would have all counters of a process share their values.
import prometheus_client
import pytest
from xdist.scheduler import LoadFileScheduling

from evergreen.settings import PROJECT_ROOT

# Before anything loads OpenMP: a process of tests per core, and threads of several would only wait
# for each other (a search of test_tune.py took 79 s instead of 23).
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("evergreen", deadline=None)
hypothesis.settings.load_profile("evergreen")

REAL_DATA = PROJECT_ROOT.parent / "shared" / "data" / "online_retail"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Give each process whole files of tests, and one of them all that start services."""
    return _Scheduling(config, log)


class _Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        # They look for free ports, and two Airflows at once wait for each other.
        return "services" if {"scheduler", "local"} & {*file.split("/")} else file


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("EVERGREEN_", "PYICEBERG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))


@pytest.fixture
def online_retail() -> Path:
    """The real order history; tests that need it skip where it is absent, saying so."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real data is not here: {REAL_DATA} does not exist")
    return REAL_DATA
