"""What training, the gate, scoring and the monitor are asked to do."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from evergreen.contract.base import Day, Identifier, Model, Ratio, raise_if

# How keys of the gate begin that say how many of something a holdout must hold.
_COUNT = "min_holdout_"


class Booster(Model):
    """XGBoost settings that hold on small, noisy tables; library defaults overfit those."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.03
    max_depth: Annotated[int, Field(ge=1, le=12)] = 3
    min_child_weight: Annotated[float, Field(ge=0)] = 20.0
    subsample: Annotated[float, Field(gt=0, le=1)] = 0.8
    colsample_bytree: Annotated[float, Field(gt=0, le=1)] = 0.8
    reg_lambda: Annotated[float, Field(ge=0)] = 5.0
    max_rounds: Annotated[int, Field(ge=10)] = 1000
    early_stopping_rounds: Annotated[int, Field(ge=1)] = 40
    # Rounds when the history is too short for validation days.
    default_rounds: Annotated[int, Field(ge=1)] = 150


class Linear(Model):
    """Settings of the linear model that competes with the trees."""

    # L2 penalty per row, on standardised columns.
    reg_lambda: Annotated[float, Field(ge=0)] = 1e-4


class Tuning(Model):
    """How much is spent on the search for better settings; by default nothing."""

    trials: Annotated[int, Field(ge=0)] = 0
    # No trial is begun after as many seconds; None: no limit.
    max_seconds: Annotated[float, Field(gt=0)] | None = None


class Training(Model):
    """What is learned from, and how a model is chosen; see `evergreen.training.split`."""

    # Spacing and greatest number of as-of cut-offs whose labels are stacked for one fit. Dense
    # enough to make the most of one year, many enough to see nearly all seasons of a longer past.
    cutoff_every_days: Annotated[int, Field(ge=1)] = 14
    max_cutoffs: Annotated[int, Field(ge=1)] = 24
    # Test days, beside those of calibration and holdout, by which model and settings are chosen.
    tuning_folds: Annotated[int, Field(ge=1)] = 3
    # Days of events that must lie before the first cut-off.
    min_history_days: Annotated[int, Field(ge=1)] = 60
    seed: Annotated[int, Field(ge=0)] = 13
    booster: Booster = Booster()
    linear: Linear = Linear()
    # Which kinds compete; the simpler wins unless the other is surely better.
    models: Annotated[tuple[Literal["linear", "trees"], ...], Field(min_length=1)] = (
        "linear",
        "trees",
    )
    tuning: Tuning = Tuning()
    # Whether features that cannot be told from useless on the tuning days are left out.
    drop_features: bool = False
    # Features by whose values groups are watched; numbers with the bounds between groups.
    slices: dict[Identifier, tuple[float, ...]] = Field(default_factory=dict)
    # Features that each alone, as a rule of thumb, must be beaten; for churn, recency.
    baselines: tuple[Identifier, ...] = ()


