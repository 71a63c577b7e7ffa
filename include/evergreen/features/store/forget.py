"""Take an entity out of the online store."""

from __future__ import annotations

from feast.errors import FeastObjectNotFoundException

from evergreen.contract import UseCase
from evergreen.features.store import pushed
from evergreen.features.store.definitions import view_name
from evergreen.features.store.online_store import ForwardPostgresOnlineStore
from evergreen.features.store.opening import open_store
from evergreen.settings import load_settings


def forget_online(use_case: UseCase, key: str | int) -> int:
    """Remove all online values of an entity, and what was pushed; return how many there were.

    Waits for materializations that are at work; later ones read tables that have it no more.
    """
    removed = pushed.forget(use_case, key)
    with open_store(load_settings()) as store:
        try:
            view = store.get_feature_view(view_name(use_case))
        except FeastObjectNotFoundException:
            # Never applied, so nothing is served.
            return removed
        online = ForwardPostgresOnlineStore()
        with online.alone(store.config, view):
            return removed + online.forget(store.config, view, key)


def is_online(use_case: UseCase, key: str | int) -> bool:
    """Whether the online store has any value of an entity, or anything that was pushed."""
    if pushed.has(use_case, key):
        return True
    with open_store(load_settings()) as store:
        try:
            view = store.get_feature_view(view_name(use_case))
        except FeastObjectNotFoundException:
            return False
        online = ForwardPostgresOnlineStore()
        try:
            return online.has(store.config, view, key)
        finally:
            online.close()
