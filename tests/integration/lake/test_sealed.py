"""A lost or damaged file of the lake is told, listed, and healed by making its day again."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen import lake
from evergreen.errors import DamagedError
from evergreen.lake import compaction
from evergreen.lake.opening import open_files
from evergreen.lake.sealed import open_intact
from evergreen.ops.backup import manifest
from evergreen.ops.backup.manifest import Manifest
from evergreen.settings import Settings

pytestmark = pytest.mark.usefixtures("home")

FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(3)]
SCHEMA = pa.schema(
    [("order_id", pa.string()), ("kind", pa.string()), ("amount", pa.float64())]
).append(pa.field("day", pa.date32()))
COMMAND = "evergreen backfill churn 2026-01-02"


def rows(day: date, kind: str = "", number: int = 20) -> pa.Table:
    values = random.Random(str(day))
    return pa.table(
        {
            "order_id": [f"{day}-{n}" for n in range(number)],
            "kind": [kind] * number,
            "amount": [round(values.uniform(1, 100), 2) for _ in range(number)],
            "day": [day] * number,
        },
        SCHEMA,
    )


def publish(day: date, table: str = "orders", kind: str = "", number: int = 20) -> bool:
    part = {"kind": kind} if kind else None
    return bool(lake.publish("churn", table, rows(day, kind, number), [day], part=part).changed)


def data_file(home: Settings, day: date, table: str = "orders") -> Path:
    (file,) = (Path(home.warehouse) / "churn" / table / "data" / f"day={day}").iterdir()
    return file


def stream_all(table: str) -> pa.Table:
    found = lake.scan("churn", table)
    assert found.schema is not None
    return pa.concat_tables(lake.stream(found, found.schema.names, 7))


def read_by_duckdb(table: str) -> pa.Table:
    paths = lake.scan("churn", table).paths
    with duckdb.connect() as connection:
        # What a filter makes of damaged statistics counts, too.
        return open_files(connection, paths).filter("amount < 200").to_arrow_table()


def in_order(found: pa.Table) -> pa.Table:
    typed = found.select(SCHEMA.names).cast(SCHEMA)
    return typed.sort_by("order_id").combine_chunks()


READERS: dict[str, Callable[[str], pa.Table]] = {
    "read": lambda table: lake.read("churn", table),
    "stream": stream_all,
    "duckdb": read_by_duckdb,
}


def lose(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 8
    file.write_bytes(content)


DAMAGES = [lose, cut, flip]


# --- one bit -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_flipped_bit_is_read_silently(home: Settings) -> None:
    publish(FIRST)
    file = data_file(home, FIRST)
    whole = file.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    expected = {name: read("orders") for name, read in READERS.items()}
    bits = random.Random(7)
    # Pages with their headers, the checksum itself, the footer, and its length.
    places = [bits.randrange(footer - 20) for _ in range(60)]
    places += [bits.randrange(footer - 20, footer) for _ in range(15)]
    places += [bits.randrange(footer, len(whole)) for _ in range(60)] + [len(whole) - 8]
    silent = []
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bits.randrange(8)
        file.write_bytes(damaged)
        for name, read in READERS.items():
            try:
                read("orders")
            except DamagedError as error:
                assert "churn.orders of 2026-01-01" in str(error)
            else:
                silent.append((place, name))
    assert silent == []
    file.write_bytes(whole)
    for name, read in READERS.items():
        assert read("orders").equals(expected[name])


def test_merged_files_carry_a_checksum_and_anybody_reads_them(home: Settings) -> None:
    for kind in ("gate", "governor"):
        publish(FIRST, "decisions", kind)
    compaction.compact("churn", "decisions")
    file = Path(*lake.scan("churn", "decisions").paths)
    expected = lake.read("churn", "decisions")
    assert file.name.endswith(".sealed.parquet")
    assert pq.read_table(file, partitioning=None).select(expected.column_names).equals(expected)
    flip(file)
    with pytest.raises(DamagedError):
        open_intact(str(file))


def test_files_from_before_checksums_are_read(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyiceberg.io.pyarrow import ParquetFormatModel

    from evergreen.lake import sealed

    with monkeypatch.context() as before:
        plain = ParquetFormatModel.file_extension
        before.setattr(sealed._SealedParquet, "file_extension", plain)
        publish(FIRST)
    old = data_file(home, FIRST)
    assert ".sealed." not in old.name
    publish(DAYS[1])
    both = pa.concat_tables([rows(FIRST), rows(DAYS[1])])
    for read in READERS.values():
        assert in_order(read("orders")).equals(in_order(both))
    lose(old)
    for read in READERS.values():
        with pytest.raises(DamagedError, match="is missing"):
            read("orders")


# --- one file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_readers_name_table_day_and_what_mends_it(
    home: Settings, damage: Callable[[Path], None], reader: str
) -> None:
    for day in DAYS:
        publish(day)
    damage(data_file(home, DAYS[1]))
    with pytest.raises(DamagedError, match=f"churn.orders of 2026-01-02 .*{COMMAND}") as caught:
        READERS[reader]("orders")
    assert "There is no backup" in str(caught.value)
    # The other days can be read.
    assert lake.read_day("churn", "orders", DAYS[2]).num_rows == 20


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("number", [20, 5, 0])
def test_publishing_a_damaged_day_again_heals_it(
    home: Settings, damage: Callable[[Path], None], number: int
) -> None:
    for day in DAYS:
        publish(day)
    damage(data_file(home, DAYS[1]))
    again = pa.concat_tables([rows(DAYS[0]), rows(DAYS[1], number=number), rows(DAYS[2])])
    published = lake.publish("churn", "orders", again, DAYS)
    # What says the same is left as it is.
    assert published.changed == (DAYS[1],)
    assert lake.damaged_days("churn", "orders") == {}
    for read in READERS.values():
        assert in_order(read("orders")).equals(in_order(again))
    assert lake.publish("churn", "orders", again, DAYS).changed == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_part_is_healed_alone_but_never_at_the_cost_of_another(
    home: Settings, damage: Callable[[Path], None]
) -> None:
    publish(FIRST, "decisions", "governor")
    damage(data_file(home, FIRST, "decisions"))
    # A file of its own: nothing else is lost with it.
    assert publish(FIRST, "decisions", "governor")
    publish(FIRST, "decisions", "gate")
    compaction.compact("churn", "decisions")
    before = lake.snapshot_id("churn", "decisions")
    (path,) = lake.scan("churn", "decisions").paths
    whole = Path(path).read_bytes()
    damage(Path(path))
    # Now the unreadable file holds what the gate decided.
    with pytest.raises(DamagedError, match=r"churn.decisions of 2026-01-01.*cannot be made again"):
        publish(FIRST, "decisions", "governor", 3)
    assert lake.snapshot_id("churn", "decisions") == before
    Path(path).write_bytes(whole)
    assert lake.read("churn", "decisions").num_rows == 40


def test_lost_and_cut_files_are_listed_without_reading(home: Settings) -> None:
    for day in DAYS:
        publish(day)
    lose(data_file(home, DAYS[0]))
    cut(data_file(home, DAYS[2]))
    listed = lake.damaged_days("churn", "orders")
    assert list(listed) == [DAYS[0], DAYS[2]]
    assert listed[DAYS[0]].endswith("is missing")
    assert re.search(r"has [\d,]+ bytes, expected [\d,]+$", listed[DAYS[2]])


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lose, cut])
@pytest.mark.parametrize("kind", ["*.metadata.json", "snap-*.avro", "*-m0.avro"])
def test_damaged_metadata_names_the_newest_backup(
    home: Settings, damage: Callable[[Path], None], kind: str
) -> None:
    newest = home.backups / "2026-01-04T000000Z"
    for backup in (home.backups / "2026-01-03T000000Z", newest):
        backup.mkdir(parents=True)
        made_at = backup.name.removesuffix("0000Z") + ":00:00+00:00"
        record = Manifest(made_at, "", "", "", "", {}, {}, [], [], "", 0, 0, 0)
        manifest.write(record, backup)
    publish(FIRST)
    publish(DAYS[1])
    for file in (Path(home.warehouse) / "churn" / "orders" / "metadata").glob(kind):
        damage(file)
    sentence = r"metadata of the table churn.orders is missing or damaged.*"
    sentence += re.escape(f"`evergreen restore {newest} --force`")
    calls: list[Callable[[], object]] = [
        lambda: lake.read("churn", "orders"),
        lambda: lake.scan("churn", "orders"),
        lambda: lake.files("churn", "orders"),
        lambda: lake.partitions("churn", "orders"),
        lambda: lake.damaged_days("churn", "orders"),
        lambda: publish(FIRST, number=3),
        lambda: compaction.compact("churn", "orders"),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(DamagedError, match=sentence):
            pytest.fail(f"call {number} gave {call()}")


@pytest.mark.parametrize("kind", ["snap-*.avro", "*-m0.avro"])
def test_a_list_of_files_that_is_not_what_was_written_is_never_decoded(
    home: Settings, kind: str
) -> None:
    publish(FIRST)
    (file,) = (Path(home.warehouse) / "churn" / "orders" / "metadata").glob(kind)
    whole = file.read_bytes()
    draw = random.Random(7)
    # PyIceberg's decoder reads past the end of what it is given, into whatever lies there.
    damages = [whole[:length] for length in draw.sample(range(len(whole)), 40)]
    # A flip in the name of the checksum itself makes it a file that has none.
    begin = whole.index(b"evergreen.crc32") + len("evergreen.crc32")
    for place in draw.sample(range(begin, len(whole)), 40):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        damages.append(bytes(flipped))
    for damage in damages:
        file.write_bytes(damage)
        with pytest.raises(DamagedError, match=r"metadata of the table churn\.orders"):
            pytest.fail(f"{len(damage)} bytes of {len(whole)} gave {lake.files('churn', 'orders')}")


@pytest.mark.parametrize("kind", ["snap-*.avro", "*-m0.avro"])
def test_a_list_of_files_by_another_writer_is_read_if_it_is_not_cut(
    home: Settings, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evergreen.lake import sealed

    with monkeypatch.context() as before:
        before.setattr(sealed, "_seal_avro", lambda content: [content])
        publish(FIRST)
    expected = lake.read("churn", "orders")
    assert expected.num_rows == 20
    (file,) = (Path(home.warehouse) / "churn" / "orders" / "metadata").glob(kind)
    cut(file)
    with pytest.raises(DamagedError, match="cut off"):
        lake.files("churn", "orders")
