"""Groups of entities that a model must serve as well as the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evergreen.contract import UseCase
from evergreen.decisions.gate import Difference
from evergreen.decisions.stored import Stored
from evergreen.statistics import ratio
from evergreen.training.evaluate import LEVEL, Holdout

Mask = NDArray[np.bool_]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Slice(Stored):
    """How the entities of one slice fare.

    Parameters
    ----------
    metrics
        Of the target.
    rates
        Selection rate, mean error, and what else the target compares groups by.
    beyond_rest
        By rate, how far it lies above that of everybody else.
    """

    rows: int
    metrics: dict[str, float]
    rates: dict[str, float | None]
    beyond_rest: dict[str, Difference]


@dataclass(frozen=True)
class Bias(Stored):
    """The slices of one feature beside each other.

    Parameters
    ----------
    difference, ratio
        By rate, greatest minus least of all slices, and least over greatest; None where a slice has
        no such rate. They grow with the number of slices by chance alone: whether one is treated
        otherwise, `beyond_rest` says.
    """

    slices: dict[str, Slice]
    difference: dict[str, float | None]
    ratio: dict[str, float | None]


def measure_bias(use_case: UseCase, holdout: Holdout, scores: Vector) -> dict[str, Bias]:
    """Compare the slices of every feature of `training.slices` by what their entities get.

    Somebody is selected whose score is acted on (`UseCase.acted_from`). Slices with too few rows to
    judge a model by are left out.
    """
    target, labels = holdout.target, holdout.labels
    acted = (scores >= use_case.acted_from).astype(np.float64)
    rates = target.rates(labels, scores, acted)
    found = {}
    for feature, masks in _by_feature(use_case, holdout.features):
        slices = {
            name: Slice(
                int(mask.sum()),
                target.measure(labels[mask], scores[mask]),
                {
                    rate: _ratio(top[mask].sum(), of[mask].sum())
                    for rate, (top, of) in rates.items()
                },
                {rate: _beyond_rest(*parts, mask) for rate, parts in rates.items()},
            )
            for name, mask in masks.items()
            if not target.too_few(target.count(labels[mask]))
        }
        spans = {rate: _span([one.rates[rate] for one in slices.values()]) for rate in rates}
        found[feature] = Bias(
            slices,
            {rate: span and span[1] - span[0] for rate, span in spans.items()},
            {rate: span and _ratio(*span) for rate, span in spans.items()},
        )
    return found


def _beyond_rest(top: Vector, of: Vector, mask: Mask) -> Difference:
    """Compare a rate inside and outside of a slice, whose rows are independent."""
    if not (of[mask].any() and of[~mask].any()):
        return Difference(None, None, None)
    inside, outside = ratio(top[mask], of[mask]), ratio(top[~mask], of[~mask])
    beyond, error = inside[0] - outside[0], math.hypot(inside[1], outside[1])
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    return Difference(beyond, beyond - reach, beyond + reach, error)


def _span(rates: list[float | None]) -> tuple[float, float] | None:
    known = [rate for rate in rates if rate is not None]
    return (min(known), max(known)) if len(known) == len(rates) > 1 else None


def _ratio(top: float, of: float) -> float | None:
    return float(top / of) if of else None


def find_slices(use_case: UseCase, features: pa.Table) -> Iterator[tuple[str, Mask]]:
    """Give each slice of `training.slices` that has rows: its name, and which rows it has."""
    for _, masks in _by_feature(use_case, features):
        yield from masks.items()


def _by_feature(use_case: UseCase, features: pa.Table) -> Iterator[tuple[str, dict[str, Mask]]]:
    """Give the slices of each feature.

    Categories and booleans are sliced by value (`country=DE`), numbers between the declared bounds
    (`tenure_days<90`, `90<=tenure_days`). Rows without a value are a slice of their own.
    """
    for name, bounds in use_case.training.slices.items():
        column = features[name].combine_chunks()
        missing = column.is_null().to_numpy(zero_copy_only=False)
        if bounds:
            numbers = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy()
            places = np.searchsorted(bounds, numbers, side="right")
            named = {place: _between(name, bounds, place) for place in range(len(bounds) + 1)}
        else:
            encoded = column.cast(pa.string()).dictionary_encode()
            places = pc.fill_null(encoded.indices, -1).to_numpy()
            named = {i: f"{name}={value}" for i, value in enumerate(encoded.dictionary.to_pylist())}
        found = {named[place]: (places == place) & ~missing for place in named}
        found[f"{name} missing"] = missing
        yield name, {label: mask for label, mask in sorted(found.items()) if mask.any()}


def _between(name: str, bounds: tuple[float, ...], place: int) -> str:
    low = f"{bounds[place - 1]:g}<=" if place else ""
    high = f"<{bounds[place]:g}" if place < len(bounds) else ""
    return f"{low}{name}{high}"
