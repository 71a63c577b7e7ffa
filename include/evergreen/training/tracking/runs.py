"""Training runs and the versions they registered: written, and read.

The registered version is the commit point of a training run: everything else is logged before it,
so a version is always complete, and a run without one can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import mlflow
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

import evergreen
from evergreen.contract import UseCase
from evergreen.disk import scratch
from evergreen.errors import PermanentError
from evergreen.settings import Settings, load_settings
from evergreen.targets import TargetModel
from evergreen.training.card import gather_card
from evergreen.training.model import LoadedModel, Model
from evergreen.training.record import (
    HOLDOUT,
    IMPORTANCES_FILE,
    MEASURED_FILE,
    REFERENCE_FILE,
    TrainingRecord,
    run_metrics,
    run_parameters,
    run_tags,
    write_artifacts,
)
from evergreen.training.served import MODEL_FILE, SERVED, write_served
from evergreen.training.split import SplitPlan
from evergreen.training.tracking.client import connect, explained, uri
from evergreen.training.tracking.dead_runs import fail_unfinished
from evergreen.training.tracking.standing import LIFECYCLE

# What training knows of a version's card, until the gate has judged; see `tracking.cards`.
CARD_FACTS_FILE = "card.json"

# Versions are 32-bit integers; this is the greatest.
_NO_VERSION = 2**31 - 1

_REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "scipy", "xgboost")


@dataclass(frozen=True)
class TrainedVersion:
    """A registered version and the MLflow run that made it."""

    version: int
    run_id: str


@dataclass(frozen=True)
class VersionFacts:
    """What the registry says of a version; the model itself is not fetched.

    Parameters
    ----------
    run_id
        The MLflow run that made it.
    metrics
        Everything that was measured in training, by name.
    tags
        Tags of the version (`day`, `request_key`, ...).
    reads
        The features that the model reads, in order, with the dtype that was declared for each.
    """

    run_id: str
    metrics: dict[str, float]
    tags: dict[str, str]
    reads: dict[str, str]

    @property
    def holdout(self) -> dict[str, float]:
        """What was measured on its holdout, by metric."""
        return {
            name.removeprefix(HOLDOUT): value
            for name, value in self.metrics.items()
            if name.startswith(HOLDOUT)
        }


@dataclass(frozen=True)
class RunFacts:
    """What a training run has recorded of its inputs and outputs.

    Parameters
    ----------
    tags, parameters
        As `run_tags` and `run_parameters` wrote them.
    plan
        The days of every part.
    frame_digests
        Per part, the digest of its rows (the first 36 hexadecimal digits).
    declared
        The features that were declared, in order; the model may have left some of them out.
    """

    run_id: str
    tags: dict[str, str]
    parameters: dict[str, str]
    plan: SplitPlan
    frame_digests: dict[str, str]
    declared: tuple[str, ...]


def initialise(settings: Settings | None = None) -> None:
    """Create MLflow's tables, once, at deployment.

    Everywhere in this module, settings that are not given are read from the environment.

    Later calls find them in place. MLflow guards a first creation with a lock file, so processes
    of one machine that race here are safe; machines are not, hence "at deployment".

    Raises
    ------
    ServiceDownError
        The tracking store does not answer.
    """
    with explained():
        connect(settings).search_experiments(max_results=1)


def log_training_run(
    record: TrainingRecord, use_case: UseCase, settings: Settings | None = None
) -> TrainedVersion:
    """Log one training run and register its model as a new version.

    The experiment and the registered model carry the use case's name. The model is logged as
    XGBoost UBJ with signature and input example; nothing is pickled.

    Returns
    -------
    TrainedVersion
        The new version or, if this request has already registered these very bytes, that one.

    Raises
    ------
    ServiceDownError
        The tracking store does not answer.

    Notes
    -----
    A run that was killed before its version was registered is marked as failed by its retry.
    """
    settings = settings or load_settings()
    with explained():
        client = connect(settings)
        registered = _registered(client, use_case.name, record)
        if registered is not None:
            return registered
        experiment_id = experiment(client, use_case.name, settings)
        _fail_unfinished(client, experiment_id, record.model.digest)
        tags = run_tags(record, use_case)
        run_id = client.create_run(
            experiment_id, run_name=f"{use_case.name} {record.day}", tags=tags
        ).info.run_id
        with within_run(run_id, settings):
            client.log_batch(
                run_id,
                metrics=[
                    Metric(name, value, timestamp=0, step=0)
                    for name, value in run_metrics(record).items()
                ],
                params=[Param(key, str(value)) for key, value in run_parameters(record).items()],
            )
            client.log_inputs(run_id, datasets=_datasets(record, use_case))
            _log_tried(client, experiment_id, run_id, record)
            with scratch("training") as folder:
                write_artifacts(record, use_case.target, Path(folder))
                facts = json.dumps(gather_card(record).to_dict(), allow_nan=False)
                (Path(folder) / CARD_FACTS_FILE).write_text(facts, encoding="utf-8")
                client.log_artifacts(run_id, folder)
            features = record.holdout.features
            source, model_id = log_model(record.model, use_case.target, features)
        ensure_registered_model(client, use_case)
        version = client.create_model_version(
            use_case.name,
            source,
            run_id=run_id,
            tags={**tags, LIFECYCLE: "challenger"},
            description=record.reason,
            model_id=model_id,
        )
    return TrainedVersion(version=int(version.version), run_id=run_id)


def describe_version(
    use_case: UseCase, version: int, settings: Settings | None = None
) -> VersionFacts:
    """Look up one registered version, without its files.

    Raises
    ------
    NotReadyError
        There is no such version.
    ServiceDownError
        The tracking store does not answer.
    """
    with explained(f"version {version} of {use_case.name}"):
        client = connect(settings)
        # What does not fit into MLflow's column is no version, and the database would say so.
        found = client.get_model_version(use_case.name, str(min(version, _NO_VERSION)))
        run = client.get_run(found.run_id)
    return VersionFacts(found.run_id, dict(run.data.metrics), dict(found.tags), _reads(run))


def find_page(use_case: UseCase, version: int, settings: Settings | None = None) -> str:
    """Return the URL, for browsers, of the run that made a version; empty if they reach none."""
    settings = settings or load_settings()
    if settings.tracking_pages is None:
        return ""
    run_id = describe_version(use_case, version, settings).run_id
    experiment = connect(settings).get_run(run_id).info.experiment_id
    return f"{settings.tracking_pages.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def describe_run(run_id: str, settings: Settings | None = None) -> RunFacts:
    """Look up what a training run has recorded of its inputs and outputs.

    Raises
    ------
    NotReadyError
        There is no such run.
    ServiceDownError
        The tracking store does not answer.
    """
    with explained(f"the run {run_id}"):
        found = connect(settings).get_run(run_id)
    tags = dict(found.data.tags)
    if "plan" not in tags:
        raise PermanentError(f"The run {run_id} does not say what it was trained on.")
    digests = {
        tag.value: given.dataset.digest
        for given in found.inputs.dataset_inputs
        for tag in given.tags
        if tag.key == "mlflow.data.context"
    }
    plan = SplitPlan.from_json(tags["plan"])
    return RunFacts(run_id, tags, dict(found.data.params), plan, digests, (*_declared(found),))


def load_version(use_case: UseCase, version: int, settings: Settings | None = None) -> LoadedModel:
    """Fetch one registered version: one download, no MLflow flavour in between.

    Raises
    ------
    NotReadyError
        There is no such version.
    PermanentError
        The stored model is not the one that was registered.
    ServiceDownError
        The tracking store does not answer.
    """
    settings = settings or load_settings()
    found = describe_version(use_case, version, settings)
    with explained(f"version {version} of {use_case.name}"):
        client = connect(settings)
        location = client.get_model_version_download_uri(use_case.name, str(version))
        with scratch("model") as folder:
            model_file = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location.rstrip('/')}/data/{SERVED}/{MODEL_FILE}",
                dst_path=folder,
                tracking_uri=uri(settings),
            )
            ubj = Path(model_file).read_bytes()
            measured = Path(client.download_artifacts(found.run_id, MEASURED_FILE, folder))
            measured_ubj = measured.read_bytes()
            documents = {
                name: json.loads(
                    Path(client.download_artifacts(found.run_id, name, folder)).read_text("utf-8")
                )
                for name in (REFERENCE_FILE, IMPORTANCES_FILE)
            }
    for file, bytes_, tag in (
        (MODEL_FILE, ubj, "model_digest"),
        (MEASURED_FILE, measured_ubj, "measured_digest"),
    ):
        digest = hashlib.sha256(bytes_).hexdigest()
        if digest != found.tags.get(tag):
            raise PermanentError(
                f"{file} of version {version} of {use_case.name} has SHA-256 {digest}; expected "
                f"{found.tags.get(tag)}, as registered. Something changed the file under "
                f"{location} or in run {found.run_id}: restore it, or train a new version."
            )
    return LoadedModel(
        model=Model.load(ubj),
        measured=Model.load(measured_ubj),
        version=version,
        run_id=found.run_id,
        importances=documents[IMPORTANCES_FILE],
        reference=documents[REFERENCE_FILE],
        tags=found.tags,
        reads=found.reads,
    )


def _registered(client: MlflowClient, name: str, record: TrainingRecord) -> TrainedVersion | None:
    # The digest is hexadecimal, so it is safe in a filter; the request's key may be any text.
    same_bytes = client.search_model_versions(
        f"name = '{name}' and tag.model_digest = '{record.model.digest}'"
    )
    versions = sorted(
        (int(found.version), found.run_id)
        for found in same_bytes
        if found.tags.get("request_key") == record.request_key
    )
    return TrainedVersion(*versions[0]) if versions else None


def experiment(client: MlflowClient, name: str, settings: Settings) -> str:
    """Return the id of a use case's experiment, which is made if need be."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    # A server keeps artifacts where it was told to; beside a bare database we say where.
    if settings.tracking_url is None:
        location = f"{settings.artifacts_url}/{name}"
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(client.get_experiment_by_name(name).experiment_id)


