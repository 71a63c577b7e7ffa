"""The files of a drafted use case."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template
from typing import Any

_USE_CASE = """\
# Drafted from samples. Decide what is marked CHECK, and remove the marks.
# Every key, and the defaults of those that are not here, are explained in docs/use_case.md.
name: $name
title: Churn prediction from $table
first_day: $first
$last_day
# CHECK: $zone_check
zone: $zone

entity: {name: $who, key: $entity}

events:
  $table:
    $source
    key: $key
    timestamp: $time
    $duplicates
    $batch
    columns:
      $columns
    $rollup
    daily:
      lookback_days: $lookback
      columns:
        $table: {sql: count(*), merge: sum}
        spent: {sql: 'sum(($worth)::DECIMAL(18, 6))', merge: sum}
        first_at: {sql: min($time), merge: min}
        last_at: {sql: max($time), merge: max}

features:
  columns:
    total_$table: {dtype: int64, description: So far., range: [1, null], drift: false}
    days_since_last: {dtype: float64, description: Since the newest., monotone: increasing}
    tenure_days: {dtype: float64, description: Since the first., drift: false}
    ${table}_${near}d: {dtype: int64, description: Of the last $near days., monotone: decreasing}
    ${table}_${far}d: {dtype: int64, description: Of the last $far days., monotone: decreasing}
    total_spent: {dtype: float64, description: Value so far., drift: false}
    mean_spent: {dtype: float64, description: Mean value of one.}
    spent_${near}d: {dtype: float64, description: Value of the last $near days.}
    spent_${far}d: {dtype: float64, description: Value of the last $far days.}
    mean_gap_days: {dtype: float64, description: Mean time between two., nullable: true}
    recency_to_gap: {dtype: float64, description: days_since_last by mean_gap_days., nullable: true}

# CHECK: $horizon_check
target: {name: churned, description: No $table for $far days from as_of on., horizon_days: $far}

training: {baselines: [days_since_last]}
"""
_FEATURES = """\
-- One row per as-of and $entity with $table in the $lookback days before it: all it had by then.
--   ${table}_daily  one row per $entity and day with $table; days more than $lookback days
--     before an as_of may stand merged into one row per $entity (`daily` in use_case.yaml)
--   as_of_days  column as_of (local midnight), one row per day asked for
SELECT
    c.$entity,
    d.as_of,
    sum(c.$table) AS total_$table,
    date_diff('second', max(c.last_at), d.as_of) / 86400.0 AS days_since_last,
    date_diff('second', min(c.first_at), d.as_of) / 86400.0 AS tenure_days,
    coalesce(sum(c.$table) FILTER (c.day >= d.as_of - INTERVAL $near DAY), 0) AS ${table}_${near}d,
    coalesce(sum(c.$table) FILTER (c.day >= d.as_of - INTERVAL $far DAY), 0) AS ${table}_${far}d,
    sum(c.spent)::DOUBLE AS total_spent,
    total_spent / total_$table AS mean_spent,
    coalesce(sum(c.spent) FILTER (c.day >= d.as_of - INTERVAL $near DAY), 0) AS spent_${near}d,
    coalesce(sum(c.spent) FILTER (c.day >= d.as_of - INTERVAL $far DAY), 0) AS spent_${far}d,
    date_diff('second', min(c.first_at), max(c.last_at)) / 86400.0 / nullif(total_$table - 1, 0)
        AS mean_gap_days,
    days_since_last / nullif(mean_gap_days, 0) AS recency_to_gap
FROM as_of_days AS d
INNER JOIN ${table}_daily AS c ON c.day < d.as_of
GROUP BY c.$entity, d.as_of
HAVING max(c.day) >= d.as_of - INTERVAL $lookback DAY
"""
_LABELS = """\
-- One row per as-of and $entity of features.sql, once the horizon has passed: no $table since?
--   ${table}_daily  as in features.sql
--   as_of_days  columns as_of and horizon_end (local midnights, horizon_end excluded)
SELECT
    c.$entity,
    d.as_of,
    count(*) FILTER (c.day >= d.as_of) = 0 AS label
FROM as_of_days AS d
INNER JOIN ${table}_daily AS c
    ON c.day >= d.as_of - INTERVAL $lookback DAY AND c.day < d.horizon_end
GROUP BY c.$entity, d.as_of
HAVING min(c.day) < d.as_of
"""


def fill(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the files by name, without lines that have nothing to say."""
    files = {"use_case.yaml": _USE_CASE, "features.sql": _FEATURES, "labels.sql": _LABELS}
    for name, text in files.items():
        kept = []
        for line in text.splitlines():
            filled = Template(line).substitute(values)
            is_empty = (line and not filled.strip()) or filled.endswith("CHECK: ")
            if not is_empty and (values["worth"] or "spent" not in line):
                indent = line[: len(line) - len(line.lstrip())]
                kept.append(filled.replace("\n", f"\n{indent}"))
        files[name] = "\n".join(kept) + "\n"
    return files