class Gate(Model):
    """What a challenger must show on the holdout.

    Beside the keys below, `min_<metric>` and `max_<metric>` of any metric of the target, and
    `min_holdout_<count>` of what it counts; what it demands by itself is in `evergreen.targets`.
    """

    model_config = ConfigDict(extra="allow")

    # What follows a yes: the promotion, a person's approval, or nothing but the record.
    mode: Literal["auto", "approve", "shadow"] = "auto"
    # An approval that nobody has given after as many hours is refused.
    approval_hours: Annotated[float, Field(gt=0)] = 48.0
    # Scoring latency, per 1,000 rows, in milliseconds of one core.
    max_latency_ms_per_1k: Annotated[float, Field(gt=0)] = 250.0
    # The challenger must surely exceed each baseline in the target's main metric by more than this.
    min_baseline_margin: float = 0.0
    # One that is surely less than this below the champion is equivalent.
    max_champion_deficit: Annotated[float, Field(ge=0)] = 0.01
    # What promotes. An equivalent one also replaces a champion that is older than
    # monitoring.max_model_age_days.
    promote: tuple[Literal["better", "equivalent", "unclear"], ...] = ("better",)
    # No slice may be surely further below the champion, corrected for the number of slices.
    max_slice_deficit: Annotated[float, Field(ge=0)] = 0.02
    # How the model that serves, fitted again on everything known, must resemble the measured one.
    min_refit_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.8
    max_refit_shift: Annotated[float, Field(gt=0)] = 1.0
    min_holdout_rows: Annotated[int, Field(ge=1)] = 200

    @property
    def limits(self) -> dict[str, float]:
        """Bounds of metrics, as declared: `{"min_auc": 0.65}`."""
        declared = (self.__pydantic_extra__ or {}).items()
        return {name: float(bound) for name, bound in declared if not name.startswith(_COUNT)}

    @property
    def counts(self) -> dict[str, int]:
        """How many of what a holdout must hold, as declared: `{"rows": 200}`."""
        declared = {"min_holdout_rows": self.min_holdout_rows, **(self.__pydantic_extra__ or {})}
        return {
            name.removeprefix(_COUNT): int(bound)
            for name, bound in declared.items()
            if name.startswith(_COUNT)
        }

    @model_validator(mode="after")
    def _only_bounds(self) -> Self:
        problems = []
        for name, bound in (self.__pydantic_extra__ or {}).items():
            if not re.match(r"(min|max)_[a-z]", name):
                problems.append(f"{name}: unknown key (found {bound!r}); remove or rename it")
            elif isinstance(bound, bool) or not isinstance(bound, int | float):
                problems.append(f"{name}: found {bound!r}, expected a number")
        raise_if(problems)
        return self


