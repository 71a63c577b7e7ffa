"""Somebody is erased from a shop that has lived: nothing is left, and nobody else changes."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

import tiny_shop
from embedded import Build
from evergreen import lake, steps
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.errors import ErasedError
from evergreen.features import store
from evergreen.lake.sealed import _avro_header
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.provenance.staleness import find_stale
from evergreen.settings import load_settings
from lived_shop import REJECTED, SECOND, WHO, build_lived_shop, new_day
from tiny_shop import NAME
from watched_shop import DAYS, LAST, NEXT, NIGHTS, TRAINED, watch

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

ALL = (NAME, SECOND)


@pytest.fixture
def shop(begin_with: Callable[[Build], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = begin_with(build_lived_shop)
    # The services of these tests share a database.
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", load_settings().database_url("ledger"))
    return folder


def erase(*more: str, who: str = WHO, use_case: str = NAME) -> Result:
    arguments = ["erase", use_case, who, "--yes", "--by", "ann", "--reason", "request 17", *more]
    return CliRunner().invoke(cli, arguments)


def places(needle: str) -> set[str]:
    """Look for a text in all files and tables, with nothing of the code that erases."""
    return {*_files(needle.encode()), *_tables(needle)}


def _files(needle: bytes) -> Iterator[str]:
    settings = load_settings()
    for path in settings.home.rglob("*"):
        if not path.is_file() or path.is_relative_to(settings.backups):
            continue
        content = path.read_bytes()
        if needle in content or needle in _unpacked(path, content):
            yield str(path.relative_to(settings.home))


def _unpacked(path: Path, content: bytes) -> bytes:
    if path.suffix == ".parquet":
        rows = pq.read_table(pa.BufferReader(content))
        return repr(rows.to_pydict()).encode()
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".avro":
        header, begin = _avro_header(content)
        found, blocks = b"", io.BytesIO(content[begin:])
        while rest := blocks.read():
            # Length and count of a block are variable; whatever inflates is one.
            for start in range(12):
                stream = zlib.decompressobj(-15)
                try:
                    inflated = stream.decompress(rest[start:])
                except zlib.error:
                    continue
                if stream.eof:
                    found += inflated
                    blocks = io.BytesIO(stream.unused_data[len(header.sync) :])
                    break
        return found
    return b""


def _tables(needle: str) -> Iterator[str]:
    engine = sa.create_engine(load_settings().database_url("ledger"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f'SELECT * FROM "{table}"')).all()
            if any(needle.encode() in _as_bytes(value) for row in rows for value in row):
                yield f"SQL {table}"


def _as_bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, memoryview | bytes) else str(value).encode()


def contents() -> dict[str, list[str]]:
    """Everything that tables hold of everybody else."""
    return {
        f"{name}.{table}": sorted(
            repr(row) for row in lake.read(name, table).to_pylist() if WHO not in repr(row)
        )
        for name in ALL
        for table in lake.tables(name)
    }


def test_nothing_is_left_and_nobody_else_changes(shop: Path) -> None:
    before, found = contents(), places(WHO)
    for part in ("data/", "metadata/"):
        assert any(part in place for place in found)
    assert {"SQL xcom", "SQL evergreen_shop_features"} <= found
    old = receipts.latest(NAME, "publish_orders")[TRAINED]
    features = receipts.latest(NAME, "publish_features")[TRAINED]
    planned = CliRunner().invoke(cli, ["erase", NAME, WHO, "--plan"])
    assert planned.exit_code == 0 and f"{NAME}.quarantine/orders" in planned.output
    assert f"{SECOND}.predictions" in planned.output
    assert contents() == before and places(WHO) == found

    done = erase()
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert places(WHO) == set()
    assert contents() == before

    # Every table is as its receipts say; nothing is stale because of it.
    steps.verify_tables()
    assert [find_stale(load_use_case(name)) for name in ALL] == [[], []]
    counts = receipts.latest(NAME, "publish_orders")[TRAINED].counts
    assert counts["erased"] == 1 + REJECTED
    assert (
        counts["rows_in"]
        == old.counts["rows_in"]
        == sum(counts[name] for name in ("accepted", "quarantined", "duplicates", "erased"))
    )
    assert counts["accepted"] == lake.read_day(NAME, "orders", TRAINED).num_rows
    assert store.read_online(load_use_case(NAME), [WHO])["as_of"].to_pylist() == [None]

    for target in (str(old.sequence), str(features.sequence), f"{NAME}/1", f"{SECOND}/1"):
        with pytest.raises(ErasedError, match=r"erased on .* by ann: request 17"):
            replay(target)
    told = CliRunner().invoke(cli, ["replay", f"{NAME}/1"])
    assert told.exit_code == 3 and "nothing is damaged" in told.output

    again = erase()
    assert again.exit_code == 0 and "Asked for on" in again.output
    assert "No table holds it now" in again.output
    steps.verify_tables()

    # An old day again, and new ones: the source has the rows still.
    tiny_shop.ingest(TRAINED)
    assert receipts.latest(NAME, "publish_orders")[TRAINED].counts == counts
    assert find_stale(load_use_case(NAME)) == []
    for day in (NEXT, LAST):
        new_day(day)
        watch(day)
    tiny_shop.compute(f"{DAYS[0]}..{LAST}")
    assert places(WHO) == set()
    steps.verify_tables()
    fresh = receipts.latest(NAME, "publish_features")[LAST]
    assert replay(str(fresh.sequence)).equal
    judged = tiny_shop.train(NIGHTS[-1])
    assert replay(f"{NAME}/{judged['version']}").equal
    assert CliRunner().invoke(cli, ["status"]).exit_code == 0
