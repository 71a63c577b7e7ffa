"""Bad input and a bad world: a sentence, nothing half-published, and the next run heals."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fault_shop import (
    DAYS,
    NAME,
    Shop,
    digests,
    require_sound,
    run,
    run_all,
    staged_leftovers,
    tables,
)

from evergreen import lake, steps
from evergreen.errors import (
    ConfigError,
    DiskFullError,
    EvergreenError,
    ServiceDownError,
    SourceMissingError,
    StagingError,
    TransientError,
)
from evergreen.features import store
from evergreen.ops.local import postgres
from evergreen.provenance import receipts
from evergreen.provenance.staging import drop_staging
from evergreen.release import ledger
from evergreen.settings import Settings, load_settings

pytestmark = pytest.mark.timeout(300)

WHOLE = f"{DAYS[0]}..{DAYS[-1]}"


def test_two_bulk_loads_that_overlap(plain_shop: Shop) -> None:
    run_all([("ingest", WHOLE), ("features", WHOLE)])
    expected = tables()
    run_all([("ingest", f"{DAYS[1]}..{DAYS[3]}"), ("features", f"{DAYS[1]}..{DAYS[3]}")])
    assert tables() == expected
    require_sound()
    assert staged_leftovers() == []


@pytest.mark.parametrize(
    ("period", "error", "sentence"),
    [
        (f"{DAYS[2]}..{DAYS[0]}", ConfigError, "ends before it starts. Swap the two days"),
        ("2999-01-01", ConfigError, "has not ended yet"),
        (f"{DAYS[0]}..2999-01-01", ConfigError, "has not ended yet"),
        ("2025-02-30", ConfigError, "2025-02-30"),
        (str(DAYS[3]), SourceMissingError, f"{DAYS[3]}.csv"),
        # One missing day of many: none of them is published.
        (WHOLE, SourceMissingError, f"{DAYS[3]}.csv"),
    ],
)
def test_days_that_cannot_be_loaded(
    plain_shop: Shop, period: str, error: type[EvergreenError], sentence: str
) -> None:
    missing = plain_shop.data / f"{DAYS[3]}.csv"
    missing.rename(missing.with_suffix(".late"))
    with pytest.raises(error, match=sentence):
        run("ingest", period, "a run")
    assert not lake.exists(NAME, "orders")
    assert receipts.latest(NAME, "publish_orders") == {}
    missing.with_suffix(".late").rename(missing)
    run("ingest", WHOLE, "a run")
    require_sound()


@pytest.mark.parametrize("damage", ["truncated", "absent", "empty"])
def test_a_half_written_staging_folder(plain_shop: Shop, damage: str) -> None:
    staged = steps.validate_rows(steps.stage_rows(NAME, WHOLE, "orders", "a run"))
    (file,) = Path(staged["folder"]).glob("orders-*.parquet")
    if damage == "absent":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 100 if damage == "truncated" else 0])
    with pytest.raises(StagingError, match=r"Clear the run from its first task on"):
        steps.publish_rows(staged)
    assert not lake.exists(NAME, "orders")
    run("ingest", WHOLE, "a run")
    require_sound()
    # The damaged attempt went with the run.
    assert staged_leftovers() == []


def test_staging_lost_after_another_load_of_the_day_is_not_taken_for_published(
    plain_shop: Shop,
) -> None:
    run("ingest", str(DAYS[0]), "before")
    staged = steps.stage_rows(NAME, str(DAYS[0]), "orders", "a run")
    drop_staging(staged["folder"])
    with pytest.raises(StagingError):
        steps.publish_rows(staged)


def test_a_publish_that_was_killed_when_it_was_done_is_repeated(plain_shop: Shop) -> None:
    staged = steps.validate_rows(steps.stage_rows(NAME, WHOLE, "orders", "a run"))
    published = steps.publish_rows(staged)
    assert staged_leftovers() == []
    assert steps.publish_rows(staged) == published
    staged = steps.validate_features(steps.compute_features(NAME, WHOLE, "a run"))
    assert steps.publish_features(staged) == steps.publish_features(staged)
    require_sound()


def test_databases_that_are_down_for_a_while(
    plain_shop: Shop, postgres_server: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("ingest", str(DAYS[0]), "a run")
    expected = digests("orders")
    urls = load_settings().urls
    use_case = plain_shop.use_case

    def everything() -> dict[str, Any]:
        return {
            "catalog": lambda: lake.read(NAME, "orders"),
            "ledger": lambda: ledger.champion(ledger.engine(), NAME),
            "feast": lambda: store.read_online(use_case, ["c01"]),
        }

    # Connections of this process are open, and the server goes away under them.
    monkeypatch.setenv("EVERGREEN_HOME", str(postgres_server.home))
    postgres.stop(postgres_server)
    try:
        for database, ask in everything().items():
            with pytest.raises(ServiceDownError, match=f"(?s)`{database}`.*make up"):
                ask()
        with pytest.raises(TransientError):
            steps.stage_rows(NAME, str(DAYS[1]), "orders", "a run")
    finally:
        without = [name for name in os.environ if name.endswith("_URL")]
        kept = {name: os.environ.pop(name) for name in without if name.startswith("EVERGREEN_")}
        postgres.start(load_settings())
        os.environ.update(kept)
    assert load_settings().urls == urls
    assert digests("orders") == expected
    run("ingest", WHOLE, "a run")
    require_sound()
    # A server nobody has ever reached from here.
    for database in ("catalog", "ledger", "feast"):
        url = "postgresql+psycopg2://postgres@127.0.0.1:1/nowhere"
        monkeypatch.setenv(f"EVERGREEN_{database.upper()}_URL", url)
    for database, ask in everything().items():
        with pytest.raises(ServiceDownError, match=f"(?s)`{database}`.*EVERGREEN_.*_URL"):
            ask()


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """Mount a small disk; yields a file that fills it but for a few kilobytes."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place / "filler"
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(filler: Path, but: int) -> None:
    """Leave only some bytes free."""
    free = os.statvfs(filler.parent)
    filler.write_bytes(b"x" * (free.f_bavail * free.f_frsize - but))


def test_a_full_disk_while_staging(plain_shop: Shop) -> None:
    with small_disk(load_settings().staging, "1m") as filler:
        fill(filler, but=8192)
        with pytest.raises(DiskFullError, match=r"no room left on the disk of .*staging.*free"):
            steps.stage_rows(NAME, WHOLE, "orders", "a run")
        filler.unlink()
        run("ingest", WHOLE, "a run")
        require_sound()
        assert staged_leftovers() == []


def test_a_full_disk_while_committing(plain_shop: Shop) -> None:
    with small_disk(Path(load_settings().warehouse), "2m") as filler:
        run("ingest", str(DAYS[0]), "the first")
        before = tables()
        staged = steps.validate_rows(steps.stage_rows(NAME, WHOLE, "orders", "a run"))
        for room in (0, 4096, 16384):
            fill(filler, but=room)
            with pytest.raises(DiskFullError, match=r"no room left on the disk of .*warehouse"):
                steps.publish_rows(staged)
            filler.unlink()
            # Whichever of the two tables got through, readers see whole days.
            assert tables()["orders"] == before["orders"]
        steps.publish_rows(staged)
        require_sound()
        assert staged_leftovers() == []