def ensure_registered_model(client: MlflowClient, use_case: UseCase) -> None:
    """Create the registered model of a use case if need be."""
    try:
        client.create_registered_model(use_case.name, description=use_case.title)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_tried(
    client: MlflowClient, experiment_id: str, run_id: str, record: TrainingRecord
) -> None:
    """Log every recipe that was tried as a nested run: its settings, and its loss if it has one."""
    for number, tried in enumerate(record.choice.tried):
        recipe = tried.recipe
        how = "declared" if tried.declared else "searched"
        tags = {MLFLOW_PARENT_RUN_ID: run_id, "model_digest": record.model.digest, "recipe": how}
        name = f"{number} {recipe.family} {how}"
        nested = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
        params = {"family": recipe.family, "rounds": recipe.rounds, **recipe.settings}
        loss = [] if tried.loss is None else [Metric("loss", tried.loss, timestamp=0, step=0)]
        client.log_batch(nested, loss, [Param(key, str(value)) for key, value in params.items()])
        # Those that were given up early have no loss.
        client.set_terminated(nested, "FINISHED" if loss else "KILLED")


def _fail_unfinished(client: MlflowClient, experiment_id: str, digest: str) -> None:
    same_bytes = f"tags.model_digest = '{digest}'"
    because = "its process ended before it had registered a version; the request was repeated"
    fail_unfinished(client, experiment_id, same_bytes, because)


