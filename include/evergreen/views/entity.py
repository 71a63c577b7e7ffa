"""One entity: how it was scored and why, what came of it, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.exc import SQLAlchemyError

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.contract.masking import mask_row
from evergreen.errors import ConfigError, EvergreenError, NotReadyError
from evergreen.features.compute.comparison import same_values
from evergreen.features.compute.run import feature_schema
from evergreen.features.store import read_online
from evergreen.lake.iceberg import with_missing_columns
from evergreen.views import days as partitions
from evergreen.views.remembered import remembered

# Days that are looked at unless others are asked for.
_DAYS = 60
_EVENTS = 50
_SUGGESTED = 20
_OURS = {"row_id", "source", "day"}

Named = Mapping[str, str | int]
"""The entity, as a condition on rows."""


@dataclass(frozen=True)
class Scored:
    """A score, its rank among `of` entities, and the label once it is known."""

    day: date
    score: float
    lower: float | None
    upper: float | None
    rank: int
    of: int
    band: str
    reasons: list[str]
    version: int
    label: bool | float | None
    known_on: date | None


@dataclass(frozen=True)
class FeatureValue:
    """A feature as it was computed, and as the online store serves it."""

    feature: str
    value: Any
    online: Any
    same: bool
    unit: str
    description: str


@dataclass(frozen=True)
class Happened:
    """A row of a delivered table; what is personal is masked."""

    table: str
    day: date
    values: dict[str, Any]


@dataclass(frozen=True)
class Entity:
    """What the days from `first_day` to `last_day` say of one entity, newest first."""

    use_case: str
    entity: str
    key: str
    first_day: date
    last_day: date
    scores: list[Scored]
    features_day: date | None
    online_as_of: datetime | None
    features: list[FeatureValue]
    events: list[Happened]
    problems: list[str]


@remembered
def suggest(use_case: UseCase, like: str = "") -> list[str]:
    """Return keys of the newest scored day that begin like that, the highest scores first."""
    scored = partitions.published(use_case)["predictions"]
    if not scored:
        return []
    newest, key = max(scored), use_case.entity.key
    rows = lake.read(
        use_case.name, "predictions", newest, newest + timedelta(days=1), (key, "rank")
    )
    texts = pc.cast(rows[key], "string")
    found = rows.filter(pc.starts_with(texts, like)).sort_by("rank").slice(0, _SUGGESTED)
    return [str(value) for value in found[key].to_pylist()]


def entity(use_case: UseCase, key: str, last: date | None = None) -> Entity:
    """Return what is known of an entity up to a day; by default the newest sixty days.

    Raises
    ------
    ConfigError
        The key is none of this use case's kind.
    NotReadyError
        Nothing is known of it.
    """
    published = partitions.published(use_case)
    last = last or partitions.newest_day(published) or use_case.first_day
    recorded, computed = _recorded(use_case, key, last)
    is_known = bool(recorded.scores or recorded.events or computed)
    # What is served has no past and no snapshot, so it is asked for each time.
    try:
        served = read_online(use_case, [read_key(use_case, key)])
    except (EvergreenError, psycopg.Error, SQLAlchemyError) as error:
        served, problems = None, [f"The online store cannot be read: {error}"]
    else:
        problems = []
    as_of = served["as_of"][0].as_py() if served else None
    if not (is_known or as_of):
        raise NotReadyError(
            f"Nothing is known of {use_case.entity.key} {key!r} from {recorded.first_day} to "
            f"{last}: it was neither scored nor in any delivered table. Look at another stretch of "
            "days, or check the key."
        )
    if not served:
        return replace(recorded, problems=problems)
    return replace(
        recorded,
        online_as_of=as_of,
        features=[
            replace(
                feature,
                online=served[feature.feature][0].as_py(),
                same=not (as_of and computed)
                or bool(same_values(computed[feature.feature], served[feature.feature])[0]),
            )
            for feature in recorded.features
        ],
    )


@remembered
def _recorded(use_case: UseCase, key: str, last: date) -> tuple[Entity, pa.Table | None]:
    """Return what the lake knows, and the row of features, if there is one."""
    named = {use_case.entity.key: read_key(use_case, key)}
    first = last - timedelta(days=_DAYS - 1)
    computed = [d for d in partitions.published(use_case)["features"] if d <= last]
    row = _features(use_case, computed[-1], named) if computed else None
    found = Entity(
        *(use_case.name, use_case.entity.key, key, first, last),
        scores=_scores(use_case, first, last, named),
        features_day=computed[-1] if row else None,
        online_as_of=None,
        features=[
            FeatureValue(
                name,
                row[name][0].as_py() if row else None,
                None,
                same=True,
                unit=feature.unit,
                description=feature.description,
            )
            for name, feature in use_case.features.columns.items()
        ],
        events=_events(use_case, first, last, named),
        problems=[],
    )
    return found, row


def _features(use_case: UseCase, day: date, named: Named) -> pa.Table | None:
    owner, end = use_case.owner_of("features"), day + timedelta(days=1)
    rows = lake.read(owner, "features", day, end, equal=named)
    wanted = with_missing_columns(rows, feature_schema(use_case))
    return wanted if rows.num_rows else None


def read_key(use_case: UseCase, key: str) -> str | int:
    """Return an entity's key as the tables have it.

    Raises
    ------
    ConfigError
        It is none.
    """
    if use_case.key_dtype == "string":
        return key
    try:
        return int(key)
    except ValueError:
        raise ConfigError(
            f"{use_case.entity.key} is {key!r}; expected a number, as {use_case.name} declares it."
        ) from None


def _scores(use_case: UseCase, first: date, last: date, named: Named) -> list[Scored]:
    counts = partitions.published(use_case)["predictions"]
    labels = {
        row["day"]: row for row in lake.rows(use_case.name, "labels", first, last, equal=named)
    }
    return [
        Scored(
            row["day"],
            row["score"],
            row.get("lower"),
            row.get("upper"),
            row["rank"],
            partitions.rows_of(counts[row["day"]]) if row["day"] in counts else row["rank"],
            row["band"],
            row["reasons"] or [],
            row["model_version"],
            label["label"] if (label := labels.get(row["day"])) else None,
            use_case.day_of(label["known_at"]) if label else None,
        )
        for row in reversed(lake.rows(use_case.name, "predictions", first, last, equal=named))
    ]


def _events(use_case: UseCase, first: date, last: date, named: Named) -> list[Happened]:
    found = []
    for table in use_case.tables.values():
        if table.entity_key is None:
            continue
        for row in lake.rows(use_case.owner_of(table.name), table.name, first, last, equal=named):
            values = {name: value for name, value in row.items() if name not in _OURS}
            found.append(Happened(table.name, row["day"], mask_row(table, values)))
    return sorted(found, key=lambda one: (one.day, one.table), reverse=True)[:_EVENTS]
