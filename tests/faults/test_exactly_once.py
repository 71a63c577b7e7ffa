"""Steps are killed at random points and tried again: every row and decision is there once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import killer
import pytest
from effort import FEW_AND_MANY, MANY, Effort
from fault_shop import (
    DAYS,
    NAME,
    Shop,
    clear,
    deliver,
    digests,
    online,
    online_values,
    orphans,
    require_sound,
    run_all,
    staged_leftovers,
    tables,
)
from killer import Killer, Nursery, Tally

from evergreen import lake, steps
from evergreen.errors import NotReadyError
from evergreen.provenance import staleness
from evergreen.release import ledger
from evergreen.training import tracking
from evergreen.training.tracking.client import connect
from registry import aliases

pytestmark = pytest.mark.timeout(3600)

CORRECTED = DAYS[1]
WHOLE = f"{DAYS[0]}..{DAYS[-1]}"
_READ = {"ingest": ("orders", "quarantine"), "features": ("features", "labels")}

Digests = dict[str, dict[date, str]]


class Watch:
    """What readers may see, checked after every kill."""

    def __init__(self, allowed: list[Digests]) -> None:
        self.allowed = allowed
        self.online = online()
        self.full: dict[str, set[date]] = {}
        self._one = threading.Lock()

    def look(self, *names: str) -> None:
        """Hold some tables and the online store against what may be there."""
        with self._one:
            self._look(names)

    def _look(self, names: tuple[str, ...]) -> None:
        for table in names:
            for day, found in digests(table).items():
                whole = {state[table][day] for state in self.allowed}
                if day not in self.full.setdefault(table, set()):
                    whole |= {""}
                assert found in whole, f"{table} of {day} is torn"
                if found:
                    # What is there stays there: replacing has no moment without rows.
                    self.full[table].add(day)
        now = online()
        for key, (event, _, made) in self.online.items():
            assert now[key][0] >= event, "the online store went back"
            assert now[key][0] > event or now[key][2] >= made, "the online store went back"
        self.online = now


@FEW_AND_MANY
def test_data_steps(
    shop: Shop, nursery: Nursery, effort: Effort, report: Callable[[list[str]], None]
) -> None:
    """Load, correct a day and load again, alone and beside a second backfill."""
    first, second, online_at_last = references(shop)
    tally = Tally()
    killers = [Killer(nursery, effort.seed + n, tally) for n in range(2)]
    measure(killers)
    started = time.monotonic()
    while tally.total < effort.data_kills:
        together = tally.cycles % 3 == 2
        clear(shop)
        watch = Watch([first])
        work(killers, plan(tally.cycles, DAYS), watch, together=together)
        assert tables() == first
        watch.allowed = [first, second]
        deliver(shop, CORRECTED, 1)
        days = DAYS[DAYS.index(CORRECTED) :]
        work(killers, plan(tally.cycles, days), watch, together=together)
        mend(shop, killers[0], watch)
        killers[0].check = lambda watch=watch: watch.look("orders", "features")
        killers[0].do("expire_snapshots", "0")
        killers[0].do("sweep_staging")
        assert tables() == second
        assert online_values() == online_at_last
        assert staged_leftovers() == []
        require_sound()
        tally.cycles += 1
        tally.orphans += orphans()
    tally.seconds = time.monotonic() - started
    tally.leftovers = len(list((nursery.folder / "tmp").glob("evergreen-*")))
    report([f"seed {effort.seed}", *tally.lines()])


def references(shop: Shop) -> tuple[Digests, Digests, Any]:
    """Load both versions of the source undisturbed; also what the second leaves online."""
    found = []
    for version in (0, 1):
        clear(shop)
        deliver(shop, CORRECTED, version)
        run_all([("ingest", WHOLE), ("features", WHOLE)])
        found.append(tables())
    last = online_values()
    clear(shop)
    assert all(found[0][table] != found[1][table] for table in ("orders", "features"))
    return found[0], found[1], last


def measure(killers: list[Killer]) -> None:
    """Learn the length of every task."""
    run_all([("ingest", WHOLE)])
    for kind in ("ingest", "features"):
        killer.run(killers[0].measure, kind, str(DAYS[3]), "measured")
    killers[0].measure("expire_snapshots", "0")
    killers[0].measure("sweep_staging")
    killers[1].sizes = killers[0].sizes


def plan(cycle: int, days: list[date]) -> list[list[tuple[str, str]]]:
    """Say what each of two drivers does: all days at once, or one by one in both directions."""
    forward = [(kind, str(day)) for day in days for kind in ("ingest", "features")]
    backward = [(kind, str(day)) for kind in ("ingest", "features") for day in reversed(days)]
    bulk = [(kind, f"{days[0]}..{days[-1]}") for kind in ("ingest", "features")]
    drawn = [bulk, forward, backward]
    return [drawn[cycle % 3], drawn[cycle // 3 % 3]]


def work(
    killers: list[Killer],
    lanes: list[list[tuple[str, str]]],
    watch: Watch,
    *,
    together: bool,
) -> None:
    """Do the first lane, or both at once."""
    failures: list[BaseException] = []

    def drive(number: int) -> None:
        try:
            for kind, period in lanes[number]:
                killers[number].check = lambda kind=kind: watch.look(*_READ[kind])
                killer.run(killers[number].do, kind, period, f"{number} {kind} {period}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=drive, args=(n,)) for n in range(2 if together else 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def mend(shop: Shop, driver: Killer, watch: Watch) -> None:
    """Run the days that are called stale; nothing is stale afterwards."""
    stale = staleness.find_stale(shop.use_case)
    horizon = shop.use_case.target.horizon_days
    days = {i.day for i in stale if i.table == "features"}
    days |= {i.day + timedelta(days=horizon) for i in stale if i.table == "labels"}
    driver.check = lambda: watch.look("features", "labels")
    for day in sorted(days):
        killer.run(driver.do, "features", str(day), f"mend {day}")
    assert staleness.find_stale(shop.use_case) == []


@MANY
def test_model_steps(
    shop: Shop, nursery: Nursery, effort: Effort, report: Callable[[list[str]], None]
) -> None:
    """Train, judge, promote and score: one version and one ledger entry for each request."""
    run_all([("ingest", WHOLE), ("features", WHOLE)])
    tally = Tally()
    driver = Killer(nursery, effort.seed, tally, chance=0.8)
    release(shop, driver.measure, "measured")
    # Measuring does each task three times.
    made = ledger_versions()
    assert len(made) == 1
    started = time.monotonic()
    while tally.total < effort.model_kills:
        driver.check = lambda: require_champion(shop)
        version = release(shop, driver.do, f"cycle {tally.cycles}")
        made.append(version)
        assert ledger_versions() == made == sorted(set(made))
        assert aliases(NAME) == {"champion": version}
        assert tracking.load_version(shop.use_case, version).version == version
        (scored,) = set(lake.read_day(NAME, "predictions", DAYS[-1])["model_version"].to_pylist())
        assert scored == version
        decisions = lake.read_day(NAME, "decisions", DAYS[-1]).to_pylist()
        assert sorted(row["version"] for row in decisions if row["kind"] == "gate") == made
        assert staged_leftovers() == []
        require_sound()
        assert staleness.find_stale(shop.use_case) == []
        tally.cycles += 1
    # Versions count up, so none was made that nobody knows of, and each has its files.
    assert made == list(range(1, len(made) + 1))
    with pytest.raises(NotReadyError):
        tracking.describe_version(shop.use_case, len(made) + 1)
    registry = connect()
    experiment = registry.get_experiment_by_name(NAME).experiment_id
    assert list(registry.search_runs([experiment], "attributes.status = 'RUNNING'")) == []
    tally.seconds = time.monotonic() - started
    tally.orphans = orphans()
    report([f"seed {effort.seed}", *tally.lines()])


def release(shop: Shop, do: killer.Do, reason: str) -> int:
    """Train for a reason, promote what came out, and score the newest day by it."""
    day = str(DAYS[-1])
    request = steps.accept_request(NAME, day, reason)
    staged = do("assemble_training_set", request, reason)
    chosen = do("choose_recipe", staged)
    challenger = do("train_challenger", chosen)
    # There are too few days for a new holdout each time.
    challenger["evidence"]["promoted_on_holdout"] = None
    judged = do("judge_challenger", challenger)
    assert steps.is_promotable(judged), judged["reasons"]
    promoted = do("promote_challenger", judged)
    resolved = steps.resolve_release(promoted, day)
    validated = do("validate_predictions", do("score_customers", resolved, reason))
    version: int = do("publish_predictions", validated)["version"]
    assert version == promoted["version"]
    return version


def ledger_versions() -> list[int]:
    return [entry.version for entry in ledger.entries(ledger.engine(), NAME)]


def require_champion(shop: Shop) -> None:
    """The ledger is whole, its champion is registered, and the alias names one of its entries."""
    book = ledger.engine()
    assert ledger.verify(book, NAME) == ()
    versions = ledger_versions()
    assert tracking.describe_version(shop.use_case, versions[-1])
    assert aliases(NAME)["champion"] in versions[-2:]
    if lake.exists(NAME, "predictions"):
        scored = set(lake.read_day(NAME, "predictions", DAYS[-1])["model_version"].to_pylist())
        assert len(scored) == 1
