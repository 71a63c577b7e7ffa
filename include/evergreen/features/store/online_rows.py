"""Rows of the online store, as the bytes of a binary `COPY`.

Keys and values are encoded as Feast encodes them. A Python object per row and value is what makes
the stock store slow; here a column is encoded at once, and rows are put together by joining bytes.

A row is (entity key, feature name, value, event timestamp, created timestamp); rows are ordered by
key and name, compared as bytes. Writers that all keep to one order take their row locks in that
order and never wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from struct import pack

import pandas as pd
import pyarrow as pa
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

# https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT
_HEADER = b"PGCOPY\n\xff\r\n\0" + pack(">ii", 0, 0)
_TRAILER = pack(">h", -1)
_FIELDS_PER_ROW = pack(">h", 5)
_NULL = pack(">i", -1)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_MICROSECONDS = int(_POSTGRES_EPOCH.timestamp()) * 1_000_000


def copy_table(
    join_key: str,
    features: Sequence[str],
    event_column: str,
    created_column: str,
    rows: pa.Table,
    key_version: int,
) -> bytes:
    """Encode Arrow rows, all features of each.

    Parameters
    ----------
    rows
        The join key (string or int64), the features (string, int64, float64 or bool) and two
        timestamps (timestamp[us, UTC]). Not modified.
    key_version
        Feast's `entity_key_serialization_version`.

    Raises
    ------
    TypeError
        A column has another type.
    """
    keys = encoded_keys(join_key, rows[join_key], key_version)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    rows, keys = rows.take(order), [keys[index] for index in order]
    instants = [
        rows[name].cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
        for name in (event_column, created_column)
    ]
    pairs = list(zip(*instants, strict=True))
    # A day has one event timestamp, and hardly ever a second created timestamp.
    known = {
        pair: b"".join(_NULL if at is None else _instant(at - _EPOCH_MICROSECONDS) for at in pair)
        for pair in set(pairs)
    }
    heads = [_FIELDS_PER_ROW + _field(key) for key in keys]
    tails = [known[pair] for pair in pairs]
    # Per key: head, value, (tail, head), value, …, tail.
    joints = [tail + head for tail, head in zip(tails, heads, strict=True)]
    width = 2 * len(features) + 1
    parts = [b""] * (width * len(keys))
    names = sorted(features, key=str.encode)
    for position, name in enumerate(names):
        parts[2 * position :: width] = joints if position else heads
        parts[2 * position + 1 :: width] = _named_values(name, encoded_values(rows[name]))
    parts[width - 1 :: width] = tails
    return b"".join([_HEADER, *parts, _TRAILER])


def copy_rows(
    rows: Iterable[tuple[EntityKey, dict[str, Value], datetime, datetime | None]], key_version: int
) -> bytes:
    """Encode rows as Feast hands them over: naive timestamps are UTC, and NaT is none."""
    encoded = [
        (
            serialize_entity_key(key, key_version),
            name.encode(),
            _field(value.SerializeToString())
            + _instant(_microseconds(event))
            + (_NULL if created in (None, pd.NaT) else _instant(_microseconds(created))),
        )
        for key, values, event, created in rows
        for name, value in values.items()
    ]
    encoded.sort(key=lambda row: row[:2])
    parts = [
        part
        for key, name, rest in encoded
        for part in (_FIELDS_PER_ROW, _field(key), _field(name), rest)
    ]
    return b"".join([_HEADER, *parts, _TRAILER])


def encoded_values(column: pa.ChunkedArray) -> list[bytes]:
    """Encode as `Value(...).SerializeToString()` does; null is the empty message."""
    field = _value_field(column.type)
    if field != "double_val":
        # Counts, flags and names repeat.
        plain = column.to_pylist()
        known = {value: Value(**{field: value}).SerializeToString() for value in set(plain)}
        return [b"" if value is None else known[value] for value in plain]
    # A double is a tag and its eight bytes, little end first; few repeat.
    tag = Value(double_val=1.0).SerializeToString()[:1]
    raw = column.fill_null(0.0).to_numpy().astype("<f8").tobytes()
    return [
        tag + raw[start : start + 8] if valid else b""
        for start, valid in zip(range(0, len(raw), 8), column.is_valid().to_pylist(), strict=True)
    ]


def encoded_keys(join_key: str, column: pa.ChunkedArray, key_version: int) -> list[bytes]:
    """Encode entity keys as the column `entity_key` holds them."""
    field = _value_field(column.type)
    return [
        serialize_entity_key(
            EntityKey(join_keys=[join_key], entity_values=[Value(**{field: key})]), key_version
        )
        for key in column.to_pylist()
    ]


def _named_values(name: str, values: list[bytes]) -> list[bytes]:
    start = _field(name.encode())
    known = {size: start + pack(">i", size) for size in set(map(len, values))}
    return [known[len(value)] + value for value in values]


def _field(content: bytes) -> bytes:
    return pack(">i", len(content)) + content


def _instant(microseconds: int) -> bytes:
    return pack(">iq", 8, microseconds)


def _microseconds(instant: datetime) -> int:
    aware = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant
    return (aware - _POSTGRES_EPOCH) // timedelta(microseconds=1)


def _value_field(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string_val"
    if pa.types.is_int64(kind):
        return "int64_val"
    if pa.types.is_float64(kind):
        return "double_val"
    if pa.types.is_boolean(kind):
        return "bool_val"
    raise TypeError(f"Found a column of {kind}; expected string, int64, float64 or bool.")
