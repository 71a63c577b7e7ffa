"""Every kind of target, by what `target.kind` calls it."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from evergreen.targets.binary import BinaryTarget
from evergreen.targets.number import NumberTarget

KINDS = ("binary", "number")
"""Values of `target.kind`."""


def _kind(declared: Any) -> str | None:
    kind = declared.get("kind", "binary") if isinstance(declared, dict) else declared.kind
    return str(kind)


Target = Annotated[
    Annotated[BinaryTarget, Tag("binary")] | Annotated[NumberTarget, Tag("number")],
    Discriminator(_kind),
]
