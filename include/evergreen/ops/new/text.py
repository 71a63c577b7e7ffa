"""The files of a drafted use case, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from string import Template
from typing import Any

import yaml

LOOKBACK_DAYS = 180
HORIZON_DAYS = 90


class Inline(dict[str, Any]):
    """A mapping that is written on one line."""


def yaml_text(declared: Mapping[str, Any], checks: Mapping[str, str]) -> str:
    """Write a declaration, with a comment at each key somebody must confirm.

    Parameters
    ----------
    declared
        Keys that begin with `#` are comments.
    checks
        By path (`events.orders.key`), why.
    """
    return "\n".join(_lines(declared, checks, "", "")) + "\n"


def _lines(
    declared: Mapping[str, Any], checks: Mapping[str, str], above: str, indent: str
) -> Iterator[str]:
    for key, value in declared.items():
        if key.startswith("#"):
            yield f"{indent}{key}"
            continue
        path = f"{above}{key}"
        note = f"  # CHECK: {checks[path]}" if path in checks else ""
        if isinstance(value, dict) and not isinstance(value, Inline):
            yield f"{indent}{key}:{note}"
            yield from _lines(value, checks, f"{path}.", f"{indent}  ")
        else:
            yield f"{indent}{key}: {_scalar(value)}{note}"


def _scalar(value: Any) -> str:
    plain = dict(value) if isinstance(value, Inline) else value
    text = yaml.safe_dump(
        plain, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.strip().removesuffix("...").strip()


def declared_features(table: str, *, worth: bool, below_zero: bool) -> dict[str, Inline]:
    """Declare what `features_sql` computes; `below_zero` says whether amounts may be negative."""
    above, one = [0, None], [1, None]
    count: dict[str, Any] = {"dtype": "int64", "unit": table}
    time: dict[str, Any] = {"dtype": "float64", "unit": "days", "range": above}
    money: dict[str, Any] = {"dtype": "float64", "range": [None if below_zero else 0, None]}
    recent = {**count, "range": above, "monotone": "decreasing"}
    columns = {
        f"total_{table}": {**count, "description": "So far.", "range": one, "drift": False},
        "days_since_last": {**time, "description": "Since the newest.", "monotone": "increasing"},
        "active_days": {
            **{"dtype": "int64", "unit": "days", "description": "Distinct days with any."},
            **{"range": one, "drift": False},
        },
        "tenure_days": {**time, "description": "Since the first.", "drift": False},
        f"{table}_30d": {**recent, "description": "Of the last 30 days."},
        f"{table}_90d": {**recent, "description": "Of the last 90 days."},
        "mean_gap_days": {
            **{**time, "description": "Mean time between two so far."},
            **{"nullable": True, "drift": False},
        },
        "recency_to_gap_ratio": {
            **{"dtype": "float64", "description": "Time since the newest over the mean gap."},
            **{"range": above, "nullable": True},
        },
    }
    if worth:
        columns |= {
            "total_spent": {**money, "description": "Value so far.", "drift": False},
            "mean_spent": {**money, "description": "Mean value."},
            "spent_30d": {**money, "description": "Value of the last 30 days."},
            "spent_90d": {**money, "description": "Value of the last 90 days."},
        }
    return {name: Inline(feature) for name, feature in columns.items()}


_FEATURES = Template("""\
-- One row per as-of and $entity with $table in the $lookback days before it: all it had by then.
--   ${table}_daily  one row per $entity and day with $table; days more than $lookback days
--     before an as_of may stand merged into one row per $entity (`daily` in use_case.yaml)
--   as_of_days  column as_of (local midnight), one row per day asked for$others
-- as_of and the windows before it all begin at midnight, so whole days are enough.
SELECT
    c.$entity,
    d.as_of,
    sum(c.$table) AS total_$table,
    date_diff('second', max(c.last_at), d.as_of) / 86400.0 AS days_since_last,
    sum(c.active_days) AS active_days,
    date_diff('second', min(c.first_at), d.as_of) / 86400.0 AS tenure_days,
    coalesce(sum(c.$table) FILTER (c.day >= d.as_of - INTERVAL 30 DAY), 0) AS ${table}_30d,
    coalesce(sum(c.$table) FILTER (c.day >= d.as_of - INTERVAL 90 DAY), 0) AS ${table}_90d,
    date_diff('second', min(c.first_at), max(c.last_at)) / 86400.0 / nullif(total_$table - 1, 0)
        AS mean_gap_days,
    days_since_last / nullif(mean_gap_days, 0) AS recency_to_gap_ratio$spent
FROM as_of_days AS d
INNER JOIN ${table}_daily AS c ON c.day < d.as_of
GROUP BY c.$entity, d.as_of
HAVING max(c.day) >= d.as_of - INTERVAL $lookback DAY
""")
_SPENT = Template(""",
    sum(c.spent)::DOUBLE AS total_spent,
    total_spent / total_$table AS mean_spent,
    coalesce(sum(c.spent) FILTER (c.day >= d.as_of - INTERVAL 30 DAY), 0) AS spent_30d,
    coalesce(sum(c.spent) FILTER (c.day >= d.as_of - INTERVAL 90 DAY), 0) AS spent_90d""")

_LABELS = Template("""\
-- One row per as-of and $entity with $table in the $lookback days before it (the population of
-- features.sql), for as-of days whose horizon has passed: has it had none since?
--   ${table}_daily  one row per $entity and day with $table, as in features.sql
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
""")

_README = Template("""\
# $name

A draft made from samples: $described.

## To confirm
Each of these is a `# CHECK` in `use_case.yaml`; remove it there and here once it is right.

$checks

## What is predicted
Who of those active in the last $lookback days will not be in the next $horizon? To ask something
else, change `target`, `features.sql` and `labels.sql` together; docs/use_case.md explains the keys.

## To run it

$commands
""")


def features_sql(entity: str, table: str, others: Mapping[str, str], *, worth: bool) -> str:
    """Write `features.sql` over `<table>_daily`; `others` are further relations and their kinds."""
    return _FEATURES.substitute(
        entity=entity,
        table=table,
        lookback=LOOKBACK_DAYS,
        spent=_SPENT.substitute(table=table) if worth else "",
        others="".join(f"\n--   {name}  {kind}, not used yet" for name, kind in others.items()),
    )


def labels_sql(entity: str, table: str) -> str:
    """Write `labels.sql` over `<table>_daily`: whether nothing follows."""
    return _LABELS.substitute(entity=entity, table=table, lookback=LOOKBACK_DAYS)


def readme(name: str, described: str, checks: Mapping[str, str], commands: Iterable[str]) -> str:
    """Write `README.md`: what was drafted from what, what to confirm, what to run."""
    return _README.substitute(
        name=name,
        described=described,
        checks="\n".join(f"- `{path}`: {why}" for path, why in checks.items()),
        commands="\n".join(f"    {command}" for command in commands),
        lookback=LOOKBACK_DAYS,
        horizon=HORIZON_DAYS,
    )
