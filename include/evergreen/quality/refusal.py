"""Why days were refused: which rules their batch broke, which rules its rows broke, and examples.

A refused day is published as what it is: its rejected rows, and one row for the batch itself, go
into the table `refused`, until a delivery of the day is accepted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import AnyTable
from evergreen.contract.masking import mask_raw
from evergreen.quality.row_counts import Usual, describe_unusual
from evergreen.quality.schemas import quarantine_schema

# Days and rules a message names; the table has them all.
SHOWN = 20
_EXAMPLE_CHARACTERS = 200


@dataclass
class Refused:
    """The refused days of one run, told in one message.

    Parameters
    ----------
    days
        Why each was refused, by the broken batch rule.
    rules
        Of the rules that their rows broke: how many rows, and the first one in words.
    """

    table: AnyTable
    days: dict[date, Mapping[str, str]] = field(default_factory=dict)
    rules: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, days: Mapping[date, Mapping[str, str]], rejected: pa.Table) -> pa.Table:
        """Take note of refused days; return their partitions of the table `refused`.

        Parameters
        ----------
        rejected
            `quarantine_schema()`, in order; rows of other days are passed over. Not modified.
        """
        self.days.update(days)
        rows = rejected.filter(pc.is_in(rejected["day"], pa.array(list(days), pa.date32())))
        lists = rows["rules"].combine_chunks()
        broken = pc.list_flatten(lists)
        for counted in broken.value_counts().to_pylist():
            rule = counted["values"]
            before, example = self.rules.get(rule, (0, ""))
            if not example:
                position = pc.list_parent_indices(lists)[pc.index(broken, rule).as_py()].as_py()
                example = self._example(rule, rows.slice(position, 1).to_pylist()[0])
            self.rules[rule] = (before + counted["counts"], example)
        batches = [
            {
                "day": day,
                "table": self.table.name,
                "rules": sorted(why),
                "raw": json.dumps(why, ensure_ascii=False),
            }
            for day, why in days.items()
        ]
        return pa.concat_tables([pa.Table.from_pylist(batches, quarantine_schema()), rows])

    def describe(self, others: int) -> str:
        """Say what was refused and what to do; `others` is the number of accepted days."""
        name, days = self.table.setting.use_case, sorted(self.days)
        lines = [
            f"{len(days)} of {len(days) + others} day(s) of {name}.{self.table.name} broke a batch "
            "rule and were refused; "
            f"{'the others were published' if others else 'nothing was published'}."
        ]
        lines += _listed({day: "; ".join(self.days[day].values()) for day in days})
        if self.rules:
            lines.append("Rules that rows of these days broke:")
            ordered = sorted(self.rules.items(), key=lambda item: (-item[1][0], item[0]))
            lines += [f"  - {rule}: {n:,} row(s), {text}" for rule, (n, text) in ordered[:SHOWN]]
        ways = ["mend the source, or the contract in use_case.yaml"]
        if unusual := [day for day in days if "batch_row_count" in self.days[day]]:
            ways.append(_acknowledge(self.table, unusual))
        lines.append(
            f"The rejected rows are in the table {name}.refused (docs/troubleshooting.md). To go "
            f"on: {'; or, '.join(ways)}. Then run {name}_ingest of these days again (or "
            f"{name}_history of a range); until then features of these and later days wait."
        )
        return "\n".join(lines)

    def _example(self, rule: str, row: Mapping[str, Any]) -> str:
        """Quote what the rule is about, as it was delivered: one column if that can be told."""
        raw = mask_raw(self.table, row["raw"])
        columns = self.table.columns
        about = [name for name in columns if rule.startswith(f"{name}_")]
        # `amount_net_missing` is about `amount_net`, not about `amount`.
        source = columns[max(about, key=len)].source if about else None
        shown = {source: raw[source]} if source in raw else raw
        text = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        if len(text) > _EXAMPLE_CHARACTERS:
            text = f"{text[:_EXAMPLE_CHARACTERS]}…"
        return f"for example {row['source']}, row {row['row']}: {text}"


def describe_published(table: AnyTable, wanted: str, unusual: Mapping[date, str]) -> str:
    """Say that published days would be refused now that what they are compared with is there."""
    return "\n".join(
        [
            f"Features of {wanted} cannot be built: {len(unusual)} day(s) of "
            f"{table.setting.use_case}.{table.name} have an unusual number of rows. They were "
            "published before all the days they are compared with, or those have changed since.",
            *_listed(unusual),
            f"To go on: have them delivered again and run {table.setting.use_case}_ingest of these "
            f"days; or, {_acknowledge(table, list(unusual))}. Then run the features again.",
        ]
    )


def _listed(days: Mapping[date, str]) -> list[str]:
    lines = [f"  - {day}: {why}" for day, why in days.items()]
    more = len(lines) - SHOWN
    return lines if more <= 0 else [*lines[:SHOWN], f"  - and {more} more, up to {max(days)}"]


def _acknowledge(table: AnyTable, days: Sequence[date]) -> str:
    # All of them: it is there to be copied.
    listed = ", ".join(map(str, days))
    where = f"{table.kind}.{table.name}.batch.unusual_days"
    return f"if a row count is right, list its day in {where}: [{listed}]"


def explain_batch(
    table: AnyTable, figures: Mapping[Hashable, Any], broken: Collection[str]
) -> dict[str, str]:
    """Return the batch rules a day broke, by name, and what was found and expected.

    Parameters
    ----------
    figures
        One row of `metrics.rows_by_day`.
    broken
        The columns of it that broken expectations are about, such as `rows_in, rows_least`.
    """
    rules = table.batch
    rows_in, quarantined = figures["rows_in"], figures["quarantined"]
    usual = Usual(figures["rows_usual"], figures["rows_least"], figures["rows_most"])
    found = {}
    if "rows_in" in broken:
        found["batch_empty"] = "the source delivered no rows (allow_empty: false)"
    elif "accepted" in broken:
        found["batch_none_accepted"] = (
            f"none of its {rows_in:,} rows was accepted (allow_empty: false)"
        )
    if {"rows_in, rows_least", "rows_most, rows_in"} & {*broken}:
        found["batch_row_count"] = describe_unusual(rows_in, usual)
    if "quarantined_ratio" in broken:
        found["batch_quarantined_ratio"] = (
            f"{quarantined:,} of {rows_in:,} rows are quarantined, a share of at most "
            f"{rules.max_quarantined_ratio:.3g} may be (max_quarantined_ratio)"
        )
    if "age_hours" in broken:
        found["batch_max_age"] = (
            f"its newest row lies {figures['age_hours']:.1f} hours before the end of the day, "
            f"at most {rules.max_age_hours:g} are allowed (max_age_hours)"
        )
    if "rows_in, rows_out" in broken:
        found["batch_conservation"] = (
            f"{rows_in:,} rows in, but {figures['rows_out']:,} accounted for"
        )
    return found
