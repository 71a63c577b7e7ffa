"""Tables of every kind in local days: which day a row belongs to, and what is not a mistake."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_shop import declared, order, orders, raw_rows

from evergreen.contract import AnyTable, UseCase
from evergreen.errors import ConfigError
from evergreen.quality import validate
from evergreen.quality.split import Split, select_days, split_rows

BERLIN = "Europe/Berlin"
# The nights in which clocks go forward and back.
SHORT, LONG = date(2024, 3, 31), date(2024, 10, 27)


def table(kind: str, **contract: Any) -> AnyTable:
    column = {"dtype": "string", "source": "plan"}
    contract = {
        "source": {"kind": "files", "path": "/nowhere/{day}.csv"},
        "columns": {"plan": column},
        **contract,
    }
    if kind == "attributes":
        contract["columns"] = {
            "customer_id": {"source": "customer", "dtype": "string"},
            "since": {"source": "since", "dtype": "timestamp"},
            **contract["columns"],
        }
        contract.setdefault("valid_from", "since")
    return UseCase.model_validate(declared(**{kind: {"more": contract}})).tables["more"]


def split_of(
    table: AnyTable, rows: list[dict[str, str | None]], day: date, *, filed: bool = True, **raw: Any
) -> Split:
    """Split the rows of a day's file, or of a file for all days."""
    raw["day"] = day if filed else None
    return split_rows(table, raw_rows(rows, **raw), day, day + timedelta(days=1))


# --- local days ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", [BERLIN, "America/Los_Angeles", "Pacific/Auckland", "UTC"])
@pytest.mark.parametrize("day", [SHORT, LONG, date(2024, 7, 1), date(2024, 12, 1)])
def test_a_file_of_local_times_loses_no_row(zone: str, day: date) -> None:
    rows = [order(n, at=f"{day} {n // 4:02}:{n % 4 * 15:02}:00") for n in range(96)]
    found = split_of(orders(zone=zone), rows, day)
    assert found.quarantined.num_rows == 0
    assert found.accepted.num_rows == 96
    instants = found.accepted["ordered_at"].to_pylist()
    use_case = UseCase.model_validate(declared(zone=zone))
    assert {use_case.day_of(instant + timedelta(microseconds=1)) for instant in instants} == {day}
    report = validate.validate_rows(
        orders(zone=zone), found.accepted, found.counts, {}, run_name=str(day)
    )
    assert report.success, report.failures


@settings(max_examples=8, deadline=None)
@given(
    zone=st.sampled_from([BERLIN, "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe"]),
    minutes=st.lists(st.integers(0, 366 * 24 * 60), min_size=1, max_size=30, unique=True),
)
def test_a_file_of_many_days_gives_every_row_to_its_local_day(
    zone: str, minutes: list[int]
) -> None:
    table, start = orders(zone=zone), datetime(2024, 1, 2, tzinfo=UTC)
    instants = {f"O{n}": start + timedelta(minutes=m) for n, m in enumerate(minutes)}
    rows = [order(0, id=key, at=at.isoformat()) for key, at in instants.items()]
    use_case = UseCase.model_validate(declared(zone=zone))
    raw = raw_rows(rows, day=None)
    days = {key: use_case.day_of(at + timedelta(microseconds=1)) for key, at in instants.items()}
    for day in set(days.values()):
        found = split_rows(table, raw, day, day + timedelta(days=1))
        assert found.quarantined.num_rows == 0
        expected = sorted(key for key, of in days.items() if of == day)
        assert sorted(found.accepted["order_id"].to_pylist()) == expected
        kept = select_days(table, raw, day, day + timedelta(days=1))
        assert sorted(kept["id"].to_pylist()) == expected


def test_rules_see_the_clock_on_the_wall() -> None:
    night = {"name": "not_at_night", "sql": "hour(ordered_at) >= 6"}
    found = split_of(
        orders(zone=BERLIN, orders={"rules": [night]}),
        [order(1, at="2024-07-01T03:30:00Z"), order(2, at="2024-07-01T04:30:00Z")],
        date(2024, 7, 1),
    )
    assert found.accepted["order_id"].to_pylist() == ["O2"]
    assert found.quarantined["rules"].to_pylist() == [["not_at_night"]]


def test_the_age_of_a_day_ends_at_its_own_midnight() -> None:
    batch = {"max_age_hours": 3}
    table = orders(zone=BERLIN, orders={"batch": batch})
    found = split_of(table, [order(1, at=f"{SHORT} 21:30:00")], SHORT)
    report = validate.validate_rows(table, found.accepted, found.counts, {}, run_name=str(SHORT))
    assert report.success, (report.failures, report.refused)


