"""Tables of a catalog that speaks the Iceberg REST protocol, and what its failures come to."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner
from starlette.responses import Response

import tiny_shop
from evergreen import lake
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.errors import ConfigError, EvergreenError, ServiceDownError
from evergreen.lake import compaction, elsewhere, upkeep
from evergreen.ops.backup.make import back_up
from evergreen.ops.backup.restore import restore
from evergreen.provenance import receipts
from evergreen.provenance.staleness import find_stale
from evergreen.settings import Settings, load_settings
from rest_catalog import PASSWORD, TOKEN, USER, RestCatalogServer

pytestmark = pytest.mark.timeout(300)

DAY = date(2026, 1, 1)
NEXT = DAY + timedelta(days=1)


@pytest.fixture
def server(
    home: Settings, catalog_elsewhere: RestCatalogServer, monkeypatch: pytest.MonkeyPatch
) -> RestCatalogServer:
    # The tables are elsewhere, so this one is not asked for.
    monkeypatch.setenv("EVERGREEN_CATALOG_URL", "postgresql+psycopg2://nobody@127.0.0.1:1/none")
    return catalog_elsewhere


def publish(*values: int, day: date = DAY, **more: Any) -> lake.Published:
    columns = {"value": values, **{name: [extra] * len(values) for name, extra in more.items()}}
    rows = pa.table({**columns, "day": pa.array([day] * len(values), pa.date32())})
    return lake.publish("shop", "orders", rows, [day])


def content(snapshot_id: int | None = None) -> dict[date, list[int]]:
    found: dict[date, list[int]] = {}
    for row in lake.read("shop", "orders", snapshot_id=snapshot_id).to_pylist():
        found.setdefault(row["day"], []).append(row["value"])
    return {day: sorted(values) for day, values in found.items()}


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=1)


def test_days_are_published_replaced_and_read(server: RestCatalogServer) -> None:
    assert lake.tables("shop") == [] and lake.heads("shop") == {}
    first = publish(1, 2)
    publish(3, day=NEXT, note="new")
    heads = lake.heads("shop")
    assert publish(1, 2).changed == ()
    assert lake.heads("shop") == heads
    assert publish(4).changed == (DAY,)
    assert lake.heads("shop").keys() == heads.keys() and lake.heads("shop") != heads
    assert content() == {DAY: [4], NEXT: [3]}
    assert content(first.snapshot_id) == {DAY: [1, 2]}
    assert lake.partitions("shop", "orders") == {DAY: 1, NEXT: 1}
    assert lake.tables("shop") == ["orders"]
    lake.tag("shop", "orders", first.snapshot_id, "training-1")
    assert lake.tags("shop", "orders") == {"training-1": first.snapshot_id}
    (path, _) = lake.scan("shop", "orders").paths
    assert path.startswith(server.warehouse)


def _publish_often(marker: int) -> None:
    for n in range(4):
        publish(marker, n, day=DAY + timedelta(days=marker))
        publish(*[marker] * 3)


def test_of_two_at_once_both_days_land_and_one_day_is_of_one(server: RestCatalogServer) -> None:
    # The second finds neither the namespace nor the table, either.
    writers = [get_context("fork").Process(target=_publish_often, args=(n,)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = content()
    assert found[DAY + timedelta(days=1)] == [1, 3] and found[DAY + timedelta(days=2)] == [2, 3]
    assert found[DAY] in ([1, 1, 1], [2, 2, 2])


def test_upkeep_frees_what_nothing_refers_to(server: RestCatalogServer) -> None:
    kept = publish(0).snapshot_id
    lake.tag("shop", "orders", kept, "training-1")
    for value in range(1, 6):
        publish(value)
    publish(9, day=NEXT)
    (Path(server.warehouse) / "shop/orders/data/stray.parquet").write_bytes(b"half")
    assert upkeep.expire_snapshots("shop", "orders", soon()) > 0
    removed = upkeep.remove_orphan_files("shop", "orders", soon())
    assert removed.files > 5
    assert len(list(Path(server.warehouse).rglob("*.parquet"))) == 3
    assert content() == {DAY: [5], NEXT: [9]} and content(kept) == {DAY: [0]}
    lake.catalog().load_table(("shop", "orders")).append(
        pa.table({"value": [6], "day": pa.array([DAY], pa.date32())})
    )
    assert compaction.compact("shop", "orders").files == (3, 2)
    assert content() == {DAY: [5, 6], NEXT: [9]}


@pytest.mark.parametrize("token", ["wrong-token", ""])
def test_a_wrong_token_names_the_setting_and_no_secret(
    server: RestCatalogServer, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    server.declare(monkeypatch, token)
    with pytest.raises(ConfigError, match="does not let us in") as caught:
        publish(1)
    assert "PYICEBERG_CATALOG__EVERGREEN__TOKEN" in str(caught.value)
    assert server.url in str(caught.value)
    assert not token or token not in str(caught.value)


def test_properties_that_variables_cannot_hold_are_in_the_file(
    server: RestCatalogServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PYICEBERG_CATALOG__EVERGREEN__TOKEN")
    monkeypatch.setenv("PYICEBERG_HOME", str(tmp_path))

    def log_in(password: str) -> None:
        auth = {"type": "basic", "basic": {"username": USER, "password": password}}
        declared = yaml.safe_dump({"catalog": {"evergreen": {"auth": auth}}})
        (tmp_path / ".pyiceberg.yaml").write_text(declared)

    log_in(PASSWORD)
    publish(1)
    log_in("another-5up3r")
    with pytest.raises(ConfigError, match="does not let us in") as caught:
        content()
    assert "5up3r" not in str(caught.value)


@pytest.mark.parametrize("declared", [{"TYPE": "hive"}, {"TYPE": "some"}, {}])
def test_what_cannot_be_opened_is_said_without_secrets(
    home: Settings, monkeypatch: pytest.MonkeyPatch, declared: dict[str, str]
) -> None:
    uri = "thrift://somebody:5up3r@127.0.0.1:1"
    for name, value in {"URI": uri, **declared}.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__EVERGREEN__{name}", value)
    with pytest.raises(ConfigError, match=r"at thrift://127\.0\.0\.1:1 cannot be opened") as caught:
        lake.catalog()
    assert "5up3r" not in str(caught.value)


def test_a_server_that_is_down_is_told_whenever_it_is(
    server: RestCatalogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = pytest.raises(ServiceDownError, match=rf"at {server.url} does not answer")
    server.stop()
    with down:
        content()
    server.start()
    publish(1)
    server.stop()
    for ask in (content, lambda: publish(2), lambda: lake.heads("shop"), lambda: lake.tables("x")):
        with down:
            ask()
    server.start()
    assert content() == {DAY: [1]}
    # It takes the question, and says nothing.
    monkeypatch.setattr(elsewhere, "_SECONDS", 0.3)
    server.before = lambda: time.sleep(1) or Response(status_code=503)
    with down:
        publish(2)
    assert publish(2).changed == (DAY,) and content() == {DAY: [2]}


def _late() -> Response:
    time.sleep(1)
    return Response(status_code=200)


@pytest.mark.parametrize("table_is_there", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("answer", [500, 502, 503, 504, "late"])
def test_a_commit_without_an_answer_is_never_done_twice_or_by_half(
    server: RestCatalogServer,
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    when: str,
    table_is_there: bool,
) -> None:
    if table_is_there:
        publish(1, day=NEXT)
    monkeypatch.setattr(elsewhere, "_SECONDS", 0.3)
    setattr(server, when, _late if answer == "late" else lambda: Response(status_code=answer))
    with pytest.raises(ServiceDownError, match="does not answer"):
        publish(7, 8)
    monkeypatch.undo()
    server.declare(monkeypatch)
    standing = {NEXT: [1]} if table_is_there else {}
    done = when == "after" and table_is_there
    if lake.exists("shop", "orders"):
        assert content() == standing | ({DAY: [7, 8]} if done else {})
    again = publish(7, 8)
    assert again.changed == (() if done else (DAY,))
    assert content() == standing | {DAY: [7, 8]}
    # One snapshot for each day, whichever attempt it was of.
    loaded = lake.load("shop", "orders")
    assert loaded is not None
    assert len(loaded.snapshots()) == 1 + table_is_there
    assert again.snapshot_id == loaded.current_snapshot().snapshot_id


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    if isinstance(result.exception, EvergreenError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_a_use_case_lives_there_from_orders_to_scores(
    server: RestCatalogServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", load_settings().database_url("ledger"))
    tiny_shop.open_shop(tmp_path, monkeypatch)
    use_case = load_use_case(tiny_shop.NAME)
    assert "shop" in _run("check", "shop")

    # The answer to the commit of the features gets lost; the task is tried again.
    computed = tiny_shop.steps.validate_features(
        tiny_shop.steps.compute_features("shop", tiny_shop.WHOLE)
    )
    server.after = lambda: Response(status_code=500)
    with pytest.raises(ServiceDownError):
        tiny_shop.steps.publish_features(computed)
    assert not receipts.latest("shop", "publish_features")
    features = tiny_shop.steps.publish_features(computed)
    assert set(receipts.latest("shop", "publish_features")) == set(tiny_shop.DAYS)
    tiny_shop.steps.materialize_online(features)

    tiny_shop.label(features)
    judged = tiny_shop.train()
    tiny_shop.steps.promote_challenger(judged)
    last = tiny_shop.DAYS[-1]
    tiny_shop.score(last)
    tiny_shop.night(last)
    scores = lake.read_day("shop", "predictions", last)
    assert scores.num_rows > 20
    assert find_stale(use_case) == []
    shown = _run("status")
    assert "predictions" in shown and "nothing is stale" in shown

    saved = back_up(tmp_path / "safe")
    assert saved.left_out == [
        f"the tables of the catalog at {server.url}: back them up where they are, after this"
    ]
    assert "catalog" not in saved.databases and saved.tables == {} and TOKEN not in str(saved)
    tiny_shop.score(tiny_shop.DAYS[-2])
    restore(tmp_path / "safe", force=True)
    assert list(receipts.latest("shop", "publish_predictions")) == [last]
    assert lake.read_day("shop", "predictions", last).equals(scores)
    for name in ("URI", "TOKEN", "OAUTH2_SERVER_URI"):
        monkeypatch.delenv(f"PYICEBERG_CATALOG__EVERGREEN__{name}")
    with pytest.raises(ConfigError, match="Set the variables PYICEBERG_CATALOG__EVERGREEN__"):
        restore(tmp_path / "safe", force=True)
