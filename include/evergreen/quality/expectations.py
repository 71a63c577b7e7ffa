"""Expectations that follow from the contract, as Great Expectations objects.

Nothing is declared here a second time: types, ranges, values and patterns come from
`use_case.yaml`. Every expectation must hold on every row; `mostly` is never used, because a share
that may fail is a share nobody looks at.
"""

from __future__ import annotations

import sys
from itertools import pairwise

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation

from evergreen.contract import NAMES, AnyTable, Bounds, Column, Dtype, FeatureDtype, UseCase

# The greatest finite float: an open bound still excludes infinity, which breaks every mean.
_LARGEST = sys.float_info.max


def row_expectations(table: AnyTable) -> list[Expectation]:
    """Return what every row of a delivered table must fulfil.

    The frame has the published columns, `day`, `row_id`, `source`, and, of events, `event_day`,
    the local day they happened on.
    """
    found: list[Expectation] = []
    for name, column in table.published.items():
        if not column.nullable or name in table.required:
            found.append(gxe.ExpectColumnValuesToNotBeNull(column=name))
        found += _typed(name, column.dtype, column.range)
        found += _worded(name, column)
    for name in ("day", "row_id", "source"):
        found.append(gxe.ExpectColumnValuesToNotBeNull(column=name))
    found.append(gxe.ExpectColumnValuesToBeUnique(column="row_id"))
    if table.row_key is not None:
        found.append(gxe.ExpectCompoundColumnsToBeUnique(column_list=["day", table.row_key]))
    if table.kind == "events":
        found.append(gxe.ExpectColumnPairValuesToBeEqual(column_A="event_day", column_B="day"))
    return found


def batch_expectations(table: AnyTable) -> list[Expectation]:
    """Return the batch rules; the frame has one row per day (`metrics.rows_by_day`)."""
    rules = table.batch
    least = 0 if table.allow_empty else 1
    found: list[Expectation] = [
        gxe.ExpectColumnValuesToBeBetween(column="rows_in", min_value=least),
        gxe.ExpectColumnValuesToBeBetween(column="accepted", min_value=least),
        _at_least("rows_in", "rows_least"),
        _at_least("rows_most", "rows_in"),
        gxe.ExpectColumnValuesToBeBetween(
            column="quarantined_ratio", min_value=0, max_value=rules.max_quarantined_ratio
        ),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="rows_in", column_B="rows_out"),
    ]
    if rules.max_age_hours is not None:
        found.append(
            gxe.ExpectColumnValuesToBeBetween(
                column="age_hours", min_value=0, max_value=rules.max_age_hours
            )
        )
    return found


def features_expectations(use_case: UseCase) -> list[Expectation]:
    """Return what every row of `features` must fulfil."""
    key = use_case.entity.key
    found: list[Expectation] = [
        gxe.ExpectColumnValuesToNotBeNull(column=key),
        gxe.ExpectColumnValuesToNotBeNull(column="as_of"),
        gxe.ExpectColumnValuesToBeOfType(column="as_of", type_="Timestamp"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=[key, "as_of"]),
    ]
    for name, feature in use_case.features.columns.items():
        if not feature.nullable:
            found.append(gxe.ExpectColumnValuesToNotBeNull(column=name))
        found += _typed(name, feature.dtype, feature.range)
        if feature.values is not None:
            values = list(feature.values)
            found.append(gxe.ExpectColumnValuesToBeInSet(column=name, value_set=values))
    return found


def features_batch_expectations(*, allow_empty: bool) -> list[Expectation]:
    """Return what every as-of of `features` must fulfil (`metrics.features_by_day`)."""
    least = 0 if allow_empty else 1
    return [
        gxe.ExpectColumnValuesToBeInSet(column="asked_for", value_set=[1]),
        gxe.ExpectColumnValuesToBeBetween(column="rows", min_value=least),
    ]


def predictions_expectations(use_case: UseCase) -> list[Expectation]:
    """Return what every row of `predictions` must fulfil."""
    key = use_case.entity.key
    target = use_case.target
    required = (key, "as_of", *target.score_columns, "rank", "band", "model_version")
    return [
        *(gxe.ExpectColumnValuesToNotBeNull(column=name) for name in required),
        gxe.ExpectColumnValuesToBeOfType(column="as_of", type_="Timestamp"),
        *(
            expectation
            for name in target.score_columns
            for expectation in _typed(name, "float64", target.score_range)
        ),
        # Quantiles never cross, and a score lies in its interval.
        *(
            _at_least(high, low)
            for columns in target.ascending_columns
            for low, high in pairwise(columns)
        ),
        gxe.ExpectColumnValuesToBeOfType(column="rank", type_="int64"),
        gxe.ExpectColumnValuesToBeInSet(column="band", value_set=list(use_case.bands)),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=[key, "as_of"]),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["as_of", "rank"]),
    ]


def predictions_batch_expectations(versions: int = 1) -> list[Expectation]:
    """Return what every day of `predictions` must fulfil (`metrics.predictions_by_day`).

    At most so many versions have scored it.

    Ranks that are unique, start at 1 and end at the number of rows are complete.
    """
    return [
        gxe.ExpectColumnPairValuesToBeEqual(column_A="rows", column_B="population"),
        gxe.ExpectColumnValuesToBeInSet(column="lowest_rank", value_set=[1]),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="highest_rank", column_B="rows"),
        gxe.ExpectColumnValuesToBeInSet(
            column="model_versions", value_set=[*range(1, versions + 1)]
        ),
        gxe.ExpectColumnValuesToBeInSet(column="misplaced_bands", value_set=[0]),
    ]


def _at_least(column: str, other: str) -> Expectation:
    return gxe.ExpectColumnPairValuesAToBeGreaterThanB(
        column_A=column,
        column_B=other,
        or_equal=True,
        # A day that is not judged has no bounds.
        ignore_row_if="either_value_is_missing",
    )


def _typed(name: str, dtype: Dtype | FeatureDtype, bounds: Bounds) -> list[Expectation]:
    found: list[Expectation] = [
        gxe.ExpectColumnValuesToBeOfType(column=name, type_=NAMES[dtype].pandas)
    ]
    if dtype not in ("int64", "float64"):
        return found
    low, high = bounds
    if dtype == "float64":
        low = -_LARGEST if low is None else low
        high = _LARGEST if high is None else high
    if low is not None or high is not None:
        found.append(gxe.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high))
    return found


def _worded(name: str, column: Column) -> list[Expectation]:
    """Return allowed values and patterns; the split has held other types to them, by their text."""
    if column.dtype != "string":
        return []
    found: list[Expectation] = []
    if column.values is not None:
        found.append(gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.values)))
    if column.pattern is not None:
        found.append(
            gxe.ExpectColumnValuesToMatchRegex(column=name, regex=rf"^(?:{column.pattern})\Z")
        )
    return found
