"""Measurements, in the order in which people look at them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evergreen.contract import UseCase


@dataclass(frozen=True)
class Measurement:
    """A metric, and its bounds at 95 % where they were measured."""

    metric: str
    value: float | None
    lower: float | None = None
    upper: float | None = None


def order_metrics(use_case: UseCase, names: Iterable[str]) -> list[str]:
    """Return names of metrics, the target's main one first, then its others, then what is left."""
    first = list(use_case.target.all_metrics)
    found = list(dict.fromkeys(names))
    return sorted(found, key=lambda name: (first + found).index(name))


def measurements(
    use_case: UseCase,
    values: Mapping[str, float | None],
    intervals: Mapping[str, tuple[float | None, float | None]] | None = None,
) -> list[Measurement]:
    """Return metrics with their bounds, the main one first."""
    bounds = intervals or {}
    return [
        Measurement(name, values[name], *bounds.get(name, (None, None)))
        for name in order_metrics(use_case, values)
    ]
