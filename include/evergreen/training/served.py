"""A version as MLflow serves it: named features in, the published columns out, calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import TypeAdapter

from evergreen.targets import Target, TargetModel
from evergreen.training.model import Model

SERVED, MODEL_FILE, TARGET_FILE = "served", "model.ubj", "target.json"


def write_served(model: Model, target: TargetModel, folder: Path) -> None:
    """Write what `_load_pyfunc` reads into an existing folder."""
    (folder / MODEL_FILE).write_bytes(model.ubj)
    (folder / TARGET_FILE).write_text(target.model_dump_json(), encoding="utf-8")


class ServedModel:
    """What MLflow calls."""

    def __init__(self, model: Model, target: TargetModel) -> None:
        self._model, self._target = model, target

    def predict(self, features: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score rows; columns as in the table `predictions`."""
        matrix = self._model.inputs.prepare(pa.Table.from_pandas(features, preserve_index=False))
        return pd.DataFrame(self._model.predict(matrix, self._target, threads=1))


def _load_pyfunc(path: str) -> ServedModel:
    folder = Path(path)
    target: TargetModel = TypeAdapter(Target).validate_json((folder / TARGET_FILE).read_text())
    return ServedModel(Model.load((folder / MODEL_FILE).read_bytes()), target)
