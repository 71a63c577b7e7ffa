"""Online values, read through Feast.

`as_of` tells how old a value is; scores are computed from the lake's day and never from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

import pyarrow as pa

from evergreen.contract import UseCase
from evergreen.features.compute.run import feature_schema
from evergreen.features.store.definitions import service_name
from evergreen.features.store.online_store import ForwardPostgresOnlineStore
from evergreen.features.store.opening import applied_view, open_store
from evergreen.settings import load_settings


class OnlineReader:
    """Reads online values through one open store: for services, and for whoever reads in a loop.

    Opening costs a second, a read a few milliseconds. Use it as a context manager. A reader
    belongs to one thread; connections that the server has closed are opened again.

    Parameters
    ----------
    use_case
        Applied before with `apply`.

    Raises
    ------
    NotReadyError
        The use case was not applied.
    """

    def __init__(self, use_case: UseCase) -> None:
        self._key = use_case.entity.key
        self._names = use_case.feature_names
        schema = feature_schema(use_case)
        self._schema = pa.schema([schema.field(n) for n in (self._key, "as_of", *self._names)])
        with ExitStack() as stack:
            self._store = stack.enter_context(open_store(load_settings()))
            self._view = applied_view(self._store, use_case)
            self._service = self._store.get_feature_service(service_name(use_case))
            self._stack = stack.pop_all()

    def __enter__(self) -> OnlineReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._stack.close()

    def keys(self) -> Iterator[pa.Array]:
        """Yield the keys of all entities that have values, in pieces and in no order."""
        online = ForwardPostgresOnlineStore()
        try:
            for keys in online.keys(self._store.config, self._view):
                yield pa.array(keys, self._schema.field(self._key).type)
        finally:
            online.close()

    def read(self, keys: Sequence[str | int]) -> pa.Table:
        """Read the newest features of some entities; see `read_online`."""
        if not keys:
            return self._schema.empty_table()
        answer = self._store.get_online_features(
            features=self._service, entity_rows=[{self._key: value} for value in keys]
        ).to_dict(include_event_timestamps=True)
        # Feast reports the epoch for what it did not find.
        seconds = answer[f"{self._names[0]}__ts"]
        instants = [datetime.fromtimestamp(value, UTC) if value else None for value in seconds]
        features = {name: answer[name] for name in self._names}
        return pa.table({self._key: list(keys), "as_of": instants, **features}, self._schema)


def read_online(use_case: UseCase, keys: Sequence[str | int]) -> pa.Table:
    """Read the newest features of some entities from the online store.

    Opens the store for this one call; whoever reads again holds an `OnlineReader`.

    Parameters
    ----------
    keys
        Values of the entity key; may repeat.

    Returns
    -------
    pa.Table
        One row per key, in order: entity key, `as_of` (timestamp[us, UTC], whole seconds), and
        the features; all null for a key that was never materialized.

    Raises
    ------
    NotReadyError
        The use case was not applied.
    """
    with OnlineReader(use_case) as reader:
        return reader.read(keys)
