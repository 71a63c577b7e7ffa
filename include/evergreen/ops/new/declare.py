"""What is declared of the tables of samples, and what a person must confirm of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from evergreen.contract.dtypes import NUMBER_DTYPES
from evergreen.contract.tables import TableKind
from evergreen.errors import ConfigError
from evergreen.ops.new.profile import Profile
from evergreen.ops.new.roles import Past
from evergreen.ops.new.sniff import MOST_ROWS, Sample
from evergreen.ops.new.tables import DraftTable, Wishes
from evergreen.ops.new.text import HORIZON_DAYS, LOOKBACK_DAYS, Inline, declared_features

_FEWEST_DAYS = 60 + 2 * HORIZON_DAYS
Checks = dict[str, str]


def declare(
    name: str, tables: Sequence[DraftTable], past: Past, zone: str, wishes: Wishes
) -> tuple[dict[str, Any], Checks]:
    """Return the declaration of a use case (see `text.yaml_text`), and by path what to confirm.

    Parameters
    ----------
    tables
        The main one first.
    past
        Of the main table.
    """
    main = tables[0]
    if main.roles.entity is None or main.roles.time is None:
        raise ConfigError(f"{main.name} has no entity or no time.")
    entity = main.roles.entity.name
    checks: Checks = {}
    if wishes.zone is None:
        checks["zone"] = _zone_doubt(main.roles.time, main.sample, past)
    checks["first_day"] = main.roles.doubts.get(
        "first_day", "rows of earlier days are quarantined; this is the first of the sample"
    )
    if "entity" in main.roles.doubts:
        checks["entity.key"] = main.roles.doubts["entity"]
    declared: dict[str, Any] = {
        "name": name,
        "title": f"Churn, from {main.name}",
        "description": f"Who will have no {main.name} in the next {HORIZON_DAYS} days?",
        "zone": zone,
        "first_day": past.first,
        "# If nothing will follow any more, the schedule ends with it:": None,
        f"# last_day: {past.last}": None,
        "entity": {"name": re.sub("_(id|no|nr|key|number|code)$", "", entity), "key": entity},
    }
    sections: dict[TableKind, dict[str, Any]] = {"events": {}, "attributes": {}, "references": {}}
    for table in tables:
        where = f"{table.kind}.{table.name}"
        sections[table.kind][table.name] = _table(table, where, entity, checks)
    _judge_past(sections["events"][main.name], main, past, checks)
    declared |= {kind: section for kind, section in sections.items() if section}
    declared["features"] = {
        "columns": declared_features(
            main.name, worth=main.roles.amount is not None, below_zero=main.below_zero is not None
        )
    }
    declared["target"] = {
        "kind": "binary",
        "name": "churned",
        "description": f"No {main.name} in the {HORIZON_DAYS} days from as_of on.",
        "horizon_days": HORIZON_DAYS,
    }
    checks["target.horizon_days"] = _horizon_doubt(past)
    declared["training"] = {"baselines": ["days_since_last"]}
    return declared, checks


def _zone_doubt(time: Profile, sample: Sample, past: Past) -> str:
    whose = "whose midnights begin the days of the business?"
    if sample.template and past.in_named_days < 0.98:
        outside = 1 - past.in_named_days
        whose += f" In this one {outside:.0%} of the rows are of another day than their file"
    if sample.zone:
        return f"the zone of the file's instants; {whose}"
    if time.zoned:
        return f"the times carry their offsets; {whose}"
    return f"in which zone is {time.name} written, and {whose}"


def _horizon_doubt(past: Past) -> str:
    days = (past.last - past.first).days + 1
    usual = "the sample is too short to show when people return"
    if past.usual_gap_days is not None:
        usual = f"nine of ten gaps between active days are at most {past.usual_gap_days} days"
    few = f"; training needs about {_FEWEST_DAYS} days, there are {days}"
    return f"when is somebody lost? {usual}{few if days < _FEWEST_DAYS else ''}"


def _judge_past(declared: dict[str, Any], main: DraftTable, past: Past, checks: Checks) -> None:
    """Declare what the days of the sample say of whole batches."""
    where, batch = f"events.{main.name}", dict[str, Any]()
    if past.quiet_days:
        batch["allow_empty"] = True
        doubt = f"{past.quiet_days} days without rows; was there no business?"
        checks[f"{where}.batch.allow_empty"] = doubt
        if main.sample.template:
            declared["source"]["missing"] = "empty"
            checks[f"{where}.source.missing"] = f"{past.quiet_days} days have no file"
    if past.worst_share > 0.08:
        batch["max_quarantined_ratio"] = min(0.95, round(1.2 * past.worst_share + 0.05, 2))
        checks[f"{where}.batch.max_quarantined_ratio"] = (
            f"{past.worst_share:.0%} of the rows of {past.worst_day} do not say whom or which"
        )
    if batch:
        declared["batch"] = batch


def _table(table: DraftTable, where: str, entity: str, checks: Checks) -> dict[str, Any]:
    roles = table.roles
    declared: dict[str, Any] = {"source": _source(table, where, checks)}
    declared["key"] = roles.key.name if roles.key else "none"
    if table.kind == "attributes":
        declared["key"] = entity
    elif "key" in roles.doubts:
        checks[f"{where}.key"] = roles.doubts["key"]
    needed = {declared["key"]}
    if table.kind == "references":
        if entity in {column.name for column in table.columns}:
            checks[where] = "nothing says since when a row is true; taken as true at all times"
    else:
        needed |= {entity}
    if roles.time is not None and table.kind != "references":
        role = "timestamp" if table.kind == "events" else "valid_from"
        declared[role] = roles.time.name
        needed |= {roles.time.name}
        if table.kind == "attributes":
            checks[f"{where}.{role}"] = "is a row true from then on?"
        elif "time" in roles.doubts:
            checks[f"{where}.{role}"] = roles.doubts["time"]
    # What is summed up may be absent only where it was seen to be.
    needed |= {column.name for column in table.summed_up if not column.nulls}
    if table.kind == "events" and roles.exact_duplicates and (not roles.key or roles.rolled_up):
        declared["duplicates"] = "drop" if roles.rolled_up else "keep"
        checks[f"{where}.duplicates"] = (
            f"{roles.exact_duplicates:,} rows equal another in every column; keep counts them, "
            "drop takes them for delivered twice"
        )
    declared["# Numbers may be ten times what the sample holds; beyond, a row is quarantined."] = (
        None
    )
    declared["columns"] = {column.name: _column(column, needed) for column in table.columns}
    for column in table.columns:
        doubts = column.doubts + (["may it have other values?"] if column.values else [])
        if doubts:
            checks[f"{where}.columns.{column.name}"] = "; ".join(doubts)
    if table.kind == "events":
        declared |= _summed_up(table, where, entity, checks)
    return declared


def _source(table: DraftTable, where: str, checks: Checks) -> dict[str, Any]:
    sample = table.sample
    declared: dict[str, Any] = {"kind": "files", "path": sample.template or sample.path}
    checks[f"{where}.source.path"] = table.roles.doubts.get(
        "path", "where will the files be? ${NAME} stands for a variable of the environment"
    )
    if sample.rows.num_rows == MOST_ROWS:
        checks[f"{where}.source"] = f"only the first {MOST_ROWS:,} rows were looked at"
    if sample.malformed:
        checks[f"{where}.source.kind"] = f"{sample.malformed:,} rows have other numbers of fields"
    if sample.file_format == "parquet":
        return {**declared, "format": "parquet"}
    csv_format = sample.csv_format.model_dump(exclude_defaults=True)
    if not sample.header:
        csv_format["names"] = [column.source for column in table.columns]
        checks[f"{where}.source.csv"] = "there is no header; what are the columns called?"
    elif sample.csv_format.encoding in ("cp1252", "latin-1"):
        checks[f"{where}.source.csv"] = "it is not UTF-8; do letters beyond ASCII look right?"
    return {**declared, **({"csv": Inline(csv_format)} if csv_format else {})}


def _column(column: Profile, needed: set[str]) -> Inline:
    found = Inline(source=column.source, dtype=column.dtype)
    if column.dtype in NUMBER_DTYPES:
        bound = 10 ** math.ceil(math.log10(max(abs(column.low), abs(column.high), 1) * 10))
        found["range"] = [0 if column.low >= 0 else -bound, bound]
    if column.values:
        found["values"] = [*column.values]
    if column.name not in needed:
        found["nullable"] = True
    if column.formats:
        found["formats"] = [*column.formats]
    if column.decimal != ".":
        found["decimal"] = column.decimal
    if column.thousands is not None:
        found["thousands"] = column.thousands
    if column.strip_float and column.dtype == "string":
        found["strip_float"] = True
    return found


def _summed_up(table: DraftTable, where: str, entity: str, checks: Checks) -> dict[str, Any]:
    """Declare the roll-up, if rows are parts of events, and the days."""
    roles, declared = table.roles, dict[str, Any]()
    if roles.time is None:
        raise ConfigError(f"{table.name} has no time.")
    time, amount, negative = roles.time.name, roles.amount, table.below_zero
    if any(column.nulls for column in table.summed_up):
        amount = f"coalesce({amount}, 0)"
    if negative is not None:
        rule = f"name: positive_{negative.name}, sql: {negative.name} > 0"
        declared["# Returns are often rows of their own. To leave them out:"] = None
        declared["# rules:"] = None
        declared[f"#   - {{{rule}, because: A return is no purchase.}}"] = None
    worth_doubt = roles.doubts.get("amount", "")
    if roles.rolled_up and roles.key is not None:
        columns = {"lines": Inline(source="", dtype="int64", range=[1, None])}
        aggregates = {entity: f"min({entity})", time: f"min({time})", "lines": "count(*)"}
        if amount is not None:
            lowest = None if negative else 0
            columns["amount"] = Inline(source="", dtype="float64", range=[lowest, None])
            aggregates["amount"] = f"sum({amount})"
            checks[f"{where}.rollup.aggregates.amount"] = worth_doubt
            amount = "amount"
        declared["rollup"] = {"key": roles.key.name, "columns": columns, "aggregates": aggregates}
    elif amount is not None:
        checks[f"{where}.daily.columns.spent"] = worth_doubt
    daily = {table.name: Inline(sql="count(*)", merge="sum")}
    if amount is not None:
        worth = f"({amount})" if "*" in amount else amount
        daily["spent"] = Inline(sql=f"sum({worth}::DECIMAL(18, 6))", merge="sum")
    daily |= {
        "first_at": Inline(sql=f"min({time})", merge="min"),
        "last_at": Inline(sql=f"max({time})", merge="max"),
        "active_days": Inline(sql="1", merge="sum"),
    }
    declared["# Sums of DECIMAL are exact: they come out the same however days are merged."] = None
    declared["daily"] = {"lookback_days": LOOKBACK_DAYS, "columns": daily}
    return declared
