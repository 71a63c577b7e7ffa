"""Scores on request: what a day's batch says, bit for bit, by whom the ledger names."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import uvicorn
import yaml

import tiny_shop
from embedded import Build
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.errors import ConfigError, ServiceDownError
from evergreen.features.store.async_reader import MADE_AT, AsyncReader
from evergreen.features.store.online import read_online
from evergreen.scoring.explain import explain
from evergreen.serving.access import Door, make_token, secret_of
from evergreen.serving.app import Options, create_app
from evergreen.settings import load_settings
from tiny_shop import DAYS, NAME, compute, label, train

pytestmark = pytest.mark.timeout(300)

TODAY = DAYS[-1]
ROLLOUT = {"shadow_nights": 1, "shares": [0.4, 1.0], "nights_per_share": 1}


def build(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop whose version 1 is in charge, and has scored the newest day."""
    folder = tiny_shop.open_shop(root, monkeypatch)
    declare(folder, rollout=ROLLOUT)
    label(compute())
    train(DAYS[-2])
    steps.release_version(NAME, "promote", "1", "a test", "ann")
    train(DAYS[-1])
    tiny_shop.score(TODAY)
    return folder


def declare(folder: Path, **keys: Any) -> None:
    path = folder / "use_case.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys, sort_keys=False))


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build)


@pytest.fixture
def client(shop: Path) -> Iterator[httpx.Client]:
    with answering(app(), bearer()) as client:
        yield client


