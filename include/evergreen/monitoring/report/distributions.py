"""Tonight beside the expected night and the training rows, in bins that were frozen in training.

They are worked out when a report is rendered, from the features that are there: a night that is
looked at again after its data were mended is shown as it is now, like all else that is measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from evergreen.contract import UseCase
from evergreen.monitoring.expected import WEEKS, expect, weeks_before
from evergreen.monitoring.night import sample_nights, watched
from evergreen.monitoring.reference import (
    CategoryReference,
    Floats,
    NumberReference,
    Reference,
    bin_shares,
    count_values,
    sorted_values,
)
from evergreen.training.tracking import load_version

# Categories with a bin of their own, the largest ones.
_NAMED = 10


@dataclass(frozen=True)
class Distribution:
    """Shares of rows per bin, in [0, 1].

    Parameters
    ----------
    bins
        Names, of what holds any rows; of categories the last ones are all others, and missing ones.
    tonight, expected, training
        Per bin; `expected` is None with too few nights before.
    ordered
        Whether the bins are those of numbers, ascending.
    rows
        Tonight's, or a sample of their entities.
    """

    bins: tuple[str, ...]
    tonight: tuple[float, ...]
    expected: tuple[float, ...] | None
    training: tuple[float, ...]
    ordered: bool
    rows: int


def compare_distributions(
    use_case: UseCase, night: date, version: int, columns: Collection[str], rows: int
) -> dict[str, Distribution]:
    """Compare some columns of a night with what a version was trained on, and with nights before.

    Parameters
    ----------
    columns
        Those that are not among what the version was trained on are left out.
    rows
        Of the night; of many a sample is read.

    Returns
    -------
    dict
        Empty where the night has no rows.

    Raises
    ------
    EvergreenError
        The version cannot be loaded.
    """
    model = load_version(use_case, version)
    frozen = [one for one in watched(use_case, model).columns if one.name in columns]
    days = [night, *weeks_before(night)[:WEEKS]]
    sampled = sample_nights(use_case, model, Reference(tuple(frozen)), days, rows)
    if night not in sampled:
        return {}
    nights = [sampled.get(day) for day in days]
    return {column.name: distribution_of(column, nights) for column in frozen}


def distribution_of(
    column: NumberReference | CategoryReference, nights: Sequence[pa.Table | None]
) -> Distribution:
    """Return the distribution of one column; nights as `expect` wants them, tonight's with rows."""
    if isinstance(column, NumberReference):
        bins, shares, training = _of_numbers(column, nights)
    else:
        bins, shares, training = _of_categories(column, nights)
    expected, (tonight, *_), (rows, *_) = expect(shares), shares, nights
    assert tonight is not None and rows is not None
    # What nothing lies in says nothing: below, above, others and missing, mostly.
    kept = np.any([part > 0 for part in (tonight, expected, training) if part is not None], axis=0)
    return Distribution(
        tuple(name for name, is_kept in zip(bins, kept, strict=True) if is_kept),
        _plain(tonight[kept]),
        None if expected is None else _plain(expected[kept]),
        _plain(training[kept]),
        isinstance(column, NumberReference),
        rows.num_rows,
    )


def _of_numbers(
    column: NumberReference, nights: Sequence[pa.Table | None]
) -> tuple[tuple[str, ...], list[Floats | None], Floats]:
    edges = np.asarray(column.edges)
    shares = [
        bin_shares(*sorted_values(column.name, night), edges) if night else None for night in nights
    ]
    training = np.asarray(column.proportions)
    first = [f"< {_edge(edges[0])}"] if len(edges) else ["none"]
    last = [f"> {_edge(edges[-1])}"] if len(edges) else ["any value"]
    names = [*first, *(f"≤ {_edge(edge)}" for edge in edges[1:]), *last, "missing"]
    return tuple(names), shares, training


def _of_categories(
    column: CategoryReference, nights: Sequence[pa.Table | None]
) -> tuple[tuple[str, ...], list[Floats | None], Floats]:
    frozen = dict(zip(column.values, column.counts, strict=True)), column.missing
    counted = [count_values(column.name, night) if night else None for night in nights]
    known = [part for part in (frozen, *counted) if part is not None]
    most: dict[str, float] = {}
    for counts, missing in known:
        rows = sum(counts.values()) + missing
        for value, count in counts.items():
            most[value] = max(most.get(value, 0.0), count / rows)
    named = sorted(most, key=lambda value: (-most[value], value))[:_NAMED]

    def shares(part: tuple[Mapping[str, int], int]) -> Floats:
        counts, missing = part
        of_named = [counts.get(value, 0) for value in named]
        present = sum(counts.values())
        found = np.array([*of_named, present - sum(of_named), missing], np.float64)
        return found / (present + missing)

    names = (*named, f"{len(most) - len(named)} others", "missing")
    return names, [part if part is None else shares(part) for part in counted], shares(frozen)


def _edge(value: float) -> str:
    # Infinite values stand at the ends of what floats can hold.
    if abs(value) > 1e300:
        return "-∞" if value < 0 else "∞"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _plain(shares: Floats) -> tuple[float, ...]:
    return tuple(shares.tolist())
