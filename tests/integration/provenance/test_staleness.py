"""Staleness against an oracle that remembers what every output was made from."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergreen.contract import UseCase, load_use_case_file
from evergreen.databases import ledger_engine
from evergreen.lake import catalog
from evergreen.provenance import receipts
from evergreen.provenance.as_known import pins_of
from evergreen.provenance.receipts import Receipt
from evergreen.provenance.staleness import Stale, find_stale, mend_commands, summarise
from evergreen.settings import PROJECT_ROOT, Settings

FIRST = date(2026, 1, 1)
HORIZON = 2
DAYS = 6


@pytest.fixture
def use_case(home: Settings) -> UseCase:
    receipts.create_tables()
    catalog(home).create_tables()
    path = PROJECT_ROOT / "include" / "use_cases" / "churn" / "use_case.yaml"
    churn = load_use_case_file(path)
    changed = churn.model_copy(
        update={
            "first_day": FIRST,
            "target": churn.target.model_copy(update={"horizon_days": HORIZON}),
        }
    )
    changed._folder = churn.folder
    return changed


def day(n: int) -> date:
    return FIRST + timedelta(days=n)


def publish(use_case: UseCase, table: str, n: int, content: str, basis: int, **changes: object):
    step = "measure_drift" if table == "drift" else f"publish_{table}"
    snapshot = receipts.newest_sequence() + 1000
    receipt = Receipt(
        use_case.name, step, day(n), str(day(n)), {}, f"{use_case.name}.{table}", snapshot, {},
        basis, content, use_case.contract_digest(table), "", "", 0.0,
    )  # fmt: skip
    with receipts.recording(f"{use_case.name}.{table}") as record:
        record([replace(receipt, **changes)])


class Lake:
    """What the tables say, and what every output was made from."""

    def __init__(self, use_case: UseCase) -> None:
        self.use_case = use_case
        self.orders: dict[int, str] = {}
        self.made_from: dict[tuple[str, int], dict[int, str]] = {}

    def ingest(self, n: int, content: str) -> None:
        self.orders[n] = content
        publish(self.use_case, "orders", n, content, 0)

    def make(self, table: str, n: int, reach: int) -> None:
        basis = receipts.newest_sequence()
        self.made_from[table, n] = read = self._read(n + reach)
        publish(self.use_case, table, n, repr(sorted(read.items())), basis)

    def expected(self) -> set[tuple[str, date]]:
        reach = {"features": 0, "labels": HORIZON}
        stale = {
            (table, day(n))
            for (table, n), read in self.made_from.items()
            if read != self._read(n + reach[table])
        }
        # An order day that was never ingested is owed, and what reads it waits for it.
        newest = max(self.orders, default=-1)
        missing = [n for n in range(newest) if n not in self.orders]
        stale |= {("orders", day(n)) for n in missing}
        # So are days of a table that was begun and could go on.
        for table, lag in reach.items():
            made = [n for t, n in self.made_from if t == table]
            begun = range(min(made, default=newest + 1), newest + 1 - lag)
            stale |= {(table, day(n)) for n in begun if n not in made}
        return stale | {
            (table, day(n))
            for table, n in self.made_from
            if any(m <= n + reach[table] for m in missing)
        }

    def _read(self, last: int) -> dict[int, str]:
        return {n: content for n, content in self.orders.items() if n <= last}


events = st.one_of(
    st.tuples(st.just("ingest"), st.integers(0, DAYS - 1), st.sampled_from(["a", "b", ""])),
    st.tuples(st.just("features"), st.integers(0, DAYS - 1)),
    st.tuples(st.just("labels"), st.integers(0, DAYS - 1)),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(events, max_size=25))
def test_stale_is_what_was_made_from_something_else(use_case: UseCase, plan: list[tuple]):
    with ledger_engine().begin() as connection:
        connection.execute(sa.text("TRUNCATE receipts"))
    lake = Lake(use_case)
    for event in plan:
        if event[0] == "ingest":
            lake.ingest(event[1], event[2])
        else:
            lake.make(event[0], event[1], HORIZON if event[0] == "labels" else 0)
    assert {(item.table, item.day) for item in find_stale(use_case)} == lake.expected()


def test_what_depends_on_a_stale_day_is_stale_too(use_case: UseCase):
    publish(use_case, "orders", 0, "a", 0)
    publish(use_case, "features", 0, "f", receipts.newest_sequence())
    publish(use_case, "predictions", 0, "p", receipts.newest_sequence())
    publish(use_case, "drift", 0, "d", receipts.newest_sequence())
    assert find_stale(use_case) == []
    publish(use_case, "orders", 0, "b", 0)
    assert [(item.table, item.reason, item.causes) for item in find_stale(use_case)] == [
        ("features", "orders of 2026-01-01 changed", (FIRST,)),
        ("predictions", "features of 2026-01-01 changed", (FIRST,)),
        ("drift", "features of 2026-01-01 changed", (FIRST,)),
    ]
    # Recomputed to the same result, nothing that was made from it is stale.
    publish(use_case, "features", 0, "f", receipts.newest_sequence())
    assert find_stale(use_case) == []


def test_a_changed_declaration_makes_stale_what_it_declares(use_case: UseCase):
    publish(use_case, "orders", 0, "a", 0)
    publish(use_case, "features", 0, "f", 1, contract_digest="another")
    assert [item.table for item in find_stale(use_case)] == ["features"]
    assert "use_case.yaml or SQL" in find_stale(use_case)[0].reason


def test_thresholds_and_words_are_no_part_of_the_declaration(use_case: UseCase):
    worded = use_case.model_copy(update={"title": "Other words", "gate": use_case.gate})
    orders = use_case.events["orders"]
    lax = orders.batch.model_copy(update={"max_quarantined_ratio": 0.9})
    other = use_case.model_copy(
        update={"events": {"orders": orders.model_copy(update={"batch": lax})}}
    )
    for table in ("orders", "features", "labels", "predictions"):
        assert worded.contract_digest(table) == use_case.contract_digest(table)
        assert other.contract_digest(table) == use_case.contract_digest(table)
    without_rules = orders.model_copy(update={"rules": ()})
    changed = use_case.model_copy(update={"events": {"orders": without_rules}})
    assert changed.contract_digest("features") != use_case.contract_digest("features")


def test_few_days_are_backfilled_and_many_are_loaded_at_once(use_case: UseCase):
    features = [Stale("features", day(n), "x") for n in range(3)]
    assert mend_commands(use_case, features) == [
        "evergreen backfill churn 2026-01-01 2026-01-03 --reprocess completed"
    ]
    many = [Stale("features", day(n), "x") for n in range(100)]
    scored = [Stale("predictions", day(n), "x") for n in (98, 99)]
    nights = [Stale("drift", day(99), "x")]
    assert mend_commands(use_case, [*many, *scored, *nights]) == [
        "evergreen trigger churn_history --from 2026-01-01 --to 2026-04-08",
        "evergreen backfill churn 2026-04-09 2026-04-10 --reprocess completed",
        "evergreen backfill churn_monitor 2026-04-10 2026-04-10 --reprocess completed",
    ]
    # A label is published by the run that completes its horizon.
    assert "churn 2026-01-03 2026-01-03" in mend_commands(
        use_case, [Stale("labels", day(0), "x")]
    )[0]  # fmt: skip
    (first, second) = summarise(use_case, [features[0], features[2]])
    assert (first.period.label, second.period.label) == ("2026-01-01", "2026-01-03")


def test_training_reads_what_was_known_when_its_day_was_processed(use_case: UseCase):
    for n in range(3):
        publish(use_case, "features", n, f"old {n}", 0)
    publish(use_case, "features", 5, "f", 0)
    # Day 1 is corrected after day 5 was processed, day 4 is loaded for the first time, day 2 is
    # published again and says the same.
    publish(use_case, "features", 1, "new 1", 0, output_snapshot=7001)
    publish(use_case, "features", 2, "old 2", 0)
    publish(use_case, "features", 4, "old 4", 0, output_snapshot=7004)
    publish(use_case, "features", 4, "new 4", 0, output_snapshot=7005)
    days = [day(n) for n in range(5)]
    first = receipts.traces("churn", "publish_features")["publish_features"][day(1)][0]
    assert pins_of(use_case, day(5), days)["features"] == {
        day(1): first.output_snapshot,
        day(4): 7004,
    }
    # A day that is processed now knows everything.
    publish(use_case, "features", 6, "f", 0)
    assert pins_of(use_case, day(6), days) == {"features": {}, "labels": {}}
    # What another declaration made is no earlier version of the same.
    publish(use_case, "features", 1, "newest 1", 0, contract_digest="another")
    assert day(1) not in pins_of(use_case, day(5), days)["features"]


def test_labels_are_read_as_first_matured(use_case: UseCase):
    publish(use_case, "labels", 1, "old", 0)
    publish(use_case, "labels", 3, "l", 0)
    publish(use_case, "labels", 1, "new", 0)
    old = receipts.traces("churn", "publish_labels")["publish_labels"][day(1)][0]
    assert pins_of(use_case, day(5), [day(1)])["labels"] == {day(1): old.output_snapshot}
    publish(use_case, "labels", 4, "l", 0)
    assert pins_of(use_case, day(6), [day(1)])["labels"] == {}
