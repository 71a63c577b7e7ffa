"""Scores of some entities, as a day's batch would give them from the same features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from evergreen.contract import UseCase
from evergreen.scoring.reasons import Reasons
from evergreen.scoring.score import band_of
from evergreen.scoring.variants import CHALLENGER, CHAMPION
from evergreen.serving.in_charge import InCharge
from evergreen.training.frame import AS_OF
from evergreen.training.model import LoadedModel


@dataclass(frozen=True)
class Score:
    """One entity's score.

    Parameters
    ----------
    columns
        The target's score columns, `score` among them.
    as_of
        Of the features, UTC.
    reasons
        None where they were not asked for.
    """

    key: str | int
    columns: Mapping[str, float]
    band: str
    version: int
    variant: str
    as_of: datetime
    reasons: Sequence[str] | None


class Scorer:
    """Scores rows of features by the models in charge."""

    def __init__(self, use_case: UseCase, *, threads: int) -> None:
        self._use_case, self._threads = use_case, threads
        self._reasons: dict[int, Reasons] = {}

    def chosen(self, in_charge: InCharge, keys: pa.Array) -> list[str]:
        """Return whose score each entity gets, by the name of the variant."""
        if in_charge.split is None:
            return [CHAMPION] * len(keys)
        chosen = in_charge.split.chooses(keys).to_pylist()
        return [CHALLENGER if is_chosen else CHAMPION for is_chosen in chosen]

    def score(
        self, in_charge: InCharge, features: pa.Table, variant: str, *, explain: bool
    ) -> list[Score]:
        """Score entities by one of the models.

        Parameters
        ----------
        features
            Entity key, `as_of` and the features, as `store.read_online` gives them, of entities
            that have any.
        """
        model = in_charge.champion if variant == CHAMPION else in_charge.challenger
        assert model is not None
        matrix = model.inputs.prepare(features)
        columns = model.model.predict(matrix, self._use_case.target, threads=self._threads)
        names = self._use_case.target.score_columns
        reasons: Sequence[Any] = [None] * features.num_rows
        if explain:
            reasons = self._explainer(model).of(features).to_pylist()
        found = zip(
            features[self._use_case.entity.key].to_pylist(),
            features[AS_OF].to_pylist(),
            zip(*(columns[name].tolist() for name in names), strict=True),
            reasons,
            strict=True,
        )
        return [
            Score(
                key,
                scores := dict(zip(names, values, strict=True)),
                band_of(scores["score"], self._use_case),
                model.version,
                variant,
                as_of,
                why,
            )
            for key, as_of, values, why in found
        ]

    def _explainer(self, model: LoadedModel) -> Reasons:
        if model.version not in self._reasons:
            # One of each model in charge; those of before are let go.
            kept = list(self._reasons.items())[-1:]
            explainer = Reasons(model, self._use_case, threads=self._threads)
            self._reasons = {**dict(kept), model.version: explainer}
        return self._reasons[model.version]
