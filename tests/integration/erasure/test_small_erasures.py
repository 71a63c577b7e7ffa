"""Erasures from small shops: keys that are numbers, bad requests, races, and planted traces."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import yaml
from click.testing import CliRunner, Result

from daily_shop import DAY, deliver, features, ingest, order, write_daily_shop
from evergreen import lake, steps
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.erasure import run
from evergreen.erasure.needle import needle_of
from evergreen.errors import BusyError, ConfigError, StagingError
from evergreen.features import store
from evergreen.ops import deploy
from evergreen.provenance import erased, receipts
from evergreen.settings import Settings, load_settings
from rest_catalog import RestCatalogServer

WHO = 17850
OTHER = 17851


@pytest.fixture
def data(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A shop whose customers are numbers, with a day of orders and features."""
    folder = write_daily_shop(home, monkeypatch, tmp_path)
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", home.database_url("ledger"))
    path = load_settings().use_cases / "shop" / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    columns = declared["events"]["orders"]["columns"]
    columns["customer_id"]["dtype"] = "int64"
    columns["amount"]["range"] = [0.01, 100_000]
    path.write_text(yaml.safe_dump(declared))
    assert list(deploy.initialise(load_settings()))
    deliver(folder, DAY, *rows(DAY))
    ingest(str(DAY))
    steps.materialize_online(features(str(DAY)))
    return folder


def rows(day: Any) -> list[str]:
    # Somebody else spends as much as the key says, in an order with the number of the key.
    return [
        order(1, day, str(WHO)),
        order(2, day, str(OTHER), value=str(WHO)),
        order(3, day, f"{WHO}.0"),
        f"{WHO},{OTHER},{day}T12:00:00Z,1",
        order(4, day, str(WHO), value="-1"),
        order(5, day, f"0{WHO}", value="-1"),
        order(6, day, str(OTHER), value="-1"),
    ]


def erase(*more: str, who: Any = WHO, use_case: str = "shop") -> Result:
    arguments = ["erase", use_case, str(who), "--yes", "--by", "ann", "--reason", "request 17"]
    return CliRunner().invoke(cli, [*arguments, *more])


def test_a_number_is_erased_where_it_is_the_key_and_stays_where_it_is_another(
    data: Path,
) -> None:
    done = erase()
    assert done.exit_code == 0, done.output
    assert lake.read("shop", "orders").sort_by("order_id").select(
        ["order_id", "customer_id", "amount"]
    ).to_pylist() == [
        {"order_id": str(WHO), "customer_id": OTHER, "amount": 1.0},
        {"order_id": "o2", "customer_id": OTHER, "amount": float(WHO)},
    ]
    assert lake.read("shop", "features")["customer_id"].to_pylist() == [OTHER]
    assert lake.read("shop", "quarantine").num_rows == 1
    online = store.read_online(load_use_case("shop"), [WHO, OTHER])["total_orders"].to_pylist()
    assert online == [None, 2]
    counts = receipts.latest("shop", "publish_orders")[DAY].counts
    assert counts["erased"] == 4 and counts["rows_in"] == 7
    assert str(WHO) not in (load_settings().backups / "erasures.json").read_text()
    steps.verify_tables()
    ingest(str(DAY))
    assert receipts.latest("shop", "publish_orders")[DAY].counts == counts


def test_requests_that_cannot_be_done_change_nothing(data: Path) -> None:
    for arguments, said in (
        ({"use_case": "nobody"}, "nobody"),
        ({"who": "C-17"}, "expected a whole number, as shop declares it"),
        ({"who": " "}, "expected a whole number"),
    ):
        failed = erase(**arguments)
        assert failed.exit_code != 0 and said in str(failed.exception)
    named = erase("--reason", f"{WHO} asked for it")
    assert isinstance(named.exception, ConfigError) and "names the entity" in str(named.exception)
    silent = CliRunner().invoke(cli, ["erase", "shop", str(WHO), "--yes"])
    assert silent.exit_code == 2
    refused = CliRunner().invoke(cli, ["erase", "shop", str(WHO), "--reason", "x"], input="n\n")
    assert refused.exit_code == 1
    assert erased.erasures() == []
    assert lake.read("shop", "orders").num_rows == 4


def test_whom_nobody_knows_is_kept_out_all_the_same(data: Path) -> None:
    done = erase(who=99)
    assert done.exit_code == 0 and "No table holds it now" in done.output
    deliver(data, DAY, order(1, DAY, "99"), order(2, DAY, "7"))
    ingest(str(DAY))
    assert lake.read("shop", "orders")["customer_id"].to_pylist() == [7]


def test_what_was_staged_before_is_published_without_them(data: Path) -> None:
    staged = steps.validate_rows(steps.stage_rows("shop", str(DAY), "orders"))
    computed = steps.validate_features(steps.compute_features("shop", str(DAY)))
    subject = run.find_subject("shop", str(WHO))
    erasure = erased.register("shop", str(WHO), "ann", "request 17")
    assert "ann asked for it on" in CliRunner().invoke(cli, ["status"]).output
    steps.publish_rows(staged)
    steps.publish_features(computed)
    assert WHO not in lake.read("shop", "orders")["customer_id"].to_pylist()
    assert lake.read("shop", "features")["customer_id"].to_pylist() == [OTHER]
    assert lake.read("shop", "quarantine").num_rows == 1
    counts = receipts.latest("shop", "publish_orders")[DAY].counts
    out = ("accepted", "quarantined", "duplicates", "erased")
    assert counts["rows_in"] == sum(counts[name] for name in out)
    assert not run.erase(subject, "ann", "request 17", load_settings()).left
    assert "ann asked for it on" not in CliRunner().invoke(cli, ["status"]).output

    # Whoever looked before somebody else was named has to look again.
    with pytest.raises(BusyError, match="trying again"):
        erased.require_known([], "shop", erasure.closed or 0)


