"""Shards: parts of the entities that are worked on by themselves, perhaps on other machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.sql.text import literal, quote

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# How much of a shard is computed again to prove that it stands on itself.
_PROVED = 8


@dataclass(frozen=True)
class Shard:
    """The entities whose key's hash leaves `index` when divided by `count`.

    DuckDB's hash: fast, and the same wherever the lock file is, which all shards of a run have to
    show (see `Staged.shard_of`). Nothing that is stored depends on it.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, shards: int, index: int | None) -> Shard:
        """Return one of some shards; None for the whole."""
        return WHOLE if index is None else cls(index, shards)

    @property
    def is_whole(self) -> bool:
        """Whether it has all entities."""
        return self.count == 1

    def where(self, key: str) -> str:
        """Return the condition, in SQL, that a row's entity is one of them."""
        return "true" if self.is_whole else f"hash({quote(key)}) % {self.count} = {self.index}"

    def sample(self) -> Shard:
        """Return an eighth of it, which is a shard itself."""
        return Shard(self.index, self.count * _PROVED)

    def rows_of(self, rows: pa.Table, key: str, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        """Return its rows, in their order."""
        if self.is_whole:
            return rows
        keys = connection.from_arrow(rows.select([key]))
        return rows.filter(keys.project(self.where(key)).to_arrow_table().column(0))


@dataclass(frozen=True)
class Chosen(Shard):
    """Some entities, by their keys."""

    keys: tuple[str | int, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Never, as others may be there."""
        return False

    def where(self, key: str) -> str:
        """Return the condition, in SQL, that a row's entity is one of them."""
        listed = (literal(one) if isinstance(one, str) else str(one) for one in self.keys)
        return f"{quote(key)} IN ({', '.join(listed)})"

    def sample(self) -> Chosen:
        """Return an eighth of them, at least one."""
        return Chosen(keys=self.keys[: max(1, len(self.keys) // _PROVED)])


WHOLE = Shard()
