"""Rows of an entity in the tables of the lake: found, and taken out day by day."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.erasure.needle import Needle
from evergreen.lake.content import ORIGINS, STAMPS, digest_by_day
from evergreen.lake.opening import open_files
from evergreen.provenance import receipts
from evergreen.provenance.erased import Erasure, keys_in, sources
from evergreen.provenance.receipts import Receipt
from evergreen.provenance.verification import columns_gained
from evergreen.sql.connection import opened
from evergreen.sql.text import quote

Held = dict[str, dict[str, int]]
"""Rows by ISO day, by table; what came for one table into another is `quarantine/<table>`."""

_RAW = ("quarantine", "refused")
# Rows that are rewritten in one commit, and in memory at once, unless one day has more.
_ROWS_AT_ONCE = 500_000
_BATCH = 65_536


def find(use_case: UseCase, needle: Needle) -> Held:
    """Find which days of which tables of a namespace hold an entity, and in how many rows.

    Notes
    -----
    Of a table with the entity's key, files whose bounds exclude it are not opened.
    """
    found: Held = {}
    for table in lake.tables(use_case.name):
        for name, day, rows in _find(use_case, table, needle):
            days = found.setdefault(name, {})
            days[day.isoformat()] = days.get(day.isoformat(), 0) + rows
    return found


def _find(use_case: UseCase, table: str, needle: Needle) -> Iterator[tuple[str, date, int]]:
    scan = lake.scan(use_case.name, table)
    if scan.schema is None or not scan.paths:
        return
    key = use_case.entity.key
    if table in _RAW:
        for rows in lake.stream(scan, ["day", "table", "raw"], _BATCH):
            for row in rows.filter(_named(use_case, rows, needle)).to_pylist():
                yield f"{table}/{row['table']}", row["day"], 1
    elif key in scan.schema.names:
        rows = lake.read(use_case.name, table, columns=["day", key], equal={key: needle.key})
        for counted in rows["day"].value_counts().to_pylist():
            yield table, counted["values"], counted["counts"]
    elif texts := _texts(scan.schema):
        for rows in lake.stream(scan, ["day", *texts], _BATCH):
            for row in rows.to_pylist():
                if any(needle.is_in(row[name], name) for name in texts):
                    yield table, row["day"], 1


def personal_values(use_case: UseCase, needle: Needle) -> set[str]:
    """Return the values of columns declared personal that this entity has and nobody else."""
    key, found = use_case.entity.key, set()
    for table in use_case.tables.values():
        columns = [
            name
            for name, column in table.published.items()
            if column.personal and column.dtype == "string" and name != key
        ]
        scan = lake.scan(use_case.name, table.name)
        if table.entity_key and columns and scan.paths:
            theirs = lake.read(
                use_case.name, table.name, columns=[key, *columns], equal={key: needle.key}
            )
            for name in columns:
                found |= _unshared(scan.paths, key, needle, name, theirs[name].unique())
    return found | _rejected(use_case, needle)


def _unshared(
    paths: Sequence[str], key: str, needle: Needle, name: str, values: pa.Array
) -> set[str]:
    mine = set(values.drop_null().to_pylist())
    if not mine:
        return set()
    with opened("personal") as connection:
        open_files(connection, paths).create_view("rows")
        connection.register("mine", pa.table({"value": sorted(mine)}))
        column = quote(name)
        others = connection.execute(
            f"SELECT DISTINCT {column} FROM rows WHERE {column} IN (SELECT value FROM mine) "  # noqa: S608
            f"AND {quote(key)} IS DISTINCT FROM $key",
            {"key": needle.key},
        ).fetchall()
    return mine - {value for (value,) in others}


def _rejected(use_case: UseCase, needle: Needle) -> set[str]:
    """Return what rejected rows of the entity say of it in columns that are declared personal."""
    found: set[str] = set()
    for table in _RAW:
        scan = lake.scan(use_case.name, table)
        if not scan.paths:
            continue
        for rows in lake.stream(scan, ["table", "raw"], _BATCH):
            for row in rows.filter(_named(use_case, rows, needle)).to_pylist():
                declared = use_case.tables.get(row["table"])
                named = (
                    {c.source for c in declared.columns.values() if c.personal} if declared else ()
                )
                raw = json.loads(row["raw"])
                found |= {str(raw[name]).strip() for name in named if raw.get(name)}
    return found - {needle.text}


def rewrite(use_case: UseCase, table: str, held: Held, needle: Needle, erasure: Erasure) -> int:
    """Publish the days of a table that hold an entity again, without it.

    One commit for some days at a time, with everybody else kept out between reading and commit.
    Days that were rewritten before a kill only get the receipt that they lack.

    Parameters
    ----------
    held
        As `find` gave it when the erasure began; see `receipts.without_erased`.

    Returns
    -------
    int
        How many days it went through.
    """
    days = {
        date.fromisoformat(day)
        for name, of in held.items()
        if name == table or name.startswith(f"{table}/") or name == f"quarantine/{table}"
        for day in of
    }
    counts = lake.partitions(use_case.name, table)
    for batch in _batches(sorted(days), counts):
        _rewrite(use_case, table, batch, held, needle, erasure)
    return len(days)


def _rewrite(
    use_case: UseCase,
    table: str,
    days: list[date],
    held: Held,
    needle: Needle,
    erasure: Erasure,
) -> None:
    with receipts.recording(f"{use_case.name}.{table}") as record:
        before = pa.concat_tables([lake.read_day(use_case.name, table, day) for day in days])
        after = _without(use_case, table, before, needle)
        rewritten = [
            _receipt(use_case, receipt, table, held, before, after, erasure)
            for receipt in receipts.of_table(use_case.name, table, days)
            if not _is_done(receipt, after, erasure)
        ]

        def tell(published: lake.Published) -> None:
            record(replace(each, output_snapshot=published.snapshot_id) for each in rewritten)

        said = {"step": receipts.erasing(table), "erasure": erasure.key_hash}
        lake.publish(
            *(use_case.name, table, after, days, {"erasure": json.dumps(said)}),
            committing=lambda: nullcontext(tell),
        )


def _batches(days: list[date], counts: Mapping[date, int]) -> Iterator[list[date]]:
    batch: list[date] = []
    for day in days:
        if batch and sum(counts.get(d, 0) for d in (*batch, day)) > _ROWS_AT_ONCE:
            yield batch
            batch = []
        batch.append(day)
    if batch:
        yield batch


def _without(use_case: UseCase, table: str, rows: pa.Table, needle: Needle) -> pa.Table:
    key = use_case.entity.key
    if table in _RAW:
        return rows.filter(pc.invert(_named(use_case, rows, needle)))
    if key in rows.column_names:
        theirs = pc.equal(rows[key], pa.scalar(needle.key, rows.schema.field(key).type))
        return rows.filter(pc.invert(pc.fill_null(theirs, False)))
    for name in _texts(rows.schema):
        place, field = rows.schema.get_field_index(name), rows.schema.field(name)
        blotted = [needle.blot(value, name) for value in rows[name].to_pylist()]
        rows = rows.set_column(place, field, pa.array(blotted, field.type))
    return rows


def _named(use_case: UseCase, rows: pa.Table, needle: Needle) -> pa.Array:
    """Tell of rows that were not accepted whether they are about the entity."""
    of = {table: sources(use_case, table) for table in use_case.tables}
    dtype = use_case.key_dtype
    likely = pc.match_substring_regex(rows["raw"], needle.anywhere).to_pylist()
    columns = (likely, rows["table"].to_pylist(), rows["raw"].to_pylist())
    return pa.array(
        [
            bool(may_be)
            and (needle.text in keys_in(raw, of.get(table), dtype) or needle.is_in(raw))
            for may_be, table, raw in zip(*columns, strict=True)
        ],
        pa.bool_(),
    )


def _texts(schema: pa.Schema) -> list[str]:
    """Name the columns of texts, and of lists of them."""

    def is_text(kind: pa.DataType) -> bool:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return is_text(kind.value_type)
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    return [field.name for field in schema if is_text(field.type)]


def _is_done(receipt: Receipt, after: pa.Table, erasure: Erasure) -> bool:
    """Whether a receipt already says what this erasure leaves of a day."""
    if receipt.inputs.get("erasure") != erasure.key_hash:
        return False
    rows, without = _part(after, receipt), STAMPS | ORIGINS | set(receipt.inputs["gained"])
    return digest_by_day(rows, [receipt.day], without)[receipt.day] == receipt.content


def _receipt(
    use_case: UseCase,
    standing: Receipt,
    table: str,
    held: Held,
    before: pa.Table,
    after: pa.Table,
    erasure: Erasure,
) -> Receipt:
    """Say of a day what its receipt says, without the entity; who wanted that, and why."""
    day, part = standing.day, standing.part.get("table")
    # Columns that the table gained since are in no earlier digest, and not in a later one either.
    gained = columns_gained(_part(before, standing), day, standing.content) or ()
    rows = _part(after, standing)
    content = digest_by_day(rows, [day], STAMPS | ORIGINS | set(gained))[day]
    lost, rejected = _lost(use_case, table, part, held, day.isoformat())
    said = {
        "erasure": erasure.key_hash,
        "actor": erasure.actor,
        "reason": erasure.reason,
        "replaced": standing.content,
        "gained": list(gained),
    }
    step = standing.step if standing.step.startswith("erase_") else receipts.erasing(standing.step)
    return replace(
        standing,
        step=step,
        run="erasure",
        inputs={**standing.inputs, **said},
        counts=receipts.without_erased(standing.counts, lost, rejected),
        content=content,
        seconds=0.0,
    )


def _lost(use_case: UseCase, table: str, part: Any, held: Held, day: str) -> tuple[int, int]:
    """Return how many rows a day loses of its table, and of what was rejected for it.

    A table and its part of `quarantine` have one count of rows, so both say of both.
    """
    if table == "refused":
        return 0, held.get(f"refused/{part}", {}).get(day, 0)
    of = part if table == "quarantine" else table
    rejected = held.get(f"quarantine/{of}", {}).get(day, 0)
    schema = lake.scan(use_case.name, str(of)).schema
    has_key = schema is not None and use_case.entity.key in schema.names
    # Rows of nobody stay; only their words go.
    return (held.get(str(of), {}).get(day, 0) if has_key else 0), rejected


def _part(rows: pa.Table, receipt: Receipt) -> pa.Table:
    for column, value in receipt.part.items():
        rows = rows.filter(pc.equal(rows[column], value))
    return rows.filter(pc.equal(rows["day"], receipt.day))