# --- rows without a key, and true repetitions ----------------------------------------------------


def test_rows_without_a_key_are_kept_as_often_as_they_come() -> None:
    rows = [order(1), order(1), order(2), order(1)]
    day = date(2024, 3, 10)
    keep = split_of(orders(orders={"key": "none", "duplicates": "keep"}), rows, day)
    assert keep.accepted.num_rows == 4
    assert len(set(keep.accepted["row_id"].to_pylist())) == 4
    drop = split_of(orders(orders={"key": "none"}), rows, day)
    assert drop.accepted.num_rows == 2
    assert drop.counts["duplicates"].to_pylist() == [2]
    with_key = split_of(orders(), [order(1), order(1, amount="7")], day)
    assert with_key.quarantined["rules"].to_pylist() == [["order_id_conflict"]] * 2


def test_keeping_repetitions_of_a_key_is_a_contradiction() -> None:
    with pytest.raises(ValueError, match=r"duplicates: found 'keep'.*key: none"):
        orders(orders={"duplicates": "keep"})


# --- attributes and references -------------------------------------------------------------------

DAY = date(2024, 3, 10)


def change(customer: str, since: str, plan: str) -> dict[str, str | None]:
    return {"customer": customer, "since": since, "plan": plan}


def test_changes_that_come_late_or_early_belong_to_the_day_they_came() -> None:
    rows = [
        change("a", "2019-05-01", "small"),
        change("b", "2024-03-10 08:00:00", "large"),
        change("c", "2024-06-01", "large"),
    ]
    found = split_of(table("attributes"), rows, DAY)
    assert found.quarantined.num_rows == 0
    assert found.accepted["day"].to_pylist() == [DAY] * 3


def test_changes_in_one_file_belong_to_the_day_they_are_valid_from() -> None:
    rows = [change("a", "2019-05-01", "small"), change("b", f"{DAY} 08:00:00", "large")]
    attributes = table("attributes", source={"kind": "files", "path": "/nowhere/all.csv"})
    assert split_of(attributes, rows, DAY, filed=False).accepted["customer_id"].to_pylist() == ["b"]
    # What was true before anything is known from the first day on.
    first = split_of(attributes, rows, date(2024, 1, 1), filed=False)
    assert first.accepted["customer_id"].to_pylist() == ["a"]


def test_two_truths_of_one_instant_are_quarantined() -> None:
    rows = [
        change("a", f"{DAY}", "small"),
        change("a", f"{DAY}", "large"),
        change("b", f"{DAY}", "x"),
    ]
    found = split_of(table("attributes"), rows, DAY)
    assert found.quarantined["rules"].to_pylist() == [["entity_conflict"]] * 2
    assert found.accepted["customer_id"].to_pylist() == ["b"]


def test_attributes_need_no_rows_and_no_usual_number_of_them() -> None:
    attributes = table("attributes")
    for rows in ([], [change(f"c{n}", f"{DAY}", "x") for n in range(500)]):
        found = split_of(attributes, rows, DAY, columns=("customer", "since", "plan"))
        before = {DAY - timedelta(days=n): 10 for n in range(1, 69)}
        report = validate.validate_rows(
            attributes, found.accepted, found.counts, before, run_name="x"
        )
        assert report.success, (report.failures, report.refused)


def test_references_are_about_nobody_and_no_time() -> None:
    references = table("references", key="plan")
    found = split_of(references, [{"plan": "a"}, {"plan": "b"}, {"plan": None}], DAY)
    assert found.accepted["plan"].to_pylist() == ["a", "b"]
    assert found.quarantined["rules"].to_pylist() == [["plan_missing"]]
    assert found.counts["newest_at"].to_pylist() == [None]
    report = validate.validate_rows(references, found.accepted, found.counts, {}, run_name="x")
    assert report.success, report.failures


def test_attributes_of_one_file_must_say_since_when() -> None:
    whole = {"kind": "files", "path": "/nowhere/all.csv"}
    with pytest.raises(ValueError, match="valid_from: missing; one file for all days"):
        table("attributes", source=whole, valid_from=None)


def test_a_zone_nobody_knows_is_refused() -> None:
    with pytest.raises((ConfigError, ValueError), match="expected the name of a time zone"):
        orders(zone="Mars/Olympus")
