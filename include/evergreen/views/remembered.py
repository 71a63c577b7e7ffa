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


def remembered(view: View[P, T]) -> View[P, T]:
    """Remember what a view says until something that it may have read has changed.

    That is any table of the lake, receipt or release of its use case or of the one that it builds
    on, and the declaration.

    Notes
    -----
    Asking costs a query by key for each of these. Of several who ask for the same at once, one
    works.
    """
    memory: LRUCache[Any, T] = LRUCache(_KEPT)
    return cached(memory, _key, condition=Condition())(view)


def _key(use_case: UseCase, *args: Any, **kwargs: Any) -> Any:
    return hashkey(_state(use_case), *args, **kwargs)


def _state(use_case: UseCase) -> tuple[Any, ...]:
    owners = sorted({use_case.name, use_case.base or use_case.name})
    # Numbers alone are not enough: a database that was restored counts on from an earlier one.
    return (
        *(use_case.model_dump_json(), use_case.features_sql, use_case.labels_sql),
        *(frozenset(lake.heads(owner).items()) for owner in owners),
        receipts.newest_sequence(*owners),
        ledger.newest_hash(ledger.engine(), use_case.name),
    )
