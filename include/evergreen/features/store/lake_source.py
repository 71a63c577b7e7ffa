"""What a Feast feature view points at: a table of the lake, by name and nothing more.

Feast's own `IcebergSource` would put the catalog's URL, password included, into the registry and
reads the whole table. Where the lake is, is a setting; the registry only knows the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from evergreen import lake
from evergreen.errors import NotReadyError

_VALUE_TYPES = {
    "string": ValueType.STRING,
    "int64": ValueType.INT64,
    "double": ValueType.DOUBLE,
    "bool": ValueType.BOOL,
    "timestamp[us, tz=UTC]": ValueType.UNIX_TIMESTAMP,
}


class LakeSource(DataSource):
    """One table of the lake.

    Parameters
    ----------
    namespace, table
        The Iceberg table `<namespace>.<table>`; also the name of the source.
    zone
        Whose midnights are its timestamps.
    timestamp_field, created_timestamp_column
        Columns of type timestamp[us, UTC].
    description, owner, tags
        For Feast's listings.
    """

    def __init__(
        self,
        *,
        namespace: str,
        table: str,
        zone: str,
        timestamp_field: str,
        created_timestamp_column: str,
        description: str = "",
        owner: str = "",
        tags: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            name=f"{namespace}.{table}",
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            description=description,
            owner=owner,
            tags=tags,
        )
        self.namespace = namespace
        self.table = table
        self.zone = zone

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LakeSource) and bool(super().__eq__(other))

    def __hash__(self) -> int:
        return int(super().__hash__())

    def source_type(self) -> Any:
        """Tell Feast that the class name below says how to read the message."""
        return DataSourceProto.CUSTOM_SOURCE

    @staticmethod
    def from_proto(data_source: Any) -> LakeSource:
        """Rebuild the source from the registry."""
        options = json.loads(data_source.custom_options.configuration)
        return LakeSource(
            namespace=options["namespace"],
            table=options["table"],
            zone=options.get("zone", "UTC"),
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            description=data_source.description,
            owner=data_source.owner,
            tags=dict(data_source.tags),
        )

    def _to_proto_impl(self) -> Any:
        options = {"namespace": self.namespace, "table": self.table, "zone": self.zone}
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=f"{type(self).__module__}.{type(self).__name__}",
            custom_options=DataSourceProto.CustomSourceOptions(
                configuration=json.dumps(options).encode()
            ),
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            description=self.description,
            owner=self.owner,
            tags=self.tags,
        )

    def validate(self, config: RepoConfig) -> None:
        """Accept a table that does not exist yet: definitions are applied before the first run."""

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """Columns of the table as the lake holds them.

        Raises
        ------
        NotReadyError
            Nothing has been published yet.
        """
        schema = lake.scan(self.namespace, self.table).schema
        if schema is None:
            raise NotReadyError(f"The table {self.name} does not exist yet. Publish a day first.")
        return [(field.name, str(field.type)) for field in schema]

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        """Map Arrow's type names to Feast's types."""
        return lambda name: _VALUE_TYPES.get(name, ValueType.UNKNOWN)

    def get_table_query_string(self) -> str:
        """Name the table in messages."""
        return str(self.name)
