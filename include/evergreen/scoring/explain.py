"""Reasons on demand: why somebody was scored as they were, whatever their band."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evergreen import lake
from evergreen.contract import UseCase, arrow
from evergreen.errors import ConfigError, NotReadyError, PermanentError
from evergreen.provenance import commands, erased, receipts
from evergreen.scoring.reasons import Reasons
from evergreen.settings import load_settings
from evergreen.training.tracking import load_version

_PLACE = "place"


def explain(use_case: UseCase, day: date, keys: Sequence[Any]) -> pa.Table:
    """Give the reasons of published scores, by the version and the features they were made of.

    Parameters
    ----------
    use_case
        Target, and number of reasons.
    day
        A day that was scored.
    keys
        Entity keys, or texts of them.

    Returns
    -------
    pyarrow.Table
        Columns of `predictions`, one row per key in the given order. All are as published but
        `reasons`, which are those of the score in any band: the same as scoring gives.

    Raises
    ------
    ConfigError
        A key is no value of the key's dtype.
    NotReadyError
        The day was not scored, a key was not scored that day, or the features that it was scored
        on are in an expired snapshot.
    PermanentError
        The model gives another score than was published.

    Notes
    -----
    Cost: reads the day of both tables.
    """
    name = use_case.name
    receipt = receipts.latest(name, "publish_predictions", day, day + timedelta(days=1)).get(day)
    if receipt is None:
        newest = receipts.newest_day(name, "publish_predictions")
        raise NotReadyError(
            f"{name} has not scored {day}; {f'the newest day is {newest}' if newest else 'no day'}"
            f". Score it: {commands.run_day(f'{name}_score', day)}"
        )
    wanted = _typed(use_case, keys)
    published = _rows(use_case, lake.read_day(name, "predictions", day), wanted, day)
    owner = use_case.owner_of("features")
    snapshot: int | None = int(receipt.inputs["features"])
    if receipt.sequence <= erased.forgotten_up_to(owner):
        # Of everybody else the features stand as they were read, or the scores will not be equal.
        snapshot = None
    try:
        features = lake.read_day(owner, "features", day, snapshot)
    except NotReadyError as error:
        raise NotReadyError(
            f"{name}: what {day} was scored on cannot be read any more: {error} Or score the day "
            "again, which the same version does on the present features: "
            f"{commands.run_day(f'{name}_score', day)}"
        ) from error
    features = _rows(use_case, features, wanted, day)
    # In a rollout some are scored by another version.
    places = pa.array(range(published.num_rows))
    found = []
    for version in published["model_version"].unique().to_pylist():
        of = pc.equal(published["model_version"], version)
        explained = _explained(use_case, version, day, published.filter(of), features.filter(of))
        found.append(explained.append_column(_PLACE, places.filter(of.combine_chunks())))
    return pa.concat_tables(found).sort_by(_PLACE).drop_columns([_PLACE])


def _explained(
    use_case: UseCase, version: int, day: date, published: pa.Table, features: pa.Table
) -> pa.Table:
    model = load_version(use_case, version)
    threads = load_settings().threads
    matrix = model.inputs.prepare(features)
    scores = model.model.predict(matrix, use_case.target, threads=threads)["score"]
    if not np.allclose(scores, published["score"].to_numpy()):
        raise PermanentError(
            f"{use_case.name}: version {version} does not give the scores that were published for "
            f"{day}, so its reasons would be others. `evergreen status` says whether the day is "
            "stale or damaged; score it again."
        )
    reasons = Reasons(model, use_case, threads=threads).of(features)
    place = published.schema.get_field_index("reasons")
    return published.set_column(place, published.schema.field(place), reasons)


def _typed(use_case: UseCase, keys: Sequence[Any]) -> pa.Array:
    dtype = use_case.key_dtype
    try:
        return pa.array(keys).cast(arrow(dtype))
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"{use_case.entity.key} is {dtype}; found {', '.join(map(str, keys))}: {error}"
        ) from error


def _rows(use_case: UseCase, table: pa.Table, keys: pa.Array, day: date) -> pa.Table:
    """Return the rows of the keys, in their order."""
    places = pc.index_in(keys, table[use_case.entity.key].combine_chunks())
    if places.null_count:
        unknown = keys.filter(places.is_null()).to_pylist()
        raise NotReadyError(
            f"{use_case.name} has not scored {', '.join(map(str, unknown))} on {day}; it scored "
            f"{table.num_rows:,} values of {use_case.entity.key}. Check the key, or take a day on "
            "which features.sql has a row for it."
        )
    return table.take(places)
