"""Reasons of scores, in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase
from evergreen.scoring.contributions import Contributions
from evergreen.training.inputs import Matrix
from evergreen.training.model import LoadedModel


class Reasons:
    """Gives the reasons of scores of one model.

    Parameters
    ----------
    model
        What scored.
    use_case
        Target, and number of reasons.
    threads
        Threads of XGBoost.

    Notes
    -----
    A reason reads `days_since_last_order=83.2 raises 0.42` or `country=DE raises 0.12`: the
    feature, its value (of numbers four significant digits; `missing` if there is none, or none that
    the model knows), the direction in which it moves this score, and by how much in what the trees
    add up: log-odds of a probability, the logarithm of a count or amount, else the score itself
    (SHAP values; Lundberg et al. 2018). Strongest first; features that move nothing are left out.
    """

    def __init__(self, model: LoadedModel, use_case: UseCase, *, threads: int) -> None:
        self._model, self._most = model, use_case.scoring.reasons
        output = use_case.target.explained_output
        self._contributions = Contributions(model.model, output, threads=threads)

    def of(self, features: pa.Table) -> pa.ListArray:
        """Give the reasons of every row.

        Parameters
        ----------
        features
            The model's inputs, in any order of columns. Not modified.

        Returns
        -------
        pyarrow.ListArray
            list of string `[n]`, at most `scoring.reasons` each.
        """
        names = self._model.inputs.names
        top = min(self._most, len(names))
        if top == 0:
            return no_reasons(features.num_rows)
        matrix = self._model.inputs.prepare(features)
        contributions = np.round(self._contributions.of(matrix).astype(np.float64), 2)
        strongest = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :top]
        moved = np.take_along_axis(contributions, strongest, axis=1)
        keep = moved != 0.0
        texts = pc.binary_join_element_wise(
            pa.array(names).take(pa.array(strongest[keep])),
            pc.binary_join_element_wise(
                _value_texts(self._model, matrix, strongest, keep),
                pc.if_else(pa.array(moved[keep] > 0), "raises", "lowers"),
                pa.array(np.abs(moved[keep])).cast(pa.string()),
                " ",
            ),
            "=",
        )
        offsets = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), texts)


def no_reasons(rows: int) -> pa.ListArray:
    """Return as many empty lists."""
    offsets = pa.array(np.zeros(rows + 1, np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array([], pa.string()))


def _value_texts(
    model: LoadedModel, matrix: Matrix, columns: np.ndarray[Any, Any], keep: np.ndarray[Any, Any]
) -> pa.Array:
    """Texts of the values in the chosen columns of each row, where they are kept."""
    places = columns[keep]
    values = np.take_along_axis(matrix, columns, axis=1)[keep]
    texts = _number_texts(values)
    for index, name in enumerate(model.inputs.names):
        if name in model.inputs.categories:
            here = places == index
            words = model.inputs.decode(index, values[here])
            texts = pc.replace_with_mask(texts, pa.array(here), words)
    return pc.fill_null(texts, "missing")


def _number_texts(values: Matrix) -> pa.Array:
    """Four significant digits at most, whole numbers in full; null for NaN."""
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.floor(np.log10(np.abs(exact)))
    digits = np.where(np.isfinite(magnitude), np.clip(3 - magnitude, 0, 12), 0)
    scale = 10.0**digits
    return pa.array(np.round(exact * scale) / scale, from_pandas=True).cast(pa.string())
