"""Online values, read by many requests at once.

Feast's own reading takes milliseconds of its caller's time for each request. This reads the same
table and decodes the same messages; `tests/integration/serving` holds one against the other.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
import pyarrow as pa
import sqlalchemy as sa
from feast.protos.feast.types.Value_pb2 import Value
from psycopg import sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from evergreen.contract import UseCase
from evergreen.errors import ServiceDownError
from evergreen.features.compute.result import INSTANT
from evergreen.features.compute.run import feature_schema
from evergreen.features.store.online_rows import encoded_keys
from evergreen.features.store.online_store import table_name
from evergreen.features.store.opening import applied_view, open_store
from evergreen.settings import load_settings
from evergreen.training.frame import AS_OF

MADE_AT = "created_at"
"""Column that tells values of one as-of from each other: they may be corrected, or pushed again."""

# A request that finds nothing free for so long is answered as if the store were down.
_SECONDS = 2.0


class AsyncReader:
    """Reads the newest features of some entities through a pool of connections."""

    def __init__(self, use_case: UseCase, connections: int = 4) -> None:
        self._key, self._names = use_case.entity.key, use_case.feature_names
        schema = feature_schema(use_case)
        fields = [schema.field(n) for n in (self._key, AS_OF, *self._names)]
        self._schema = pa.schema([*fields, pa.field(MADE_AT, INSTANT)])
        url = sa.make_url(load_settings().database_url("feast")).set(drivername="postgresql")
        # Opened by the first request; a server that is down is no reason not to start.
        self._pool = AsyncConnectionPool(
            url.render_as_string(hide_password=False),
            min_size=connections,
            max_size=connections,
            timeout=_SECONDS,
            open=False,
            kwargs={"autocommit": True, "options": f"-c statement_timeout={int(1000 * _SECONDS)}"},
        )
        with open_store(load_settings()) as store:
            view = applied_view(store, use_case)
            name = table_name(store.config, view)
            self._key_version = store.config.entity_key_serialization_version
        self._query = sql.SQL(
            "SELECT entity_key, feature_name, value, event_ts, created_ts FROM {} "
            "WHERE entity_key = ANY(%s)"
        ).format(sql.Identifier(name))

    async def open(self) -> None:
        """Begin to open the connections."""
        await self._pool.open()

    async def close(self) -> None:
        """Close them."""
        await self._pool.close()

    async def read(self, keys: pa.Array) -> pa.Table:
        """Read the newest features of entities that have any, in the order of the keys.

        Parameters
        ----------
        keys
            Of the key's dtype, distinct.

        Returns
        -------
        pa.Table
            As `read_online` gives them, and `MADE_AT`, when they came to say this.

        Raises
        ------
        ServiceDownError
            The online store does not answer in time.
        """
        encoded = encoded_keys(self._key, pa.chunked_array([keys]), self._key_version)
        try:
            async with self._pool.connection() as connection:
                answer = await connection.execute(self._query, [encoded], binary=True)
                rows = await answer.fetchall()
        except (psycopg.Error, PoolTimeout) as error:
            raise ServiceDownError(
                f"The online store does not answer ({type(error).__name__})."
            ) from error
        places = {key: place for place, key in enumerate(encoded)}
        found: dict[int, dict[str, Any]] = {}
        for key, name, content, instant, made_at in rows:
            of = found.setdefault(places[key], {AS_OF: instant, MADE_AT: made_at})
            of[name] = _decoded(content)
        return self._table(keys, found)

    def _table(self, keys: pa.Array, found: dict[int, dict[str, Any]]) -> pa.Table:
        places = sorted(found)
        columns = [
            keys.take(pa.array(places, pa.int64())),
            [_whole(found[place][AS_OF]) for place in places],
            *([found[place].get(name) for place in places] for name in (*self._names, MADE_AT)),
        ]
        typed = zip(columns, self._schema.types, strict=True)
        arrays = [pa.array(values, dtype) for values, dtype in typed]
        return pa.Table.from_arrays(arrays, schema=self._schema)


def _decoded(content: bytes) -> Any:
    message = Value.FromString(content)
    kind = message.WhichOneof("val")
    return getattr(message, kind) if kind else None


def _whole(instant: datetime) -> datetime:
    # As Feast tells it.
    return instant.replace(microsecond=0)
