"""Feast objects of a use case, derived from its contract."""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, PushSource, ValueType, types

from evergreen.contract import NAMES, UseCase
from evergreen.contract.dtypes import AnyDtype
from evergreen.features.store.lake_source import LakeSource


def view_name(use_case: UseCase) -> str:
    """Name of the feature view that the use case reads, its own or that of its base."""
    return f"{use_case.owner_of('features')}_features"


def service_name(use_case: UseCase) -> str:
    """Name of the feature service: what models are trained on and scored with."""
    return use_case.owner_of("features")


def push_name(use_case: UseCase) -> str:
    """Name of the push source, of a use case that has one."""
    return f"{use_case.name}_pushed"


def definitions(use_case: UseCase) -> tuple[Entity, FeatureView, FeatureService]:
    """Build entity, feature view and feature service.

    Notes
    -----
    Names carry the use case, because all use cases share one Feast project.
    """
    key = use_case.entity.key
    key_dtype = use_case.key_dtype
    tags = {"use_case": use_case.name}
    entity = Entity(
        name=f"{use_case.name}_{use_case.entity.name}",
        join_keys=[key],
        value_type=ValueType[NAMES[key_dtype].feast.upper()],
        description=use_case.entity.description,
        owner=use_case.owner,
        tags=tags,
    )
    fields = [
        Field(
            name=name,
            dtype=_feast_type(feature.dtype),
            description=feature.description,
            tags={"unit": feature.unit} if feature.unit else {},
        )
        for name, feature in use_case.features.columns.items()
    ]
    source = LakeSource(
        namespace=use_case.name,
        table="features",
        zone=use_case.zone,
        timestamp_field="as_of",
        created_timestamp_column="created_at",
        description=f"Features of {use_case.title}, one partition per day.",
        owner=use_case.owner,
        tags=tags,
    )
    pushed = PushSource(
        name=push_name(use_case),
        batch_source=source,
        description=f"Features of {use_case.title} between two days.",
        owner=use_case.owner,
        tags=tags,
    )
    view = FeatureView(
        name=view_name(use_case),
        entities=[entity],
        schema=[Field(name=key, dtype=_feast_type(key_dtype)), *fields],
        ttl=_ttl(use_case),
        source=pushed if use_case.serving.push else source,
        online=True,
        description=use_case.description.strip(),
        owner=use_case.owner,
        tags=tags,
    )
    service = FeatureService(
        name=service_name(use_case),
        features=[view],
        description=use_case.title,
        owner=use_case.owner,
        tags=tags,
    )
    return entity, view, service


def _feast_type(dtype: AnyDtype) -> types.FeastType:
    named: types.FeastType = getattr(types, NAMES[dtype].feast)
    return named


def _ttl(use_case: UseCase) -> timedelta:
    """Return how long a value is usable: never up to the as-of that many days later.

    A day has 23 hours where clocks go forward.
    """
    hour = timedelta(hours=0 if use_case.zone == "UTC" else 1)
    return timedelta(days=use_case.features.ttl_days) - hour
