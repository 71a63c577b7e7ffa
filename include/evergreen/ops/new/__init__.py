"""`evergreen new`: a first draft of a use case, from samples of somebody's files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from string import Template
from typing import Any
from zoneinfo import available_timezones

import pyarrow as pa
import yaml

from evergreen.contract import BatchRules, Events, UseCase, load_use_case_file
from evergreen.contract.base import Model
from evergreen.disk import scratch
from evergreen.errors import ConfigError
from evergreen.ops.new.columns import find_columns, tell_days, tell_roles, tell_worth
from evergreen.ops.new.reading import MOST_ROWS, read_sample
from evergreen.quality.split import split_rows
from evergreen.settings import load_settings
from evergreen.sql.connection import opened

_HORIZONS = (7, 14, 30, 60, 90, 120, 180)
# In these, a line after ?name stands only where there is such a value.
_USE_CASE = """\
# Drafted from samples. Decide what is marked CHECK, and remove the marks.
# Every key, and the defaults of those that are not here, are explained in docs/use_case.md.
name: $name
title: Churn prediction from $table
first_day: $first
?closed # CHECK: remove it if later days will follow
?closed last_day: $last
?guess # CHECK: whose midnights begin the days, and whose clock wrote the times?
zone: $zone
entity: {name: $who, key: $entity}

events:
  $table:
    $source
    key: $key
    timestamp: $time
?keep     # CHECK: no column names a row; are equal rows several events?
?keep     duplicates: keep
?batch     $batch
    columns:
      $columns
?parts     # CHECK: rows with one $key are one event; is that right?
?parts     rollup:
?parts       key: $key
?parts       columns: {amount: {source: '', dtype: float64}}
?parts       aggregates:
?parts         $entity: min($entity)
?parts         $time: min($time)
?parts         amount: sum($parts)
    daily:
      lookback_days: $lookback
      columns:
        $table: {sql: count(*), merge: sum}
?sum         spent: {sql: 'sum(($sum)::DECIMAL(18, 6))', merge: sum}
        first_at: {sql: min($time), merge: min}
        last_at: {sql: max($time), merge: max}

features:
  columns:
    total_$table: {dtype: int64, description: So far., range: [1, null], drift: false}
    days_since_last: {dtype: float64, description: Since the newest., monotone: increasing}
    tenure_days: {dtype: float64, description: Since the first., drift: false}
    ${table}_${near}d: {dtype: int64, description: Of the last $near days., monotone: decreasing}
    ${table}_${far}d: {dtype: int64, description: Of the last $far days., monotone: decreasing}
?sum     total_spent: {dtype: float64, description: Value so far., drift: false}
?sum     mean_spent: {dtype: float64, description: Mean value of one.}
?sum     spent_${near}d: {dtype: float64, description: Value of the last $near days.}
?sum     spent_${far}d: {dtype: float64, description: Value of the last $far days.}
    mean_gap_days: {dtype: float64, description: Mean time between two., nullable: true}
    recency_to_gap: {dtype: float64, description: days_since_last by mean_gap_days., nullable: true}

# CHECK: when is somebody lost? $why
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
?sum     sum(c.spent)::DOUBLE AS total_spent,
?sum     total_spent / total_$table AS mean_spent,
?sum     coalesce(sum(c.spent) FILTER (c.day >= d.as_of - INTERVAL $near DAY), 0) AS spent_${near}d,
?sum     coalesce(sum(c.spent) FILTER (c.day >= d.as_of - INTERVAL $far DAY), 0) AS spent_${far}d,
    (tenure_days - days_since_last) / nullif(total_$table - 1, 0) AS mean_gap_days,
    days_since_last / nullif(mean_gap_days, 0) AS recency_to_gap
FROM as_of_days AS d
INNER JOIN ${table}_daily AS c ON c.day < d.as_of
GROUP BY c.$entity, d.as_of
HAVING max(c.day) >= d.as_of - INTERVAL $lookback DAY
"""
_LABELS = """\
-- One row per as-of and $entity of features.sql, once the horizon has passed: no $table since?
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


