"""One use case: the whole of what is declared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr, model_validator

from evergreen.contract.base import KEY_DTYPES, Day, Identifier, Model, raise_if, some
from evergreen.contract.features import Daily, Features, Label
from evergreen.contract.policies import Gate, Monitoring, Scoring, Training
from evergreen.contract.sources import Source
from evergreen.contract.tables import Orders
from evergreen.errors import ConfigError


class Entity(Model):
    """Whom we predict for: the Feast entity and the key of every table but `orders`."""

    name: Identifier
    key: Identifier
    description: str = ""


class UseCase(Model):
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
                f"({some(self.orders.published)})"
            )
        elif (dtype := self.orders.published[self.entity.key].dtype) not in KEY_DTYPES:
            problems.append(
                f"orders.columns.{self.entity.key}.dtype: found {dtype!r}, expected one of "
                f"{KEY_DTYPES} of the column that entity.key names"
            )
        if self.features.recency not in self.features.columns:
            problems.append(
                f"features.recency: found {self.features.recency!r}, expected one of "
                f"features.columns ({some(self.features.columns)})"
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
        raise_if(problems)
        return self

    @property
    def folder(self) -> Path:
        """The folder the use case was loaded from."""
        return self._folder

    @cached_property
    def features_sql(self) -> str:
        """Text of `features.sql`."""
        return read_sql(self._folder / "features.sql")

    @cached_property
    def labels_sql(self) -> str:
        """Text of `labels.sql`."""
        return read_sql(self._folder / "labels.sql")

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


def _without_words(declared: Any) -> Any:
    if isinstance(declared, dict):
        return {
            key: _without_words(value)
            for key, value in declared.items()
            # A column may be called `description`, too; then the value is no text.
            if not (key in ("title", "description", "because") and isinstance(value, str))
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
