"""Arrow schemas of what the split gives out; every column is nullable, expectations say more."""

from __future__ import annotations

import pyarrow as pa

from evergreen.contract import AnyTable, UseCase, arrow


def table_schema(table: AnyTable) -> pa.Schema:
    """Return the schema of a delivered table: published columns, then `day`, `row_id`, `source`."""
    return pa.schema(
        [
            *((name, arrow(column.dtype)) for name, column in table.published.items()),
            ("day", pa.date32()),
            ("row_id", pa.string()),
            ("source", pa.string()),
        ]
    )


def typed_as_features(use_case: UseCase, schema: pa.Schema) -> bool:
    """Whether `as_of` and the features have exactly the declared types."""
    declared = {name: arrow(f.dtype) for name, f in use_case.features.columns.items()}
    declared["as_of"] = arrow("timestamp")
    return all(schema.field(name).type == kind for name, kind in declared.items())


def quarantine_schema() -> pa.Schema:
    """Return the schema of `quarantine`; `raw` is a JSON object of the columns as delivered."""
    return pa.schema(
        [
            ("day", pa.date32()),
            ("table", pa.string()),
            ("row_id", pa.string()),
            ("source", pa.string()),
            ("row", pa.int64()),
            ("rules", pa.list_(pa.string())),
            ("raw", pa.string()),
        ]
    )


def counts_schema() -> pa.Schema:
    """Return the schema of the counts: rows per day, and its newest published event time."""
    names = ("rows_in", "accepted", "quarantined", "duplicates", "published", "erased")
    return pa.schema(
        [
            ("day", pa.date32()),
            *((name, pa.int64()) for name in names),
            ("newest_at", pa.timestamp("us", tz="UTC")),
        ]
    )