def draft_use_case(name: str, samples: Sequence[Path], **wishes: str | None) -> list[str]:
    """Write the folder of a new use case, drafted from samples of its files.

    It appears whole, after it was loaded and has judged the sample, or not at all.

    Parameters
    ----------
    samples
        CSV or Parquet files of this machine that have the same columns.
    wishes
        What is not to be guessed: a `zone`; and the columns `entity`, `time` and `key`, by name in
        the file or as identifier. The key may be `none`: no column names a row.

    Returns
    -------
    list[str]
        What was written and what to do next, a line each.

    Raises
    ------
    ConfigError
        The folder exists, a file is no table, or no column can be the time or the entity.
    SourceError
        A file cannot be read.
    """
    folder = load_settings().use_cases / name
    given = {role: wish for role, wish in wishes.items() if wish is not None}
    if not re.fullmatch("[a-z][a-z0-9_]{0,62}", name):
        raise ConfigError(f"The name is {name!r}; expected lower-case letters, digits and _.")
    if folder.exists():
        raise ConfigError(f"{folder} exists already, and is left alone. Choose another name.")
    if given.get("zone", "UTC") not in available_timezones():
        raise ConfigError(f"--zone is {given['zone']!r}; expected a name such as Europe/Berlin.")
    source, rows, told, doubts = read_sample(samples)
    zone = given.get("zone") or told or "UTC"
    with opened("new") as connection:
        connection.execute(f"SET TimeZone = '{zone}'")
        columns = find_columns(connection, rows, zone)
        roles, is_rolled_up = tell_roles(connection, columns, given)
        worth = tell_worth(connection, [c for c in columns if c not in roles.values()])
        first, last, gap = tell_days(connection, roles)
    if source.csv.names:
        roles["entity"].name, roles["time"].name = "customer_id", "happened_at"
        for column in worth:
            column.name = "amount"
    names = {role: column.name for role, column in roles.items()}
    horizon, why = _horizon((last - first).days + 1, gap)
    amount = " * ".join(f"coalesce({c.name}, 0)" if c.nulls else c.name for c in worth)
    table = "orders" if worth else "events"
    values: dict[str, Any] = {"name": name, "table": table, "key": "none", **names}
    values |= {"zone": zone, "guess": "zone" not in given, "keep": "key" not in roles, "batch": ""}
    is_closed = "{day" not in source.path and rows.num_rows < MOST_ROWS
    values |= {"first": first, "last": last, "closed": is_closed, "why": why}
    values |= {"near": horizon // 3, "far": horizon, "lookback": 2 * horizon}
    values["who"] = re.sub("_?(id|no|nr|nummer|number|key)$", "", names["entity"]) or "who"
    values["source"] = _line("source", source, doubts)
    values["columns"] = "\n".join(_line(c.name, c.declared(roles), c.checks) for c in columns)
    values["parts"] = (amount or "1") if is_rolled_up else ""
    values["sum"] = "amount" if is_rolled_up and amount else amount
    with scratch("new") as place:
        draft = Path(place) / name
        draft.mkdir()
        events = _write(draft, values).events[table]
        values["batch"], judged = _judge(events, rows, first, last)
        _write(draft, values)
        count = (draft / "use_case.yaml").read_text(encoding="utf-8").count("# CHECK: ")
        shutil.copytree(draft, folder)
    return [
        f"Wrote {folder}. {judged}",
        f"Decide what is marked CHECK in use_case.yaml ({count}). Then:",
        f"  evergreen check {name}",
        "  make up",
        f"  evergreen trigger {name}_history --unpause --from {first} --to {last}",
        f"  evergreen trigger {name}_train --unpause --day {last}",
    ]


def _write(folder: Path, values: Mapping[str, Any]) -> UseCase:
    """Fill in the templates, and load what they say."""
    files = {"use_case.yaml": _USE_CASE, "features.sql": _FEATURES, "labels.sql": _LABELS}
    for file, text in files.items():
        filled = ""
        for condition, line in re.findall(r"^(?:\?(\w+) )?(.*)\n", text, re.MULTILINE):
            if not condition or values[condition]:
                indent = line[: len(line) - len(line.lstrip())]
                filled += Template(line).substitute(values).replace("\n", f"\n{indent}") + "\n"
        (folder / file).write_text(filled, encoding="utf-8")
    return load_use_case_file(folder / "use_case.yaml")


def _line(key: str, model: Model, doubts: Iterable[str]) -> str:
    """Write what is not a default on one line, below what is to be confirmed of it."""
    declared = model.model_dump(exclude_defaults=True)
    style: dict[str, Any] = {"default_flow_style": True, "sort_keys": False, "allow_unicode": True}
    text = yaml.safe_dump(declared, width=10_000, **style).strip()
    return "\n".join([*(f"# CHECK: {doubt}" for doubt in doubts), f"{key}: {text}"])


def _horizon(days: int, gap: int | None) -> tuple[int, str]:
    """Return after how many days somebody counts as lost, and how it was chosen."""
    wanted = next((days for days in _HORIZONS if days >= (gap or 90)), _HORIZONS[-1])
    # Training wants 60 days before its first cut-off, and three horizons.
    horizon = max((h for h in _HORIZONS if h <= wanted and 60 + 3 * h <= days), default=wanted)
    check = "Nobody came back in the sample"
    if gap is not None:
        check = f"Nine of ten who came back did within {gap} days"
    if 60 + 3 * wanted > days:
        check += f"; {wanted} days would need a history of {60 + 3 * wanted}, there are {days}"
    return horizon, check


def _judge(events: Events, rows: pa.Table, first: date, last: date) -> tuple[str, str]:
    """Return what whole days must be allowed, and what becomes of the sample, in words."""
    split = split_rows(events, rows, first, last + timedelta(days=1))
    days = split.counts.to_pylist()
    empty = sum(day["accepted"] == 0 for day in days)
    # Of few rows a share says nothing.
    worst = max(day["quarantined"] / max(day["rows_in"], 100) for day in days)
    ratio = max(0.1, min(0.95, round(1.2 * worst + 0.02, 2)))
    batch = BatchRules(allow_empty=True if empty else None, max_quarantined_ratio=ratio)
    doubt = f"{empty} of {len(days)} days are empty; on the worst, {worst:.0%} is quarantined"
    kept = sum(day["accepted"] for day in days)
    broken = "".join(f", {rule} {count:,}" for rule, count in split.by_rule.items())
    judged = f"Of {rows.num_rows:,} rows of the sample it accepts {kept:,}{broken}."
    return "" if batch == BatchRules() else _line("batch", batch, [doubt]), judged
