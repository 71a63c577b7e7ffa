"""Release by hand: promote a version or roll back to one, and score a day again."""

from __future__ import annotations

from typing import Any

from evergreen.contract import load_use_case, parse_day
from evergreen.errors import ConfigError


def release_version(
    use_case: str, action: str, version: str, reason: str, actor: str
) -> dict[str, Any]:
    """Append the decision to the ledger and let the registry's alias follow."""
    from evergreen.release.ledger import engine
    from evergreen.release.promote import promote
    from evergreen.training.compatibility import require_fit
    from evergreen.training.tracking import describe_version, set_champion

    declared = load_use_case(use_case)
    if not reason.strip():
        raise ConfigError("The release has no reason. Fill in the form's field `reason`.")
    if not (version.isascii() and version.isdigit()):
        raise ConfigError(f"The version is {version!r}; expected a number of the registry.")
    require_fit(declared, int(version), describe_version(declared, int(version)))
    entry = promote(
        engine(),
        use_case,
        int(version),
        action="roll_back" if action == "roll_back" else "promote",
        actor=actor,
        reason=reason,
        evidence={"by": "hand"},
        set_alias=lambda champion: set_champion(declared, champion),
    )
    return {"use_case": use_case, "version": entry.version, "sequence": entry.sequence}


def resolve_release(released: dict[str, Any], day: str) -> dict[str, Any]:
    """Name the day that is to be scored again by the released version; empty for none."""
    if day in ("", "None"):
        return {**released, "day": None}
    wanted = parse_day(day, released["use_case"])
    return {**released, "day": wanted.isoformat(), "because": "released"}


def has_day(resolved: dict[str, Any]) -> bool:
    """Whether a day is to be scored again."""
    return resolved["day"] is not None