@contextmanager
def answering(service: Any, headers: dict[str, str]) -> Iterator[httpx.Client]:
    server = uvicorn.Server(uvicorn.Config(service, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def app(rate: str = "1000000/second", **options: Any) -> Any:
    door = Door(secret_of(load_settings()), rate)
    return create_app(load_use_case(NAME), door, Options(**options))


def bearer(**changes: Any) -> dict[str, str]:
    arguments = {"name": "ann", "days": 1.0, **changes}
    return {"Authorization": f"Bearer {make_token(secret_of(load_settings()), **arguments)}"}


def published() -> dict[str, dict[str, Any]]:
    return {
        row["customer_id"]: row for row in lake.read_day(NAME, "predictions", TODAY).to_pylist()
    }


def ask(client: httpx.Client, *keys: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/scores", json={"keys": keys, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_online_is_batch_bit_for_bit(client: httpx.Client) -> None:
    batch = published()
    for _ in range(2):
        # The second time from memory.
        found = ask(client, *batch, "nobody")
        assert found["unknown"] == ["nobody"] and not found["stale"]
        assert len(found["scores"]) == len(batch) > 100
        for score in found["scores"]:
            row = batch[score["key"]]
            assert (score["score"], score["band"]) == (row["score"], row["band"])
            assert (score["version"], score["variant"]) == (1, "champion")
            assert datetime.fromisoformat(score["as_of"]) == row["as_of"]
    one = next(iter(batch))
    alone = client.get(f"/v1/scores/{one}")
    assert alone.headers["X-Model-Version"] == "1"
    assert alone.json()["score"] == batch[one]["score"]
    assert client.get("/v1/scores/nobody").status_code == 404


def test_reasons_are_those_of_the_batch(client: httpx.Client) -> None:
    keys = list(published())[:20]
    wanted = explain(load_use_case(NAME), TODAY, keys)["reasons"].to_pylist()
    found = {score["key"]: score["reasons"] for score in ask(client, *keys, reasons=True)["scores"]}
    assert [found[key] for key in keys] == wanted
    assert "reasons" not in ask(client, keys[0])["scores"][0]


def test_what_is_read_is_what_feast_reads(shop: Path) -> None:
    use_case = load_use_case(NAME)
    keys = ["nobody", *sorted(published())]

    async def read() -> pa.Table:
        reader = AsyncReader(use_case)
        await reader.open()
        try:
            return await reader.read(pa.array(keys))
        finally:
            await reader.close()

    found = asyncio.run(read())
    assert found.drop_columns(MADE_AT).equals(read_online(use_case, keys[1:]))
    assert found[MADE_AT].null_count == 0


def test_in_a_rollout_everybody_gets_whom_the_batch_would_give_them(shop: Path) -> None:
    steps.release_version(NAME, "roll_out", "2", "a test", "ann")
    from evergreen.release import ledger
    from evergreen.release.rollout import go_on, rolling

    begun = rolling(ledger.engine(), NAME)
    assert begun is not None
    go_on(ledger.engine(), NAME, begun, 0.4, "2025-03-20", actor="a night", reason="a test")
    resolved = {"use_case": NAME, "day": str(TODAY), "version": 1}
    split = {"challenger": 2, "share": 0.4, "salt": begun.salt, "rollout": begun.began}
    scored = steps.validate_predictions(steps.score_customers({**resolved, "split": split}))
    steps.publish_predictions(scored)
    batch = published()
    with answering(app(), bearer()) as client:
        scores = ask(client, *batch)["scores"]
    assert {score["variant"] for score in scores} == {"champion", "challenger"}
    for score in scores:
        row = batch[score["key"]]
        assert (score["version"], score["variant"]) == (row["model_version"], row["variant"])
        assert score["score"] == row["score"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({}, "no bearer token"),
        ({"Authorization": "Basic YTpi"}, "no bearer token"),
        ({"Authorization": "Bearer nonsense"}, "not one of this service"),
        ("expired", "has expired"),
        ("other", "not one of this service"),
    ],
)
def test_only_who_has_a_valid_token_is_answered(shop: Path, header: Any, said: str) -> None:
    if header == "expired":
        header = bearer(now=datetime.now(UTC) - timedelta(days=2))
    elif header == "other":
        header = {"Authorization": f"Bearer {make_token('x' * 40, 'ann', 1)}"}
    with answering(app(), {}) as client:
        for path in ("/v1/scores/c0-00", "/metrics"):
            answer = client.get(path, headers=header)
            assert answer.status_code == 401 and said in answer.json()["detail"]
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.post("/v1/scores", json={"keys": ["a"]}, headers=header).status_code == 401
        # Who watches over the process needs none.
        assert client.get("/health").json() == {"status": "alive"}
        assert client.get("/ready").json()["version"] == 1


def test_bad_requests_say_what_is_wrong(client: httpx.Client) -> None:
    huge = client.post("/v1/scores", content=b"x" * 10_000_000)
    assert huge.status_code == 413 and "262144 bytes" in huge.json()["detail"]
    endless = client.post("/v1/scores", content=iter([b"{}"]))
    assert endless.status_code == 413
    for body in ({}, {"keys": []}, {"keys": ["a"] * 1001}, {"keys": [[1]]}):
        assert client.post("/v1/scores", json=body).status_code == 422
    assert client.post("/v1/scores", json={"keys": ["a"] * 1000}).status_code == 200


def test_who_asks_for_too_much_waits(shop: Path) -> None:
    with answering(app(rate="10/minute"), bearer()) as client:
        ask(client, *"abcdefgh")
        refused = client.post("/v1/scores", json={"keys": ["a", "b", "c"]})
        assert refused.status_code == 429
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        # Others are not affected.
        other = client.post("/v1/scores", json={"keys": ["a"]}, headers=bearer(name="bob"))
        assert other.status_code == 200
    with pytest.raises(ConfigError, match="EVERGREEN_SERVING_RATE"):
        app(rate="often")


def test_a_secret_is_made_once_and_short_ones_are_refused(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings()
    assert secret_of(settings) == secret_of(settings)
    assert (settings.home / "serving.secret").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("EVERGREEN_SECRET_SERVING", "short")
    with pytest.raises(ConfigError, match="at least 32"):
        secret_of(settings)


@pytest.mark.parametrize("when_down", ["last", "unavailable"])
def test_while_the_store_is_down_it_does_as_declared(
    shop: Path, monkeypatch: pytest.MonkeyPatch, when_down: str
) -> None:
    declare(shop, serving={"when_down": when_down})
    with answering(app(), bearer()) as client:
        known = ask(client, "c9-00", "c9-01")["scores"]

        async def down(_self: Any, _keys: Any) -> None:
            raise ServiceDownError("The online store does not answer (a test).")

        monkeypatch.setattr(AsyncReader, "read", down)
        answer = client.post("/v1/scores", json={"keys": ["c9-00", "c9-02"]})
        if when_down == "unavailable":
            assert answer.status_code == 503 and "does not answer" in answer.json()["detail"]
            return
        found = answer.json()
        assert found["stale"] and found["unknown"] == ["c9-02"]
        (score,) = found["scores"]
        assert score["score"] == known[0]["score"] and score["age_seconds"] > 0
        assert client.get("/v1/scores/c9-02").status_code == 503


def test_without_a_champion_it_is_not_ready_and_says_why(
    home: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny_shop.open_shop(tmp_path, monkeypatch)
    with answering(app(), bearer()) as client:
        ready = client.get("/ready")
        assert ready.status_code == 503 and "has no champion yet" in ready.json()["trouble"]
        assert client.get("/health").status_code == 200
        assert client.get("/v1/scores/a").status_code == 503


def test_a_promotion_is_taken_up_and_drops_no_request(shop: Path) -> None:
    keys, versions, failures = list(published())[:5], [], []
    stop = threading.Event()

    def ask_on(address: httpx.URL) -> None:
        with httpx.Client(base_url=address, headers=bearer()) as client:
            while not stop.is_set():
                answer = client.post("/v1/scores", json={"keys": keys})
                if answer.status_code != 200:
                    failures.append(answer.text)
                versions.append(answer.headers.get("X-Model-Version"))

    with answering(app(refresh_seconds=0.1), {}) as client:
        asking = [threading.Thread(target=ask_on, args=(client.base_url,)) for _ in range(2)]
        for one in asking:
            one.start()
        time.sleep(0.5)
        steps.release_version(NAME, "promote", "2", "a test", "ann")
        deadline = time.monotonic() + 30
        while versions[-1] != "2" and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        for one in asking:
            one.join()
    assert failures == []
    assert {*versions} == {"1", "2"} and versions[-1] == "2"


def test_what_it_does_is_counted(client: httpx.Client) -> None:
    ask(client, "c9-00", "nobody")
    ask(client, "c9-00")
    # A request is counted when its answer has been sent.
    deadline = time.monotonic() + 10
    while 'seconds_count{status="200"} 2.0' not in client.get("/metrics").text:
        assert time.monotonic() < deadline
    told = client.get("/metrics").text
    assert 'evergreen_serving_version{variant="champion"} 1.0' in told
    assert 'evergreen_serving_entities_total{found="yes",variant="champion"} 2.0' in told
    assert 'evergreen_serving_entities_total{found="no",variant=""} 1.0' in told
    assert "evergreen_serving_cached_total 1.0" in told
