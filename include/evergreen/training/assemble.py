"""The training set of a split: labels joined with point-in-time features, at stated versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Self

import pyarrow as pa

from evergreen import lake
from evergreen.as_known import pins_of
from evergreen.errors import NotReadyError
from evergreen.features.store import training_set
from evergreen.training.split import SplitPlan
from evergreen.use_case import UseCase

_TABLES = ("features", "labels")


@dataclass(frozen=True)
class TrainingInputs:
    """The versions a training set is made of.

    Parameters
    ----------
    snapshots
        Snapshot id per table.
    pins
        Per table, days that are read at a snapshot of their own instead; 0 for no rows.
    """

    snapshots: Mapping[str, int | None]
    pins: Mapping[str, Mapping[date, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, int | None]:
        """Return it flat: `{"features": 1, "labels": 2, "features/2026-01-05": 3}`."""
        pins = {f"{t}/{day}": pin for t, days in self.pins.items() for day, pin in days.items()}
        return {**self.snapshots, **pins}

    @classmethod
    def from_dict(cls, values: Mapping[str, int | None]) -> Self:
        """Rebuild it from what `to_dict` gave."""
        pins: dict[str, dict[date, int]] = {}
        for name, snapshot in values.items():
            table, _, day = name.partition("/")
            if day:
                pins.setdefault(table, {})[date.fromisoformat(day)] = snapshot or 0
        return cls({table: values.get(table) for table in _TABLES}, pins)


def choose_inputs(
    use_case: UseCase, day: date, days: Sequence[date], *, corrected: bool
) -> TrainingInputs:
    """Choose the versions to train on for `day`.

    Parameters
    ----------
    days
        The as-of days of the training set.
    corrected
        Whether to read all days as they are now, also those corrected after `day` was processed;
        otherwise they are read as they were known then (see `evergreen.as_known`).
    """
    snapshots = {table: lake.snapshot_id(use_case.name, table) for table in _TABLES}
    return TrainingInputs(snapshots, {} if corrected else pins_of(use_case, day, days))


def assemble(use_case: UseCase, plan: SplitPlan, inputs: TrainingInputs) -> pa.Table:
    """Join the labels of the plan's days with the features known at their `as_of`.

    Returns
    -------
    pa.Table
        Entity key, `as_of`, `label`, and the features in declared order; rows in the order of
        the labels' days.

    Raises
    ------
    NotReadyError
        Labels of a day are not published, or a snapshot has been expired.
    """
    return training_set(
        use_case,
        _labels(use_case, plan.days, inputs),
        snapshot_id=inputs.snapshots["features"],
        pins=inputs.pins.get("features"),
    )


def _labels(use_case: UseCase, days: Sequence[date], inputs: TrainingInputs) -> pa.Table:
    snapshot, pins = inputs.snapshots["labels"], inputs.pins.get("labels", {})
    published = lake.partitions(use_case.name, "labels", snapshot)
    missing = [day for day in days if day not in published and not pins.get(day)]
    if missing:
        raise NotReadyError(
            f"Training needs labels of {len(days)} days and {len(missing)} of them are not "
            f"published (the oldest is {missing[0]}, the newest {missing[-1]}). Load them: trigger "
            f"{use_case.name}_history from {missing[0]} to "
            f"{missing[-1] + timedelta(days=use_case.label.horizon_days)}."
        )
    return pa.concat_tables(
        lake.read_day(use_case.name, "labels", day, pins.get(day, snapshot)).select(
            [use_case.entity.key, "as_of", "label"]
        )
        for day in days
        if pins.get(day, snapshot)
    )
