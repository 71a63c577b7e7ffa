"""The frozen, validated model of `use_case.yaml`: one declaration from which the rest follows.

This module is imported by every DAG file each time Airflow parses it, so it imports nothing
heavier than pydantic and PyYAML.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic import ValidationError as PydanticError

from evergreen.errors import ConfigError
from evergreen.settings import load_settings

# The only identifiers that ever reach SQL, table names, paths and DAG ids.
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Dtype = Literal["string", "int64", "float64", "bool", "timestamp", "date"]
FeatureDtype = Literal["int64", "float64", "bool"]
# What Feast can look up.
KEY_DTYPES = ("string", "int64")
Ratio = Annotated[float, Field(ge=0, le=1)]
Bounds = tuple[float | None, float | None]
# Far enough from the ends of the calendar for every instant that is derived from it.
Day = Annotated[date, Field(ge=date(1900, 1, 1), le=date(2999, 12, 31))]
_TIMES = ("timestamp", "date")


def _ordered(bounds: Bounds) -> Bounds:
    low, high = bounds
    if low is not None and high is not None and low > high:
        raise ValueError("the lower bound lies above the upper one")
    return bounds


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, hide_input_in_errors=False)


class Entity(_Model):
    """Whom we predict for: the Feast entity and the key of every table but `orders`."""

    name: Identifier
    key: Identifier
    description: str = ""


# --- source ------------------------------------------------------------------------------------


class CsvFormat(_Model):
    """How the bytes of a CSV file become columns of text."""

    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] = ","
    quote: Annotated[str, StringConstraints(min_length=1, max_length=1)] = '"'
    encoding: str = "utf-8"
    # Column names when the file has no header line.
    names: tuple[str, ...] | None = None


class FilesSource(_Model):
    """CSV or Parquet through fsspec.

    `path` may hold `${VARIABLE}` and `{day}` (or `{day:%Y/%m/%d}`). Without `{day}` it names one
    file (or glob) that holds many days.
    """

    kind: Literal["files"]
    path: str
    format: Literal["csv", "parquet"] = "csv"
    csv: CsvFormat = CsvFormat()
    # What a day without a file means: a day without business, or a delivery that is late.
    missing: Literal["fail", "empty"] = "fail"


class SqlSource(_Model):
    """A query bound to `:start` and `:end` (UTC instants, half open)."""

    kind: Literal["sql"]
    # The URL is read from EVERGREEN_SECRET_<SECRET>.
    secret: Identifier
    query: str
    batch_rows: Annotated[int, Field(ge=1)] = 50_000

    @field_validator("query")
    @classmethod
    def _bound(cls, query: str) -> str:
        for name in (":start", ":end"):
            if not re.search(rf"{name}\b", query):
                raise ValueError(f"the query does not use {name}; bind both :start and :end")
        return query


class Segment(_Model):
    """One kind of customer of the simulation. Rates are per day, money is per order."""

    name: Identifier
    share: Annotated[float, Field(gt=0, le=1)]
    # BG/NBD: purchase rate ~ Gamma(r, alpha), drop-out after each purchase ~ Beta(a, b).
    r: Annotated[float, Field(gt=0)]
    alpha: Annotated[float, Field(gt=0)]
    a: Annotated[float, Field(gt=0)]
    b: Annotated[float, Field(gt=0)]
    # Gamma-gamma: spend per order ~ Gamma(p, nu), nu ~ Gamma(q, gamma).
    p: Annotated[float, Field(gt=0)] = 6.0
    q: Annotated[float, Field(gt=1)] = 4.0
    gamma: Annotated[float, Field(gt=0)] = 15.0


class RegimeChange(_Model):
    """From `day` on, everybody's habits change by these factors."""

    day: date
    purchase_rate: Annotated[float, Field(gt=0)] = 1.0
    drop_out: Annotated[float, Field(gt=0)] = 1.0
    spend: Annotated[float, Field(gt=0)] = 1.0


