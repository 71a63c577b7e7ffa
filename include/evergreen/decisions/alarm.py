"""When nights make an alarm: drift of each in short, and how much of it has to last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from evergreen.contract import Monitoring
from evergreen.decisions.stored import Stored

TOLD = ("all columns", "label")
"""What drift is told of without anything following from it: whether a night can be told from others
by all of its columns, and what the newest labels say. Scores that are worth less show in realised
performance."""


@dataclass(frozen=True)
class Night(Stored):
    """Drift of one night, in short.

    Parameters
    ----------
    model_version
        Whose training distribution the night was held against.
    tested
        Columns that were measured.
    drifted
        Columns that drifted and that the model uses.
    unused
        Columns that drifted and have importance 0: the model cannot notice.
    score_drifted
        Whether the score itself drifted.
    weight
        Share of the champion's importance that drifted, in [0, 1], of a slice by its share of rows;
        None when unknown.
    is_drift
        Whether the night counts as a drift night.
    extreme
        Columns among `drifted` that no second night is waited for, and perhaps the score.
    """

    day: date
    model_version: int
    tested: int
    drifted: tuple[str, ...]
    unused: tuple[str, ...]
    score_drifted: bool
    weight: float | None
    is_drift: bool
    extreme: tuple[str, ...] = ()

    @property
    def what(self) -> tuple[str, ...]:
        """What drifted, as one says it."""
        return (*self.drifted, *(["the score"] if self.score_drifted else []))


def summarise_nights(
    drift: Iterable[Mapping[str, Any]], monitoring: Monitoring, score: str = "score"
) -> tuple[Night, ...]:
    """Summarise rows of the table `drift`, oldest night first.

    Parameters
    ----------
    drift
        Mappings with the columns of the table (`pa.Table.to_pylist()`).
    score
        Name of the row that is about the score.
    """
    nights: dict[tuple[date, int], list[Mapping[str, Any]]] = {}
    for row in drift:
        if row["feature"] in TOLD:
            continue
        nights.setdefault((row["day"], int(row["model_version"])), []).append(row)
    return tuple(
        _night(day, version, rows, monitoring, score)
        for (day, version), rows in sorted(nights.items())
    )


def find_alarm(
    nights: Iterable[Night], version: int, day: date, monitoring: Monitoring
) -> Night | None:
    """Return the newest of the nights up to a day that make an alarm; None if there is none.

    So many of the last nights have drifted as `monitoring.persistence` asks for, or the day's has
    extremely. What concerns another version is history.
    """
    found = drift_nights(nights, version, day, monitoring)
    if not found:
        return None
    newest = found[max(found)]
    lasting = len(found) >= monitoring.persistence[0]
    return newest if lasting or (newest.extreme and newest.day == day) else None


def drift_nights(
    nights: Iterable[Night], version: int, day: date, monitoring: Monitoring
) -> dict[date, Night]:
    """Return those that drifted of the last nights that `monitoring.persistence` looks at."""
    start = day - timedelta(days=monitoring.persistence[1])
    return {
        night.day: night
        for night in nights
        if night.is_drift and start < night.day <= day and night.model_version == version
    }


def _night(
    day: date,
    version: int,
    rows: Sequence[Mapping[str, Any]],
    monitoring: Monitoring,
    score: str,
) -> Night:
    # An unknown importance counts as used; only a model that ignores the feature can ignore drift.
    importance = {r["feature"]: r["importance"] for r in rows if r["feature"] != score}
    shares: dict[str, float] = {}
    extreme = set()
    size = max(row["current_rows"] for row in rows)
    for row in rows:
        name = row["feature"]
        if row["drifted"]:
            shares[name] = max(shares.get(name, 0.0), row["current_rows"] / size)
        if row["extreme"] and importance.get(name) != 0:
            extreme.add(name)
    score_drifted = shares.pop(score, None) is not None
    drifted = tuple(sorted(name for name in shares if importance[name] != 0))
    total = sum(found or 0.0 for found in importance.values())
    weight = None
    if total > 0:
        weight = sum((importance[name] or 0.0) * share for name, share in shares.items()) / total
    heavy = bool(drifted) and (weight is None or weight >= monitoring.min_weight)
    return Night(
        day=day,
        model_version=version,
        tested=len({row["feature"] for row in rows}),
        drifted=drifted,
        unused=tuple(sorted(name for name in shares if importance[name] == 0)),
        score_drifted=score_drifted,
        extreme=tuple(sorted(extreme)),
        weight=weight,
        is_drift=score_drifted or bool(extreme) or heavy,
    )
