from __future__ import annotations

import io
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.contract import CsvFormat
from evergreen.errors import SourceError
from evergreen.sources.base import CHUNK_ROWS
from evergreen.sources.csv_file import read_csv

DAY = date(1997, 1, 1)


def read(
    content: str | bytes, *, read_bytes: int = 8192, names: list[str] | None = None, **declared: Any
) -> pa.Table:
    csv_format = CsvFormat(delimiter="whitespace", names=names, **declared)
    raw = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    handle = io.BufferedReader(raw, buffer_size=read_bytes)
    tables = read_csv(handle, csv_format, (), source="orders.txt", day=DAY)
    return pa.concat_tables(tables)


def rows(table: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in columns) for row in table.to_pylist()]


def test_a_classic_file_reads_as_it_looks():
    content = (
        " 00001 19970101  1   11.77\r\n 00002 19970112  1   12.00\r\n\t00002\t19970112  5 77.00  "
    )
    names = ["customer", "day", "items", "value"]
    table = read(content, names=names)
    assert rows(table, *names, "_row", "_error") == [
        ("00001", "19970101", "1", "11.77", 1, None),
        ("00002", "19970112", "1", "12.00", 2, None),
        ("00002", "19970112", "5", "77.00", 3, None),
    ]
    assert set(table["_day"].to_pylist()) == {DAY}


def test_malformed_lines_stay_as_delivered_with_their_number():
    table = read('a  b\n1 2\n\n  3\t\n \t \n4  5 6 \na b\n7 ""\n')
    assert rows(table, "_row", "a", "b", "_error", "_text") == [
        (1, "1", "2", None, None),
        (2, None, None, "expected 2 fields, found 1", "  3\t"),
        (3, None, None, "expected 2 fields, found 3", "4  5 6 "),
        (4, None, None, "repeated header", "a b"),
        (5, "7", None, None, None),
    ]


def test_quotes_hold_blanks_line_breaks_and_quotes():
    table = read('a b\n"x  y"z "two\r\n lines "\n5"  "say ""hi"" "\nit\'s  6"x"\n')
    assert rows(table, "a", "b") == [
        ("x  yz", "two\r\n lines "),
        ('5"', 'say "hi" '),
        ("it's", '6"x"'),
    ]
    assert rows(read("a b\n'x y' \"2\n", quote="'"), "a", "b") == [("x y", '"2')]


def test_an_unclosed_quote_loses_nothing_and_says_so():
    table = read('a b\n1 2\n3 "4\n5 6\n')
    assert rows(table, "a", "_error", "_text") == [
        ("1", None, None),
        (None, "a quote is never closed", '3 "4\n5 6\n'),
    ]


def test_a_row_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("evergreen.sources.whitespace_file._BLOCK", 100)
    for content in ('a b\n1 "' + "2\n" * 60, "a b\n" + "1" * 101):
        with pytest.raises(SourceError, match=r"orders\.txt has a row of more than 100 .*closed"):
            read(content)


def test_only_blanks_and_tabs_separate():
    (row,) = rows(read("a b\n1\u00a02\x0b3 4\u20285\n"), "a", "b")
    assert row == ("1\u00a02\x0b3", "4\u20285")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_any_encoding(encoding: str):
    table = read("\u00e4  b\n\u00e9 2\n".encode(encoding), encoding=encoding)
    assert rows(table, "\u00e4", "b") == [("\u00e9", "2")]


def test_a_wrong_encoding_is_told():
    with pytest.raises(SourceError, match=r"not utf-8.*source\.csv\.encoding"):
        read("a b\n\u00e9 2\n".encode("latin-1"))


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file_is_an_error(content: str):
    with pytest.raises(SourceError, match=r"is empty.*expected at least a header"):
        read(content)


def test_a_header_alone_is_a_day_without_rows():
    table = read("a b")
    assert (table.num_rows, table.schema.names[:2]) == (0, ["a", "b"])


def test_large_files_come_in_bounded_chunks():
    handle = io.BytesIO(b"a b\n" + b"1 2\n" * 150_000)
    csv_format = CsvFormat(delimiter="whitespace")
    sizes = [table.num_rows for table in read_csv(handle, csv_format, (), source="x", day=None)]
    assert sum(sizes) == 150_000
    assert max(sizes) <= CHUNK_ROWS


# What a word may hold: with a blank or a line break it needs quotes, with neither none.
WORDS = st.text('ab"\u00e9 \t\n', min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(
    records=st.lists(st.lists(WORDS, min_size=1, max_size=3), min_size=1, max_size=8),
    blanks=st.lists(st.text(" \t", min_size=1, max_size=3), min_size=1, max_size=5),
    ends=st.lists(st.sampled_from(["\n", "\r\n", " \n", "\t\r\n", "\n\n"]), min_size=1, max_size=3),
    read_bytes=st.integers(1, 40),
)
def test_any_table_of_words_reads_back_whatever_the_blanks_and_blocks(
    records: list[list[str]], blanks: list[str], ends: list[str], read_bytes: int
):
    def quoted(word: str) -> str:
        plain = word[0] != '"' and not set(word) & set(" \t\n")
        return word if plain else '"' + word.replace('"', '""') + '"'

    content = "x y\n"
    for n, record in enumerate(records):
        for position, word in enumerate(record):
            content += blanks[(n + position) % len(blanks)] + quoted(word)
        content += ends[n % len(ends)]
    table = read(content, read_bytes=read_bytes)
    assert table["_row"].to_pylist() == list(range(1, len(records) + 1))
    for row, record in zip(table.to_pylist(), records, strict=True):
        if len(record) == 2:
            assert [row["x"], row["y"]] == record
        else:
            assert row["_error"] == f"expected 2 fields, found {len(record)}"
    assert read(content).equals(table)
