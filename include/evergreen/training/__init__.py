"""From labelled features to a registered model version: split, fit, evaluate, track."""

import os
import warnings

# MLflow starts its telemetry client while it is being imported, so these must be set before
# `training.tracking` is; a value from the environment still wins.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow's own mappers, built when its store is first opened; nothing a user could act on.
warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
# XGBoost's threads wait for one another by spinning. As soon as other processes want the cores,
# that turns a fit of one second into a minute; this must be set before OpenMP is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
