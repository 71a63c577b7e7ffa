"""Decides which rules each row breaks."""

# SQL is composed here. Identifiers come from the validated use case or are quoted, values are bound
# or written as escaped literals; rows only ever arrive as a registered table.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterable

from evergreen.contract import Attributes, Events
from evergreen.quality.batch import Batch
from evergreen.quality.parsing import checks, stripped
from evergreen.sql.expressions import check_expression
from evergreen.sql.text import literal, quote


def judge(batch: Batch) -> None:
    """Make `judged`: per kept row (not later exact duplicates) the sorted rules it breaks."""
    equal = ", ".join(quote(name) for name in batch.delivered.values()) or "rowid"
    if batch.table.duplicates == "keep":
        equal = "rowid"
    batch.run(
        'CREATE TABLE kept AS SELECT min(rowid) AS n FROM staged WHERE "~error" IS NULL',
        f'GROUP BY "~belongs", {equal}',
        'UNION ALL SELECT rowid AS n FROM staged WHERE "~error" IS NOT NULL',
    )
    batch.run(
        'CREATE VIEW candidates AS SELECT s.*, s.rowid AS "~n" FROM staged AS s',
        "INNER JOIN kept AS k ON s.rowid = k.n",
    )
    broken = [*_contract_checks(batch), *_day_checks(batch), *_conflicts(batch)]
    broken += _row_rules(batch)
    listed = ", ".join(f"CASE WHEN {when} THEN {literal(rule)} END" for rule, when in broken)
    batch.run(
        'CREATE TABLE judged AS SELECT "~n" AS n,',
        "CASE WHEN \"~error\" IS NOT NULL THEN ['malformed_row'] ELSE",
        f"list_sort(list_distinct([{listed}])) END AS rules",
        "FROM ruled",
    )


def _contract_checks(batch: Batch) -> list[tuple[str, str]]:
    found = []
    for i, (name, column) in enumerate(batch.table.columns.items()):
        found += checks(
            name,
            column,
            value=quote(name),
            given=f'"~t{i}" IS NOT NULL',
            not_finite=f'"~n{i}"',
            required=not column.nullable or name in batch.table.required,
        )
    return found


def _day_checks(batch: Batch) -> list[tuple[str, str]]:
    if not isinstance(batch.table, Events):
        # What was true before the first day, or will be, is no mistake.
        return []
    first = f"DATE '{batch.bounds['first']}'"
    found = [
        ("outside_day", '"~event_day" <> "~day"'),
        ("before_first_day", f'least("~event_day", "~belongs") < {first}'),
    ]
    if batch.bounds["last"] is not None:
        last = f"DATE '{batch.bounds['last']}'"
        found.append(("after_last_day", f'greatest("~event_day", "~belongs") > {last}'))
    return found


def _conflicts(batch: Batch) -> list[tuple[str, str]]:
    """Keys that contradict themselves within a day; every row of such a key breaks the rule."""
    table, entity = batch.table, batch.table.entity_key
    unique: list[tuple[str, list[str], str]] = []
    if isinstance(table, Events) and table.rollup is not None:
        # Line items of one key must be about one entity.
        if entity in table.columns:
            one = f"count(DISTINCT {quote(str(entity))}) > 1"
            unique.append(("entity_conflict", [table.rollup.key], one))
    elif table.row_key is not None:
        unique.append((f"{table.row_key}_conflict", [table.row_key], "count(*) > 1"))
    if isinstance(table, Attributes):
        keys = [name for name in (entity, table.valid_from) if name]
        unique.append(("entity_conflict", keys, "count(*) > 1"))
    found = []
    for n, (rule, keys, contradiction) in enumerate(unique):
        named = [quote(key) for key in keys]
        key = f'("~belongs", {", ".join(named)})'
        present = "".join(f" AND {name} IS NOT NULL" for name in named)
        batch.run(
            f"CREATE TABLE conflicts_{n} AS SELECT {key} AS key FROM candidates",
            f'WHERE "~error" IS NULL{present} GROUP BY ALL HAVING {contradiction}',
        )
        found.append((rule, f"{key} IN (SELECT key FROM conflicts_{n})"))
    return found


def _row_rules(batch: Batch) -> list[tuple[str, str]]:
    """Make `ruled`, the rows with the verdicts of the use case's own rules.

    NULL and run-time errors count as broken.

    A rule sees the typed columns, and the source's columns as stripped text under their own names
    unless a typed column (or an earlier source column) has that name already.
    """
    taken = {name.lower() for name in batch.table.columns}
    shown = [quote(name) for name in batch.table.columns]
    for name, internal in batch.delivered.items():
        if name and name.lower() not in taken and not name.startswith("~"):
            taken.add(name.lower())
            shown.append(f"{stripped(quote(internal))} AS {quote(name)}")
    batch.run(f"CREATE VIEW visible AS SELECT {', '.join(shown)} FROM candidates")
    judged, found = [], []
    # Without rows there may be no source columns for a rule to name, and nothing to judge.
    rules = batch.table.rules if batch.scalar("SELECT count(*) FROM candidates") else ()
    for i, rule in enumerate(rules):
        check_expression(
            batch.connection,
            batch.table,
            kind="rule",
            name=rule.name,
            sql=rule.sql,
            relation="visible",
        )
        judged.append(f'coalesce(TRY(({rule.sql}\n)), false) AS "~k{i}"')
        found.append((rule.name, f'NOT "~k{i}"'))
    visible = ", ".join([*shown, *(f'"~{c}"' for c in _carried(batch))])
    rest = f", {', '.join(judged)}" if judged else ""
    batch.run(
        f"CREATE VIEW ruled AS SELECT *{rest} FROM (SELECT {visible} FROM candidates)",
    )
    return found


def _carried(batch: Batch) -> Iterable[str]:
    yield from ("n", "error", "day", "belongs", "event_day")
    for i in range(len(batch.table.columns)):
        yield from (f"t{i}", f"n{i}")
