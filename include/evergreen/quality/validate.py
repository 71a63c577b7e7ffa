"""Runs Great Expectations over staged batches, keeps the results, and fails closed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType
from typing import Any

# No usage statistics leave the machine; read when the library is imported.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.expectation import Expectation
from upath import UPath

from evergreen.contract import AnyTable, UseCase
from evergreen.errors import ConfigError, ValidationError
from evergreen.quality import docs, expectations, metrics
from evergreen.quality.outcome import EXAMPLES, Report, columns_of, describe
from evergreen.quality.refusal import explain_batch
from evergreen.quality.scan import scan
from evergreen.quality.schemas import table_schema, typed_as_features
from evergreen.quality.split import connect
from evergreen.settings import load_settings


@dataclass(frozen=True)
class _Check:
    """One frame and what is expected of it; `label_column` names rows in examples."""

    frame: pd.DataFrame
    expected: Sequence[Expectation]
    label_column: str
    # Whether every row that breaks an expectation is wanted, and not only some.
    all_rows: bool = False


def validate_rows(
    table: AnyTable,
    accepted: pa.Table,
    counts: pa.Table,
    row_counts: Mapping[date, int],
    *,
    run_name: str,
    quality: UPath | None = None,
) -> Report:
    """Hold accepted rows against the contract, and each day against the batch rules.

    Parameters
    ----------
    accepted, counts
        As `split_rows` gives them. Not modified.
    row_counts
        Rows in of other days, at least of the `row_count_weeks` weeks before, as far as known.
    run_name
        The day, or `<first>..<last>`; names the result.
    quality
        Where results are kept; default `settings.quality`.

    Raises
    ------
    ValidationError
        A column is missing, so there is nothing to validate.

    Notes
    -----
    A batch without days fails. A day that breaks a batch rule is in the report's `refused`, and no
    judgement on the other days.
    """
    _require_columns(table.name, accepted, table_schema(table).names)
    rows = accepted
    if table.kind == "events":
        rows = accepted.append_column("event_day", _local_days(table, accepted))
    by_day = metrics.rows_by_day(table, counts, row_counts)
    of_rows = _Check(_frame(rows), expectations.row_expectations(table), "row_id")
    of_days = _Check(by_day, expectations.batch_expectations(table), "day", all_rows=True)
    judged = [_run(table.name, of_rows), _run(table.name, of_days)]
    broken: dict[str, set[str]] = {}
    for result in judged[1]:
        for row in result.result.get("unexpected_index_list") or []:
            broken.setdefault(row["day"], set()).add(columns_of(result))
    refused = {
        date.fromisoformat(row["day"]): explain_batch(table, row, broken[row["day"]])
        for row in by_day.to_dict("records")
        if row["day"] in broken
    }
    missing = [] if counts.num_rows else ["the batch has no days; expected at least one"]
    use_case, rows_judged = table.setting.use_case, len(of_rows.frame)
    return _report(use_case, table.name, judged, rows_judged, missing, run_name, quality, refused)


def _local_days(table: AnyTable, rows: pa.Table) -> pa.ChunkedArray:
    times = rows.column(table.time)
    if pa.types.is_timestamp(times.type):
        times = pc.local_timestamp(times.cast(pa.timestamp("us", table.setting.zone)))
    return times.cast(pa.date32())


def validate_features(
    use_case: UseCase,
    features: pa.Table | ds.Dataset,
    days: Sequence[date],
    *,
    run_name: str,
    allow_empty: bool = False,
    quality: UPath | None = None,
) -> Report:
    """Hold features against the contract.

    Parameters
    ----------
    features
        Columns entity key, `as_of` (timestamp, UTC) and the declared features; others are
        ignored. Of a dataset, a few batches at a time are in memory. Not modified.
    days
        The days asked for; each must have rows unless `allow_empty`.
    allow_empty
        Whether days without any entity are right, as before the first event.

    Raises
    ------
    ValidationError
        A column is missing, so there is nothing to validate.
    """
    names = [use_case.entity.key, "as_of", *use_case.features.columns]
    _require_columns("features", features, names)
    rows = ds.dataset(features) if isinstance(features, pa.Table) else features
    rows = rows.replace_schema(pa.schema([rows.schema.field(name) for name in names]))
    judged, by_instant = _judge_features(use_case, rows)
    by_day = _Check(
        metrics.features_by_day(use_case, by_instant, days),
        expectations.features_batch_expectations(allow_empty=allow_empty),
        "as_of",
    )
    count = sum(by_instant.values())
    missing = [] if days else ["no days were asked for; expected at least one"]
    if not count and not allow_empty:
        missing.append(f"there are no rows; expected some for each of {len(days)} day(s)")
    results = [judged, _run("features", by_day)]
    return _report(use_case.name, "features", results, count, missing, run_name, quality)


def _judge_features(
    use_case: UseCase, rows: ds.Dataset
) -> tuple[list[Any], Mapping[datetime | None, int]]:
    """Judge every row; return the results and the number of rows per `as_of`."""
    expected = expectations.features_expectations(use_case)
    settings, key = load_settings(), use_case.entity.key
    if not typed_as_features(use_case, rows.schema):
        # What bounds mean to values of another type is for pandas to say, row by row.
        table = rows.to_table()
        counted = pc.value_counts(table["as_of"]).to_pylist()
        whole = _Check(_frame(table), expected, key)
        return _run("features", whole), {row["values"]: row["counts"] for row in counted}
    # Types are then the same on every row, and one row in pandas shows them.
    of_types = [e for e in expected if isinstance(e, gxe.ExpectColumnValuesToBeOfType)]
    typed = _run("features", _Check(_frame(rows.head(1)), of_types, key))
    with connect(settings.threads, settings.memory_mb) as connection:
        others = [e for e in expected if e not in of_types]
        scanned = scan(connection, rows, others, _result_format(key))
    return [*typed, *scanned.results], scanned.rows_by_instant


def validate_predictions(
    use_case: UseCase,
    predictions: pa.Table,
    population: int | Mapping[date, int],
    *,
    run_name: str,
    quality: UPath | None = None,
    suite: str = "predictions",
    versions: int = 1,
) -> Report:
    """Hold scores against what scores must be: all there, ranked, banded, by one model.

    Parameters
    ----------
    predictions
        Columns entity key, `as_of`, the target's score columns, `rank`, `band`, `model_version`;
        others are ignored. Not modified.
    population
        How many entities had to be scored: per day, or a number when `run_name` is the one day.
    suite
        The name under which the results are kept.
    versions
        By how many models at most.

    Raises
    ------
    ValidationError
        A column is missing, so there is nothing to validate.
    ConfigError
        `population` is a number and `run_name` is not a day.
    """
    scores = use_case.target.score_columns
    names = [use_case.entity.key, "as_of", *scores, "rank", "band", "model_version"]
    _require_columns("predictions", predictions, names)
    rows = predictions.select(names)
    if isinstance(population, int):
        population = {_only_day(run_name): population}
    checks = [
        _Check(_frame(rows), expectations.predictions_expectations(use_case), use_case.entity.key),
        _Check(
            metrics.predictions_by_day(use_case, rows, population),
            expectations.predictions_batch_expectations(versions),
            "day",
        ),
    ]
    missing = [] if predictions.num_rows else ["there are no rows; expected the population"]
    judged = [_run(suite, check) for check in checks]
    return _report(use_case.name, suite, judged, rows.num_rows, missing, run_name, quality)


def _report(
    use_case: str,
    suite: str,
    judged: Sequence[Sequence[Any]],
    rows: int,
    missing: list[str],
    run_name: str,
    quality: UPath | None,
    refused: Mapping[date, Mapping[str, str]] = MappingProxyType({}),
) -> Report:
    """Keep and tell what was found; what the days in `refused` broke is told day by day."""
    results = [result for each in judged for result in each]
    if not results:
        missing.append("there are no expectations; a validation of nothing is a failure")
    passed = sum(bool(result.success) for result in results)
    success = passed == len(results) and not missing
    statistics = {
        "evaluated_expectations": len(results),
        "successful_expectations": passed,
        "unsuccessful_expectations": len(results) - passed,
        "success_percent": 100 * passed / len(results) if results else 0.0,
    }
    kept = ExpectationSuiteValidationResult(
        success=success,
        results=results,
        suite_name=suite,
        statistics=statistics,
        # Nothing of the clock: the same data give the same result file.
        meta={
            "great_expectations_version": gx.__version__,
            "run_id": {"run_name": run_name, "run_time": ""},
            "use_case": use_case,
            "rows": rows,
            "missing": missing,
        },
    )
    folder = (quality or load_settings().quality) / use_case
    results_path, docs_path = docs.keep(kept, folder=folder, suite=suite, run_name=run_name)
    # What has all its rows listed is told day by day.
    failures = [
        describe(result)
        for result in results
        if not (result.success or (refused and result.result.get("unexpected_index_list")))
    ]
    return Report(
        success=success,
        suite=suite,
        run_name=run_name,
        statistics={**statistics, "rows": rows},
        failures=(*missing, *failures),
        results_path=results_path,
        docs_path=docs_path,
        refused=refused,
    )


def _run(suite: str, check: _Check) -> list[Any]:
    """Validate one frame in a context of its own, which takes the frame with it when it goes."""
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            # The default would leave a directory behind for a site nobody asked for.
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    source = context.data_sources.add_pandas(suite)
    whole = source.add_dataframe_asset("batch").add_batch_definition_whole_dataframe("whole")
    batch = whole.get_batch({"dataframe": check.frame})
    try:
        result = batch.validate(
            gx.ExpectationSuite(suite, expectations=list(check.expected)),
            result_format=_result_format(check.label_column, all_rows=check.all_rows),
        )
    finally:
        context.delete_datasource(suite)
    return list(result.results)


def _result_format(label_column: str, *, all_rows: bool = False) -> dict[str, Any]:
    return {
        "result_format": "COMPLETE" if all_rows else "SUMMARY",
        "partial_unexpected_count": EXAMPLES,
        "unexpected_index_column_names": [label_column],
    }


def _frame(rows: pa.Table) -> pd.DataFrame:
    """Convert once; whole numbers and booleans keep their type when some are null."""
    plain = [
        column.cast(pa.timestamp("us")) if pa.types.is_date(column.type) else column
        for column in rows.columns
    ]
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    holes = [
        name
        for name, column in zip(rows.column_names, plain, strict=True)
        if column.null_count and column.type in nullable
    ]
    table = pa.table(plain, names=rows.column_names)
    complete: pd.DataFrame = table.drop_columns(holes).to_pandas()
    for name in holes:
        complete[name] = table.column(name).to_pandas(types_mapper=nullable.get)
    ordered: pd.DataFrame = complete.loc[:, rows.column_names]
    return ordered


def _require_columns(suite: str, rows: pa.Table | ds.Dataset, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in rows.schema.names]
    if missing:
        raise ValidationError(
            f"The {suite} have no column {', '.join(missing)}; found {rows.schema.names}. Add the "
            "column to the SQL that makes them, or remove it from use_case.yaml."
        )


def _only_day(run_name: str) -> date:
    try:
        return date.fromisoformat(run_name)
    except ValueError as error:
        raise ConfigError(
            f"The run {run_name!r} is not one day; give the population per day."
        ) from error
