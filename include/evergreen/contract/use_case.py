"""One use case: the whole of what is declared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr, model_validator

from evergreen.contract import days
from evergreen.contract.base import Day, Identifier, Model, Zone, raise_if, some
from evergreen.contract.dtypes import KEY_DTYPES, Dtype
from evergreen.contract.features import Features
from evergreen.contract.policies import (
    Experiment,
    Gate,
    Monitoring,
    Rollout,
    Scoring,
    Serving,
    Training,
)
from evergreen.contract.tables import (
    AnyTable,
    Attributes,
    Events,
    References,
    Setting,
    TableKind,
    unbound,
)
from evergreen.errors import ConfigError
from evergreen.targets.kinds import Target

# Tables of the lake that are not delivered, and what the SQL sees beside the delivered ones.
# What a use case that builds on another leaves to that one, beside the declared tables.
_SHARED_TABLES = {"features", "quarantine", "refused", "pushed"}
_OWN_TABLES = {
    *("labels", "predictions", "shadows", "decisions", "alerts"),
    *("effects", "drift", "performance", "estimates", "freshness", "staleness", "served", "skew"),
    # Names of assets, of what is recorded in SQL, and of what SQL sees.
    *("all_tables", "retraining", "recomputation", "receipts", "as_of_days"),
}
_DERIVED_TABLE = re.compile(r"_(daily|totals)$")


class Entity(Model):
    """Whom we predict for: the Feast entity, and who events and attributes are about."""

    name: Identifier
    key: Identifier
    description: str = ""


class UseCase(Model):
    """One use case: everything the DAGs, tables, models and monitors of it are derived from.

    One that builds on another (`features: {of: <name>}`) holds the other's tables and features as
    if they were its own; `owner_of` says whose they are.
    """

    name: Identifier
    title: str
    description: str = ""
    owner: str = "evergreen"
    # The first day there is any data for; rows dated before it are quarantined.
    first_day: Day
    # The last day there will ever be data for, where the source is closed (an archive, a
    # simulation); the schedule ends with it.
    last_day: Day | None = None
    # Whose midnights begin the days.
    zone: Zone = "UTC"
    entity: Entity
    # Into how many parts a day's work is split, by the hash of the entity.
    shards: int = Field(default=1, ge=1, le=1024)
    events: dict[Identifier, Events] = Field(min_length=1)
    attributes: dict[Identifier, Attributes] = Field(default={})
    references: dict[Identifier, References] = Field(default={})
    features: Features
    target: Target
    training: Training = Training()
    gate: Gate = Gate()
    rollout: Rollout | None = None
    scoring: Scoring = Scoring()
    serving: Serving = Serving()
    monitoring: Monitoring = Monitoring()
    experiment: Experiment | None = None

    _folder: Path = PrivateAttr()
    _base: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _contradictions(self) -> Self:
        setting = Setting(self.name, self.zone, self.first_day, self.last_day, self.entity.key)
        for name, table in self.tables.items():
            table.bind(name, setting)
        problems = [*self._table_problems(), *self._name_problems(), *self._policy_problems()]
        if self.last_day is not None and self.last_day < self.first_day:
            problems.append(
                f"last_day: found {self.last_day}, expected first_day ({self.first_day}) or later"
            )
        raise_if(problems)
        return self

    def _table_problems(self) -> list[str]:
        key, found, dtypes = self.entity.key, [], {}
        for name, table in self.tables.items():
            where = f"{table.kind}.{name}"
            found += [f"{where}.{problem}" for problem in unbound(table)]
            if table.entity_key is None:
                continue
            if key not in table.published:
                found.append(
                    f"entity.key: found {key!r}, expected a published column of {where} "
                    f"({some(table.published)})"
                )
                continue
            dtypes[where] = table.published[key].dtype
            if dtypes[where] not in KEY_DTYPES:
                found.append(
                    f"{where}.columns.{key}.dtype: found {dtypes[where]!r}, expected one of "
                    f"{KEY_DTYPES} of the column that entity.key names"
                )
        if len(set(dtypes.values())) > 1:
            listed = ", ".join(f"{dtype} in {where}" for where, dtype in dtypes.items())
            found.append(f"entity.key: {key} is {listed}; expected one dtype in all tables")
        return found

    def _name_problems(self) -> list[str]:
        found = []
        sections: dict[TableKind, Mapping[str, AnyTable]] = {
            "events": self.events,
            "attributes": self.attributes,
            "references": self.references,
        }
        taken: set[str] = set()
        for section, tables in sections.items():
            for name in tables:
                if name in _SHARED_TABLES | _OWN_TABLES or _DERIVED_TABLE.search(name):
                    found.append(f"{section}.{name}: this name is reserved; rename the table")
                if name in taken:
                    found.append(f"{section}.{name}: another table has this name; rename one")
                taken.add(name)
        key = self.entity.key
        reserved: dict[str, tuple[set[str], Collection[str]]] = {
            "features.columns": (
                {key, "as_of", "created_at", "day", "label", "score"},
                self.features.columns,
            ),
            **{
                f"events.{name}.daily.columns": ({key}, table.daily.columns)
                for name, table in self.events.items()
                if table.daily
            },
            **{
                f"{section}.{name}.columns": ({"as_of"}, table.columns)
                for section in ("attributes", "references")
                for name, table in getattr(self, section).items()
            },
        }
        return found + [
            f"{where}.{name}: this name is reserved; rename the column"
            for where, (names, columns) in reserved.items()
            for name in sorted(names & {*columns})
        ]

    def _policy_problems(self) -> list[str]:
        features = self.features.columns
        named = {"baselines": self.training.baselines, "slices": self.training.slices}
        found = [
            f"training.{key}: found {name!r}, expected features that are declared "
            f"({some(features)})"
            for key, names in named.items()
            for name in names
            if name not in features
        ]
        for name, bounds in self.training.slices.items():
            if name not in features:
                continue
            has_values = features[name].dtype in ("bool", "category")
            if has_values == bool(bounds) or list(bounds) != sorted(set(bounds)):
                found.append(
                    f"training.slices.{name}: found {list(bounds)}; expected "
                    + ("[], as each value is a slice" if has_values else "ascending bounds")
                )
        known = {f"{bound}_{name}" for bound in ("min", "max") for name in self.target.all_metrics}
        found += [
            f"gate.{name}: unknown key; expected a bound of a metric of the target "
            f"({some(self.target.all_metrics)}), as in min_{self.target.main_metric}"
            for name in sorted(self.gate.limits.keys() - known)
        ]
        found += [
            f"gate.min_holdout_{name}: unknown key; the target counts {some(self.target.enough)}"
            for name in sorted(self.gate.counts.keys() - self.target.enough.keys())
        ]
        lowest = self.target.lowest_score
        if self.scoring.bands and lowest is not None:
            least = list(self.scoring.bands.values())[-1]
            if least != lowest:
                found.append(
                    f"scoring.bands: the lowest begins at {least:g}, expected {lowest:g}, the "
                    "least a score can be"
                )
        found += [
            f"scoring.reasons_for: found {name!r}, expected bands that are declared "
            f"({', '.join(self.bands)})"
            for name in self.scoring.reasons_for or ()
            if name not in self.bands
        ]
        found += self._push_problems()
        if self.experiment:
            found += [
                f"experiment.bands: found {name!r}, expected bands that are declared "
                f"({', '.join(self.bands)})"
                for name in self.experiment.bands or ()
                if name not in self.bands
            ]
            last = self.experiment.ends
            if last is not None and last < self.experiment.starts:
                found.append(
                    f"experiment.ends: found {last}, expected starts ({self.experiment.starts}) or "
                    "later"
                )
        return found

    def _push_problems(self) -> list[str]:
        found = []
        for name in self.serving.push:
            table = self.events.get(name)
            if table is None:
                found.append(
                    f"serving.push: found {name!r}, expected tables that are declared in events "
                    f"({some(self.events)})"
                )
            elif table.rollup is not None:
                found.append(
                    f"serving.push: found {name!r}, which rolls up line items; expected tables "
                    "whose rows are events: nobody could tell when all lines of one are there"
                )
            elif table.row_key is None:
                found.append(
                    f"serving.push: found {name!r}, whose key is none; expected tables with a key: "
                    "an event that is sent again could not be told from a new one"
                )
        return found

    @property
    def folder(self) -> Path:
        """The folder the use case was loaded from."""
        return self._folder

    @property
    def base(self) -> str | None:
        """The use case whose tables and features this one uses; None if it has its own."""
        return self._base

    @property
    def tables(self) -> dict[str, AnyTable]:
        """The tables that are delivered, by name."""
        return {**self.events, **self.attributes, **self.references}

    @property
    def day_asset(self) -> str:
        """Name of the asset that says that a day is there: of its only table, or of all."""
        return "all_tables" if len(self.tables) > 1 else next(iter(self.tables))

    @property
    def key_dtype(self) -> Dtype:
        """Dtype of the entity's key."""
        return next(iter(self.events.values())).published[self.entity.key].dtype

    @property
    def bands(self) -> dict[str, float]:
        """Lower bounds of the score's bands, highest first."""
        return dict(self.scoring.bands or self.target.default_bands)

    @property
    def explained_bands(self) -> list[str]:
        """The bands whose scores get reasons, highest first."""
        bands = list(self.bands)
        wanted = bands[:1] if self.scoring.reasons_for is None else self.scoring.reasons_for
        return [band for band in bands if band in wanted]

    @property
    def treated_bands(self) -> list[str]:
        """The bands that the experiment is about; those that are acted on by default."""
        declared = self.experiment.bands if self.experiment else None
        return [band for band in self.bands if band in (declared or self.explained_bands)]

    @property
    def acted_from(self) -> float:
        """The score from which somebody is acted on: the bound of the lowest band with reasons."""
        return self.bands[(self.explained_bands or list(self.bands)[:1])[-1]]

    @property
    def limits(self) -> dict[str, float]:
        """What the gate demands of metrics: what is declared, else what the target demands."""
        return {**self.target.limits, **self.gate.limits}

    def max_staleness_days(self, table: str) -> int:
        """Return how many days a table of events, features or predictions may lie behind."""
        own = {
            **{name: events.max_staleness_days for name, events in self.events.items()},
            "features": self.features.max_staleness_days,
            "predictions": self.scoring.max_staleness_days,
        }[table]
        return self.monitoring.max_staleness_days if own is None else own

    def as_of(self, day: date) -> datetime:
        """Return the instant up to which features of `day` may know; see `days.as_of`."""
        return days.as_of(day, self.zone)

    def day_of(self, as_of: datetime) -> date:
        """Return the day that an as-of ends."""
        return days.day_of(as_of, self.zone)

    def day_at(self, instant: datetime) -> date:
        """Return the day that an instant lies in."""
        return days.day_at(instant, self.zone)

    def owner_of(self, table: str) -> str:
        """Return the use case in whose namespace a table of the lake, or an asset, lies."""
        return self.name if table in _OWN_TABLES or self.base is None else self.base

    @cached_property
    def features_sql(self) -> str:
        """Text of `features.sql`."""
        return read_sql(self.features_path)

    @cached_property
    def labels_sql(self) -> str:
        """Text of `labels.sql`."""
        return read_sql(self._folder / "labels.sql")

    @property
    def features_path(self) -> Path:
        """Where `features.sql` is."""
        return (self._folder.parent / self.base if self.base else self._folder) / "features.sql"

    def relations(self) -> dict[str, AnyTable]:
        """Return the tables by the name under which SQL sees them."""
        return {
            f"{name}_daily" if isinstance(table, Events) and table.daily else name: table
            for name, table in self.tables.items()
        }

    def read_by(self, sql: str) -> list[AnyTable]:
        """Return the tables that a SQL text names, and perhaps some it only mentions."""
        words = set(re.findall(r"\w+", sql.lower()))
        return [table for relation, table in self.relations().items() if relation in words]

    def contract_digest(self, table: str) -> str:
        """Digest of all that is declared about the content of a table.

        Words for people (titles, descriptions), what they may see, and what is demanded of the
        content (ranges, batch rules, thresholds) are no part of it. Empty for tables whose content
        follows from other tables alone.
        """
        declared = self._declared(table)
        if declared is None:
            return ""
        text = json.dumps(_without_words(declared), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _declared(self, table: str) -> Any:
        if table in self.tables:
            return self._of_rows(self.tables[table])
        if table in ("quarantine", "refused"):
            return [self._of_rows(delivered) for delivered in self.tables.values()]
        if table.endswith("_totals"):
            events = self.events[table.removesuffix("_totals")]
            return {
                "key": self.entity.key,
                "time": events.timestamp,
                "zone": self.zone,
                "types": {name: column.dtype for name, column in events.published.items()},
                "columns": _columns_of_daily(events),
            }
        common = {"key": self.entity.key, "zone": self.zone}
        if table == "features":
            return {
                **common,
                "tables": self._of_sql(self.features_sql),
                "columns": {name: f.dtype for name, f in self.features.columns.items()},
                "sql": self.features_sql,
            }
        if table == "labels":
            return {
                **common,
                "tables": self._of_sql(self.labels_sql),
                "horizon_days": self.target.horizon_days,
                "dtype": self.target.label_dtype,
                "sql": self.labels_sql,
            }
        if table in ("predictions", "shadows"):
            return {
                "bands": self.bands,
                "reasons": self.scoring.reasons,
                "reasons_for": self.explained_bands,
                **self._of_groups(),
            }
        return None

    def _of_groups(self) -> dict[str, Any]:
        # Absent without an experiment, as before there were any.
        if self.experiment is None:
            return {}
        names = {"name", "hold_out", "starts", "ends", "salt"}
        groups = self.experiment.model_dump(mode="json", include=names)
        return {"groups": {**groups, "bands": self.treated_bands}}

    def _of_rows(self, table: AnyTable) -> Any:
        contract = table.model_dump(mode="json", exclude={"batch", "daily", "max_staleness_days"})
        return {"contract": contract, "zone": self.zone, "kind": table.kind}

    def _of_sql(self, sql: str) -> dict[str, Any]:
        # How far back days stay single is proved to make no difference.
        return {
            table.name: {
                **self._of_rows(table),
                "daily": _columns_of_daily(table) if isinstance(table, Events) else None,
            }
            for table in self.read_by(sql)
        }

    @property
    def feature_names(self) -> list[str]:
        """Model inputs, in the declared order; the order is part of the model."""
        return list(self.features.columns)


def _columns_of_daily(events: Events) -> Any:
    return events.daily.model_dump(mode="json")["columns"] if events.daily else None


def _without_words(declared: Any) -> Any:
    if isinstance(declared, dict):
        return {
            key: _without_words(value)
            for key, value in declared.items()
            # A column may be called `description`, too; then the value is no text.
            if not (key in ("title", "description", "because") and isinstance(value, str))
            and not (key == "personal" and isinstance(value, bool))
        }
    return [_without_words(item) for item in declared] if isinstance(declared, list) else declared


def read_sql(path: Path) -> str:
    """Return the text of a SQL file beside `use_case.yaml`.

    Raises
    ------
    ConfigError
        It is missing, empty or no text.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; every use case needs it beside use_case.yaml.")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not text:
        raise ConfigError(f"{path} is empty; expected one SELECT.")
    return text
