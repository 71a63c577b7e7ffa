"""The feature store: definitions, training sets, online values. All access to Feast is here.

Its functions are used as `store.materialize(...)`.
"""

from evergreen.features.store.materialize import Materialized, materialize
from evergreen.features.store.online import OnlineReader, read_online
from evergreen.features.store.opening import PROJECT, apply, environment, repo_config
from evergreen.features.store.push import settle
from evergreen.features.store.training_set import training_set

__all__ = [
    "PROJECT",
    "Materialized",
    "OnlineReader",
    "apply",
    "environment",
    "materialize",
    "read_online",
    "repo_config",
    "settle",
    "training_set",
]
