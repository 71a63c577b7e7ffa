"""What can be known of a use case before there is any data: it is tried on made-up orders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evergreen.contract import FilesSource, SqlSource, UseCase, expand_variables, load_use_case
from evergreen.disk import scratch
from evergreen.errors import EvergreenError
from evergreen.features.compute.daily import column_types
from evergreen.features.compute.result import features_task, labels_task
from evergreen.features.compute.run import rehearse
from evergreen.ops.sample import sample_days, sample_orders, sample_raw
from evergreen.quality.split import split_rows
from evergreen.settings import secret
from evergreen.sql.connection import opened

# The made-up orders are few: what takes longer on them has no end on real ones.
_SECONDS = 20


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
    orders that follow from the contract (`evergreen.ops.sample`), so what depends on the values of
    real orders cannot be known.
    """
    problems = _Problems()
    with problems.of():
        use_case = load_use_case(name)
    if problems:
        return problems
    _check_source(use_case, problems)
    _check_rows(use_case, problems)
    before = len(problems)
    _check_daily(use_case, problems)
    # Features and labels read it: they would only repeat what is wrong with it.
    if len(problems) == before:
        _check_sql(use_case, problems)
    return list(dict.fromkeys(problems))


def _check_source(use_case: UseCase, problems: _Problems) -> None:
    where = f"{use_case.folder / 'use_case.yaml'}: source"
    if isinstance(use_case.source, FilesSource):
        with problems.of(f"{where}.path: "):
            expand_variables(use_case.source.path)
    if isinstance(use_case.source, SqlSource):
        with problems.of(f"{where}.secret: "):
            secret(use_case.source.secret)


def _check_rows(use_case: UseCase, problems: _Problems) -> None:
    """Split made-up rows under the columns and the roll-up, and again under each rule alone."""
    raw, day = sample_raw(use_case), use_case.first_day
    end = sample_days(use_case)[0]
    for rules in ((), *((rule,) for rule in use_case.orders.rules)):
        orders = use_case.orders.model_copy(update={"rules": rules})
        with problems.of():
            split_rows(use_case.model_copy(update={"orders": orders}), raw, day, end)


def _check_daily(use_case: UseCase, problems: _Problems) -> None:
    if use_case.daily is None:
        return
    with opened("check") as connection:
        for name, column in use_case.daily.columns.items():
            alone = use_case.daily.model_copy(update={"columns": {name: column}})
            with problems.of():
                column_types(connection, use_case.model_copy(update={"daily": alone}))


def _check_sql(use_case: UseCase, problems: _Problems) -> None:
    days = sample_days(use_case)
    with scratch("check") as folder:
        path = str(Path(folder) / "orders.parquet")
        pq.write_table(sample_orders(use_case), path)
        with problems.of():
            features = rehearse(features_task(use_case), [path], days, seconds=_SECONDS)
            problems += _broken_promises(use_case, features)
        with problems.of():
            rehearse(labels_task(use_case), [path], days, seconds=_SECONDS)


def _broken_promises(use_case: UseCase, features: pa.Table) -> Iterator[str]:
    """Say which features are not what is declared of them."""
    where = f"{use_case.folder / 'features.sql'}"
    for name, feature in use_case.features.columns.items():
        values = features[name]
        nulls = values.null_count
        if nulls and not feature.nullable:
            yield (
                f"{where}: {name} is NULL in {nulls} of {len(values)} rows made from made-up "
                "orders that obey the contract; it is not declared nullable. Give it a value with "
                "coalesce, or declare nullable: true."
            )
        low, high = feature.range
        found: dict[str, Any] = pc.min_max(values).as_py()
        if feature.dtype == "bool" or found["min"] is None:
            continue
        # Made-up amounts and numbers of orders may well be too great or too small; but not all,
        # and nothing becomes negative by that.
        below = low is not None and (found["max"] < low or found["min"] < 0 <= low)
        above = high is not None and found["min"] > high
        if below or above:
            yield (
                f"{where}: {name} lies between {found['min']:g} and {found['max']:g} on made-up "
                f"orders that obey the contract; features.columns.{name}.range is "
                f"{list(feature.range)}. Mend the SELECT, or the range."
            )
