"""All of MLflow: runs, registered versions, and what it shows of who is in charge."""

from evergreen.training.tracking.cards import complete_card, fetch_card, fetch_slices
from evergreen.training.tracking.copies import ORIGIN, fetch_run, register_copy
from evergreen.training.tracking.dead_runs import fail_dead_runs
from evergreen.training.tracking.nights import keep_night
from evergreen.training.tracking.runs import (
    RunFacts,
    TrainedVersion,
    VersionFacts,
    describe_run,
    describe_version,
    find_page,
    initialise,
    load_version,
    log_training_run,
)
from evergreen.training.tracking.standing import (
    Registry,
    describe_registry,
    set_champion,
    tag_version,
)

__all__ = [
    "ORIGIN",
    "Registry",
    "RunFacts",
    "TrainedVersion",
    "VersionFacts",
    "complete_card",
    "describe_registry",
    "describe_run",
    "describe_version",
    "fail_dead_runs",
    "fetch_card",
    "fetch_run",
    "fetch_slices",
    "find_page",
    "initialise",
    "keep_night",
    "load_version",
    "log_training_run",
    "register_copy",
    "set_champion",
    "tag_version",
]
