"""Whether a model fits what is declared, and whether what is declared was computed.

A table keeps the columns that are no longer computed, and its old days lack the ones that were
added since; both read as null. To a model null is a value like any other, so it would score them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Protocol

import pyarrow as pa

from evergreen.contract import UseCase
from evergreen.contract.dtypes import NUMBER_DTYPES
from evergreen.errors import NotReadyError
from evergreen.provenance import receipts
from evergreen.provenance.staleness import Stale, mend_commands
from evergreen.training import conformal

_ONE_DAY = timedelta(days=1)


class Trained(Protocol):
    """A registered version: the features its model reads, with their dtypes, and its tags."""

    @property
    def reads(self) -> Mapping[str, str]:
        """The dtype that was declared for each feature."""

    @property
    def tags(self) -> Mapping[str, str]:
        """As `run_tags` wrote them."""


def find_misfit(use_case: UseCase, trained: Trained) -> str | None:
    """Say why a version cannot score as the use case declares, as a predicate; None if it can.

    To a model, whole numbers and fractions are the same.
    """
    reads, level = trained.reads, use_case.target.level
    declared = {name: feature.dtype for name, feature in use_case.features.columns.items()}
    gone = [name for name in reads if name not in declared]
    retyped = [
        f"{name} ({dtype} when it was trained, now {declared[name]})"
        for name, dtype in reads.items()
        if name in declared and _kind(dtype) != _kind(declared[name])
    ]
    lacks = level is not None and trained.tags.get(conformal.TAG) != f"{level:g}"
    parts = [
        f"reads {', '.join(gone)}, which use_case.yaml does not declare any more" if gone else "",
        f"reads {', '.join(retyped)}" if retyped else "",
        f"has learned no interval of {level:g}, which target.interval asks for" if lacks else "",
    ]
    return " and ".join(part for part in parts if part) or None


def require_fit(use_case: UseCase, version: int, trained: Trained, instead: str = "") -> None:
    """Refuse a version that does not fit the declaration.

    Parameters
    ----------
    version, trained
        A registered version, and what it was trained on; see `find_misfit`.
    instead
        What else may be done, as one sentence.

    Raises
    ------
    NotReadyError
        It reads features that are not computed any more, or gives no such interval.
    """
    if misfit := find_misfit(use_case, trained):
        raise NotReadyError(
            f"{use_case.name}: version {version} {misfit}; it would score empty values. "
            f"Train on what is declared now ({use_case.name}_train), or keep in use_case.yaml and "
            f"features.sql what it was trained on. {instead}".rstrip()
        )


def require_computed(
    use_case: UseCase, features: Iterable[tuple[date, pa.Table]], names: Sequence[str]
) -> None:
    """Refuse days on which a declared feature was not computed.

    Parameters
    ----------
    features
        Days, with all their rows; further columns are ignored. Not modified.
    names
        The features that are going to be read; all declared.

    Raises
    ------
    NotReadyError
        A feature that is not nullable has nulls; or a nullable one is null in all rows of a day
        that was computed by another declaration than the present one.
    """
    lacking: dict[date, list[str]] = {}
    for day, rows in features:
        for name in names:
            empty = rows[name].null_count if name in rows.column_names else rows.num_rows
            if use_case.features.columns[name].nullable and empty:
                # Nobody having a value is possible; a column that was not computed looks the same.
                empty *= empty == rows.num_rows and _is_by_another_declaration(use_case, day)
            if empty:
                found = f"{name} ({empty} of {rows.num_rows} rows are empty)"
                lacking.setdefault(day, []).append(found)
    if lacking:
        first = min(lacking)
        others = f", and {len(lacking) - 1} more days likewise" if len(lacking) > 1 else ""
        raise NotReadyError(
            f"{use_case.owner_of('features')}.features of {first} lack "
            f"{', '.join(lacking[first])}{others}: they "
            "were computed before use_case.yaml declared this. Compute them again: "
            f"{mending(use_case, lacking)}"
        )


def mending(use_case: UseCase, days: Iterable[date]) -> str:
    """Return the commands that compute the features of some days."""
    return "; ".join(mend_commands(use_case, [Stale("features", day, "") for day in days]))


def _kind(dtype: str) -> str:
    return "number" if dtype in NUMBER_DTYPES else dtype


def _is_by_another_declaration(use_case: UseCase, day: date) -> bool:
    owner = use_case.owner_of("features")
    made = receipts.latest(owner, "publish_features", day, day + _ONE_DAY).get(day)
    return made is not None and made.contract_digest != use_case.contract_digest("features")
