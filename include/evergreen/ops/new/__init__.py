"""`evergreen new`: a first draft of a use case, from samples of somebody's files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import pyarrow as pa
import yaml

from evergreen.contract import BatchRules, Column, Events, RollUp, UseCase, load_use_case_file
from evergreen.contract.base import Model
from evergreen.disk import scratch
from evergreen.errors import ConfigError
from evergreen.ops.new.columns import Found, Roles, find_columns, tell_days, tell_roles
from evergreen.ops.new.reading import read_sample
from evergreen.ops.new.templates import fill
from evergreen.quality.split import split_rows
from evergreen.settings import load_settings
from evergreen.sql.connection import opened

_HORIZONS = (7, 14, 30, 60, 90, 120, 180)


def draft_use_case(name: str, samples: Sequence[Path], **wishes: str | None) -> list[str]:
    """Write the folder of a new use case, drafted from samples of its files.

    Parameters
    ----------
    name
        Of the use case and its folder.
    samples
        CSV or Parquet files of this machine that have the same columns.
    wishes
        What is not to be guessed: a `zone`; and the columns `entity`, `time` and `key`, by name in
        the file or as identifier. The key may be `none`: no column names a row.

    Returns
    -------
    list[str]
        What was read, what to confirm and what to do next, a line each.

    Raises
    ------
    ConfigError
        The folder exists already, a file is no table, or no column can be the time or the entity.
    SourceError
        A file cannot be read.

    Notes
    -----
    The folder appears whole, after it was loaded and has judged the sample, or not at all.
    """
    folder = load_settings().use_cases / name
    given = {role: wish for role, wish in wishes.items() if wish is not None}
    if not re.fullmatch("[a-z][a-z0-9_]{0,62}", name):
        raise ConfigError(
            f"The name is {name!r}; expected lower-case letters, digits and _, a letter first."
        )
    if folder.exists():
        raise ConfigError(f"{folder} exists already, and is left alone. Choose another name.")
    if given.get("zone", "UTC") not in available_timezones():
        raise ConfigError(f"--zone is {given['zone']!r}; expected a name such as Europe/Berlin.")
    source, rows, told, doubts = read_sample(samples)
    zone = given.get("zone") or told or "UTC"
    with opened("new") as connection:
        connection.execute(f"SET TimeZone = '{zone}'")
        columns = find_columns(connection, rows, zone)
        roles = tell_roles(connection, columns, given)
        first, last, gap = tell_days(connection, roles)
    if source.csv.names:
        roles.entity.name, roles.time.name = "customer_id", "happened_at"
    entity, key = roles.entity.name, roles.key.name if roles.key else "none"
    horizon, horizon_check = _horizon((last - first).days + 1, gap)
    table = "orders" if roles.worth else "events"
    zone_check = "whose midnights begin the days, and whose clock wrote the times?"
    values: dict[str, Any] = {
        **{"name": name, "table": table, "entity": entity, "key": key, "time": roles.time.name},
        **{"first": first, "zone": zone, "zone_check": "" if "zone" in given else zone_check},
        **{"near": horizon // 3, "far": horizon, "lookback": 2 * horizon},
        "horizon_check": horizon_check,
        "who": re.sub("_?(id|no|nr|nummer|number|key)$", "", entity) or entity,
        "last_day": _checked(f"last_day: {last}", ["remove it if later days will follow"]),
        "source": _checked(f"source: {_inline(source)}", doubts),
        "duplicates": "",
        "columns": "\n".join(_column(column, roles) for column in columns),
        "batch": "",
        **_worth(roles),
    }
    if "{day" in source.path:
        values["last_day"] = ""
    if key == "none":
        doubt = "no column names a row; may equal rows be several events?"
        values["duplicates"] = _checked("duplicates: keep", [doubt])
    with scratch("new") as place:
        draft = Path(place) / name
        draft.mkdir()
        events = _write(draft, values).events[table]
        values["batch"], judged = _judge(events, rows, first, last)
        _write(draft, values)
        shutil.copytree(draft, folder)
    return [
        f"Wrote {folder}. {judged}",
        "Decide what is marked CHECK in use_case.yaml. Then:",
        f"  evergreen check {name}",
        "  make up",
        f"  evergreen trigger {name}_history --unpause --from {first} --to {last}",
        f"  evergreen trigger {name}_train --unpause --day {last}",
    ]


def _write(folder: Path, values: Mapping[str, Any]) -> UseCase:
    for file, text in fill(values).items():
        (folder / file).write_text(text, encoding="utf-8")
    return load_use_case_file(folder / "use_case.yaml")


def _inline(model: Model) -> str:
    """Write what is not a default, on one line."""
    declared = model.model_dump(exclude_defaults=True)
    return yaml.safe_dump(
        declared, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    ).strip()


def _checked(line: str, doubts: Iterable[str]) -> str:
    return "\n".join([*(f"# CHECK: {doubt}" for doubt in doubts), line])


def _column(column: Found, roles: Roles) -> str:
    nullable = column.nulls > 0 and column not in (roles.entity, roles.time, roles.key)
    declared = Column(source=column.source, nullable=nullable, **column.way)
    return _checked(f"{column.name}: {_inline(declared)}", column.checks)


def _worth(roles: Roles) -> dict[str, str]:
    """Return SQL of what an event is worth, and the roll-up of rows that are parts of events."""
    worth = " * ".join(column.name for column in roles.worth)
    if any(column.nulls for column in roles.worth):
        worth = f"coalesce({worth}, 0)"
    if roles.key is None or not roles.is_rolled_up:
        return {"worth": worth, "rollup": ""}
    entity, time = roles.entity.name, roles.time.name
    columns = {"lines": Column(source="", dtype="int64")}
    aggregates = {entity: f"min({entity})", time: f"min({time})", "lines": "count(*)"}
    if worth:
        columns["amount"] = Column(source="", dtype="float64")
        aggregates["amount"] = f"sum({worth})"
    rollup = RollUp(key=roles.key.name, columns=columns, aggregates=aggregates)
    lines = yaml.safe_dump({"rollup": rollup.model_dump(exclude_defaults=True)}, sort_keys=False)
    doubt = f"rows with one {roles.key.name} are one event; is that right?"
    return {"worth": worth and "amount", "rollup": _checked(lines.strip(), [doubt])}


def _horizon(days: int, gap: int | None) -> tuple[int, str]:
    """Return after how many days somebody counts as lost, and how it was chosen."""
    wanted = next((days for days in _HORIZONS if days >= (gap or 90)), _HORIZONS[-1])
    # Training wants 60 days before its first cut-off, and two horizons.
    horizon = max((h for h in _HORIZONS if h <= wanted and 60 + 2 * h <= days), default=wanted)
    check = "when is somebody lost? " + (
        f"Nine of ten come back within {gap} days" if gap else "Nobody comes back in the sample"
    )
    if 60 + 2 * wanted > days:
        check += f"; {wanted} days would need a history of {60 + 2 * wanted}, there are {days}"
    return horizon, check


def _judge(events: Events, rows: pa.Table, first: date, last: date) -> tuple[str, str]:
    """Return what whole days must be allowed, and what becomes of the sample, in words."""
    split = split_rows(events, rows, first, last + timedelta(days=1))
    days = split.counts.to_pylist()
    came, kept = (sum(day[key] for day in days) for key in ("rows_in", "accepted"))
    broken = "".join(f", {rule} {count:,}" for rule, count in split.by_rule.items())
    empty = sum(day["accepted"] == 0 for day in days)
    # Of few rows a share says nothing.
    worst = max(day["quarantined"] / max(day["rows_in"], 100) for day in days)
    rules = {
        "allow_empty": True if empty else None,
        "max_quarantined_ratio": max(0.1, min(0.95, round(1.2 * worst + 0.02, 2))),
    }
    doubt = f"{empty} of {len(days)} days are empty; on the worst, {worst:.0%} is quarantined"
    text = f"batch: {_inline(BatchRules.model_validate(rules))}"
    batch = _checked(text, [doubt]) if text != "batch: {}" else ""
    return batch, f"Of {came:,} rows of the sample it accepts {kept:,}{broken}."