def _datasets(record: TrainingRecord, use_case: UseCase) -> list[DatasetInput]:
    inputs = record.model.inputs
    columns = [ColSpec("string" if n in inputs.categories else "double", n) for n in inputs.names]
    schema = json.dumps({"mlflow_colspec": Schema(columns).to_dict()})
    snapshots = dict(sorted(record.inputs.items()))
    dtypes = {name: feature.dtype for name, feature in use_case.features.columns.items()}
    datasets = []
    for part, frame in record.frames.items():
        source = {
            "snapshots": snapshots,
            "days": [str(day) for day in record.plan.parts[part]],
        }
        mean_label = float(frame.labels.mean())
        profile = {"num_rows": frame.rows, "mean_label": mean_label, "features": dtypes}
        tags = [InputTag("mlflow.data.context", part)]
        tags += [InputTag(f"snapshot.{table}", str(value)) for table, value in snapshots.items()]
        dataset = Dataset(
            name=f"{use_case.name}.{part}",
            digest=frame.digest[:36],
            source_type="iceberg",
            source=json.dumps(source),
            schema=schema,
            profile=json.dumps(profile),
        )
        datasets.append(DatasetInput(dataset, tags))
    return datasets


def _declared(run: Run) -> dict[str, str]:
    """Read which features were declared, and as what, from what `_datasets` recorded."""
    given = run.inputs.dataset_inputs
    return dict(json.loads(given[0].dataset.profile)["features"]) if given else {}


def _reads(run: Run) -> dict[str, str]:
    """Read which of the declared features a run's model reads."""
    declared = _declared(run)
    if not declared:
        return {}
    columns = json.loads(run.inputs.dataset_inputs[0].dataset.schema)["mlflow_colspec"]
    return {column["name"]: declared[column["name"]] for column in columns}


@contextmanager
def within_run(run_id: str, settings: Settings) -> Iterator[None]:
    """Log into a run: leaving finishes it, leaving by an error marks it as failed."""
    mlflow.set_tracking_uri(uri(settings))
    mlflow.set_registry_uri(uri(settings))
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        yield


def log_model(model: Model, target: TargetModel, features: pa.Table) -> tuple[str, str]:
    """Log the model that serves in the active run, with a few rows as an example; URI and id."""
    inputs = model.inputs
    # Doubles, so that a caller may send whole numbers and nulls alike.
    columns = [ColSpec("string" if n in inputs.categories else "double", n) for n in inputs.names]
    example = features.select(inputs.names).slice(0, 5).to_pandas()
    example = example.astype({n: "float64" for n in inputs.names if n not in inputs.categories})
    with warnings.catch_warnings(), scratch("model") as folder:
        # MLflow warns about a type hint of its own classes when it first loads them.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        # MLflow keeps the folder's own name.
        served = Path(folder) / SERVED
        served.mkdir()
        write_served(model, target, served)
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="evergreen.training.served",
            data_path=str(served),
            # Nothing is pickled; who serves the model elsewhere needs the code that reads it.
            code_paths=[str(Path(evergreen.__file__).parent)],
            signature=ModelSignature(
                inputs=Schema(columns),
                outputs=Schema([ColSpec("double", name) for name in target.score_columns]),
            ),
            input_example=example,
            # Stated, because finding them out would start a second Python.
            pip_requirements=[
                f"{package}=={metadata.version(package)}" for package in _REQUIREMENTS
            ],
        )
    return str(logged.model_uri), str(logged.model_id)
