"""The training set of a split: labels joined with point-in-time features, at stated versions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import accumulate
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.errors import NotReadyError, ValidationError
from evergreen.features.store import training_set
from evergreen.provenance.as_known import pins_of
from evergreen.training.compatibility import mending, require_computed
from evergreen.training.split import SplitPlan

logger = logging.getLogger(__name__)

MIN_COVERAGE_RATIO = 0.9
"""Least share of a day's labelled entities that must have features.

A few become known later, by late orders. More than that means that `labels.sql` asks about others
than are scored, and a model trained on the rest would be judged on a population it does not serve.
"""

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
        otherwise they are read as they were known then (see `evergreen.provenance.as_known`).
    """
    snapshots = {table: lake.snapshot_id(use_case.owner_of(table), table) for table in _TABLES}
    pins = {} if corrected else pins_of(use_case, day, days)
    for table, pinned in pins.items():
        if pinned:
            logger.info("%s of %s are read as known then", table, ", ".join(map(str, pinned)))
    return TrainingInputs(snapshots, pins)


@dataclass(frozen=True)
class TrainingSet:
    """A training set, and whom it leaves out.

    Parameters
    ----------
    rows
        Entity key, `as_of`, `label`, and the features in declared order; rows in the order of
        the labels' days.
    left_out
        Per day, labelled entities without features: nobody like them is ever scored. Days without
        any are absent.
    """

    rows: pa.Table
    left_out: Mapping[date, int]


def keep(use_case: UseCase, version: int, inputs: TrainingInputs) -> None:
    """Tag the snapshots a version was trained on: expiry leaves them, so it can be replayed."""
    for name, snapshot in inputs.to_dict().items():
        table, _, day = name.partition("/")
        if snapshot:
            # Several use cases may read the features of one.
            label = f"{use_case.name}-version-{version}"
            lake.tag(use_case.owner_of(table), table, snapshot, f"{label}-{day}" if day else label)


def assemble(
    use_case: UseCase,
    plan: SplitPlan,
    inputs: TrainingInputs,
    *,
    sample: Callable[[pa.Table], pa.Table] = lambda labels: labels,
) -> TrainingSet:
    """Join the labels of the plan's days with the features known at their `as_of`.

    Parameters
    ----------
    sample
        Takes the labels of one day and returns those to go on with; by default all.

    Raises
    ------
    NotReadyError
        Labels or features of a day are not published, a declared feature was not computed on a
        day, or a snapshot has been expired.
    ValidationError
        More labelled entities of a day have no features than `MIN_COVERAGE_RATIO` allows.
    """
    labels = {day: sample(rows) for day, rows in _labels(use_case, plan.days, inputs)}
    covered = _with_features(use_case, labels, inputs)
    left_out = {
        day: missing
        for day, rows in covered.items()
        if (missing := labels[day].num_rows - rows.num_rows)
    }
    for day, missing in left_out.items():
        logger.warning(
            "%d of %d labelled entities of %s have no features and are left out",
            *(missing, labels[day].num_rows, day),
        )
    rows = training_set(
        use_case,
        pa.concat_tables(covered.values()),
        snapshot_id=inputs.snapshots["features"],
        pins=inputs.pins.get("features"),
    )
    ends = accumulate(part.num_rows for part in covered.values())
    joined = (
        (day, rows.slice(end - part.num_rows, part.num_rows))
        for (day, part), end in zip(covered.items(), ends, strict=True)
    )
    require_computed(use_case, joined, use_case.feature_names)
    return TrainingSet(rows, left_out)


def _with_features(
    use_case: UseCase, labels: Mapping[date, pa.Table], inputs: TrainingInputs
) -> dict[date, pa.Table]:
    """Keep the labels of the entities that have features on the label's day."""
    owner = use_case.owner_of("features")
    snapshot, pins = inputs.snapshots["features"], inputs.pins.get("features", {})
    published = lake.partitions(owner, "features", snapshot) if snapshot else {}
    missing = [day for day in labels if not pins.get(day, day in published)]
    if missing:
        hint = " If they were computed later, set the field corrections to as_corrected."
        raise NotReadyError(
            f"Training needs features of {len(labels)} days and {len(missing)} of them have labels "
            f"but no features ({', '.join(map(str, missing))}). Compute them: "
            f"{mending(use_case, missing)}.{hint if set(missing) & set(pins) else ''}"
        )
    key = use_case.entity.key
    known: dict[date, pa.Table] = {}

    def read() -> Iterator[tuple[date, pa.Table]]:
        for day in labels:
            features = lake.read_day(owner, "features", day, pins.get(day, snapshot))
            known[day] = features.select([key, "as_of"])
            yield day, features

    # Feast cannot join columns that no file has.
    require_computed(use_case, read(), use_case.feature_names)
    covered = {}
    for day, labelled in labels.items():
        # Of another as-of they are on the same day only while a change of zone is worked through;
        # joined point in time they would be too old, or missing in silence.
        features = known[day]
        same_key = pc.is_in(labelled[key], value_set=features[key].combine_chunks())
        same_as_of = pc.is_in(labelled["as_of"], value_set=features["as_of"].unique())
        has_features = pc.and_(same_key, same_as_of)
        covered[day] = labelled.filter(has_features)
        if covered[day].num_rows < MIN_COVERAGE_RATIO * labelled.num_rows:
            without = labelled.filter(pc.invert(has_features))[key]
            raise ValidationError(
                f"Of {labelled.num_rows} labelled entities of {day}, {len(without)} have no "
                f"features (such as {', '.join(map(str, without.slice(0, 3).to_pylist()))}); "
                f"expected features of at least {MIN_COVERAGE_RATIO:.0%}. Give labels.sql and "
                f"features.sql of {use_case.name} the same population (their WHERE and HAVING), "
                f"then load the days again with {use_case.name}_history."
            )
    return covered


def _labels(
    use_case: UseCase, days: Sequence[date], inputs: TrainingInputs
) -> Iterator[tuple[date, pa.Table]]:
    snapshot, pins = inputs.snapshots["labels"], inputs.pins.get("labels", {})
    published = lake.partitions(use_case.name, "labels", snapshot)
    missing = [day for day in days if day not in published and not pins.get(day)]
    if missing:
        raise NotReadyError(
            f"Training needs labels of {len(days)} days and {len(missing)} of them are not "
            f"published (the oldest is {missing[0]}, the newest {missing[-1]}). Load them: trigger "
            f"{use_case.name}_history from {missing[0]} to "
            f"{missing[-1] + timedelta(days=use_case.target.horizon_days)}."
        )
    for day in days:
        if pins.get(day, snapshot):
            rows = lake.read_day(use_case.name, "labels", day, pins.get(day, snapshot))
            yield day, rows.select([use_case.entity.key, "as_of", "label"])
