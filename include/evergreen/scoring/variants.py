"""Two versions on one day: whose score of an entity is published, and whose stays in the shadow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase
from evergreen.scoring.hashing import chooses
from evergreen.scoring.score import predictions_schema, rank

CHAMPION, CHALLENGER = "champion", "challenger"
FAILED = "failed_challenger"
"""What a receipt of `predictions` names whose challenger has not scored everybody."""


@dataclass(frozen=True)
class Split:
    """Who gets the challenger's score.

    Parameters
    ----------
    challenger
        Its version.
    share
        Of the entities, 0 to 1. Whoever gets it at one share gets it at every greater one.
    salt
        Lets the hash of the keys choose; the same for a whole rollout.
    rollout
        Number of the entry of the ledger that the rollout began with.
    """

    challenger: int
    share: float
    salt: str
    rollout: int

    @classmethod
    def of(cls, inputs: Mapping[str, Any]) -> Self | None:
        """Return the split that a receipt of `predictions` names; None of a day of one version."""
        if "challenger" not in inputs:
            return None
        return cls(**{field.name: inputs[field.name] for field in fields(cls)})

    def to_inputs(self) -> dict[str, Any]:
        """Return it as a receipt names it."""
        return asdict(self)

    def chooses(self, keys: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Return whether each entity gets the challenger's score, `[n]`; the same everywhere."""
        return chooses(keys, self.salt, self.share)


def without_split(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a day that one version scores."""
    names = {field.name for field in fields(Split)}
    return {name: value for name, value in inputs.items() if name not in names}


def shadows_schema(use_case: UseCase) -> pa.Schema:
    """Columns of the table `shadows`: those of `predictions` but `rank`."""
    schema = predictions_schema(use_case)
    return schema.remove(schema.get_field_index("rank"))


def divide(
    champion: pa.Table, challenger: pa.Table, split: Split, use_case: UseCase
) -> tuple[pa.Table, pa.Table]:
    """Give each entity one version's score, and keep the other's.

    Parameters
    ----------
    champion, challenger
        `predictions_schema`, of the same entities in any order.

    Returns
    -------
    tuple
        What is published, `predictions_schema`, ranked over all; and the rest, `shadows_schema`, in
        the order of the keys.
    """
    key = use_case.entity.key
    ours, theirs = split.chooses(champion[key]), split.chooses(challenger[key])
    published = [champion.filter(pc.invert(ours)), challenger.filter(theirs)]
    rest = [champion.filter(ours), challenger.filter(pc.invert(theirs))]
    return rank(pa.concat_tables(published), use_case), _in_shadow(pa.concat_tables(rest), use_case)


def of_champion(
    published: pa.Table, shadows: pa.Table, use_case: UseCase
) -> tuple[pa.Table, pa.Table]:
    """Take the challenger's scores back: what `divide` gives at a share of 0.

    Parameters
    ----------
    published, shadows
        What `divide` gave at any share.
    """
    by_variant = {}
    for variant in (CHAMPION, CHALLENGER):
        parts = [
            table.filter(pc.equal(table["variant"], variant)).select(shadows.column_names)
            for table in (published, shadows)
        ]
        by_variant[variant] = pa.concat_tables(parts)
    ours = by_variant[CHAMPION]
    unranked = pa.array(np.zeros(ours.num_rows, np.int64))
    at = predictions_schema(use_case).get_field_index("rank")
    ours = ours.add_column(at, predictions_schema(use_case).field("rank"), unranked)
    return rank(ours, use_case), _in_shadow(by_variant[CHALLENGER], use_case)


def _in_shadow(rows: pa.Table, use_case: UseCase) -> pa.Table:
    return rows.select(shadows_schema(use_case).names).sort_by(use_case.entity.key)
