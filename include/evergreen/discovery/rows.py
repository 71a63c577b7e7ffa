"""What a search looks at: labelled rows of days before the holdout, with features and candidates.

Everything is read; no table is written, totals included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evergreen import lake
from evergreen.contract import Period, UseCase
from evergreen.discovery.candidates import Candidate, declare_daily, declare_features
from evergreen.discovery.sql import write_candidates
from evergreen.errors import NotReadyError
from evergreen.features.compute.past import Given
from evergreen.features.compute.result import Task
from evergreen.features.compute.run import DAYS_PER_CHUNK, iter_task
from evergreen.provenance import commands
from evergreen.training.assemble import assemble, choose_inputs
from evergreen.training.frame import RowsInMemory, label_rows
from evergreen.training.split import SplitPlan, plan_training

MOST_ROWS = 200_000
"""Of more labelled rows than this, a sample of the entities is looked at."""

# Categories with more different values than this are not tried: they tell entities apart.
_MOST_VALUES = 50

_ONE_DAY = timedelta(days=1)

Tell = Callable[[str], None]


def newest_day(use_case: UseCase) -> date:
    """Return the newest day on which a training would know the labels that there are.

    Raises
    ------
    NotReadyError
        There are no labels.
    """
    labelled = lake.partitions(use_case.name, "labels")
    if not labelled:
        load = commands.load_history(
            use_case.name, Period(use_case.first_day, _ready_on(use_case) + _ONE_DAY)
        )
        raise NotReadyError(
            f"{use_case.name} has no labels, and features are found by what they say of labels. "
            f"Load a history, such as the shortest that will do: {load}"
        )
    return max(labelled) + timedelta(days=use_case.target.horizon_days)


def plan_search(use_case: UseCase, day: date) -> SplitPlan:
    """Plan what a search on `day` may see: the folds of its training but for the holdout.

    Raises
    ------
    NotReadyError
        The history holds no test day beside the holdout.
    """
    plan = plan_training(use_case, day)
    *earlier, _ = plan.folds
    if not earlier:
        raise NotReadyError(
            f"{use_case.name}: the history up to {day} has one test day, {plan.holdout}, which is "
            "the holdout that the gate decides by; expected another before it. Features can be "
            f"searched for from {_ready_on(use_case)} on; load later days, or older events, or "
            "lower training.min_history_days."
        )
    return SplitPlan(tuple(earlier[:-1]), None, earlier[-1], ())


def read_rows(
    use_case: UseCase, day: date, plan: SplitPlan, candidates: Sequence[Candidate], tell: Tell
) -> RowsInMemory:
    """Read the labelled features of the plan's days and compute the candidates beside them.

    Returns
    -------
    RowsInMemory
        Of a use case that declares the candidates as well. Categories with very many values are
        neither declared nor there.

    Raises
    ------
    NotReadyError
        Features or labels of a day are not there.
    """
    counts = lake.partitions(use_case.name, "labels")
    total = sum(counts.get(cutoff, 0) for cutoff in plan.days)
    share = -(-total // MOST_ROWS) or 1
    told = f"{total:,} labelled rows of {len(plan.days)} days"
    tell(f"{told}; a sample of them: one entity in {share}" if share > 1 else told)
    inputs = choose_inputs(use_case, day, plan.days, corrected=False)

    def sample(labels: pa.Table) -> pa.Table:
        return labels.filter(sampled(labels[use_case.entity.key], share))

    rows = assemble(use_case, plan, inputs, sample=sample).rows
    given = plan_given(use_case, plan.days[-1] + _ONE_DAY)
    days_per_chunk = max(1, min(DAYS_PER_CHUNK, MOST_ROWS * len(plan.days) // max(total, 1)))
    chunks = []
    for days, chunk in iter_candidates(
        use_case, candidates, given, plan.days, share=share, days_per_chunk=days_per_chunk
    ):
        chunks.append(chunk)
        tell(f"computed {len(candidates)} candidates up to {days[-1]}")
    joined, declared = join_candidates(use_case, rows, pa.concat_tables(chunks), candidates)
    if many := [one.name for one in candidates if one.name not in declared.features.columns]:
        tell(f"left out, for more than {_MOST_VALUES} values: {', '.join(many)}")
    return label_rows(joined, plan, declared)


def plan_given(use_case: UseCase, end: date) -> dict[str, Given]:
    """Plan all days of all tables before `end`; stored totals lack what candidates need."""
    owner = use_case.owner_of("features")
    return {name: Given(lake.scan(owner, name, None, end).paths) for name in use_case.tables}


def iter_candidates(
    use_case: UseCase,
    candidates: Sequence[Candidate],
    given: Mapping[str, Given],
    days: Sequence[date],
    *,
    share: int = 1,
    days_per_chunk: int = DAYS_PER_CHUNK,
) -> Iterator[tuple[list[date], pa.Table]]:
    """Compute candidates of the entities that have features; see `iter_features`.

    Parameters
    ----------
    share
        Compute them of every `share`-th entity only; popularity is still among all.

    Yields
    ------
    tuple[list[date], pa.Table]
        Days, ascending, and their rows: entity key, `as_of`, the candidates, `day`.
    """
    task = Task(
        declare_daily(use_case, candidates),
        "features",
        write_candidates(use_case, candidates, share),
        {candidate.name: candidate.feature.dtype for candidate in candidates},
    )
    yield from iter_task(task, given, days, days_per_chunk)


def join_candidates(
    use_case: UseCase, rows: pa.Table, found: pa.Table, candidates: Sequence[Candidate]
) -> tuple[pa.Table, UseCase]:
    """Put candidates beside labelled rows, and declare them.

    Categories with more values than a model could learn from are left out.
    """
    told = [
        candidate
        for candidate in candidates
        if candidate.feature.dtype != "category"
        or len(pc.unique(found[candidate.name])) <= _MOST_VALUES
    ]
    keys = [use_case.entity.key, "as_of"]
    joined = rows.join(
        found.select([*keys, *(candidate.name for candidate in told)]), keys, join_type="left outer"
    )
    return joined.combine_chunks(), declare_features(use_case, told)


def sampled(keys: pa.ChunkedArray, share: int) -> pa.Array:
    """Say of each key whether it is one of every `share`-th, by its MD5; as the SQL does."""
    distinct = keys.combine_chunks().dictionary_encode()
    chosen = [_number(str(key)) % share == 0 for key in distinct.dictionary.to_pylist()]
    return pa.array(chosen, pa.bool_()).take(distinct.indices)


def number_parts(keys: pa.ChunkedArray, parts: int, seed: int) -> NDArray[np.intp]:
    """Divide entities by chance; all rows of one are in the same part, `[n]`, from 0."""
    distinct = keys.combine_chunks().dictionary_encode()
    by_key = [_number(f"{seed}/{key}") % parts for key in distinct.dictionary.to_pylist()]
    numbers: NDArray[np.intp] = np.array(by_key, dtype=np.intp)[distinct.indices.to_numpy()]
    return numbers


def _number(text: str) -> int:
    """Return what DuckDB's md5_number_lower does."""
    digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little")


def _ready_on(use_case: UseCase) -> date:
    """First day with a test day beside the holdout."""
    horizon = use_case.target.horizon_days
    days = use_case.training.min_history_days - 1 + 3 * horizon
    return use_case.first_day + timedelta(days=days)
