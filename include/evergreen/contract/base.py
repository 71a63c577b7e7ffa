"""What all parts of a contract share: frozen models, identifiers, bounds, saying problems."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

# The only identifiers that ever reach SQL, table names, paths and DAG ids.
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Ratio = Annotated[float, Field(ge=0, le=1)]
# Far enough from the ends of the calendar for every instant that is derived from it.
Day = Annotated[date, Field(ge=date(1900, 1, 1), le=date(2999, 12, 31))]

# Names that a message lists.
_SHOWN = 10


def _ordered(bounds: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = bounds
    if low is not None and high is not None and low > high:
        raise ValueError("the lower bound lies above the upper one")
    return bounds


def _known(zone: str) -> str:
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise ValueError("expected the name of a time zone, such as Europe/Berlin") from error
    return zone


Bounds = Annotated[tuple[float | None, float | None], AfterValidator(_ordered)]
Zone = Annotated[str, AfterValidator(_known)]


class Model(BaseModel):
    """A part of the declaration: frozen, and without keys nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, hide_input_in_errors=False)


def raise_if(problems: Sequence[str]) -> None:
    """Raise what `load` tells as contradictions between keys, one line each."""
    if problems:
        raise ValueError("\n".join(["contradictions:", *problems]))


def some(names: Collection[str]) -> str:
    """List names; of very many, the first."""
    listed = sorted(names)
    shown = ", ".join(listed[:_SHOWN])
    return f"{shown}, … {len(listed)} in all" if len(listed) > _SHOWN else shown
