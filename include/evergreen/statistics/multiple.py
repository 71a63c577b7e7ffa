"""Several tests at once."""

from __future__ import annotations

from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values so that rejecting those up to 5 % is wrong at all in at most 5 % of cases.

    Holm (1979); whatever the tests depend on each other by. In ascending order of p-value.
    """
    adjusted, reached = {}, 0.0
    for index, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        reached = max(reached, min(1.0, p * (len(p_values) - index)))
        adjusted[name] = reached
    return adjusted
