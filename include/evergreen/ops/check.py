"""What can be known of a use case before there is any data: it is tried on made-up rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evergreen.contract import (
    AnyTable,
    Events,
    FilesSource,
    SqlSource,
    UseCase,
    expand_variables,
    load_use_case,
)
from evergreen.contract.dtypes import NUMBER_DTYPES
from evergreen.disk import scratch
from evergreen.errors import EvergreenError
from evergreen.features.compute.daily import column_types
from evergreen.features.compute.past import Given
from evergreen.features.compute.result import features_task, labels_task
from evergreen.features.compute.run import rehearse
from evergreen.ops.sample import sample_days, sample_raw, sample_rows
from evergreen.quality.split import split_rows
from evergreen.settings import secret
from evergreen.sql.connection import opened

# The made-up rows are few: what takes longer on them has no end on real ones.
_SECONDS = 20
_ONE_DAY = timedelta(days=1)


class _Problems(list[str]):
    @contextmanager
    def of(self, where: str = "") -> Iterator[None]:
        """Note what the body finds wrong, and go on."""
        try:
            yield
        except (EvergreenError, OSError, UnicodeError) as error:
            self.append(f"{where}{error}")


def find_problems(name: str) -> list[str]:
    """Try a use case: its declaration, variables, rules, roll-up, totals, features and labels.

    Parameters
    ----------
    name
        Of its folder.

    Returns
    -------
    list[str]
        A sentence or more for each thing that is wrong, naming file, key or column. Empty when
        nothing was found.

    Notes
    -----
    No service is touched and no source is read. Each SQL is bound and run, with its proofs, on
    rows that follow from the contract (`evergreen.ops.sample`), so what depends on the values of
    real orders cannot be known.
    """
    problems = _Problems()
    with problems.of():
        use_case = load_use_case(name)
    if problems:
        return problems
    in_daily = _Problems()
    for table in use_case.tables.values():
        _check_source(table, problems)
        _check_rows(table, problems)
        if isinstance(table, Events):
            _check_daily(table, in_daily)
    problems += in_daily
    # Features and labels read the daily rows: they would only repeat what is wrong with them.
    if not in_daily:
        _check_sql(use_case, problems)
    return list(dict.fromkeys(problems))


def _check_source(table: AnyTable, problems: _Problems) -> None:
    source, where = table.source, f"{table.where}.source"
    if isinstance(source, FilesSource):
        with problems.of(f"{where}.path: "):
            expand_variables(source.path)
    if isinstance(source, SqlSource):
        with problems.of(f"{where}.secret: "):
            secret(source.secret)


def _check_rows(table: AnyTable, problems: _Problems) -> None:
    """Split made-up rows under the columns and the roll-up, and again under each rule alone."""
    raw, day = sample_raw(table), table.setting.first_day
    for rules in ((), *((rule,) for rule in table.rules)):
        with problems.of():
            split_rows(table.model_copy(update={"rules": rules}), raw, day, day + _ONE_DAY)


def _check_daily(table: Events, problems: _Problems) -> None:
    if table.daily is None:
        return
    with opened("check") as connection:
        for name, column in table.daily.columns.items():
            alone = table.daily.model_copy(update={"columns": {name: column}})
            with problems.of():
                column_types(connection, table.model_copy(update={"daily": alone}))


def _check_sql(use_case: UseCase, problems: _Problems) -> None:
    days = sample_days(use_case)
    with scratch("check") as folder:
        given = {}
        for name, table in use_case.tables.items():
            path = str(Path(folder) / f"{name}.parquet")
            pq.write_table(sample_rows(use_case, table), path)
            given[name] = Given([path])
        if use_case.base is None:
            with problems.of():
                features = rehearse(features_task(use_case), given, days, seconds=_SECONDS)
                problems += _broken_promises(use_case, features)
        with problems.of():
            rehearse(labels_task(use_case), given, days, seconds=_SECONDS)


def _broken_promises(use_case: UseCase, features: pa.Table) -> Iterator[str]:
    """Say which features are not what is declared of them."""
    where = use_case.features_path
    for name, feature in use_case.features.columns.items():
        values = features[name]
        nulls = values.null_count
        if nulls and not feature.nullable:
            yield (
                f"{where}: {name} is NULL in {nulls} of {len(values)} rows made from made-up "
                "rows that obey the contract; it is not declared nullable. Give it a value with "
                "coalesce, or declare nullable: true."
            )
        low, high = feature.range
        found: dict[str, Any] = pc.min_max(values).as_py()
        if feature.dtype not in NUMBER_DTYPES or found["min"] is None:
            continue
        # Made-up amounts and numbers of orders may well be too great or too small; but not all,
        # and nothing becomes negative by that.
        below = low is not None and (found["max"] < low or found["min"] < 0 <= low)
        above = high is not None and found["min"] > high
        if below or above:
            yield (
                f"{where}: {name} lies between {found['min']:g} and {found['max']:g} on made-up "
                f"rows that obey the contract; features.columns.{name}.range is "
                f"{list(feature.range)}. Mend the SELECT, or the range."
            )