class Rollout(Model):
    """How a version that passed the gate comes into charge where a champion is.

    Beside the champion in shadow first, then for a growing share of the entities, chosen by a hash
    of their key. Without it, it is in charge of everybody at once.
    """

    # Another value lets the hash choose others; by default each version gets its own.
    salt: Annotated[str, Field(min_length=1)] | None = None
    # Nights on which everybody is scored by both, and nobody's score comes from the challenger.
    shadow_nights: Annotated[int, Field(ge=1)] = 3
    # Then whose does; after the last of them it is put in charge.
    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (
        *(0.1, 0.25, 0.5),
        1.0,
    )
    nights_per_share: Annotated[int, Field(ge=1)] = 3
    # What matured labels must have shown before it is put in charge, and before more than the
    # unproven share get its scores. One that is surely worse is stopped whatever is asked for.
    require: Literal["nothing", "equivalent", "better"] = "equivalent"
    unproven_share: Ratio = 0.25
    # Mean losses are equivalent that surely differ by less than this share of the champion's.
    margin: Annotated[float, Field(gt=0)] = 0.02
    # So many nights after the first labels are due a rollout is stopped: labels that never come
    # decide nothing.
    max_nights: Annotated[int, Field(ge=0)] = 60
    # What else stops it. How far scores of the same entities may differ: their rank correlation,
    # the difference of their means in standard deviations, and that of any band's share.
    min_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.3
    max_shift: Annotated[float, Field(gt=0)] = 1.0
    max_band_change: Ratio = 0.5
    # How many times the champion's seconds it may take.
    max_slowdown: Annotated[float, Field(gt=0)] = 10.0

    @field_validator("shares")
    @classmethod
    def _ascending(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if list(shares) != sorted(set(shares)):
            raise ValueError(f"shares must ascend, found {list(shares)}")
        return shares


class Scoring(Model):
    """How scores are presented."""

    # Lower score bounds, highest first. The lowest band takes all that is lower, too, so its bound
    # is the least a score can be. By default those of the target.
    bands: Annotated[dict[Identifier, float], Field(min_length=1)] | None = None
    # At most so many reasons per score.
    reasons: Annotated[int, Field(ge=0, le=10)] = 3
    # The bands whose scores get any: those that are acted on. By default the highest.
    reasons_for: tuple[Identifier, ...] | None = None
    # Predictions may lie at most this far behind a night; by default as monitoring says.
    max_staleness_days: Annotated[int, Field(ge=0)] | None = None

    @field_validator("bands")
    @classmethod
    def _descending(cls, bands: dict[str, float] | None) -> dict[str, float] | None:
        bounds = list((bands or {}).values())
        if bounds != sorted(set(bounds), reverse=True):
            raise ValueError(f"bands must descend, found {bounds}")
        return bands


class Experiment(Model):
    """Whether acting on scores helps: a share of those who would be treated is not."""

    name: Identifier
    # Of those in the bands; everybody else there is to be treated.
    hold_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    # By default those that are acted on: `scoring.reasons_for`.
    bands: tuple[Identifier, ...] | None = None
    starts: Day
    # The last day on which anybody enters.
    ends: Day | None = None
    # What is compared: this use case's label, or that of another on the same features.
    outcome: str = "label"
    # The smallest difference of mean outcomes that would matter.
    smallest_effect: Annotated[float, Field(gt=0)]
    # Lets the hash choose whom; by default the name.
    salt: Annotated[str, Field(min_length=1)] | None = None

    def is_on(self, day: date) -> bool:
        """Whether somebody may enter on a day."""
        return self.starts <= day and (self.ends is None or day <= self.ends)


class Serving(Model):
    """How scores on request behave; see `evergreen serve`."""

    # While the online store is down: the features that were read last, with their age, or nothing.
    when_down: Literal["last", "unavailable"] = "last"
    # Tables of events of which some are taken between two batches: `POST /v1/events/<table>`.
    push: tuple[Identifier, ...] = ()


class Monitoring(Model):
    """What the nightly monitor and its governor demand."""

    # Drift: unusual at `alpha` after Benjamini-Hochberg, and the effect at least `min_ks` or PSI in
    # its upper band.
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    min_ks: Ratio = 0.1
    psi_bands: tuple[float, float] = (0.1, 0.25)
    # An effect as great needs no second night.
    extreme: Ratio = 0.5
    # A night is a drift night when so much of the champion's importance drifts (or the score does).
    min_weight: Ratio = 0.05
    # Drift must show on `persistence[0]` of the last `persistence[1]` nights.
    persistence: tuple[int, int] = (2, 3)
    # A change can be learned once so much of what a challenger is fitted on lies after it.
    learnable_share: Ratio = 0.25
    # The target's main metric may fall at most this far below the champion's on its holdout; by
    # default as the target says.
    max_performance_drop: Annotated[float, Field(ge=0)] | None = None
    # Retrain by schedule when the champion is older than this; None never does.
    max_model_age_days: Annotated[int, Field(ge=1)] | None = 90
    cooldown_days: Annotated[int, Field(ge=0)] = 7
    weekly_budget: Annotated[int, Field(ge=1)] = 1
    # A training that was asked for or started this many days ago is no longer waited for.
    request_expires_days: Annotated[int, Field(ge=1)] = 7
    # Tables may lie at most this far behind the night, unless they say otherwise themselves.
    max_staleness_days: Annotated[int, Field(ge=0)] = 1
    # So many hours after its end a day is to be ingested, computed and scored; None: no deadline.
    max_delay_hours: Annotated[float, Field(gt=0)] | None = None
    # At most so many owed days of features are started by a night by itself; 0 starts none.
    max_recomputed_days: Annotated[int, Field(ge=0)] = 0
    # Entities whose online values are logged and compared every night; 0 compares none.
    skew_keys: Annotated[int, Field(ge=0)] = 1000
    # A greater share of them may not differ in any feature.
    max_skew: Ratio = 0.01

    @field_validator("persistence")
    @classmethod
    def _m_of_n(cls, persistence: tuple[int, int]) -> tuple[int, int]:
        m, n = persistence
        if not 1 <= m <= n:
            raise ValueError(f"expected [m, n] with 1 <= m <= n, found {list(persistence)}")
        return persistence
