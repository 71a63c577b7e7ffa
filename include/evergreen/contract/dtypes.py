"""The one table of types: what a declared dtype is called wherever a column of it turns up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Dtype = Literal["string", "int64", "float64", "bool", "timestamp", "date"]
FeatureDtype = Literal["int64", "float64", "bool", "category"]
AnyDtype = Dtype | FeatureDtype

# What Feast can look up.
KEY_DTYPES = ("string", "int64")
TIME_DTYPES = ("timestamp", "date")
NUMBER_DTYPES = ("int64", "float64")

_INTEGERS = frozenset(
    {
        *("tinyint", "smallint", "integer", "bigint", "hugeint"),
        *("utinyint", "usmallint", "uinteger", "ubigint", "uhugeint"),
    }
)
_NUMBERS = _INTEGERS | {"float", "double", "decimal"}


@dataclass(frozen=True)
class Names:
    """What one dtype is called.

    Parameters
    ----------
    sql
        In the SQL of a use case, where a timestamp is the wall clock of the use case's zone.
    parsed
        In DuckDB, where delivered text becomes a value; a timestamp is an instant there.
    returned
        DuckDB's types that a SELECT may return for it; the values must then fit exactly.
    pandas
        To Great Expectations.
    feast, value
        Feast's type, and the field of its `Value` message.
    """

    sql: str
    parsed: str
    returned: frozenset[str]
    pandas: str
    feast: str = ""
    value: str = ""


_STRING = Names("VARCHAR", "VARCHAR", frozenset({"varchar"}), "object", "String", "string_val")

NAMES: dict[AnyDtype, Names] = {
    "string": _STRING,
    "category": _STRING,
    "int64": Names("BIGINT", "BIGINT", _NUMBERS, "int64", "Int64", "int64_val"),
    "float64": Names("DOUBLE", "DOUBLE", _NUMBERS, "float64", "Float64", "double_val"),
    "bool": Names("BOOLEAN", "BOOLEAN", frozenset({"boolean"}), "bool", "Bool", "bool_val"),
    "timestamp": Names(
        "TIMESTAMP",
        "TIMESTAMPTZ",
        frozenset({"timestamp", "timestamp with time zone", "date"}),
        "Timestamp",
    ),
    "date": Names("DATE", "DATE", frozenset({"date"}), "datetime64"),
}


def arrow(dtype: AnyDtype) -> pa.DataType:
    """Return the Arrow type of a dtype, in tables of the lake; timestamps are instants."""
    import pyarrow as pa

    return {
        "string": pa.string(),
        "category": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "date": pa.date32(),
    }[dtype]
