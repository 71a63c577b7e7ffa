"""Takes the rows of erased entities out of a split: counted, and kept nowhere."""

# SQL is composed here. Identifiers come from the validated use case or are quoted, values only ever
# arrive as a registered table.
# ruff: noqa: S608

from __future__ import annotations

import pyarrow as pa

from evergreen.provenance.erased import Suppressed, keys_in
from evergreen.quality.batch import Batch
from evergreen.sql.text import quote


def suppress(batch: Batch, hidden: Suppressed, *, rolled: bool) -> None:
    """Make `erased`, the staged rows that must not come in, and take them out of what was judged.

    All rows are judged before, so nobody else's row fares otherwise than it did beside them.
    """
    batch.run('CREATE TABLE erased AS SELECT rowid AS n, "~belongs" FROM staged LIMIT 0')
    key = batch.table.entity_key
    if not hidden or key is None:
        return
    if key in batch.table.columns:
        _mark(batch, hidden, "staged", quote(key), "rowid")
    # Of a row that is not made of columns, any part may be the key.
    torn = batch.connection.execute(
        'SELECT rowid, json_object(\'_text\', "~text") FROM staged WHERE "~error" IS NOT NULL'
    ).fetchall()
    dtype = batch.table.published[key].dtype
    _add(batch, pa.array([row for row, text in torn if hidden.among(keys_in(text, None, dtype))]))
    if rolled:
        lines = f'clean AS c INNER JOIN rolled AS r USING ("~belongs", {_row_key(batch)})'
        _mark(batch, hidden, lines, f"r.{quote(key)}", 'c."~n"')
        batch.run(f"DELETE FROM rolled WHERE {_text(quote(key))} IN (SELECT key FROM gone_keys)")
    batch.run("DELETE FROM judged WHERE n IN (SELECT n FROM erased)")


def _mark(batch: Batch, hidden: Suppressed, relation: str, key: str, row: str) -> None:
    found = batch.connection.execute(f"SELECT DISTINCT {_text(key)} FROM {relation}").fetchall()
    gone = sorted(hidden.among(text for (text,) in found if text is not None))
    batch.connection.register("gone_keys", pa.table({"key": pa.array(gone, pa.string())}))
    rows = batch.connection.sql(
        f"SELECT {row} AS n FROM {relation} WHERE {_text(key)} IN (SELECT key FROM gone_keys)"
    ).to_arrow_table()
    _add(batch, rows["n"])


def _add(batch: Batch, rows: pa.Array | pa.ChunkedArray) -> None:
    batch.connection.register("gone", pa.table({"n": rows.cast(pa.int64())}))
    batch.run(
        'INSERT INTO erased SELECT rowid, "~belongs" FROM staged',
        "WHERE rowid IN (SELECT n FROM gone) AND rowid NOT IN (SELECT n FROM erased)",
    )


def _text(key: str) -> str:
    return f"CAST({key} AS VARCHAR)"


def _row_key(batch: Batch) -> str:
    return quote(batch.table.row_key or "")
