"""The SQL of candidates: the present `features.sql`, and the candidates joined to its rows.

Per table of events there is one relation of the days that candidates look at, `<table>_seen`. There
is one row per entity and as-of in each part:

| part | one of its rows is made of |
|---|---|
| `valid` | the attributes that are valid |
| `windows` | the events |
| `gaps` | the distinct days with events, each with the `gap` to the one before |
| a column | its values: `times`, `oldest`, `newest`, and `popularity` among all entities |

What is tried and what is pasted is this one text, with more candidates or fewer.
"""

# Names come from the validated contract and are quoted.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from evergreen.contract import AnyTable, Events, UseCase
from evergreen.discovery.candidates import Candidate, lookback_days
from evergreen.sql.syntax import without_end
from evergreen.sql.text import quote

_PRESENT = "present_features"


def write_features(use_case: UseCase, candidates: Sequence[Candidate]) -> str:
    """Write a `features.sql` that returns the present features and the candidates."""
    return _write(use_case, candidates, f"{_PRESENT}.*", "")


def write_candidates(use_case: UseCase, candidates: Sequence[Candidate], share: int) -> str:
    """Write a SELECT of the candidates only, of every `share`-th entity; see `sampled`."""
    key = quote(use_case.entity.key)
    few = f"\nWHERE md5_number_lower(CAST({key} AS VARCHAR)) % {share} = 0" if share > 1 else ""
    return _write(use_case, candidates, f"{_PRESENT}.{key},\n    {_PRESENT}.as_of", few)


def _write(use_case: UseCase, candidates: Sequence[Candidate], first: str, where: str) -> str:
    present = without_end(use_case.features_sql)
    parts = [f"{_PRESENT} AS (\n{present}\n)"]
    columns, joins = [first], []
    key = quote(use_case.entity.key)

    def place(candidate: Candidate) -> tuple[str, str]:
        return candidate.table, candidate.part

    for (name, part), group in groupby(sorted(candidates, key=place), place):
        table, members = use_case.tables[name], list(group)
        relation = f"{name}_{part}"
        if isinstance(table, Events) and (seen := _seen(table)) not in parts:
            parts.append(seen)
        listed = ",\n".join(f"    {one.sql} AS {one.name}" for one in members)
        parts.append(
            f"{relation} AS (\nSELECT\n    {key},\n    as_of,\n{listed}\n"
            f"FROM {_source(table, part)}\nGROUP BY {key}, as_of\n)"
        )
        joins.append(f"LEFT JOIN {relation} USING ({key}, as_of)")
    for one in candidates:
        column = f"{one.table}_{one.part}.{one.name}"
        columns.append(column if one.feature.nullable else f"coalesce({column}, 0) AS {one.name}")
    return (
        f"WITH {', '.join(parts)}\nSELECT\n    "
        + ",\n    ".join(columns)
        + "\n".join([f"\nFROM {_PRESENT}", *joins])
        + where
    )


def _seen(table: Events) -> str:
    """Write the relation of what candidates look at before each as-of."""
    relation = f"{table.name}_daily" if table.daily else table.name
    known = table.daily.columns if table.daily else table.published
    columns = "e.* EXCLUDE (as_of)" if "as_of" in known else "e.*"
    return (
        f"{table.name}_seen AS (\nSELECT as_of_days.as_of, {columns}\n"
        f"FROM as_of_days\nINNER JOIN {quote(relation)} AS e\n"
        f"    ON e.day < as_of_days.as_of AND e.day >= as_of_days.as_of "
        f"- INTERVAL {lookback_days(table)} DAY\n)"
    )


def _source(table: AnyTable, part: str) -> str:
    """Write the rows that a part is made of."""
    if not isinstance(table, Events):
        return quote(table.name)
    key, seen = quote(table.entity_key), f"{table.name}_seen"
    if part == "windows":
        return seen
    if part == "gaps":
        return (
            f"(\n    SELECT *, date_diff(\n        'day', lag(day) OVER (PARTITION BY {key}, as_of "
            f"ORDER BY day), day\n    ) AS gap\n    "
            f"FROM (SELECT DISTINCT {key}, as_of, day FROM {seen})\n)"
        )
    at = "day" if table.daily else quote(table.timestamp)
    return (
        f"(\n    SELECT *, count(*) OVER (PARTITION BY as_of, kind)\n"
        f"        / count(DISTINCT {key}) OVER (PARTITION BY as_of) AS popularity\n"
        f"    FROM (\n        SELECT {key}, as_of, {quote(part)} AS kind, count(*) AS times,\n"
        f"            min({at}) AS oldest, max({at}) AS newest\n"
        f"        FROM {seen}\n        WHERE {quote(part)} IS NOT NULL\n        GROUP BY ALL\n"
        "    )\n)"
    )
