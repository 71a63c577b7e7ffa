from __future__ import annotations

import csv
import gzip
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from time import process_time
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.contract import FilesSource
from evergreen.errors import ConfigError, ServiceDownError, SourceError, SourceMissingError
from evergreen.sources.base import CHUNK_ROWS, RAW_COLUMNS
from evergreen.sources.files import FileReader

DAY = date(2026, 3, 1)
NEXT = date(2026, 3, 2)


def reader(
    path: object,
    required: tuple[str, ...] = ("a", "b"),
    only_day: date | None = None,
    **declared: Any,
) -> FileReader:
    source = FilesSource.model_validate({"kind": "files", "path": str(path), **declared})
    return FileReader(source, required, only_day)


def read(path: object, start: date = DAY, end: date = NEXT, **declared: Any) -> pa.Table:
    return pa.concat_tables(reader(path, **declared).read(start, end), promote_options="default")


def csv_file(tmp_path: Path, content: bytes | str, **declared: Any) -> pa.Table:
    path = tmp_path / "orders.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path, **declared)


def rows(table: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in columns) for row in table.to_pylist()]


# --- CSV ---------------------------------------------------------------------------------------


def test_every_value_stays_the_text_it_was(tmp_path: Path) -> None:
    table = csv_file(tmp_path, 'a,b,c\n13090.0,"1,234.5",\n007,NaN," x "\ntrue,null,NA\n')
    assert rows(table, "a", "b", "c") == [
        ("13090.0", "1,234.5", None),
        ("007", "NaN", " x "),
        ("true", "null", "NA"),
    ]
    assert table.schema.names == ["a", "b", "c", *RAW_COLUMNS]
    assert {table.schema.field(name).type for name in "abc"} == {pa.string()}
    assert table["_row"].to_pylist() == [1, 2, 3]
    assert table["_day"].to_pylist() == [None] * 3
    assert table["_error"].null_count == table["_text"].null_count == 3


def test_rows_with_wrong_field_counts_are_kept_with_their_number(tmp_path: Path) -> None:
    table = csv_file(tmp_path, "a,b\n1,2\n\n3\n4,5,6\n\n7,8\n9")
    assert rows(table, "_row", "a", "b", "_error", "_text") == [
        (1, "1", "2", None, None),
        (2, None, None, "expected 2 fields, found 1", "3"),
        (3, None, None, "expected 2 fields, found 3", "4,5,6"),
        (4, "7", "8", None, None),
        (5, None, None, "expected 2 fields, found 1", "9"),
    ]


def test_a_file_of_malformed_rows_only_keeps_them_all(tmp_path: Path) -> None:
    table = csv_file(tmp_path, "a,b\n1\n2\n")
    assert rows(table, "_row", "_text") == [(1, "1"), (2, "2")]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_repeated_header_is_an_error_row(tmp_path: Path, mark: str) -> None:
    table = csv_file(tmp_path, f"{mark}a,b\n1,2\n{mark}a,b\na,3\n")
    assert rows(table, "a", "b", "_error", "_text", "_row") == [
        ("1", "2", None, None, 1),
        (None, None, "repeated header", "a,b", 2),
        ("a", "3", None, None, 3),
    ]


def test_newlines_and_doubled_quotes_inside_quotes(tmp_path: Path) -> None:
    table = csv_file(tmp_path, 'a,b\r\n"two\nlines","say ""hi"""\r\n1,2\r\n')
    assert rows(table, "a", "b", "_row") == [("two\nlines", 'say "hi"', 1), ("1", "2", 2)]


def test_an_unclosed_quote_loses_nothing(tmp_path: Path) -> None:
    table = csv_file(tmp_path, 'a,b\n1,2\n"3,4\n5,6\n')
    assert rows(table, "a", "_text")[0] == ("1", None)
    assert [text for (text,) in rows(table, "_text") if text] == ['"3,4\n5,6']


