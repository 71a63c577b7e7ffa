"""A data directory that the release before has lived in: it opens here, verifies, and goes on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.errors import PermanentError
from evergreen.ops import deploy
from evergreen.ops.local import postgres
from evergreen.provenance import receipts, verification
from evergreen.provenance.replay import replay
from evergreen.provenance.staleness import find_stale
from evergreen.release import ledger
from evergreen.release.registry import repair
from evergreen.settings import PROJECT_ROOT, load_settings
from tiny_shop import DAYS, NAME, compute, ingest, label, night, score, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PREVIOUS = "1208f9b"
"""What is upgraded from while no release is tagged before this commit."""

# Run by the code of before, with its own tests' shop.
_LIFE = """
import json, sys
from pathlib import Path

from evergreen import steps
from evergreen.ops.local import postgres
from evergreen.settings import PROJECT_ROOT, load_settings
from tiny_shop import DAYS, apply, compute, ingest, label, night, score, train, write_shop

assert PROJECT_ROOT == Path(sys.argv[1]), PROJECT_ROOT
write_shop(Path(sys.argv[2]))
postgres.start(load_settings())
apply()
until = f"{DAYS[0]}..{DAYS[-2]}"
ingest(until)
label(compute(until))
judged = train(DAYS[-2])
assert judged["decision"] == "promote", judged["summary"]
steps.promote_challenger(judged)
score(DAYS[-2])
night(DAYS[-2])
postgres.stop(load_settings())
"""


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", "-C", str(PROJECT_ROOT), *arguments], capture_output=True, check=False
    )


def previous() -> str:
    """Return the newest release before this commit; skip where there is no history."""
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^")
    found = tag.stdout.decode().strip() if tag.returncode == 0 else PREVIOUS
    if _git("cat-file", "-e", f"{found}^{{commit}}").returncode:
        pytest.skip(f"{found} is not here: this needs a clone with its whole history")
    return found


@pytest.fixture
def lived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A data directory made by the release before, and now the environment's; gives its name."""
    release, old, root = previous(), tmp_path / "old", tmp_path / "shop"
    root.mkdir()
    packed = _git("archive", release)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(old, filter="data")
    monkeypatch.setenv("EVERGREEN_HOME", str(root / "home"))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(root / "use_cases"))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LIFE, str(old), str(root)],
        env=os.environ | {"PYTHONPATH": f"{old / 'include'}:{old / 'tests'}"},
        cwd=old,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    postgres.start(load_settings())
    assert list(deploy.initialise(load_settings()))
    yield release
    postgres.stop(load_settings())


def test_a_directory_of_the_release_before_goes_on(lived: str) -> None:
    use_case, book = load_use_case(NAME), ledger.engine()
    old = receipts.newest_sequence()
    assert old
    # What is there is what was written.
    for table in ("orders", "features", "labels", "predictions", "decisions"):
        assert verification.verify(use_case, table) == {}, table
    assert not ledger.verify(book, NAME)
    (first,) = ledger.entries(book, NAME)
    assert not repair(use_case).broken
    assert not {found.table for found in find_stale(use_case)} & {"orders", "features", "labels"}
    before = _scores(DAYS[-2])
    receipt = receipts.latest(NAME, "publish_features")[DAYS[-2]]
    assert _replays(str(receipt.sequence))
    assert _replays(f"{NAME}/{first.version}")
    # An old day again, by the code of now: the same content.
    was = receipts.latest(NAME, "publish_features")[DAYS[3]]
    ingest(DAYS[3])
    compute(DAYS[3])
    now = receipts.latest(NAME, "publish_features")[DAYS[3]]
    assert now.sequence > old
    assert now.content == was.content
    # The next day, scored by the champion of before, which scores as it did.
    ingest(DAYS[-1])
    label(compute(DAYS[-1]))
    assert score(DAYS[-1])
    score(DAYS[-2])
    assert _scores(DAYS[-2]) == before
    night(DAYS[-1])
    judged = train(DAYS[-1], reason="after the upgrade")
    assert judged["evidence"]["champion"]["version"] == first.version
    if judged["decision"] == "promote":
        steps.promote_challenger(judged)
    assert not ledger.verify(book, NAME)
    assert json.loads(first.evidence)["evidence"]["version"] == first.version


def _scores(day: date) -> dict[str, float]:
    rows: list[dict[str, Any]] = lake.read_day(NAME, "predictions", day).to_pylist()
    return {row["customer_id"]: row["score"] for row in rows}


def _replays(target: str) -> bool:
    """Whether it comes out as recorded, or is refused because libraries are others now."""
    try:
        return replay(target).equal
    except PermanentError as error:
        return "another lock file" in str(error)
