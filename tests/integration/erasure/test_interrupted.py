"""An erasure that is killed at any point and repeated ends like one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embedded import Build
from erasure_looks import contents, erase, places
from evergreen import steps
from evergreen.contract import load_use_case
from evergreen.provenance import receipts
from evergreen.provenance.staleness import find_stale
from evergreen.settings import PROJECT_ROOT, load_settings
from lived_shop import REJECTED, SECOND, WHO, build_lived_shop
from tiny_shop import NAME
from watched_shop import TRAINED

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]

# Ends itself, like a machine that lost power, when a function is called for the n-th time.
_SCRIPT = """
import os, signal, sys
name, count = sys.argv[1], int(sys.argv[2])
def tick(frame, event, argument):
    global count
    if event == "call" and frame.f_code.co_name == name:
        if "evergreen" in frame.f_globals.get("__name__", ""):
            count -= 1
            if not count:
                os.kill(os.getpid(), signal.SIGKILL)
from evergreen.erasure import run
from evergreen.settings import load_settings
subject = run.find_subject(sys.argv[3], sys.argv[4])
sys.setprofile(tick)
run.erase(subject, "ann", "request 17", load_settings())
"""
# In this order, each where the one before has stopped: what was begun is there already.
_POINTS = [
    ("_rewrite", 3),
    # Committed, and not receipted.
    ("tell", 2),
    ("append", 4),
    ("group_manifests", 3),
    ("plain", 4),
    ("_replace", 1),
    ("prove", 1),
]


def test_a_killed_erasure_is_done_by_the_next(
    begin_with: Callable[[Build], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_with(build_lived_shop)
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", load_settings().database_url("ledger"))
    before, old = contents(), receipts.latest(NAME, "publish_orders")[TRAINED]
    for name, count in _POINTS:
        ended = subprocess.run(
            [sys.executable, "-c", _SCRIPT, name, str(count), NAME, WHO],
            cwd=PROJECT_ROOT,
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL, (name, count)
        assert contents() == before, name
    done = erase()
    assert done.exit_code == 0, done.output
    assert places(WHO) == set()
    assert contents() == before
    steps.verify_tables()
    assert [find_stale(load_use_case(name)) for name in (NAME, SECOND)] == [[], []]
    counts = receipts.latest(NAME, "publish_orders")[TRAINED].counts
    assert counts["erased"] == 1 + REJECTED
    assert counts["rows_in"] == old.counts["rows_in"]
    assert not [*(load_settings().home / "erasing").iterdir()]