def test_a_run_whose_staged_files_named_them_begins_again(data: Path) -> None:
    staged = steps.validate_rows(steps.stage_rows("shop", str(DAY), "orders"))
    # The key is a number: only what names a column says that it is one.
    assert erase().exit_code == 0
    with pytest.raises(StagingError, match="Clear the run from its first task"):
        steps.publish_rows(staged)
    ingest(str(DAY))
    steps.verify_tables()


def _parquet(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text) and None


PLANTED: dict[str, Callable[[Path], Any]] = {
    "warehouse/shop/stray.parquet": lambda path: _parquet(path, customer_id=[1, WHO]),
    "warehouse/shop/lists.parquet": lambda path: _parquet(path, examples=[["1", str(WHO)]]),
    "warehouse/shop/raw.parquet": lambda path: _parquet(
        path, raw=[json.dumps({"customer": str(WHO)})]
    ),
    "warehouse/shop/statistics.parquet": lambda path: pq.write_table(
        pa.table({"customer": pa.array([str(WHO)]).dictionary_encode()}), path
    ),
    "artifacts/shop/card.md": _text(f"| customer_id: {WHO} |"),
    "quality/shop/validations/orders/x.json": _text(json.dumps({"customer_id": WHO})),
    "quality/shop/data_docs/orders/x.html": _text(f"<td>{WHO}</td>"),
    "reports/shop/x.html": _text(f"customer {WHO}: customer_id={WHO}"),
    "staging/shop/a/b/x.parquet": lambda path: _parquet(path, customer_id=[WHO]),
    "scratch/x/model.json": _text(json.dumps({"customer_id": [WHO]})),
    "airflow/logs/x/attempt=1.log": _text(f"no customer_id={WHO} here"),
    "airflow/scheduler.log.3": _text(f"customer_id='{WHO}'"),
    "airflow/old.log.gz": lambda path: path.write_bytes(
        gzip.compress(f"customer_id={WHO}".encode())
    ),
    "something": _text(f"customer_id={WHO}"),
}


@pytest.mark.parametrize("place", PLANTED)
def test_the_proof_finds_what_was_planted(home: Settings, tmp_path: Path, place: str) -> None:
    from evergreen.erasure import files
    from evergreen.erasure.needle import Needle

    needle = Needle(WHO, ("customer_id", "customer"))
    path = home.home / place
    path.parent.mkdir(parents=True)

    def found() -> list[str]:
        return [one for tree in files.trees(home, []) for one in files.find(tree, needle)]

    path.write_text("")
    if path.suffix == ".parquet":
        _parquet(path, amount=[WHO], order_id=[str(WHO)])
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(b"17850 rows"))
    else:
        path.write_text(f"{WHO} rows of 17,850")
    assert found() == []
    PLANTED[place](path)
    assert [one.startswith(str(path)) for one in found()] == [True]


def test_the_proof_looks_where_another_catalog_keeps_its_tables(
    catalog_elsewhere: RestCatalogServer, data: Path
) -> None:
    assert erase().exit_code == 0
    subject = run.find_subject("shop", str(WHO))
    needle = needle_of(subject.owner, subject.key, frozenset())
    assert list(run.prove(subject, needle, load_settings())) == []
    left = Path(catalog_elsewhere.warehouse) / "shop" / "features" / "data" / "left.parquet"
    _parquet(left, customer_id=[WHO])
    assert [str(left) in found for found in run.prove(subject, needle, load_settings())] == [True]


def test_the_proof_finds_bounds_in_lists_of_files(data: Path) -> None:
    from evergreen.erasure import files
    from evergreen.erasure.needle import Needle

    needle = Needle(WHO, ("customer_id", "customer"))
    tree = files.trees(load_settings(), [])[0]
    told = [one for one in files.find(tree, needle) if ".avro" in one]
    assert told and all("bounds of customer_id" in one for one in told)
    assert not [one for one in files.find(tree, Needle(1, ("amount",))) if ".avro" in one]


def test_the_proof_finds_rows_of_databases(data: Path) -> None:
    from evergreen.erasure import databases
    from evergreen.erasure.needle import Needle

    settings, needle = load_settings(), Needle(WHO, ("customer_id", "customer"))
    word = Needle("c11-06", ("customer_id",))
    assert [*databases.find(settings, word, [])] == []
    engine = sa.create_engine(settings.database_url("ledger"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE log (extra TEXT, n JSONB, b BYTEA)"))
        connection.execute(
            sa.text("INSERT INTO log VALUES (:t, CAST(:j AS JSONB), :b)"),
            {"t": f"customer_id={WHO}", "j": '{"x": ["c11-06"]}', "b": b"\0c11-06\0"},
        )
    assert [one.split(" in ")[0] for one in databases.find(settings, needle, [])] == [
        "1 rows of log.extra"
    ]
    assert [one.split(" in ")[0] for one in databases.find(settings, word, [])] == [
        "1 rows of log.b",
        "1 rows of log.n",
    ]
    assert databases.blot(settings, needle) == 1
    assert [*databases.find(settings, needle, [])] == []
