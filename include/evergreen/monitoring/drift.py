"""Drift of features and score: whether tonight is unusual, and what the champion has learned.

Two references answer two questions. What tonight should look like, by the nights before it
(`evergreen.monitoring.expected`), says whether something has happened: that alone is drift. What
the champion was trained on says whether it knows this population: bases that grow and age leave it
behind without anything having happened, so that is told, and nothing follows from it.

Of every column and slice the distribution of what is there is measured, the share of what is
missing and, of categories, of what no training row had. Whether a distance is unusual says a
p-value, adjusted by Benjamini-Hochberg over all of a night's. Whether it matters says a floor on
the effect, because of many rows everything can be told. The effect is Kolmogorov-Smirnov's D, and
of categories the total variation distance: both are the greatest difference there is between two
shares of rows in one set of values (half-lines for D, any set for the other), so one floor serves
both; they are equal for two values. The population stability index is another effect, of bins that
follow from the reference alone, with bins for values below, above and missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from evergreen.contract import Monitoring
from evergreen.decisions.alarm import TOLD
from evergreen.decisions.stored import Stored
from evergreen.errors import NotReadyError
from evergreen.monitoring.expected import WEEKS, measure_departure
from evergreen.monitoring.joint import measure_joint
from evergreen.monitoring.reference import (
    SCORE,
    CategoryReference,
    ColumnReference,
    Floats,
    Reference,
    bin_shares,
    build_reference,
    count_values,
    sorted_values,
)
from evergreen.monitoring.shapes import (
    Nights,
    Test,
    distribution,
    greatest_difference,
    shapes_of,
    total_variation,
)

Slices = Mapping[str, NDArray[np.bool_]]
PsiBand = Literal["stable", "moderate", "major"]

ALL = "all"
"""The slice of all rows."""

# Bins of fewer rows are filled by chance: an index of theirs says nothing.
_FEWEST_ROWS = 200
_EMPTY = 1e-4
_EFFECT: dict[Test, str] = {
    **{"ks": "D", "chi2": "distance", "missing": "moved", "unseen": "moved"},
    "classifier": "told apart by D",
}

DRIFT = pa.schema(
    [
        ("day", pa.date32()),
        ("model_version", pa.int64()),
        ("feature", pa.string()),
        ("slice", pa.string()),
        ("reference", pa.string()),
        ("test", pa.string()),
        ("statistic", pa.float64()),
        ("usual", pa.float64()),
        ("p_value", pa.float64()),
        ("p_adjusted", pa.float64()),
        ("psi", pa.float64()),
        ("psi_band", pa.string()),
        ("wasserstein", pa.float64()),
        ("importance", pa.float64()),
        ("drifted", pa.bool_()),
        ("extreme", pa.bool_()),
        ("reason", pa.string()),
        ("reference_rows", pa.int64()),
        ("current_rows", pa.int64()),
    ]
)
"""Arrow schema of the table `drift`: one row per night, column, slice, reference and test; null
means not measurable."""


@dataclass(frozen=True)
class DriftRow(Stored):
    """What one night says about one column by one test; None where nothing could be measured.

    Parameters
    ----------
    slice
        `all`, or a slice of `training.slices`.
    reference
        What the night is held against: what was `expected` of it, or the rows of `training`.
    test
        `ks` of numbers, `chi2` of categories; the share of rows that are `missing`, or whose value
        is `unseen` in training; of all columns, how well a `classifier` tells the night from those
        before it.
    statistic, usual
        The effect (KS D, total variation distance, difference of shares), and that of nights
        before; of `chi2` usual is what the test looks at, chi-square by row.
    p_value, p_adjusted
        Of a night that lies as far; the latter after Benjamini-Hochberg over the night's tests.
        None against training, and with too few nights before.
    psi
        None with fewer than 200 rows on either side.
    wasserstein
        The distance of numbers in their own unit: how far their values moved in the mean.
    importance
        The champion's, None when unknown.
    extreme
        Drifted so far that no second night is waited for.
    """

    feature: str
    slice: str
    reference: Literal["expected", "training"]
    test: Test
    reference_rows: int
    current_rows: int
    statistic: float | None = None
    usual: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    psi: float | None = None
    psi_band: PsiBand | None = None
    wasserstein: float | None = None
    importance: float | None = None
    drifted: bool = False
    extreme: bool = False
    reason: str = ""


def measure_drift(
    reference: Reference,
    nights: Sequence[pa.Table | None],
    monitoring: Monitoring,
    importance: Mapping[str, float],
    slices: Callable[[pa.Table], Slices] = lambda _: {},
) -> list[DriftRow]:
    """Measure how far the night's columns lie from both references.

    Parameters
    ----------
    reference
        Of the champion's training: which columns are measured, and what they held.
    nights
        The night, and those of `weeks_before` it, or a sample of their entities; None, or without
        rows, for nights that are not there. All columns of the reference. Not modified.
    importance
        Of the champion's features; may lack some.
    slices
        Gives the names and rows of the slices of a night.

    Returns
    -------
    list of DriftRow
        Column by column in the order of the reference; slice by slice, `all` first. A column
        drifted if its distance from the expected is significant at `alpha` and the effect reaches
        `min_ks`, or PSI its upper band. Where there are too few nights to know what is usual,
        nothing is.

    Raises
    ------
    NotReadyError
        There are no rows or a column is absent: an incident of the data, never drift.

    Notes
    -----
    Bins and cells whose expected rows are few are pooled (Cochran 1954) for chi-square. Slices with
    fewer than 200 rows tonight are left out. O(n log n) per column and night.
    """
    if not reference.columns:
        raise NotReadyError("The drift reference has no columns; train with monitored columns.")
    tonight = nights[0]
    if not tonight:
        raise NotReadyError(
            "No rows to compare with the drift reference. That is an incident of the data, not "
            "drift: look at the ingestion and the features of this day."
        )
    parts = dict(_by_slice(nights, slices))
    found = []
    for column in reference.columns:
        rows = [row for part in parts.items() for row in _against_expected(column, *part)]
        rows.append(_against_training(column, tonight))
        found += [replace(row, importance=importance.get(column.name)) for row in rows]
    tested = [row.p_value for row in found if row.p_value is not None]
    adjusted = iter(false_discovery_control(tested) if tested else [])
    return [
        _judged(row, None if row.p_value is None else float(next(adjusted)), monitoring)
        for row in found
    ]


def measure_together(
    reference: Reference,
    nights: Sequence[pa.Table | None],
    key: str,
    monitoring: Monitoring,
    *,
    seed: int,
) -> DriftRow:
    """Measure how unusual the night's columns are together; see `measure_joint`.

    It is judged alone, by the same bounds as a column.
    """
    names = [name for name in reference.names if name != SCORE]
    departure = measure_joint(nights, names, key, seed=seed)
    rows, *before = [night.num_rows if night else 0 for night in nights]
    row = DriftRow(
        feature=TOLD[0],
        slice=ALL,
        reference="expected",
        test="classifier",
        reference_rows=sum(before[:WEEKS]),
        current_rows=rows,
        statistic=departure.value,
        usual=departure.usual,
        p_value=departure.p_value,
    )
    return _judged(row, departure.p_value, monitoring)


def measure_labels(nights: Sequence[pa.Table | None], monitoring: Monitoring) -> list[DriftRow]:
    """Measure how unusual the newest labels are, judged alone by the same bounds as a column.

    Parameters
    ----------
    nights
        The column `label` of the newest labelled day, and of those of `weeks_before` it; None, or
        without rows, for days that are not there.
    """
    if not nights[0]:
        return []
    (column,) = build_reference(nights[0], TOLD[1:]).columns
    rows = _against_expected(column, ALL, nights)
    return [_judged(row, row.p_value, monitoring) for row in rows if row.test != "missing"]


def drift_table(day: date, model_version: int, rows: Sequence[DriftRow]) -> pa.Table:
    """Return a night's rows with the schema `DRIFT`; `model_version` is the reference's model."""
    head = {"day": day, "model_version": model_version}
    return pa.Table.from_pylist([head | asdict(row) for row in rows], schema=DRIFT)


def psi_of(
    reference: Sequence[float] | Floats,
    current: Sequence[float] | Floats,
    reference_rows: int | None = None,
    current_rows: int | None = None,
) -> float:
    """Return the population stability index of two vectors of bin shares.

    An empty bin, whose logarithm does not exist, counts as 0.01 % or, if that is more, as half a
    row: with few rows an empty bin says little.

    >>> round(psi_of([0.5, 0.5], [0.4, 0.6]), 5)
    0.04055
    """
    expected = np.maximum(np.asarray(reference, dtype=np.float64), _least_share(reference_rows))
    found = np.maximum(np.asarray(current, dtype=np.float64), _least_share(current_rows))
    terms = (found - expected) * np.log(found / expected)
    # A bin that is empty on both sides did not move, however few rows there are.
    return float(np.sum(terms, where=(np.asarray(reference) > 0) | (np.asarray(current) > 0)))


def _least_share(rows: int | None) -> float:
    return max(_EMPTY, 0.5 / rows) if rows else _EMPTY


def _by_slice(nights: Nights, slices: Callable[[pa.Table], Slices]) -> Iterator[tuple[str, Nights]]:
    yield ALL, nights
    found = [slices(night) if night else {} for night in nights]
    for name, mask in found[0].items():
        if mask.sum() >= _FEWEST_ROWS:
            yield (
                name,
                [
                    night.filter(pa.array(masks[name])) if night and name in masks else None
                    for night, masks in zip(nights, found, strict=True)
                ],
            )


def _against_expected(column: ColumnReference, name: str, nights: Nights) -> Iterator[DriftRow]:
    """Hold a night against what was expected of it."""
    rows, *before = [night.num_rows if night else 0 for night in nights]
    main: Test = "chi2" if isinstance(column, CategoryReference) else "ks"
    unknown = DriftRow(
        feature=column.name,
        slice=name,
        reference="expected",
        test=main,
        reference_rows=sum(before[:WEEKS]),
        current_rows=rows,
    )
    measured = list(shapes_of(column, nights))
    if main not in {shapes.test for shapes in measured}:
        yield unknown
    for shapes in measured:
        shape, *_ = shapes.of_nights
        if shape is None:
            continue
        departure = measure_departure(
            shapes.of_nights, shapes.distance or shapes.effect, least=0.5 / rows
        )
        yield replace(
            unknown,
            test=shapes.test,
            statistic=shapes.effect(shape, shapes.expected),
            usual=departure.usual,
            p_value=departure.p_value,
            psi=_psi(*shapes.bins, sum(before[:WEEKS]), rows),
            wasserstein=shapes.moved,
        )


def _against_training(column: ColumnReference, tonight: pa.Table) -> DriftRow:
    """Hold a night against what the champion has learned."""
    row = DriftRow(
        feature=column.name,
        slice=ALL,
        reference="training",
        test="ks",
        reference_rows=column.rows,
        current_rows=tonight.num_rows,
    )
    if isinstance(column, CategoryReference):
        counts, missing = count_values(column.name, tonight)
        frozen = dict(zip(column.values, column.counts, strict=True))
        both = [
            np.array([sample.get(value, 0) for value in sorted({*frozen, *counts})], np.float64)
            for sample in (counts, frozen)
        ]
        shares = column.bin_shares(counts, missing)
        known = both[0].any() and both[1].any()
        effect = total_variation(*(part / part.sum() for part in both)) if known else None
        row = replace(row, test="chi2", statistic=effect)
    else:
        values, missing = sorted_values(column.name, tonight)
        shares = tuple(bin_shares(values, missing, np.asarray(column.edges)).tolist())
        present = column.rows - column.missing
        if present and len(values):
            frozen_shape = np.array([column.below, column.at_or_below]) / present
            shape = distribution(values, np.asarray(column.grid))
            row = replace(row, statistic=greatest_difference(shape, frozen_shape))
    return replace(row, psi=_psi(column.proportions, shares, column.rows, tonight.num_rows))


def _psi(
    expected: Sequence[float] | Floats,
    found: Sequence[float] | Floats,
    expected_rows: int,
    found_rows: int,
) -> float | None:
    if min(expected_rows, found_rows) < _FEWEST_ROWS:
        return None
    return psi_of(expected, found, expected_rows, found_rows)


def _judged(row: DriftRow, p_adjusted: float | None, monitoring: Monitoring) -> DriftRow:
    lower, upper = monitoring.psi_bands
    effect, psi = row.statistic, row.psi
    bands: tuple[PsiBand, ...] = ("stable", "moderate", "major")
    band = None if psi is None else bands[(psi >= lower) + (psi >= upper)]
    parts, drifted = [], False
    if effect is None:
        parts.append(f"{row.test} not measurable: one side has no values")
    elif row.reference == "training":
        parts.append(f"{_EFFECT[row.test]} {effect:.3f} from what the champion was trained on")
    else:
        floor = monitoring.min_ks
        parts.append(
            f"{_EFFECT[row.test]} {effect:.3f} {'>=' if effect >= floor else '<'} {floor:g}"
        )
        if p_adjusted is None:
            parts.append("too few nights before it to know what is usual")
        else:
            significant = p_adjusted < monitoring.alpha
            drifted = significant and (effect >= floor or (psi or 0.0) >= upper)
            parts.append(
                f"adjusted p {p_adjusted:.2g} {'<' if significant else '>='} {monitoring.alpha:g}"
            )
    if psi is not None:
        parts.append(f"PSI {psi:.3f} {'>=' if psi >= upper else '<'} {upper:g}")
    return replace(
        row,
        p_adjusted=p_adjusted,
        psi_band=band,
        drifted=drifted,
        extreme=drifted and effect is not None and effect >= monitoring.extreme,
        reason="; ".join(parts),
    )
