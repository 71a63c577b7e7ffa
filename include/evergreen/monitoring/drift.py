"""Drift of features and score against the champion's frozen training distribution.

Two measures per column. Of numbers Kolmogorov-Smirnov's D, of categories the chi-square test of
homogeneity: the p-value, adjusted by Benjamini-Hochberg over all columns of the night, says whether
anything moved. A floor on the effect says whether it matters, because with a million rows
everything is significant. The effect is D, and of categories the total variation distance: both
are the greatest difference there is between the two shares of rows in one set of values (half-lines
for D, any set for the other), so one floor serves both; they are equal for two values.

PSI over bins frozen at training time, with bins for values below, above, unseen (or rare) and
missing, catches what those are blind to, such as values gone missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.stats import chi2, false_discovery_control, kstwo, kstwobign

from evergreen.contract import Monitoring
from evergreen.decisions.stored import Stored
from evergreen.errors import NotReadyError
from evergreen.monitoring.reference import (
    CategoryReference,
    Floats,
    NumberReference,
    Reference,
    bin_shares,
    count_values,
    sorted_values,
)

PsiBand = Literal["stable", "moderate", "major"]

Test = Literal["ks", "chi2"]

_EMPTY = 1e-4
# Chi-square is an approximation for cells that are expected to hold a few rows.
_LEAST_EXPECTED = 5
_EFFECT: dict[Test, str] = {"ks": "D", "chi2": "distance"}
# Above it the tail of the exact distribution takes up to a second per column.
_EXACT_ROWS = 10_000

DRIFT = pa.schema(
    [
        ("day", pa.date32()),
        ("model_version", pa.int64()),
        ("feature", pa.string()),
        ("slice", pa.string()),
        ("test", pa.string()),
        ("statistic", pa.float64()),
        ("p_value", pa.float64()),
        ("p_adjusted", pa.float64()),
        ("psi", pa.float64()),
        ("psi_band", pa.string()),
        ("effect_floor", pa.float64()),
        ("importance", pa.float64()),
        ("drifted", pa.bool_()),
        ("reason", pa.string()),
        ("reference_rows", pa.int64()),
        ("current_rows", pa.int64()),
    ]
)
"""Arrow schema of the table `drift`: one row per night and column; null means not measurable."""


@dataclass(frozen=True)
class DriftRow(Stored):
    """What one night says about one column; None where nothing could be measured.

    Parameters
    ----------
    test
        `ks` for numbers, `chi2` for categories.
    statistic, p_value, p_adjusted
        The effect (KS D, or total variation distance), the p-value of the test, and that after
        Benjamini-Hochberg over the night's columns.
    effect_floor
        An effect below this is never drift: `min_ks` and, of categories, what chance alone gives.
    importance
        The champion's, None when unknown.
    """

    feature: str
    slice: str
    test: Test
    statistic: float | None
    p_value: float | None
    p_adjusted: float | None
    psi: float
    psi_band: PsiBand
    effect_floor: float
    importance: float | None
    drifted: bool
    reason: str
    reference_rows: int
    current_rows: int


def measure_drift(
    reference: Reference,
    current: pa.Table,
    monitoring: Monitoring,
    importance: Mapping[str, float],
) -> list[DriftRow]:
    """Measure how far the night's columns lie from the reference.

    Parameters
    ----------
    current
        The rows of one night with all columns of the reference. Not modified.
    importance
        Of the champion's features; may lack some.

    Returns
    -------
    list of DriftRow
        One per column of the reference, in its order. A column drifted if it is significant at
        `alpha` and the effect reaches `min_ks`, or if PSI reaches its upper band and exceeds what
        chance alone gives with so few rows.

    Raises
    ------
    NotReadyError
        There are no rows or a column is absent: an incident of the data, never drift.

    Notes
    -----
    The p-value is the one of `scipy.stats.ks_2samp(method="asymp")`, computed here from frozen
    counts: `kstwo` with the effective size nm/(n+m) and, above 10,000, its limit `kstwobign` with
    Stephens' (1970) correction, which is some hundred times faster and within 3 % of it. With
    ties it is conservative. The chi-square is that of two samples, night and reference, over the
    values that are present, in either; those expected in fewer than 5 rows of either sample are
    pooled (Cochran 1954), and pooling looks at both samples together, so that it does not favour
    either. With many values and few rows a distance is far from zero by chance; its mean under no
    drift is part of its floor. Under no drift PSI / (1/n + 1/m) is asymptotically chi-square with
    bins - 1 degrees of freedom (Yurdakul 2018); its `alpha` quantile, Bonferroni-corrected over
    the columns, is the chance level.
    1M rows x 20 columns take 3 s on one core.
    """
    if not reference.columns:
        raise NotReadyError("The drift reference has no columns; train with monitored columns.")
    if current.num_rows == 0:
        raise NotReadyError(
            "No rows to compare with the drift reference. That is an incident of the data, not "
            "drift: look at the ingestion and the features of this day."
        )
    measured = [_measure(column, current) for column in reference.columns]
    p_values = [found.p_value for found in measured if found.p_value is not None]
    adjusted = iter(false_discovery_control(p_values) if p_values else [])
    rows = []
    for column, found in zip(reference.columns, measured, strict=True):
        p_adjusted = None if found.p_value is None else float(next(adjusted))
        chance = chi2.isf(monitoring.alpha / len(measured), len(column.proportions) - 1)
        chance_psi = float(chance) * (1 / column.rows + 1 / current.num_rows)
        drifted, reason = _judge(found, p_adjusted, chance_psi, monitoring)
        rows.append(
            DriftRow(
                feature=column.name,
                slice="all",
                test=found.test,
                statistic=found.statistic,
                p_value=found.p_value,
                p_adjusted=p_adjusted,
                psi=found.psi,
                psi_band=_band(found.psi, monitoring),
                effect_floor=monitoring.min_ks + found.chance,
                importance=importance.get(column.name),
                drifted=drifted,
                reason=reason,
                reference_rows=column.rows,
                current_rows=current.num_rows,
            )
        )
    return rows


def drift_table(day: date, model_version: int, rows: Sequence[DriftRow]) -> pa.Table:
    """Return a night's rows with the schema `DRIFT`; `model_version` is the reference's model."""
    head = {"day": day, "model_version": model_version}
    return pa.Table.from_pylist([head | asdict(row) for row in rows], schema=DRIFT)


def psi_of(
    reference: Sequence[float],
    current: Sequence[float],
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


class _Found(NamedTuple):
    test: Test
    statistic: float | None
    p_value: float | None
    psi: float
    # The effect to be expected without drift.
    chance: float = 0.0


def _measure(column: NumberReference | CategoryReference, current: pa.Table) -> _Found:
    if isinstance(column, CategoryReference):
        return _measure_categories(column, current)
    return _measure_numbers(column, current)


def _measure_categories(column: CategoryReference, current: pa.Table) -> _Found:
    counts, missing = count_values(column.name, current)
    shares = column.bin_shares(counts, missing)
    psi = psi_of(column.proportions, shares, column.rows, current.num_rows)
    frozen = dict(zip(column.values, column.counts, strict=True))
    values = sorted({*frozen, *counts})
    both = np.array(
        [[sample.get(value, 0) for value in values] for sample in (frozen, counts)], np.float64
    )
    present = both.sum(axis=1)
    if not present.all():
        return _Found("chi2", None, None, psi)
    ours, theirs = both / present[:, np.newaxis]
    distance = float(np.abs(ours - theirs).sum() / 2)
    overall = both.sum(axis=0) / present.sum()
    variance = overall * (1 - overall) * (1 / present).sum()
    return _Found(
        "chi2",
        distance,
        _chi2_p_value(both),
        psi,
        # The mean of a normal deviate's size is sqrt(2 / pi) of its standard deviation.
        chance=float(np.sqrt(2 / np.pi * variance).sum() / 2),
    )


def _chi2_p_value(counts: Floats) -> float:
    """Return the p-value of two rows of counts being samples of one distribution."""
    of_value = counts.sum(axis=0)
    present = counts.sum(axis=1)
    # In the smaller sample; rarest first, so that what is pooled is as little as possible.
    expected = of_value * present.min() / present.sum()
    cells: list[Floats] = []
    pooled, waiting = np.zeros(2), 0.0
    for place in np.argsort(expected, kind="stable"):
        pooled, waiting = pooled + counts[:, place], waiting + expected[place]
        if waiting >= _LEAST_EXPECTED:
            cells.append(pooled)
            pooled, waiting = np.zeros(2), 0.0
    if len(cells) < 2:
        return 1.0
    cells[-1] = cells[-1] + pooled
    observed = np.array(cells).T
    by_chance = observed.sum(axis=0) * present[:, np.newaxis] / present.sum()
    return float(chi2.sf(((observed - by_chance) ** 2 / by_chance).sum(), len(cells) - 1))


def _measure_numbers(column: NumberReference, current: pa.Table) -> _Found:
    values, missing = sorted_values(column.name, current)
    edges = np.asarray(column.edges, dtype=np.float64)
    shares = bin_shares(values, missing, edges).tolist()
    psi = psi_of(column.proportions, shares, column.rows, current.num_rows)
    present = column.rows - column.missing
    if present == 0 or len(values) == 0:
        # One side has no values at all; the bin of missing values tells that story.
        return _Found("ks", None, None, psi)
    grid = np.asarray(column.grid, dtype=np.float64)
    # Both one-sided limits at every grid value: exact with ties, and right outside the range.
    below = np.searchsorted(values, grid, side="left") / len(values)
    at_or_below = np.searchsorted(values, grid, side="right") / len(values)
    statistic = float(
        max(
            np.abs(np.asarray(column.below) / present - below).max(),
            np.abs(np.asarray(column.at_or_below) / present - at_or_below).max(),
        )
    )
    effective = max(1, round(present * len(values) / (present + len(values))))
    return _Found("ks", statistic, _ks_p_value(statistic, effective), psi)


def _ks_p_value(statistic: float, effective: int) -> float:
    if effective <= _EXACT_ROWS:
        return float(np.clip(kstwo.sf(statistic, effective), 0.0, 1.0))
    root = np.sqrt(effective)
    return float(np.clip(kstwobign.sf(statistic * (root + 0.12 + 0.11 / root)), 0.0, 1.0))


def _judge(
    found: _Found, p_adjusted: float | None, chance_psi: float, monitoring: Monitoring
) -> tuple[bool, str]:
    upper, psi, statistic = monitoring.psi_bands[1], found.psi, found.statistic
    parts, drifted = [], False
    if statistic is None or p_adjusted is None:
        parts.append(f"{found.test} not measurable: one side has no values")
    else:
        significant = p_adjusted < monitoring.alpha
        floor = monitoring.min_ks + found.chance
        large = statistic >= floor
        drifted = significant and large
        parts.append(
            f"{_EFFECT[found.test]} {statistic:.3f} {'>=' if large else '<'} "
            f"{floor:.3g}, adjusted p {p_adjusted:.2g} "
            f"{'<' if significant else '>='} {monitoring.alpha:g}"
        )
    if psi >= upper and psi < chance_psi:
        parts.append(f"PSI {psi:.3f} >= {upper:g}, but chance alone gives {chance_psi:.3f}")
    else:
        drifted = drifted or psi >= upper
        parts.append(f"PSI {psi:.3f} {'>=' if psi >= upper else '<'} {upper:g}")
    return drifted, "; ".join(parts)


def _band(psi: float, monitoring: Monitoring) -> PsiBand:
    lower, upper = monitoring.psi_bands
    if psi >= upper:
        return "major"
    return "moderate" if psi >= lower else "stable"
