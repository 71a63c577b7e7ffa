"""Takes the rows of erased entities out of a split: counted, and kept nowhere."""

# SQL is composed here. Identifiers come from the validated use case or are quoted, values only ever
# arrive as a registered table.
# ruff: noqa: S608

from __future__ import annotations

import pyarrow as pa

from evergreen.provenance.erased import Suppressed, keys_in
from evergreen.quality.batch import Batch
from evergreen.sql.text import quote


def suppress_delivered(batch: Batch, erased: Suppressed) -> None:
    """Make `erased`, rows per day, and take those rows out of `staged`.

    They are not judged, so they are neither accepted nor quarantined, nor duplicates of anything.
    """
    batch.run('CREATE TABLE erased ("~belongs" DATE, "~lines" BIGINT)')
    key = batch.table.entity_key
    if not erased or key is None:
        return
    if key in batch.table.columns:
        _remove(batch, erased, "staged", quote(key), "rowid")
    # Of a row that is not made of columns, any part may be the key.
    torn = batch.connection.execute(
        'SELECT rowid, json_object(\'_text\', "~text") FROM staged WHERE "~error" IS NOT NULL'
    ).fetchall()
    gone = [row for row, text in torn if erased.among(keys_in(text, None))]
    _count_and_delete(batch, pa.table({"n": pa.array(gone, pa.int64())}))


def suppress_rolled(batch: Batch, erased: Suppressed) -> None:
    """Do the same for entities that only a roll-up names."""
    key = batch.table.entity_key
    if not erased or key is None or key in batch.table.columns:
        return
    named = quote(batch.table.row_key or "")
    lines = f'clean AS c INNER JOIN rolled AS r USING ("~belongs", {named})'
    _remove(batch, erased, lines, f"r.{quote(key)}", 'c."~n"')
    batch.run(
        f"DELETE FROM rolled WHERE CAST({quote(key)} AS VARCHAR) IN (SELECT key FROM gone_keys)"
    )


def _remove(batch: Batch, erased: Suppressed, relation: str, key: str, row: str) -> None:
    text = f"CAST({key} AS VARCHAR)"
    found = batch.connection.execute(
        f"SELECT DISTINCT {text} FROM {relation} WHERE {key} IS NOT NULL"
    ).fetchall()
    gone = pa.table({"key": pa.array(sorted(erased.among(k for (k,) in found)), pa.string())})
    batch.connection.register("gone_keys", gone)
    rows = batch.connection.sql(
        f"SELECT {row} AS n FROM {relation} WHERE {text} IN (SELECT key FROM gone_keys)"
    ).to_arrow_table()
    _count_and_delete(batch, rows)


def _count_and_delete(batch: Batch, rows: pa.Table) -> None:
    batch.connection.register("gone", rows)
    gone = "FROM staged WHERE rowid IN (SELECT n FROM gone)"
    batch.run(f'INSERT INTO erased SELECT "~belongs", count(*) {gone} GROUP BY "~belongs"')
    batch.run(f"DELETE {gone}")
