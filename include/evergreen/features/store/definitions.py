"""Feast objects of a use case, derived from its contract."""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Bool, FeastType, Float64, Int64, String

from evergreen.contract import Dtype, UseCase
from evergreen.features.store.lake_source import LakeSource

_FIELD_TYPES: dict[Dtype, FeastType] = {
    "string": String,
    "int64": Int64,
    "float64": Float64,
    "bool": Bool,
}
_KEY_TYPES: dict[Dtype, ValueType] = {"string": ValueType.STRING, "int64": ValueType.INT64}


def view_name(use_case: UseCase) -> str:
    """Name of the use case's feature view."""
    return f"{use_case.name}_features"


def service_name(use_case: UseCase) -> str:
    """Name of the use case's feature service: what models are trained on and scored with."""
    return use_case.name


def definitions(use_case: UseCase) -> tuple[Entity, FeatureView, FeatureService]:
    """Build entity, feature view and feature service.

    Notes
    -----
    Names carry the use case, because all use cases share one Feast project.
    """
    key = use_case.entity.key
    key_dtype = use_case.orders.published[key].dtype
    tags = {"use_case": use_case.name}
    entity = Entity(
        name=f"{use_case.name}_{use_case.entity.name}",
        join_keys=[key],
        value_type=_KEY_TYPES[key_dtype],
        description=use_case.entity.description,
        owner=use_case.owner,
        tags=tags,
    )
    fields = [
        Field(
            name=name,
            dtype=_FIELD_TYPES[feature.dtype],
            description=feature.description,
            tags={"unit": feature.unit} if feature.unit else {},
        )
        for name, feature in use_case.features.columns.items()
    ]
    view = FeatureView(
        name=view_name(use_case),
        entities=[entity],
        schema=[Field(name=key, dtype=_FIELD_TYPES[key_dtype]), *fields],
        ttl=timedelta(days=use_case.features.ttl_days),
        source=LakeSource(
            namespace=use_case.name,
            table="features",
            timestamp_field="as_of",
            created_timestamp_column="created_at",
            description=f"Features of {use_case.title}, one partition per day.",
            owner=use_case.owner,
            tags=tags,
        ),
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
