"""The nightly look at an experiment, and the plan of one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import Experiment, UseCase, load_use_case
from evergreen.errors import ConfigError, NotReadyError
from evergreen.experiments.effect import (
    ALL,
    Effect,
    effects_table,
    entities_needed,
    measure_effects,
)
from evergreen.monitoring.night import publish
from evergreen.provenance import receipts

logger = logging.getLogger(__name__)

_ONE_DAY = timedelta(days=1)
# Labelled days that a plan looks back on.
_PLANNED_ON = 28


def measure(use_case: UseCase, tonight: date) -> dict[str, Any]:
    """Compare the groups of the experiment by the outcomes that are known on a night."""
    experiment = require_experiment(use_case)
    basis = receipts.newest_sequence()
    rows = outcomes(use_case, experiment, _published(use_case, tonight), tonight)
    if rows.num_rows == 0:
        logger.info("%s: no outcome is known of anybody yet", experiment.name)
        return {"rows": 0}
    effects = measure_effects(rows, experiment)
    table = effects_table(tonight, experiment, effects)
    publish(use_case, tonight, "measure_experiment", "effects", table, tonight, basis)
    for effect in effects:
        if effect.slice == ALL:
            logger.info("%s: %s", experiment.name, describe(effect))
    return {"rows": rows.num_rows}


def outcomes(
    use_case: UseCase, experiment: Experiment, entries: Iterable[pa.Table], tonight: date
) -> pa.Table:
    """Return everybody whom an experiment is about and whose outcome is known by a night.

    An entity enters on the first day on which the experiment is about it, with the score of that
    day; what is known of a window that begins then is its outcome. Later days say nothing of it:
    what was done about it by then may have changed them.

    Parameters
    ----------
    entries
        By day, oldest first, whom the experiment is about: key, `day`, `group`, `score`.

    Returns
    -------
    pyarrow.Table
        Entity key, `day`, `group`, `score`, `outcome` (float64).
    """
    key, of = use_case.entity.key, _outcome_of(use_case, experiment)
    names = [key, "day", "group", "score", "outcome"]
    parts: list[pa.Table] = []
    seen: pa.Array | None = None
    labelled = lake.partitions(of.name, "labels") if lake.exists(of.name, "labels") else {}
    mature = tonight - timedelta(days=of.target.horizon_days)
    for entered in entries:
        keys = entered[key].combine_chunks()
        new = entered if seen is None else entered.filter(pc.invert(pc.is_in(keys, seen)))
        seen = keys if seen is None else pa.concat_arrays([seen, new[key].combine_chunks()])
        day = entered["day"][0].as_py()
        # A night that is repeated later knows no more than it did.
        if not (new.num_rows and day <= mature and labelled.get(day)):
            continue
        labels = lake.read(of.name, "labels", day, day + _ONE_DAY, columns=(key, "label"))
        known = labels.filter(pc.is_valid(labels["label"]))
        known = known.set_column(1, "outcome", known["label"].cast(pa.float64()))
        parts.append(new.join(known, keys=key, join_type="inner").select(names))
    if not parts:
        return pa.table({name: [] for name in names})
    return pa.concat_tables(parts).sort_by([("day", "ascending"), (key, "ascending")])


@dataclass(frozen=True)
class Plan:
    """What an experiment needs.

    Parameters
    ----------
    plain, adjusted
        Entities of both groups; the latter if the score is taken out of the outcome.
    daily
        Entities that enter on a day, in the mean.
    days, rows
        That was seen on.
    """

    plain: float
    adjusted: float
    daily: float
    days: int
    rows: int

    def days_needed(self, horizon: int) -> float:
        """Return after how many days the outcomes of enough entities are known."""
        return self.adjusted / self.daily + horizon if self.daily else float("inf")


def plan(use_case: UseCase, until: date) -> Plan:
    """Plan an experiment by what came of those whom it would have been about.

    Parameters
    ----------
    until
        Of the days up to it, the last with outcomes are looked at.

    Raises
    ------
    NotReadyError
        Nothing is known of anybody.
    """
    experiment = require_experiment(use_case)
    of = _outcome_of(use_case, experiment)
    labelled = lake.partitions(of.name, "labels") if lake.exists(of.name, "labels") else {}
    scored = lake.partitions(use_case.name, "predictions")
    mature = until - timedelta(days=of.target.horizon_days)
    days = sorted(day for day in labelled if day in scored and day <= mature)[-_PLANNED_ON:]
    if not days:
        raise NotReadyError(
            f"No day of {use_case.name} has both scores and labels of {of.name} yet, so an "
            "experiment cannot be planned. Score past days, or wait for labels."
        )
    rows = outcomes(use_case, experiment, _imagined(use_case, days), until)
    if rows.num_rows == 0:
        raise NotReadyError(f"Nobody was in {', '.join(use_case.treated_bands)} on those days.")
    return Plan(
        entities_needed(rows, experiment, adjusted=False),
        entities_needed(rows, experiment, adjusted=True),
        rows.num_rows / len(days),
        len(days),
        rows.num_rows,
    )


def describe(effect: Effect) -> str:
    """Say in words what treatment changed."""
    what = "adjusted for the score" if effect.adjusted else "as observed"
    groups = f"{effect.treatment_rows} treated, {effect.hold_out_rows} held out"
    if effect.effect is None or effect.lower is None or effect.upper is None:
        return f"{what}: too few ({groups})"
    return (
        f"{what}: {effect.treatment:.4f} treated, {effect.hold_out:.4f} held out: "
        f"{effect.effect:+.4f} ({effect.lower:+.4f} to {effect.upper:+.4f}; {groups})"
    )


def require_experiment(use_case: UseCase) -> Experiment:
    """Return the experiment of a use case.

    Raises
    ------
    ConfigError
        It declares none.
    """
    if use_case.experiment is None:
        raise ConfigError(f"{use_case.name} declares no experiment. Add `experiment:` to its YAML.")
    return use_case.experiment


def _published(use_case: UseCase, tonight: date) -> Iterator[pa.Table]:
    """Yield whom the experiment was about, in the groups that were published."""
    experiment = require_experiment(use_case)
    found = lake.scan(use_case.name, "predictions", experiment.starts, tonight + _ONE_DAY)
    if found.schema is None or "group" not in found.schema.names:
        return
    columns = (use_case.entity.key, "day", "group", "score")
    for day in sorted(found.by_day):
        if experiment.is_on(day):
            rows = lake.read(use_case.name, "predictions", day, day + _ONE_DAY, columns)
            about = rows.filter(pc.is_valid(rows["group"]))
            if about.num_rows:
                yield about


def _imagined(use_case: UseCase, days: Sequence[date]) -> Iterator[pa.Table]:
    """Yield whom an experiment would have been about."""
    columns = (use_case.entity.key, "day", "band", "score")
    for day in days:
        rows = lake.read(use_case.name, "predictions", day, day + _ONE_DAY, columns)
        about = pc.is_in(rows["band"], pa.array(use_case.treated_bands))
        rows = rows.filter(about).rename_columns({"band": "group"})
        if rows.num_rows:
            yield rows


def _outcome_of(use_case: UseCase, experiment: Experiment) -> UseCase:
    """Return the use case whose labels are the outcome.

    Raises
    ------
    ConfigError
        It does not share the entities.
    """
    if experiment.outcome == "label":
        return use_case
    other = load_use_case(experiment.outcome)
    if other.owner_of("features") != use_case.owner_of("features"):
        raise ConfigError(
            f"experiment.outcome of {use_case.name} names {other.name}, which is not about the "
            "same entities. Name one that builds on the same features, or `label`."
        )
    return other
