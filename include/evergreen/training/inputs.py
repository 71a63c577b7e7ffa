"""What a model reads: the one way from a table of features to its matrix."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase
from evergreen.errors import ConfigError, ValidationError

if TYPE_CHECKING:
    import xgboost as xgb

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

# Where they are kept in the model file.
_INPUTS = "inputs"


@dataclass(frozen=True)
class Inputs:
    """The inputs of a model, for training and scoring alike.

    Parameters
    ----------
    names
        Features, in the order of the matrix's columns.
    categories
        Of those that are categories, the values the model knows, ascending; the code of a value is
        its place. They are frozen from the rows the model is fitted on and kept in its file.
    """

    names: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def freeze(cls, use_case: UseCase, rows: pa.Table) -> Self:
        """Take what is declared, and the distinct values of these rows."""
        declared = use_case.features.columns
        return cls(
            tuple(declared),
            {
                name: tuple(sorted(pc.unique(_words(rows, name)).drop_null().to_pylist()))
                for name, feature in declared.items()
                if feature.dtype == "category"
            },
        )

    @classmethod
    def of(cls, booster: xgb.Booster) -> Self:
        """Read what `keep_in` has written, perhaps long ago."""
        kept = json.loads(booster.attr(_INPUTS) or "{}")
        categories = {name: tuple(values) for name, values in kept.get("categories", {}).items()}
        return cls(tuple(kept.get("names", booster.feature_names or ())), categories)

    def keep_in(self, booster: xgb.Booster) -> None:
        """Write them into the model, so that no scorer can lack them."""
        kept = {"names": self.names, "categories": self.categories}
        booster.set_attr(**{_INPUTS: json.dumps(kept, ensure_ascii=False)})

    def without(self, features: Collection[str]) -> Self:
        """Return them without some features."""
        names = tuple(name for name in self.names if name not in features)
        known = {name: values for name, values in self.categories.items() if name in names}
        return replace(self, names=names, categories=known)

    @property
    def types(self) -> list[str]:
        """XGBoost's `feature_types`: c for categories, q for quantities."""
        return ["c" if name in self.categories else "q" for name in self.names]

    def prepare(self, features: pa.Table) -> Matrix:
        """Turn features into the model's matrix.

        Parameters
        ----------
        features
            Any table with the named columns, in any order: integers, floats and booleans, and
            strings where they are categories; further columns are ignored. Not modified.

        Returns
        -------
        numpy.ndarray
            float32 `[n, k]`, columns in the order of `names`, NaN where a value is null; of
            categories the codes, NaN where the model does not know the value.

        Raises
        ------
        ConfigError
            A column is missing or has another type.
        ValidationError
            A number is infinite, in the table or as a float32.
        """
        matrix = np.empty((features.num_rows, len(self.names)), dtype=np.float32)
        # A float64 beyond float32 becomes infinite and is refused below, with a better message.
        with np.errstate(over="ignore"):
            for index, name in enumerate(self.names):
                if name in self.categories:
                    codes = pc.index_in(_words(features, name), self._known(name), skip_nulls=True)
                    matrix[:, index] = codes.cast(pa.float32()).to_numpy()
                else:
                    matrix[:, index] = _numbers(features, name)
        infinite = np.isinf(matrix)
        if infinite.any():
            index = int(infinite.any(axis=0).argmax())
            raise ValidationError(
                f"The feature {self.names[index]} has {int(infinite[:, index].sum())} infinite "
                "values; expected finite numbers or null. Guard the division in features.sql with "
                "nullif."
            )
        return matrix

    def as_table(self, matrix: Matrix) -> pa.Table:
        """Return the features a matrix was prepared from, as the model sees them."""
        return pa.table(
            {name: self.decode(index, matrix[:, index]) for index, name in enumerate(self.names)}
        )

    def decode(self, index: int, values: Matrix) -> pa.Array:
        """Return values of the matrix's column `index` as floats, or as the names of categories."""
        numbers = pa.array(values, from_pandas=True)
        if self.names[index] not in self.categories:
            return numbers
        known = pa.array(self.categories[self.names[index]], pa.string())
        return known.take(numbers.cast(pa.int32()))

    def count_unseen(self, features: pa.Table) -> dict[str, int]:
        """Count per category feature the values that the model does not know; absent if none."""
        counted = {}
        for name in self.categories:
            words = _words(features, name).drop_null()
            known = pc.sum(pc.is_in(words, self._known(name))).as_py() or 0
            counted[name] = len(words) - known
        return {name: count for name, count in counted.items() if count}

    def _known(self, name: str) -> pa.Array:
        return pa.array(self.categories[name], pa.string())


def _column(features: pa.Table, name: str) -> pa.ChunkedArray:
    index = features.schema.get_field_index(name)
    if index < 0:
        raise ConfigError(
            f"The features lack {name}; found {features.column_names}. Recompute the features "
            "with the present features.sql, or choose a model version that was trained on these."
        )
    return features.column(index)


def _words(features: pa.Table, name: str) -> pa.ChunkedArray:
    column = _column(features, name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise ConfigError(
            f"The feature {name} has type {column.type}; expected strings, because the model reads "
            "it as a category. Cast it in features.sql, or train a new version."
        )
    return column.cast(pa.string())


def _numbers(features: pa.Table, name: str) -> Vector:
    column = _column(features, name)
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ConfigError(
            f"The feature {name} has type {kind}; expected an integer, float or boolean. "
            "Cast it in features.sql, or declare it as a category."
        )
    if kind != pa.float64():
        column = column.cast(pa.float64(), safe=False)
    values: Vector = column.to_numpy()
    return values
