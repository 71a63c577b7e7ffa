"""Views are worked out once for each state of what they read."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition
from typing import Any, Concatenate, ParamSpec, TypeVar

from cachetools import LRUCache, cached
from cachetools.keys import hashkey

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.provenance import receipts
from evergreen.release import ledger

P = ParamSpec("P")
T = TypeVar("T")
View = Callable[Concatenate[UseCase, P], T]

# What one view keeps: some stretches of time of some use cases.
_KEPT = 64


def remembered(*tables: str) -> Callable[[View[P, T]], View[P, T]]:
    """Remember what a view says until something that it reads has changed.

    Parameters
    ----------
    tables
        Tables of the lake that it reads; a new snapshot of one is a change. Receipts, releases and
        the declaration count for every view.

    Notes
    -----
    Asking costs three queries by key. Of several who ask for the same at once, one works.
    """

    def key(use_case: UseCase, *args: Any, **kwargs: Any) -> Any:
        return hashkey(_state(use_case, tables), *args, **kwargs)

    def decorate(view: View[P, T]) -> View[P, T]:
        memory: LRUCache[Any, T] = LRUCache(_KEPT)
        return cached(memory, key, condition=Condition())(view)

    return decorate


def _state(use_case: UseCase, tables: tuple[str, ...]) -> tuple[Any, ...]:
    owners = {use_case.owner_of(table) for table in tables}
    heads = {owner: lake.heads(owner) for owner in owners}
    return (
        *(use_case.model_dump_json(), use_case.features_sql, use_case.labels_sql),
        *(heads[use_case.owner_of(table)].get(table) for table in tables),
        receipts.newest_sequence(use_case.name, use_case.base or use_case.name),
        ledger.newest_sequence(ledger.engine(), use_case.name),
    )
