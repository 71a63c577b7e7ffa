"""What each feature contributes to each score: XGBoost's SHAP values, each worked out once.

What a tree contributes to a row depends only on how the row answers the tree's splits. A tree of
depth 3 has at most 7 splits, so 128 ways to answer them, however many rows there are. XGBoost is
asked once for each; its numbers are added up in the order of the trees and in single precision, as
it does itself. The sums are the same, bit by bit.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from evergreen.training.inputs import Matrix
from evergreen.training.model import Model, added

# Splits whose answers fit into one byte; of a tree with more, too many ways are worth working out.
_MOST_SPLITS = 8
# XGBoost explains so many rows in the time it takes to work out the trees.
_FEW_ROWS = 1_000
# Trees that are worked out by one prediction, which keeps it small.
_TREES_AT_ONCE = 64
# How XGBoost marks a leaf.
_NO_CHILD = -1


@dataclass(frozen=True)
class _Split:
    """One question a tree asks of a feature.

    Parameters
    ----------
    values
        Values at which the answer changes; of a category, those among which it is asked for.
    """

    feature: int
    values: Matrix
    is_category: bool
    default_left: bool

    def answer(self, column: Matrix) -> NDArray[np.bool_]:
        """Return the answer of every row; all that XGBoost sends the same way answer the same."""
        found: NDArray[np.bool_]
        if self.is_category:
            found = np.isin(column, self.values)
            return found if self.default_left else found | np.isnan(column)
        bound = self.values[0]
        # Comparisons with NaN are false.
        found = ~(column >= bound) if self.default_left else column < bound
        return found


@dataclass(frozen=True)
class _Tree:
    """What one tree contributes: float32, per feature it asks for and way to answer its splits."""

    splits: list[_Split]
    contributions: dict[int, Matrix]


class Contributions:
    """Explains rows by a model.

    Parameters
    ----------
    model
        Trees, one per round and output, or a linear model.
    output
        Which of several outputs is explained.
    threads
        Threads of what is left to XGBoost.

    Notes
    -----
    SHAP values (Lundberg et al. 2018), bit by bit those of
    `Booster.predict(..., pred_contribs=True)`. Cost per row: one look-up per tree and feature that
    it asks for, where XGBoost takes `O(trees * leaves * depth^2)`. It is left to XGBoost where a
    tree has more than 8 splits, rows are few, or the model is linear.
    """

    def __init__(self, model: Model, output: int = 0, *, threads: int) -> None:
        self._model, self._output, self._threads = model, output, threads
        # None until they are worked out; empty where they cannot be.
        self._trees: list[_Tree] | None = None

    def of(self, matrix: Matrix) -> Matrix:
        """Explain rows.

        Parameters
        ----------
        matrix
            float32 `[n, k]` from `Inputs.prepare`. Not modified.

        Returns
        -------
        numpy.ndarray
            float32 `[n, k]`: how much each feature moves what the model adds up. The bias, which is
            nobody's, is left out.
        """
        if self._trees is None and len(matrix) >= _FEW_ROWS and self._model.family == "trees":
            self._trees = self._work_out_all()
        if not self._trees:
            return self._model.explain(matrix, self._output, threads=self._threads)
        columns = np.ascontiguousarray(matrix.T)
        sums = np.zeros_like(columns)
        for tree in self._trees:
            answers = _answers(tree.splits, columns, len(matrix))
            for feature, contributions in tree.contributions.items():
                sums[feature] += contributions.take(answers)
        return sums.T

    def _work_out_all(self) -> list[_Tree]:
        """Return the trees in the order of boosting; none if one of them has too many splits."""
        # The format is documented, and kept.
        document = json.loads(self._model.booster.save_raw("json"))
        model = document["learner"]["gradient_booster"]["model"]
        drawn = [
            (tree, asked)
            for tree, output in zip(model["trees"], model["tree_info"], strict=True)
            # Without a split, a tree says the same of every row.
            if output == self._output and (asked := _splits(tree))
        ]
        if max((len(asked) for _, asked in drawn), default=0) > _MOST_SPLITS:
            return []
        parts = [drawn[n : n + _TREES_AT_ONCE] for n in range(0, len(drawn), _TREES_AT_ONCE)]
        return [tree for part in parts for tree in self._work_out(document, part)]

    def _work_out(
        self, document: dict[str, Any], drawn: list[tuple[dict[str, Any], list[_Split]]]
    ) -> Iterator[_Tree]:
        """Ask for some trees at once, by a model in which each has features of its own."""
        width = len(self._model.inputs.names)
        ways = [_all_ways(asked, width) for _, asked in drawn]
        rows = np.full((max(map(len, ways)), width * len(drawn)), np.nan, np.float32)
        for number, own in enumerate(ways):
            rows[: len(own), width * number : width * (number + 1)] = own
        # So little work that threads would only wait for each other.
        booster = xgb.Booster({"nthread": 1})
        booster.load_model(_apart(document, [tree for tree, _ in drawn], self._output, width))
        told = added(booster, xgb.DMatrix(rows, nthread=1), self._output)
        for number, ((_, asked), own) in enumerate(zip(drawn, ways, strict=True)):
            answers = _answers(asked, own.T, len(own))
            contributions = {}
            for feature in sorted({split.feature for split in asked}):
                contributions[feature] = np.zeros(2 ** len(asked), np.float32)
                contributions[feature][answers] = told[: len(own), width * number + feature]
            yield _Tree(asked, contributions)


def _apart(
    document: dict[str, Any], trees: list[dict[str, Any]], output: int, width: int
) -> bytearray:
    """Return a model of some trees of one, in which no two trees share a feature."""
    learner = document["learner"]
    booster = learner["gradient_booster"]
    features, count = str(width * len(trees)), len(trees)
    model = booster["model"] | {
        "gbtree_model_param": booster["model"]["gbtree_model_param"] | {"num_trees": str(count)},
        "iteration_indptr": [0, count],
        "tree_info": [output] * count,
        "trees": [
            tree
            | {
                "id": number,
                "split_indices": [width * number + feature for feature in tree["split_indices"]],
                "tree_param": tree["tree_param"] | {"num_feature": features},
            }
            for number, tree in enumerate(trees)
        ],
    }
    changed = learner | {
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": booster | {"model": model},
        "learner_model_param": learner["learner_model_param"] | {"num_feature": features},
    }
    return bytearray(json.dumps(document | {"learner": changed}).encode())


def _answers(
    splits: Iterable[_Split], columns: Matrix | Mapping[int, Matrix], rows: int
) -> NDArray[np.intp]:
    """Return how every row answers the splits, one bit each, given the columns of features."""
    found = np.zeros(rows, np.uint8)
    for split in splits:
        np.add(found, found, out=found)
        np.add(found, split.answer(columns[split.feature]).view(np.uint8), out=found)
    # Look-ups would convert them each time.
    return found.astype(np.intp)


def _all_ways(splits: list[_Split], width: int) -> Matrix:
    """Return one row for every way in which the splits can be answered."""
    features = sorted({split.feature for split in splits})
    choices = []
    for feature in features:
        asking = [split for split in splits if split.feature == feature]
        bounds = sorted({bound for split in asking for bound in split.values.tolist()})
        # A number equal to a bound is not below it. Categories are numbered from 0.
        least, most = np.float32(bounds[0]), np.float32(bounds[-1])
        other = most + 1 if asking[0].is_category else np.nextafter(least, np.float32(-np.inf))
        values = np.array([np.nan, other, *bounds], np.float32)
        answers = _answers(asking, {feature: values}, len(values))
        choices.append(list(dict(zip(answers.tolist(), values, strict=True)).values()))
    rows = np.full((math.prod(map(len, choices)), width), np.nan, np.float32)
    rows[:, features] = list(itertools.product(*choices))
    return rows


def _splits(tree: dict[str, Any]) -> list[_Split]:
    """Read the splits of a tree in XGBoost's JSON."""
    categories = {
        node: tree["categories"][start : start + size]
        for node, start, size in zip(
            tree["categories_nodes"],
            tree["categories_segments"],
            tree["categories_sizes"],
            strict=True,
        )
    }
    return [
        _Split(
            feature=tree["split_indices"][node],
            values=np.array(categories.get(node, [tree["split_conditions"][node]]), np.float32),
            is_category=node in categories,
            default_left=bool(tree["default_left"][node]),
        )
        for node, child in enumerate(tree["left_children"])
        if child != _NO_CHILD
    ]
