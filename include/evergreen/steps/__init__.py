"""The steps: the only part of the package that DAGs import.

A step takes and returns small JSON-able values (names, days, folders, counts), never data; data
goes through staging and the lake. Every step can be repeated: staging folders are unique to an
attempt, and publishing replaces whole partitions.

Parsing a DAG imports this package, so heavy libraries are imported inside the functions.
"""

from evergreen.steps.alerts import tell_night, tell_training
from evergreen.steps.features import (
    compute_features,
    compute_features_of,
    compute_labels_of,
    materialize_online,
    plan_features,
    plan_labels,
    publish_features,
    publish_labels,
    validate_features,
)
from evergreen.steps.ingest import publish_rows, stage_rows, validate_rows
from evergreen.steps.maintenance import (
    back_up,
    compact_tables,
    expire_snapshots,
    fail_dead_runs,
    remove_orphan_files,
    repair_registry,
    sweep_staging,
    verify_tables,
)
from evergreen.steps.monitoring import (
    choose_owed_features,
    decide_retraining,
    is_retraining_wanted,
    is_taken_back,
    judge_rollout,
    measure_drift,
    measure_estimates,
    measure_experiment,
    measure_freshness,
    measure_performance,
    measure_skew,
    measure_staleness,
    report_night,
    request_retraining,
    start_owed_features,
)
from evergreen.steps.pages import find_data_docs, find_tracked_run
from evergreen.steps.release import has_day, release_version, resolve_release
from evergreen.steps.runs import (
    log_as,
    look_up_secrets,
    one_day,
    require_known_conf,
    tell_late_run,
)
from evergreen.steps.scoring import (
    has_champion,
    plan_scores,
    publish_predictions,
    resolve_model,
    score_customers,
    score_customers_of,
    take_back,
    validate_predictions,
)
from evergreen.steps.training import (
    accept_request,
    assemble_training_set,
    choose_recipe,
    fail_request,
    is_promotable,
    judge_challenger,
    promote_challenger,
    train_challenger,
)

__all__ = [
    "accept_request",
    "assemble_training_set",
    "back_up",
    "choose_owed_features",
    "choose_recipe",
    "compact_tables",
    "compute_features",
    "compute_features_of",
    "compute_labels_of",
    "decide_retraining",
    "expire_snapshots",
    "fail_dead_runs",
    "fail_request",
    "find_data_docs",
    "find_tracked_run",
    "has_champion",
    "has_day",
    "is_promotable",
    "is_retraining_wanted",
    "is_taken_back",
    "judge_challenger",
    "judge_rollout",
    "log_as",
    "look_up_secrets",
    "materialize_online",
    "measure_drift",
    "measure_estimates",
    "measure_experiment",
    "measure_freshness",
    "measure_performance",
    "measure_skew",
    "measure_staleness",
    "one_day",
    "plan_features",
    "plan_labels",
    "plan_scores",
    "promote_challenger",
    "publish_features",
    "publish_labels",
    "publish_predictions",
    "publish_rows",
    "release_version",
    "remove_orphan_files",
    "repair_registry",
    "report_night",
    "request_retraining",
    "require_known_conf",
    "resolve_model",
    "resolve_release",
    "score_customers",
    "score_customers_of",
    "stage_rows",
    "start_owed_features",
    "sweep_staging",
    "take_back",
    "tell_late_run",
    "tell_night",
    "tell_training",
    "train_challenger",
    "validate_features",
    "validate_predictions",
    "validate_rows",
    "verify_tables",
]