def test_rows_keep_their_numbers_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evergreen.sources.csv_file._BLOCK_BYTES", 64)
    lines = [f"{n}" if n % 7 == 0 else f"{n},x" for n in range(1, 200)]
    table = csv_file(tmp_path, "a,b\n" + "\n".join(lines))
    assert table["_row"].to_pylist() == list(range(1, 200))
    for row in table.to_pylist():
        found = row["_text"] if row["_row"] % 7 == 0 else row["a"]
        assert found == str(row["_row"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.text('ab,"\n;é ', max_size=4), min_size=1, max_size=4), min_size=1, max_size=12
    )
)
def test_no_row_is_lost_or_invented(
    tmp_path_factory: pytest.TempPathFactory, records: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "orders.csv"
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([["a", "b"], *records])
    table = read(path)
    assert table["_row"].to_pylist() == list(range(1, len(records) + 1))
    for row, record in zip(table.to_pylist(), records, strict=True):
        if record == ["a", "b"]:
            assert row["_error"] == "repeated header"
        elif len(record) == 2:
            assert [row["a"] or "", row["b"] or ""] == record
        else:
            assert row["_error"] == f"expected 2 fields, found {len(record)}"


def test_large_files_come_in_bounded_chunks(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("a,b\n" + "1,2\n" * 150_000)
    chunks = [table.num_rows for table in reader(path).read(DAY, NEXT)]
    assert sum(chunks) == 150_000
    assert max(chunks) <= CHUNK_ROWS


@pytest.mark.parametrize("content", ["a,b\n", "a,b", "\ufeffa,b\r\n", '"a","b"'])
def test_a_header_alone_is_a_day_without_rows(tmp_path: Path, content: str) -> None:
    table = csv_file(tmp_path, content)
    assert table.num_rows == 0
    assert table.schema.names == ["a", "b", *RAW_COLUMNS]


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(SourceError, match=r"is empty.*expected at least a header"):
        csv_file(tmp_path, content)


def test_a_missing_column_names_file_missing_and_found(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        csv_file(tmp_path, "a,B\n1,2\n")
    message = str(caught.value)
    assert "orders.csv" in message
    assert "lacks columns ['b']; it has ['a', 'B']" in message
    assert "differ only in case" in message


@pytest.mark.parametrize(("delimiter", "shown"), [(";", "';'"), ("\t", r"'\t'"), ("|", "'|'")])
def test_a_wrong_delimiter_is_guessed(tmp_path: Path, delimiter: str, shown: str) -> None:
    content = f"a{delimiter}b\n1{delimiter}2\n"
    with pytest.raises(SourceError) as caught:
        csv_file(tmp_path, content)
    assert f"csv.delimiter is probably {shown}" in str(caught.value)
    assert csv_file(tmp_path, content, csv={"delimiter": delimiter}).num_rows == 1


def test_blanks_for_a_delimiter_are_guessed(tmp_path: Path) -> None:
    content = "a  b\n1  2\n"
    with pytest.raises(SourceError, match=r"csv\.delimiter is probably whitespace"):
        csv_file(tmp_path, content)
    assert csv_file(tmp_path, content, csv={"delimiter": "whitespace"}).num_rows == 1


def test_extra_columns_are_kept(tmp_path: Path) -> None:
    assert csv_file(tmp_path, "a,more,b\n1,x,2\n")["more"].to_pylist() == ["x"]


@pytest.mark.parametrize("header", ["a,b,a", "a,b,_row"])
def test_ambiguous_column_names_are_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(SourceError, match=r"more than once|reserved names"):
        csv_file(tmp_path, f"{header}\n1,2,3\n")


def test_names_stand_in_for_a_missing_header(tmp_path: Path) -> None:
    table = csv_file(tmp_path, "1,2\n3\n4,5\n", csv={"names": ["a", "b"]})
    assert rows(table, "_row", "a", "_text") == [(1, "1", None), (2, None, "3"), (3, "4", None)]


# The second has bad bytes only in a row with a missing field, the third only in the header.
@pytest.mark.parametrize("content", ["a,b\né,2\n", "a,b\né\n1,2\n", "a,b,é\n1,2,3\n"])
def test_a_wrong_encoding_is_told_and_the_right_one_works(tmp_path: Path, content: str) -> None:
    latin = content.encode("latin-1")
    with pytest.raises(SourceError, match=r"not utf-8.*source\.csv\.encoding"):
        csv_file(tmp_path, latin)
    table = csv_file(tmp_path, latin, csv={"encoding": "latin-1"})
    assert "é" in str(table.to_pydict())


def test_a_utf8_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    content = "a,b\né,2\n".encode("utf-8-sig")
    assert csv_file(tmp_path, content)["a"].to_pylist() == ["é"]
    with pytest.raises(SourceError, match=r"csv\.encoding is probably utf-8"):
        csv_file(tmp_path, content, csv={"encoding": "latin-1"})


def test_an_unknown_encoding_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="utf-9"):
        csv_file(tmp_path, "a,b\n1,2\n", csv={"encoding": "utf-9"})


def test_compressed_csv_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert read(path)["a"].to_pylist() == ["1"]
    path.write_bytes(b"a,b\n1,2\n")
    with pytest.raises(SourceError, match="not compressed"):
        read(path)
    path.write_bytes(gzip.compress(b"a,b\n1,2\n" * 1000)[:-12])
    with pytest.raises(SourceError, match="ends too early"):
        read(path)


# --- paths -------------------------------------------------------------------------------------


@pytest.fixture
def by_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORDERS_DIR", str(tmp_path))
    for day in (1, 2, 4):
        folder = tmp_path / "in" / "2026" / "03"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{day:02}.csv").write_text(f"a,b\n{day},x\n")
    return tmp_path


TEMPLATE = "${ORDERS_DIR}/in/{day:%Y/%m/%d}.csv"


def test_days_are_half_open_and_named_relative_to_the_variable(by_day: Path) -> None:
    table = read(TEMPLATE, date(2026, 3, 1), date(2026, 3, 3))
    assert rows(table, "a", "_day", "_source", "_row") == [
        ("1", date(2026, 3, 1), "in/2026/03/01.csv", 1),
        ("2", date(2026, 3, 2), "in/2026/03/02.csv", 1),
    ]


def test_a_missing_day_fails_as_something_that_may_yet_come(by_day: Path) -> None:
    with pytest.raises(SourceMissingError, match=r"2026-03-03.*03/03\.csv.*'fail'"):
        read(TEMPLATE, date(2026, 3, 1), date(2026, 3, 5))


def test_a_missing_day_may_be_declared_empty(by_day: Path) -> None:
    table = read(TEMPLATE, date(2026, 3, 1), date(2026, 3, 5), missing="empty")
    assert table["a"].to_pylist() == ["1", "2", "4"]
    nothing = read(TEMPLATE, date(2026, 3, 3), date(2026, 3, 4), missing="empty")
    assert nothing.num_rows == 0
    assert nothing.schema.names == ["a", "b", *RAW_COLUMNS]


def test_a_missing_folder_is_not_excused_by_the_policy(
    by_day: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_DIR", str(by_day / "elsewhere"))
    with pytest.raises(SourceMissingError, match="elsewhere/in does not exist"):
        read(TEMPLATE, DAY, NEXT, missing="empty")


def test_globs_come_sorted_and_without_match_are_missing(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.csv").write_text(f"a,b\n{name},1\n")
    assert read(tmp_path / "*.csv")["a"].to_pylist() == ["a", "b", "c"]
    with pytest.raises(SourceMissingError, match="No file matches"):
        read(tmp_path / "*.txt", missing="empty")
    with pytest.raises(SourceMissingError, match="No file matches"):
        read(tmp_path / "none.csv", missing="empty")


def test_a_file_for_one_day_has_rows_on_that_day_alone(tmp_path: Path) -> None:
    path = tmp_path / "products.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    read_products = reader(path, only_day=NEXT).read
    whole = pa.concat_tables(read_products(DAY, date(2026, 4, 1)))
    assert rows(whole, "a", "_day", "_row") == [("1", NEXT, 1), ("3", NEXT, 2)]
    assert pa.concat_tables(read_products(NEXT, date(2026, 3, 3))).equals(whole)
    for start, end in ((DAY, NEXT), (date(2026, 3, 3), date(2026, 4, 1))):
        assert pa.concat_tables(read_products(start, end)).num_rows == 0
    with pytest.raises(SourceMissingError, match="No file matches"):
        list(reader(tmp_path / "none.csv", only_day=DAY, missing="empty").read(DAY, NEXT))


def test_files_may_differ_in_extra_columns(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "2.csv").write_text("b,a\n4,5\n")
    table = read(tmp_path / "*.csv")
    assert rows(table, "a", "b", "c") == [("1", "2", "3"), ("5", "4", None)]


def test_an_unset_variable_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORDERS_DIR", raising=False)
    with pytest.raises(ConfigError, match="ORDERS_DIR"):
        read(TEMPLATE)


def test_an_unknown_protocol_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        read("nosuch://bucket/{day}.csv")


def test_an_unreadable_path_is_a_service_that_is_down(
    by_day: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.open", broken)
    with pytest.raises(ServiceDownError, match="reset by peer"):
        read(TEMPLATE)


def test_a_memory_file_system_behaves_like_a_disk() -> None:
    system = fsspec.filesystem("memory")
    for day in (1, 2):
        system.pipe(f"/bucket/2026-03-0{day}/part.csv", f"a,b\n{day},x\n".encode())
    try:
        table = read("memory://bucket/{day}/*.csv", DAY, date(2026, 3, 3))
        assert rows(table, "a", "_source", "_day") == [
            ("1", "memory:///bucket/2026-03-01/part.csv", DAY),
            ("2", "memory:///bucket/2026-03-02/part.csv", NEXT),
        ]
        with pytest.raises(SourceMissingError):
            read("memory://bucket/{day}/*.csv", date(2026, 3, 3), date(2026, 3, 4))
    finally:
        system.rm("/bucket", recursive=True)


def test_a_reversed_range_is_refused_and_an_empty_one_is_empty(by_day: Path) -> None:
    assert read(TEMPLATE, DAY, DAY).num_rows == 0
    with pytest.raises(ConfigError, match="start <= end"):
        reader(TEMPLATE).read(NEXT, DAY)


# --- Parquet -----------------------------------------------------------------------------------


def test_parquet_values_become_text_without_loss(tmp_path: Path) -> None:
    instant = datetime.fromisoformat("2026-03-01T12:30:00.12")
    columns = {
        "a": (pa.array([1, None]), ["1", None]),
        "b": (pa.array([0.1 + 0.2, float("nan")]), ["0.30000000000000004", "nan"]),
        "f32": (pa.array([0.1, float("-inf")], pa.float32()), ["0.1", "-inf"]),
        "naive": (pa.array([instant, None]), ["2026-03-01T12:30:00.12", None]),
        "whole": (
            pa.array(
                [datetime.fromisoformat("2026-03-01"), datetime.fromisoformat("1969-12-31T23:00")],
                pa.timestamp("ns"),
            ),
            ["2026-03-01T00:00:00", "1969-12-31T23:00:00"],
        ),
        "zoned": (
            pa.array([instant.replace(tzinfo=UTC), None], pa.timestamp("us", "Europe/Paris")),
            ["2026-03-01T12:30:00.12Z", None],
        ),
        "date": (pa.array([DAY, None]), ["2026-03-01", None]),
        "date64": (pa.array([DAY, None], pa.date64()), ["2026-03-01", None]),
        "money": (pa.array([Decimal("1.50"), None]), ["1.50", None]),
        "flag": (pa.array([True, False]), ["true", "false"]),
        "text": (pa.array(["", " x"]), ["", " x"]),
        "kind": (pa.array(["p", "q"]).dictionary_encode(), ["p", "q"]),
        "bytes": (pa.array([b"ok", b"\xff"]), ["ok", "ff"]),
        "list": (pa.array([[1, 2], None]), ["[1, 2]", None]),
        "void": (pa.nulls(2), [None, None]),
    }
    path = tmp_path / "orders.parquet"
    pq.write_table(pa.table({name: values for name, (values, _) in columns.items()}), path)
    table = read(path, format="parquet")
    assert {name: table[name].to_pylist() for name in columns} == {
        name: expected for name, (_, expected) in columns.items()
    }
    assert table["_row"].to_pylist() == [1, 2]


def test_parquet_streams_in_chunks_with_running_numbers(tmp_path: Path) -> None:
    path = tmp_path / "2026-03-01.parquet"
    pq.write_table(pa.table({"a": range(150_000), "b": ["x"] * 150_000}), path)
    chunks = list(reader(tmp_path / "{day}.parquet", format="parquet").read(DAY, NEXT))
    assert max(chunk.num_rows for chunk in chunks) <= CHUNK_ROWS
    assert pa.concat_tables(chunks)["_row"].to_pylist() == list(range(1, 150_001))
    assert chunks[-1]["_day"][-1].as_py() == DAY


def test_text_that_is_not_utf8_marks_its_row_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "orders.parquet"
    values = [b"fine", b"caf\xe9", None, "café".encode()]
    text = pa.array(values, pa.binary()).view(pa.string())
    other = pa.array([b"1", b"2", b"\xff", b"4"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"a": text, "b": other}), path)
    table = read(path, format="parquet")
    assert rows(table, "_row", "a", "b", "_error", "_text") == [
        (1, "fine", "1", None, None),
        (2, None, "2", "not UTF-8: a", '{"a": "caf\\\\xe9", "b": "2"}'),
        (3, None, None, "not UTF-8: b", '{"a": null, "b": "\\\\xff"}'),
        (4, "café", "4", None, None),
    ]


@pytest.mark.parametrize("required", [("c1",), ("no such column",)])
def test_a_file_of_very_many_columns_is_refused_at_its_header(
    tmp_path: Path, required: tuple[str, ...]
) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(",".join(f"c{n}" for n in range(100_000)) + "\n" + "1," * 99_999 + "1\n")
    before = process_time()
    with pytest.raises(SourceError, match=r"has 100,000 columns; at most 2,000") as caught:
        list(reader(path, required).read(DAY, NEXT))
    assert process_time() - before < 10
    assert len(str(caught.value)) < 400


def test_a_missing_column_among_many_is_told_in_short(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(",".join(f"column_{n}" for n in range(1_500)) + "\n")
    with pytest.raises(SourceError, match=r"lacks columns \['a'\].*and 1,460 more") as caught:
        list(reader(path, ("a",)).read(DAY, NEXT))
    assert len(str(caught.value)) < 1_000


def test_parquet_that_is_not(tmp_path: Path) -> None:
    path = tmp_path / "orders.parquet"
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="is empty"):
        read(path, format="parquet")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match=r"cannot be read as Parquet.*source\.format"):
        read(path, format="parquet")
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(SourceError, match=r"lacks columns \['b'\]"):
        read(path, format="parquet")
    pq.write_table(pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.int64())}), path)
    assert read(path, format="parquet").num_rows == 0