class Dirt(_Model):
    """Shares of deliberately bad rows, so that quarantine has something to do."""

    duplicates: Ratio = 0.004
    missing_customer: Ratio = 0.004
    non_positive_amount: Ratio = 0.003
    cancelled: Ratio = 0.01
    unparsable_date: Ratio = 0.0005


class GeneratorSource(_Model):
    """A customer-base simulation, deterministic per day whatever range is asked for."""

    kind: Literal["generator"]
    seed: Annotated[int, Field(ge=0)] = 7
    customers: Annotated[int, Field(ge=1)] = 6_000
    # Customers join evenly between the use case's first day and this many days later.
    acquisition_days: Annotated[int, Field(ge=1)] = 720
    # Amplitude of the yearly season on the purchase rate, peak in early December.
    season: Annotated[float, Field(ge=0, lt=1)] = 0.2
    segments: Annotated[tuple[Segment, ...], Field(min_length=1)]
    regime_change: RegimeChange | None = None
    dirt: Dirt = Dirt()


Source = Annotated[FilesSource | SqlSource | GeneratorSource, Field(discriminator="kind")]


# --- contract of the rows ----------------------------------------------------------------------


class Column(_Model):
    """One column of the contract: where it comes from and what it must look like."""

    source: str
    dtype: Dtype
    description: str = ""
    unit: str = ""
    nullable: bool = False
    # Inclusive bounds for numbers.
    range: Bounds = (None, None)
    values: tuple[str, ...] | None = None
    pattern: str | None = None
    # For numbers written as text.
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'"] | None = None
    # For timestamps and dates: strptime formats tried in order (ISO 8601 when empty), and the
    # zone of instants that carry none.
    formats: tuple[str, ...] = ()
    zone: str = "UTC"
    # Identifiers that went through a spreadsheet or a float column come as `13090.0`.
    strip_float: bool = False

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, ZoneInfoNotFoundError) as error:
            raise ValueError("expected the name of a time zone, such as Europe/Berlin") from error
        return zone

    @field_validator("formats")
    @classmethod
    def _dated(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        for text in formats:
            found = set(re.findall(r"%-?([A-Za-z])", text))
            day = (found & set("mbB") and "d" in found) or found & set("ju")
            if not (day and found & set("yYG")) and not found & set("cxs"):
                raise ValueError(
                    f"{text!r} gives no year, month and day; expected strptime's directives, such "
                    "as %Y-%m-%d"
                )
        return formats

    @field_validator("range")
    @classmethod
    def _ascending(cls, bounds: Bounds) -> Bounds:
        return _ordered(bounds)


class RowRule(_Model):
    """A named condition every row must meet; a row that does not goes to quarantine.

    `sql` is a DuckDB boolean expression over the source's columns (as text) and the contract's
    columns (typed); NULL counts as broken.
    """

    name: Identifier
    sql: str
    because: str = ""


class RollUp(_Model):
    """Line items to orders: one row per `key`, further columns by aggregate.

    `aggregates` maps every contract column but the key to a DuckDB aggregate over contract
    columns, for example `{amount: sum(quantity * unit_price)}`.
    """

    key: Identifier
    aggregates: dict[Identifier, str]
    columns: dict[Identifier, Column] = {}


class BatchRules(_Model):
    """What a whole batch must look like before any of it is published."""

    # A row count is refused when it is off by more than these factors from what is usual on that
    # weekday, and further than the shop's counts scatter.
    row_count_ratio: tuple[float, float] = (0.6, 1.7)
    # How many weeks before a day say what is usual.
    row_count_weeks: Annotated[int, Field(ge=2)] = 8
    # With fewer days with rows among them the row count is not judged.
    row_count_min_days: Annotated[int, Field(ge=3)] = 7
    # Days whose row count is right although it is unusual; somebody has looked at them.
    unusual_days: tuple[date, ...] = ()
    max_quarantined_ratio: Ratio = 0.1
    # With fewer source rows than this a day's share is noise and is not judged.
    quarantined_min_rows: Annotated[int, Field(ge=1)] = 100
    # The newest accepted row may lie at most this many hours before the end of the day.
    max_age_hours: Annotated[float, Field(gt=0)] | None = None
    # A day with no source rows at all, or with none accepted.
    allow_empty: bool = False


class Orders(_Model):
    """The contract of the accepted rows."""

    # Unique per row within a day (after the roll-up, if there is one).
    key: Identifier
    # Event time; decides the row's day.
    time: Identifier
    columns: dict[Identifier, Column]
    rules: tuple[RowRule, ...] = ()
    rollup: RollUp | None = None
    batch: BatchRules = BatchRules()

    @model_validator(mode="after")
    def _roles(self) -> Self:
        problems = []
        for role in ("key", "time"):
            name = getattr(self, role)
            if name not in self.columns:
                problems.append(
                    f"{role}: found {name!r}, expected one of columns ({_some(self.columns)})"
                )
            elif role == "time" and (kind := self.columns[name].dtype) not in _TIMES:
                problems.append(
                    f"columns.{name}.dtype: found {kind!r}, expected 'timestamp' or 'date' of the "
                    "column that orders.time names"
                )
        if self.rollup is not None:
            declared = {**self.columns, **self.rollup.columns}
            named = {"key": [self.rollup.key], "aggregates": [*self.rollup.aggregates]}
            problems += [
                f"rollup.{key}: found {name!r}, expected a column declared in orders.columns or "
                f"orders.rollup.columns ({_some(declared)})"
                for key, names in named.items()
                for name in names
                if name not in declared
            ]
            if self.time not in self.rollup.aggregates:
                problems.append(
                    f"rollup.aggregates: {self.time!r}, which orders.time names, is missing; add "
                    f"for example {self.time}: min({self.time})"
                )
        rules = [rule.name for rule in self.rules]
        twice = sorted({name for name in rules if rules.count(name) > 1})
        problems += [f"rules: found {name!r} twice, expected unique names" for name in twice]
        _raise_if(problems)
        return self

    @property
    def published(self) -> dict[str, Column]:
        """Columns of the `orders` table, in order: the contract's, after the roll-up if any."""
        if self.rollup is None:
            return dict(self.columns)
        declared = {**self.columns, **self.rollup.columns}
        return {name: declared[name] for name in (self.rollup.key, *self.rollup.aggregates)}


# --- features, labels --------------------------------------------------------------------------


class DailyColumn(_Model):
    """What one column of `daily` says of an entity's day, and how days become one row.

    `sql` is one DuckDB aggregate over the published columns of the orders.
    """

    sql: str
    merge: Literal["sum", "min", "max"]


class Daily(_Model):
    """Orders by entity and day: what the SQL reads where it must not read the whole history."""

    # Days further than this before an as-of may stand merged into one row per entity.
    lookback_days: Annotated[int, Field(ge=1)]
    columns: Annotated[dict[Identifier, DailyColumn], Field(min_length=1)]


class Feature(_Model):
    """One column of `features.sql`, and all that follows from it."""

    dtype: FeatureDtype
    description: str
    unit: str = ""
    nullable: bool = False
    range: Bounds = (None, None)
    # How the score may move when the feature grows; the model is constrained to it.
    monotone: Literal["increasing", "decreasing", "none"] = "none"
    # Whether a shift of its distribution counts as drift. Clocks (tenure) move by themselves.
    drift: bool = True

    @field_validator("range")
    @classmethod
    def _ascending(cls, bounds: Bounds) -> Bounds:
        return _ordered(bounds)


class Features(_Model):
    """The one feature view of the use case."""

    columns: Annotated[dict[Identifier, Feature], Field(min_length=1)]
    # How many days an as-of value stays usable in a point-in-time join.
    ttl_days: Annotated[int, Field(ge=1)] = 1
    # The feature that ranks customers on its own: the first baseline.
    recency: Identifier


class Label(_Model):
    """What is predicted: `labels.sql` gives one row per entity and as-of with column `label`."""

    name: Identifier
    description: str
    horizon_days: Annotated[int, Field(ge=1)]


# --- training, gate, scoring, monitoring ---------------------------------------------------------


class Booster(_Model):
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


class Training(_Model):
    """Time-ordered split: fit | embargo | validation | embargo | holdout, by as-of."""

    # Spacing and greatest number of as-of cut-offs whose labels are stacked for one fit. Dense
    # enough to make the most of one year, many enough to see nearly all seasons of a longer past.
    cutoff_every_days: Annotated[int, Field(ge=1)] = 14
    max_cutoffs: Annotated[int, Field(ge=1)] = 24
    # Days of orders that must lie before the first cut-off.
    min_history_days: Annotated[int, Field(ge=1)] = 60
    seed: Annotated[int, Field(ge=0)] = 13
    booster: Booster = Booster()


class Gate(_Model):
    """What a challenger must show on the holdout."""

    min_auc: Ratio = 0.6
    max_logloss: Annotated[float, Field(gt=0)] = 0.69
    # Scoring latency, per 1,000 rows, median of several repetitions.
    max_latency_ms_per_1k: Annotated[float, Field(gt=0)] = 250.0
    # The challenger must exceed each baseline's AUC by more than this.
    min_baseline_margin: Annotated[float, Field(ge=0)] = 0.0
    # and may lie at most this far below the champion's AUC on the same holdout.
    max_champion_deficit: Annotated[float, Field(ge=0)] = 0.0
    min_holdout_rows: Annotated[int, Field(ge=1)] = 200
    # The rarer class must have at least this many holdout rows, or AUC says little.
    min_holdout_minority: Annotated[int, Field(ge=1)] = 30


class Scoring(_Model):
    """How scores are presented."""

    # Lower score bounds, highest first; the last must be 0.
    bands: Annotated[dict[Identifier, Ratio], Field(min_length=1)] = {
        "high": 0.7,
        "medium": 0.4,
        "low": 0.0,
    }
    reasons: Annotated[int, Field(ge=0, le=10)] = 3

    @field_validator("bands")
    @classmethod
    def _descending(cls, bands: dict[str, float]) -> dict[str, float]:
        bounds = list(bands.values())
        if bounds != sorted(set(bounds), reverse=True) or bounds[-1] != 0.0:
            raise ValueError(f"bounds must descend to 0.0, found {bounds}")
        return bands


class Monitoring(_Model):
    """What the nightly monitor and its governor demand."""

    # KS: significant at `alpha` after Benjamini-Hochberg *and* D at least `min_ks`.
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    min_ks: Ratio = 0.1
    # PSI bands; reaching the upper one counts as drift by itself.
    psi_bands: tuple[float, float] = (0.1, 0.25)
    # A night is a drift night when this many features drift (or the score does).
    min_drifted: Annotated[int, Field(ge=1)] = 1
    # Drift must show on `persistence[0]` of the last `persistence[1]` nights.
    persistence: tuple[int, int] = (2, 3)
    # Realised AUC may fall at most this far below the champion's holdout AUC.
    max_auc_drop: Ratio = 0.05
    # Retrain by schedule when the champion is older than this; None never does.
    max_model_age_days: Annotated[int, Field(ge=1)] | None = 90
    cooldown_days: Annotated[int, Field(ge=0)] = 7
    weekly_budget: Annotated[int, Field(ge=1)] = 1
    # A training that was asked for or started this many days ago is no longer waited for.
    request_expires_days: Annotated[int, Field(ge=1)] = 7
    # The newest feature and prediction partitions may lie at most this far behind.
    max_staleness_days: Annotated[int, Field(ge=0)] = 1

    @field_validator("persistence")
    @classmethod
    def _m_of_n(cls, persistence: tuple[int, int]) -> tuple[int, int]:
        m, n = persistence
        if not 1 <= m <= n:
            raise ValueError(f"expected [m, n] with 1 <= m <= n, found {list(persistence)}")
        return persistence


class UseCase(_Model):
    """One use case: everything the DAGs, tables, models and monitors of it are derived from."""

    name: Identifier
    title: str
    description: str = ""
    owner: str = "evergreen"
    # The first day there is any data for; rows dated before it are quarantined.
    first_day: Day
    # The last day there will ever be data for, where the source is closed (an archive, a
    # simulation); the schedule ends with it.
    last_day: Day | None = None
    entity: Entity
    source: Source
    orders: Orders
    # With it the SQL reads `daily`; without it, `orders`.
    daily: Daily | None = None
    features: Features
    label: Label
    training: Training = Training()
    gate: Gate = Gate()
    scoring: Scoring = Scoring()
    monitoring: Monitoring = Monitoring()
    # Human approval between gate and promotion.
    approval: bool = False

    _folder: Path = PrivateAttr()

    @model_validator(mode="after")
    def _references(self) -> Self:
        problems = []
        if self.entity.key not in self.orders.published:
            problems.append(
                f"entity.key: found {self.entity.key!r}, expected a published column of orders "
                f"({_some(self.orders.published)})"
            )
        elif (dtype := self.orders.published[self.entity.key].dtype) not in KEY_DTYPES:
            problems.append(
                f"orders.columns.{self.entity.key}.dtype: found {dtype!r}, expected one of "
                f"{KEY_DTYPES} of the column that entity.key names"
            )
        if self.features.recency not in self.features.columns:
            problems.append(
                f"features.recency: found {self.features.recency!r}, expected one of "
                f"features.columns ({_some(self.features.columns)})"
            )
        if self.last_day is not None and self.last_day < self.first_day:
            problems.append(
                f"last_day: found {self.last_day}, expected first_day ({self.first_day}) or later"
            )
        key = self.entity.key
        reserved: dict[str, tuple[set[str], Collection[str]]] = {
            "orders.columns": ({"day", "row_id", "source", "rowid"}, self.orders.columns),
            "orders.rollup.columns": (
                {"day", "row_id", "source", "rowid"},
                self.orders.rollup.columns if self.orders.rollup else (),
            ),
            "features.columns": (
                {key, "as_of", "created_at", "day", "label", "score"},
                self.features.columns,
            ),
            "daily.columns": ({key, "day", "last_day"}, self.daily.columns if self.daily else ()),
        }
        problems += [
            f"{where}.{name}: this name is reserved; rename the column"
            for where, (names, columns) in reserved.items()
            for name in sorted(names & {*columns})
        ]
        _raise_if(problems)
        return self

    @property
    def folder(self) -> Path:
        """The folder the use case was loaded from."""
        return self._folder

    @cached_property
    def features_sql(self) -> str:
        """Text of `features.sql`."""
        return _read_sql(self._folder / "features.sql")

    @cached_property
    def labels_sql(self) -> str:
        """Text of `labels.sql`."""
        return _read_sql(self._folder / "labels.sql")

    def contract_digest(self, table: str) -> str:
        """Digest of all that is declared about the content of a table.

        Words for people (titles, descriptions) and what is demanded of the content (ranges, batch
        rules, thresholds) are no part of it. Empty for tables whose content follows from other
        tables alone.
        """
        orders = {
            "source": self.source.model_dump(mode="json"),
            "orders": self.orders.model_dump(mode="json", exclude={"batch"}),
        }
        # How far back days stay single is proved to make no difference.
        daily = self.daily.model_dump(mode="json")["columns"] if self.daily else None
        declared: Any = {
            "orders": orders,
            "quarantine": orders,
            "totals": {
                "key": self.entity.key,
                "time": self.orders.time,
                "types": {name: c.dtype for name, c in self.orders.published.items()},
                "columns": daily,
            },
            "features": {
                "orders": orders,
                "daily": daily,
                "key": self.entity.key,
                "columns": {name: f.dtype for name, f in self.features.columns.items()},
                "sql": self.features_sql,
            },
            "labels": {
                "orders": orders,
                "daily": daily,
                "key": self.entity.key,
                "horizon_days": self.label.horizon_days,
                "sql": self.labels_sql,
            },
            "predictions": {"scoring": self.scoring.model_dump(mode="json")},
        }.get(table)
        if declared is None:
            return ""
        text = json.dumps(_without_words(declared), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def feature_names(self) -> list[str]:
        """Model inputs, in the declared order; the order is part of the model."""
        return list(self.features.columns)


def as_of(day: date) -> datetime:
    """Return the instant up to which features of `day` may know: the end of that day, UTC.

    >>> as_of(date(2026, 3, 1))
    datetime.datetime(2026, 3, 2, 0, 0, tzinfo=datetime.timezone.utc)
    """
    return datetime.combine(day + timedelta(days=1), time(), UTC)


def parse_day(text: str, use_case: str | None = None) -> date:
    """Parse a partition key, which is one day.

    Parameters
    ----------
    use_case
        Whose run it is; for the message.

    Raises
    ------
    ConfigError
        The text is not `YYYY-MM-DD` in ASCII, it is a range, or there is no text.

    >>> parse_day("2026-03-01")
    datetime.date(2026, 3, 1)
    """
    if text in ("", "None"):
        raise ConfigError(
            "The run has no day. Start it with a partition key (a UTC day, YYYY-MM-DD): with "
            "`evergreen trigger <dag> --day`, or in the form's field for the partition key."
        )
    if ".." in text:
        raise ConfigError(
            f"The day is {text!r}, a range; runs of this DAG work for one UTC day each. Give one "
            f"day (YYYY-MM-DD), or load the range with {use_case or '<use case>'}_history, the DAG "
            "that takes ranges (fields `from` and `to`)."
        )
    try:
        day = date.fromisoformat(text)
    except (TypeError, ValueError):
        day = None
    if day is None or day.isoformat() != text or not 1900 <= day.year < 3000:
        # Beyond those years, windows and horizons would leave the calendar.
        raise ConfigError(
            f"The day is {text!r}; expected a UTC day written YYYY-MM-DD in ASCII digits, of the "
            "years 1900 to 2999."
        )
    return day


def list_use_cases() -> list[str]:
    """Names of the use cases that exist, sorted."""
    folder = load_settings().use_cases
    return sorted(path.parent.name for path in folder.glob("*/use_case.yaml"))


def load_use_cases() -> list[UseCase]:
    """Load every use case that can be loaded, sorted by name; a broken one disturbs no other.

    See `broken_use_cases` for the rest.
    """
    return [found for found in _load_all().values() if isinstance(found, UseCase)]


def broken_use_cases() -> dict[str, ConfigError]:
    """Say of every use case that cannot be loaded why not, by name."""
    return {name: found for name, found in _load_all().items() if isinstance(found, ConfigError)}


def require_whole_use_cases() -> None:
    """Raise for the use cases that cannot be loaded.

    Raises
    ------
    ConfigError
        Folders are broken; the message names each with file and key.
    """
    if broken := broken_use_cases():
        raise ConfigError(
            f"Left out until mended: {', '.join(broken)}. All other use cases run on.\n"
            + "\n".join(str(error) for error in broken.values())
        )


def load_use_case(name: str) -> UseCase:
    """Load and validate one use case.

    Raises
    ------
    ConfigError
        It does not exist, is not YAML, or breaks the model; the message names file, key, what
        was found and what was expected.
    """
    root = load_settings().use_cases
    path = root / name / "use_case.yaml"
    if not path.is_file():
        raise ConfigError(
            f"There is no use case {name!r}: {path} does not exist. "
            f"Known use cases: {', '.join(list_use_cases()) or 'none'}."
        )
    return load_use_case_file(path)


def load_use_case_file(path: Path) -> UseCase:
    """Load one `use_case.yaml` from anywhere; the folder's name must be the use case's name."""
    try:
        declared: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Also dates that do not exist (2026-02-30): YAML has a type for dates.
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(declared, dict):
        raise ConfigError(f"{path} holds {type(declared).__name__}; expected a mapping of keys.")
    try:
        use_case = UseCase.model_validate(declared)
    except PydanticError as error:
        raise ConfigError(_explain(path, error)) from error
    if use_case.name != path.parent.name:
        raise ConfigError(
            f"{path}: name: found {use_case.name!r}, expected {path.parent.name!r}, "
            "the name of the folder."
        )
    use_case._folder = path.parent
    for sql in ("features.sql", "labels.sql"):
        _read_sql(path.parent / sql)
    return use_case


def expand_variables(text: str) -> str:
    """Replace `${NAME}` by the environment's value.

    Raises
    ------
    ConfigError
        A variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise ConfigError(f"{text!r} needs the environment variable {name}, which is not set.")
        return os.environ[name]

    return re.sub(r"\$\{([A-Z][A-Z0-9_]*)\}", value, text)


def _load_all() -> dict[str, UseCase | ConfigError]:
    found: dict[str, UseCase | ConfigError] = {}
    for name in list_use_cases():
        try:
            found[name] = load_use_case(name)
        except ConfigError as error:
            found[name] = error
    return found


def _without_words(declared: Any) -> Any:
    if isinstance(declared, dict):
        return {
            key: _without_words(value)
            for key, value in declared.items()
            # A column may be called `description`, too; then the value is no text.
            if not (key in ("title", "description", "because") and isinstance(value, str))
        }
    return [_without_words(item) for item in declared] if isinstance(declared, list) else declared


def _read_sql(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; every use case needs it beside use_case.yaml.")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not text:
        raise ConfigError(f"{path} is empty; expected one SELECT.")
    return text


def _explain(path: Path, error: PydanticError) -> str:
    """Say all that is wrong, a line each: key, what was found, what was expected."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        kind, found, said = item["type"], item["input"], item["msg"]
        steps = [str(step) for step in item["loc"]]
        if steps[:1] == ["source"]:
            # The kind of source is a step of its own there, and no key of the file.
            del steps[1:2]
        where = ".".join(steps) or "(top level)"
        if kind == "extra_forbidden":
            lines.append(f"{where}: unknown key (found {_short(found)}); remove or rename it")
        elif kind == "missing":
            lines.append(f"{where}: missing; this key is required")
        elif kind.startswith("union_tag"):
            choice = item["ctx"]["discriminator"].strip("'")
            tag = f"found {found[choice]!r}" if choice in found else "missing"
            expected = item["ctx"].get("expected_tags", "'files', 'sql' or 'generator'")
            lines.append(f"{where}.{choice}: {tag}; expected one of {expected}")
        elif kind == "value_error" and isinstance(found, dict) and _PROBLEM.match(said):
            # Contradictions between keys, each told with its key; the whole section is no help.
            above = [*steps, ""]
            lines += [".".join(above) + problem for problem in said.splitlines()[1:]]
        else:
            said = said.removeprefix("Value error, ").replace("Input should be", "expected")
            lines.append(f"{where}: found {_short(found)}; {said}")
    return (
        f"{path} is not a valid use case:\n"
        + "\n".join(f"  - {line}" for line in lines)
        + "\nEvery key is explained in docs/use_case.md; `evergreen check` looks again."
    )


_PROBLEM = re.compile("Value error, contradictions:\n")


def _raise_if(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError("\n".join(["contradictions:", *problems]))


def _some(names: Collection[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:12]) + (f", … {len(listed)} in all" if len(listed) > 12 else "")


def _short(value: Any) -> str:
    """Quote a value; of a long one, its beginning."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
