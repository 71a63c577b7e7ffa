"""What every decision of this project has in common: stored evidence, demands and verdict.

A decision is a pure function of its evidence and of the demands of the use case. Both are stored
beside the verdict, so the same function can be asked again years later.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import TypeAdapter
from pydantic import ValidationError as PydanticError

from evergreen.errors import PermanentError

Kind = Literal["gate", "governor", "delivery", "effect", "rollout"]

DECISIONS = pa.schema(
    [
        ("day", pa.date32()),
        ("use_case", pa.string()),
        ("kind", pa.string()),
        ("decision", pa.string()),
        ("trigger", pa.string()),
        ("version", pa.int64()),
        ("reasons", pa.list_(pa.string())),
        # JSON: {"evidence": ..., "demands": ...}; all that is needed to decide again.
        ("evidence", pa.string()),
        ("verdict", pa.string()),
    ]
)
"""Arrow schema of the table `decisions`: one row per decision, and per event of a training (kind
`request`), which has no evidence and no verdict."""


@dataclass(frozen=True)
class Stored:
    """Base of the values a decision is made of: JSON in, JSON out, equal after the round trip.

    Numbers of numpy become Python's, and a number that is not finite becomes None: JSON has no
    NaN, and to a decision both mean "not measured".
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            plain = _plain(value)
            if plain is not value:
                object.__setattr__(self, field.name, plain)

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON-able dictionaries, lists, texts and numbers."""
        dumped: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json")
        return dumped

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild the value from what `to_dict` gave; keys of later versions are ignored.

        Raises
        ------
        PermanentError
            The dictionary is not such a value.
        """
        try:
            value: Self = _adapter(cls).validate_python(dict(stored))
        except PydanticError as error:
            raise PermanentError(
                f"The stored {cls.__module__}.{cls.__qualname__} cannot be read: {error}"
            ) from error
        return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


_adapters: dict[str, TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name not in _adapters:
        _adapters[name] = TypeAdapter(kind)
    return _adapters[name]


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no blanks, no NaN.

    Raises
    ------
    ValueError
        The value holds a number that is not finite.

    >>> canonical_json({"b": 1, "a": [0.5, None]})
    '{"a":[0.5,null],"b":1}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def decision_table(
    *,
    day: date,
    use_case: str,
    kind: Kind,
    decision: str,
    trigger: str | None,
    version: int | None,
    reasons: tuple[str, ...],
    evidence: Stored,
    demands: Mapping[str, Any],
    verdict: Stored,
) -> pa.Table:
    """Return one decision as a table of one row with the schema `DECISIONS`.

    Parameters
    ----------
    day
        Day the decision belongs to.
    version
        The model version it is about: the challenger for the gate, the champion for the governor.
    demands
        What the use case demands, as JSON-able values.
    """
    row = {
        "day": day,
        "use_case": use_case,
        "kind": kind,
        "decision": decision,
        "trigger": trigger,
        "version": version,
        "reasons": list(reasons),
        "evidence": canonical_json({"evidence": evidence.to_dict(), "demands": dict(demands)}),
        "verdict": canonical_json(verdict.to_dict()),
    }
    return pa.Table.from_pylist([row], schema=DECISIONS)
