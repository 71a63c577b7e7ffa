"""Events between two batches: what they move, what the batch makes of it, and what is compared."""

from __future__ import annotations

import csv
import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from feast import FeatureStore
from test_serving import answering, bearer, declare

import tiny_shop
from embedded import Build
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.databases import feast_engine
from evergreen.erasure.run import erase, find_subject
from evergreen.errors import ConfigError
from evergreen.features import store
from evergreen.features.compute.some import compute_some
from evergreen.provenance import receipts
from evergreen.serving.access import Door, secret_of
from evergreen.serving.app import Options, create_app
from evergreen.settings import load_settings
from tiny_shop import DAYS, NAME

pytestmark = pytest.mark.timeout(300)

# The batch has everything up to the day before; these two follow.
TODAY, TOMORROW = DAYS[-2:]
PAST = f"{DAYS[0]}..{DAYS[-3]}"
VALUES = "evergreen_shop_features"


class Clock:
    """What the database's clock shows."""

    instant = datetime(2025, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        # Never the same twice.
        self.instant += timedelta(microseconds=1)
        return self.instant

    def set(self, day: date, hour: int, minute: int = 0) -> None:
        self.instant = datetime.combine(day, time(hour, minute), UTC)


def build(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tiny_shop.write_shop(root)
    declare(folder, serving={"push": ["orders"]})
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    tiny_shop.apply()
    tiny_shop.ingest(PAST)
    tiny_shop.label(tiny_shop.compute(PAST))
    tiny_shop.train(DAYS[-3])
    steps.release_version(NAME, "promote", "1", "a test", "ann")
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.set(TODAY, 12)
    monkeypatch.setattr(receipts, "now", clock)
    return clock


@pytest.fixture
def shop(begin_with: Callable[[Build], Path], clock: Clock) -> Path:
    folder = begin_with(build)
    # Building it took the clock along.
    clock.set(TODAY, 12)
    return folder


@pytest.fixture
def client(shop: Path) -> Iterator[httpx.Client]:
    with serving() as client:
        yield client


@contextmanager
def serving() -> Iterator[httpx.Client]:
    door = Door(secret_of(load_settings()), "1000000/second")
    options = Options(clock=lambda: receipts.now())
    with answering(create_app(load_use_case(NAME), door, options), bearer()) as client:
        client.timeout = httpx.Timeout(60)
        yield client


def file_of(shop: Path, day: date) -> Path:
    return shop.parents[1] / "data" / f"{day}.csv"


def orders_of(shop: Path, day: date) -> list[dict[str, Any]]:
    with file_of(shop, day).open() as file:
        return list(csv.DictReader(file))


def deliver(shop: Path, day: date, orders: Sequence[dict[str, Any]]) -> None:
    with file_of(shop, day).open("w") as file:
        writer = csv.DictWriter(file, ["id", "customer", "at", "value"])
        writer.writeheader()
        writer.writerows(orders)


def order(key: str, customer: str, day: date = TODAY, **more: Any) -> dict[str, Any]:
    return {"id": key, "customer": customer, "at": f"{day}T09:30:00Z", "value": 12.5} | more


def push(client: httpx.Client, *orders: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = client.post("/v1/events/orders", json={"events": orders})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def batch(clock: Clock, day: date) -> None:
    """Let a day end, and its batch run."""
    clock.set(day + timedelta(days=1), 1)
    tiny_shop.ingest(day)
    tiny_shop.compute(day)


def night(day: date) -> dict[str, dict[str, Any]]:
    measured = steps.measure_skew(NAME, str(day))
    assert measured["incidents"] == []
    rows = lake.read_day(NAME, "skew", day).to_pylist()
    for row in rows:
        if row["reference"] != "pushed":
            assert (row["mismatch"], row["missing"], row["extra"]) == (0, 0, 0), row
    return {row["feature"]: row for row in rows if row["reference"] == "pushed"}


def online(*keys: str) -> dict[str, dict[str, Any]]:
    rows = store.read_online(load_use_case(NAME), keys).to_pylist()
    return {row.pop("customer_id"): row for row in rows}


def raw_online(*keys: str) -> dict[tuple[str, str], tuple[bytes, datetime]]:
    """Return the values as the online store holds them, and their event timestamps."""
    url = load_settings().database_url("feast").replace("+psycopg2", "")
    with psycopg.connect(url) as connection:
        found = connection.execute(
            f"SELECT entity_key, feature_name, value, event_ts FROM {VALUES}"
        )
        return {
            (key, name): (value, at)
            for entity, name, value, at in found
            for key in keys
            if key.encode() in entity
        }


def features(day: date) -> dict[str, dict[str, Any]]:
    rows = lake.read_day(NAME, "features", day).to_pylist()
    return {row["customer_id"]: row for row in rows}


def kept(table: str = "pushed_events") -> int:
    with feast_engine().connect() as connection:
        return int(connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0)


def test_pushed_values_are_those_of_the_batch_bit_for_bit(
    client: httpx.Client, shop: Path, clock: Clock
) -> None:
    """All orders of a day, in any order and any pieces, repeated or not."""
    orders = orders_of(shop, TODAY)
    keys = sorted({row["customer"] for row in orders})
    chance = random.Random(3)
    pieces = chance.sample(orders, len(orders))
    while pieces:
        piece = [pieces.pop() for _ in range(min(len(pieces), chance.randrange(1, 60)))]
        again = chance.sample(orders, 3) if chance.random() < 0.5 else []
        sent = [*piece, *(row for row in again if row not in piece)]
        found = push(client, *sent)
        assert found["accepted"] + found["duplicates"] == len(sent) and not found["refused"]
        assert datetime.fromisoformat(found["as_of"]) == clock.instant
    assert kept() == len(orders)
    pushed = raw_online(*keys)
    assert {at.date() for _, at in pushed.values()} == {TODAY}

    batch(clock, TODAY)
    exact = raw_online(*keys)
    assert {key: value for key, (value, _) in exact.items()} == {
        key: value for key, (value, _) in pushed.items()
    }
    assert {at for _, at in exact.values()} == {load_use_case(NAME).as_of(TODAY)}
    # What was pushed has done its work, and is compared.
    assert (kept(), kept("pushed_rows")) == (0, 0)
    rows = night(TODAY)
    assert {*rows} == {*tiny_shop.FEATURES}
    for row in rows.values():
        assert row["keys"] == len(keys)
        assert (row["mismatch"], row["missing"], row["extra"], row["largest"]) == (0, 0, 0, None)
    # Repeated, the night says the same.
    assert night(TODAY) == rows


def test_scores_follow_at_once(client: httpx.Client, shop: Path) -> None:
    """Also two pushes within one second, which is as exact as Feast tells an as-of."""
    customer = next(iter(features(DAYS[-3])))

    def score() -> dict[str, Any]:
        found: dict[str, Any] = client.get(f"/v1/scores/{customer}").json()
        return found

    seen = [score()]
    for number, amount in enumerate((10, 26, 40)):
        push(client, order(f"n{number}", customer, value=amount, at=f"{TODAY}T10:0{number}:00Z"))
        seen.append(score())
        assert online(customer)[customer]["last_amount"] == amount
    assert len({one["as_of"] for one in seen[1:]}) == 1
    # An amount between the others says that somebody leaves.
    assert seen[1]["score"] != seen[2]["score"] != seen[3]["score"]


def test_what_never_arrives_is_told_and_the_batch_wins(
    client: httpx.Client, shop: Path, clock: Clock
) -> None:
    orders = orders_of(shop, TODAY)
    one, other = (row["customer"] for row in orders[:2])
    push(client, orders[0], order("lost", other, at=f"{TODAY}T23:59:59Z", value=999.0))
    assert online(other)[other]["last_amount"] == 999.0
    batch(clock, TODAY)
    exact = features(TODAY)
    for key in (one, other):
        assert online(key)[key]["last_amount"] == exact[key]["last_amount"]
    row = night(TODAY)["last_amount"]
    assert (row["keys"], row["mismatch"], row["examples"]) == (2, 1, [other])
    assert row["largest"] == 999.0 - exact[other]["last_amount"]
    told = steps.measure_skew(NAME, str(TODAY))["warnings"]
    assert told[0].startswith("days_since_last_order of 1 of 2 pushed rows is not that of the")


@pytest.mark.slow
def test_who_is_not_in_the_batch_keeps_no_pushed_value(
    client: httpx.Client, shop: Path, clock: Clock
) -> None:
    before = features(DAYS[-3])
    ordering = {row["customer"] for row in orders_of(shop, TODAY)}
    left = next(key for key in features(DAYS[3]) if key not in before and key not in ordering)
    last = online(left)[left]
    push(client, order("a", left), order("b", "nobody"))
    assert online(left, "nobody")["nobody"]["last_amount"] == 12.5
    batch(clock, TODAY)
    assert left not in features(TODAY)
    assert online(left)[left] == last
    assert online("nobody")["nobody"]["last_amount"] is None
    row = night(TODAY)["last_amount"]
    assert (row["keys"], row["extra"], {*row["examples"]}) == (2, 2, {left, "nobody"})


@pytest.mark.slow
def test_a_day_of_before_does_not_replace_what_was_pushed(
    client: httpx.Client, shop: Path, clock: Clock
) -> None:
    customer = orders_of(shop, TODAY)[0]["customer"]
    push(client, order("a", customer))
    pushed = online(customer)[customer]
    # Two days are corrected: what was pushed rests on them, and follows.
    for day in DAYS[-4:-2]:
        deliver(shop, day, [row for row in orders_of(shop, day) if row["customer"] != customer])
        tiny_shop.ingest(day)
        tiny_shop.compute(day)
    found = online(customer)[customer]
    assert found["as_of"].date() == pushed["as_of"].date() == TODAY
    assert found["last_amount"] == pushed["last_amount"] == 12.5
    assert kept() == 1


@pytest.mark.slow
def test_a_late_batch_is_taken_into_what_was_pushed_since(
    client: httpx.Client, shop: Path, clock: Clock
) -> None:
    """Between midnight and its batch, a day is only known from what was pushed of it."""
    push(client, order("a", "new", at=f"{TODAY}T20:00:00Z", value=1.0))
    clock.set(TOMORROW, 0, 20)
    early = order("b", "new", TOMORROW, at=f"{TOMORROW}T00:10:00Z", value=2.0)
    assert push(client, early)["accepted"] == 1
    # A late event of the day that has ended, whose batch has not begun.
    late = order("c", "late", at=f"{TODAY}T21:00:00Z", value=3.0)
    assert push(client, late)["accepted"] == 1
    assert online("new")["new"]["last_amount"] == 2.0
    deliver(shop, TODAY, [*orders_of(shop, TODAY), order("d", "late", at=f"{TODAY}T22:00:00Z")])
    batch(clock, TODAY)
    # The batch's day counts now as it was delivered: `c` never came, and `d` was not pushed.
    assert online("late")["late"]["last_amount"] == 12.5
    assert online("new")["new"]["last_amount"] == 2.0
    assert online("late")["late"]["as_of"].date() == TOMORROW
    assert night(TODAY)["last_amount"]["keys"] == 1

    deliver(shop, TOMORROW, [*orders_of(shop, TOMORROW), early])
    batch(clock, TOMORROW)
    assert (kept(), kept("pushed_rows")) == (0, 0)
    row = night(TOMORROW)["last_amount"]
    assert (row["keys"], row["mismatch"], row["missing"], row["extra"]) == (2, 0, 0, 0)
    assert online("new")["new"]["as_of"] == load_use_case(NAME).as_of(TOMORROW)


def test_repeats_count_once_and_contradictions_are_refused(
    client: httpx.Client, shop: Path, clock: Clock
) -> None:
    one = order("a", "new", value=7)
    assert push(client, one, one)["accepted"] == 1
    before = raw_online("new")
    again = push(client, one, order("b", "new", value=8))
    assert (again["accepted"], again["duplicates"], again["refused"]) == (1, 1, [])
    repeated = push(client, one)
    assert (repeated["duplicates"], repeated["as_of"]) == (1, None)
    assert before != raw_online("new")
    # The first stands; of two that come at once, none does.
    conflict = [{"event": 0, "rules": ["order_id_conflict"]}]
    assert push(client, one | {"value": 9})["refused"] == conflict
    both = push(client, order("c", "new", value=1), order("c", "new", value=2))
    assert [row["rules"] for row in both["refused"]] == [["order_id_conflict"]] * 2
    # A day that is published is no longer pushed to; what it has is there already.
    old = orders_of(shop, DAYS[-3])[0]
    assert push(client, old)["duplicates"] == 1
    unknown = push(client, order("z", "new", DAYS[-3]))
    assert unknown["refused"] == [{"event": 0, "rules": ["published_day"]}]
    assert kept() == 2
    # Of a day whose orders are published, and whose features are not yet, likewise.
    clock.set(TOMORROW, 1)
    tiny_shop.ingest(TODAY)
    assert push(client, orders_of(shop, TODAY)[0])["duplicates"] == 1
    assert push(client, order("y", "new"))["refused"][0]["rules"] == ["published_day"]
    assert push(client, order("x", "new", TOMORROW, value=4))["accepted"] == 1
    assert online("new")["new"]["last_amount"] == 4


def test_bad_events_are_refused_with_reasons_and_the_others_taken(
    client: httpx.Client,
) -> None:
    found = push(
        client,
        order("a", ""),
        {"id": "b", "at": f"{TODAY}", "value": 1},
        order("c", "new", value="much"),
        order("d", "new", at="yesterday"),
        order("e", "new", DAYS[0] - timedelta(days=9)),
        order("f", "new", TOMORROW),
        order("g", "new", value=float(3)) | {"note": {"nested": [1]}, "_day": "x"},
        order("", "new"),
        order("h", None),
    )
    assert (found["accepted"], found["duplicates"]) == (1, 0)
    assert {row["event"]: row["rules"] for row in found["refused"]} == {
        0: ["customer_id_missing"],
        1: ["customer_id_missing"],
        2: ["amount_unparsable"],
        3: ["ordered_at_unparsable"],
        4: ["before_first_day"],
        5: ["future_day"],
        7: ["order_id_missing"],
        8: ["customer_id_missing"],
    }
    assert online("new")["new"]["last_amount"] == 3.0
    told = client.get("/metrics").text
    assert 'evergreen_serving_events_total{outcome="refused",table="orders"} 8.0' in told


def test_bad_requests_say_what_is_wrong(client: httpx.Client, shop: Path, clock: Clock) -> None:
    body = {"events": [order("a", "new")]}
    unknown = client.post("/v1/events/payments", json=body)
    assert unknown.status_code == 404 and "declares orders" in unknown.json()["detail"]
    assert (
        client.post("/v1/events/orders", json=body, headers={"Authorization": ""}).status_code
        == 401
    )
    for wrong in ({}, {"events": []}, {"events": [1]}, {"events": [{"id": "a"}] * 1001}):
        assert client.post("/v1/events/orders", json=wrong).status_code == 422
    for text in ("\ud800", "a\0b"):
        body = json.dumps({"events": [order("a", text)]}).encode()
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/events/orders", content=body, headers=headers)
        assert answer.json()["refused"] == [{"event": 0, "rules": ["malformed_row"]}]
    assert kept() == 0
    clock.set(TOMORROW + timedelta(days=1), 1)
    assert "no batch will follow" in push(client, order("a", "new", TOMORROW), status=503)["detail"]


@pytest.mark.slow
def test_one_request_that_fails_is_no_reason_to_refuse_those_beside_it(
    client: httpx.Client, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many at once are gathered; each is told what became of its own events."""

    def fails(use_case: Any, keys: list[str], *rest: Any) -> Any:
        if "m2" in keys:
            raise ConfigError("features.sql fails (a test)")
        return compute_some(use_case, keys, *rest)

    monkeypatch.setattr(store.push, "compute_some", fails)
    answers: dict[int, httpx.Response] = {}

    def send(number: int) -> None:
        events = [order(f"n{number}", f"m{number}"), order(f"o{number}", "")]
        answers[number] = client.post("/v1/events/orders", json={"events": events})

    threads = [threading.Thread(target=send, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.pop(2).status_code == 422
    for answer in answers.values():
        found = answer.json()
        assert (found["accepted"], found["duplicates"]) == (1, 0)
        assert found["refused"] == [{"event": 1, "rules": ["customer_id_missing"]}]
    assert kept() == len(answers) == 5
    assert all(online(f"m{n}")[f"m{n}"]["last_amount"] == 12.5 for n in answers)


def test_while_the_store_is_down_nothing_is_kept(
    client: httpx.Client, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = next(iter(features(DAYS[-3])))
    before = raw_online(customer)

    def broken(*_: Any, **__: Any) -> None:
        raise psycopg.OperationalError("the connection was lost (a test)")

    with monkeypatch.context() as patch:
        # It goes down between the events and the values.
        patch.setattr(FeatureStore, "push", broken)
        assert "does not answer" in push(client, order("a", customer), status=503)["detail"]
        assert (kept(), kept("pushed_rows")) == (0, 0)
    with monkeypatch.context() as patch:
        url = "postgresql+psycopg2://nobody@127.0.0.1:1/feast"
        patch.setenv("EVERGREEN_FEAST_URL", url)
        assert "does not answer" in push(client, order("a", customer), status=503)["detail"]
    assert raw_online(customer) == before
    assert push(client, order("a", customer))["accepted"] == 1
    assert raw_online(customer) != before


@pytest.mark.slow
def test_processes_share_what_was_pushed_and_may_end(shop: Path) -> None:
    with serving() as one, serving() as other:
        push(one, order("a", "new", value=1))
        found = push(other, order("a", "new", value=1), order("b", "new", value=2))
        assert (found["accepted"], found["duplicates"]) == (1, 1)
    # The order of before counts after a restart, too.
    with serving() as later:
        push(later, order("c", "new", value=3, at=f"{TODAY}T08:00:00Z"))
        assert online("new")["new"]["last_amount"] == 2


@pytest.mark.slow
def test_who_was_erased_is_gone_and_stays_out(
    client: httpx.Client, shop: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no Airflow here.
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", load_settings().database_url("feast"))
    customer = orders_of(shop, TODAY)[0]["customer"]
    push(client, order("a", customer), order("b", "other-one"))
    batch(clock, TODAY)
    assert lake.read_day(NAME, "pushed", TODAY).num_rows == 2
    push(client, order("c", customer, TOMORROW), order("d", "other-one", TOMORROW))
    outcome = erase(find_subject(NAME, customer), "ann", "request 4711", load_settings())
    assert outcome.left == ()
    assert lake.read_day(NAME, "pushed", TODAY)["customer_id"].to_pylist() == ["other-one"]
    assert (kept(), kept("pushed_rows")) == (1, 1)
    assert client.get(f"/v1/scores/{customer}").status_code == 404
    found = push(client, order("e", customer, TOMORROW), order("f", "other-one", TOMORROW))
    assert (found["accepted"], found["erased"]) == (1, 1)
    assert kept() == 2
    assert online(customer)[customer]["last_amount"] is None
