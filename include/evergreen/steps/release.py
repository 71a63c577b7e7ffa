"""Release by hand: promote a version or roll back to one, and score a day again."""

from __future__ import annotations

from typing import Any

from evergreen.contract import load_use_case, parse_day
from evergreen.errors import ConfigError


def release_version(
    use_case: str, action: str, version: str, reason: str, actor: str
) -> dict[str, Any]:
    """Append the decision to the ledger and let the registry's alias follow.

    Actions: `promote`, `roll_back`; `roll_out`, which begins a rollout, and `stop`, which ends one.
    """
    from evergreen.release.ledger import engine
    from evergreen.release.promote import promote
    from evergreen.release.rollout import begin, rolling, stop
    from evergreen.training.compatibility import require_fit
    from evergreen.training.tracking import describe_version, set_champion

    declared = load_use_case(use_case)
    if not reason.strip():
        raise ConfigError("The release has no reason. Fill in the form's field `reason`.")
    if not (version.isascii() and version.isdigit()):
        raise ConfigError(f"The version is {version!r}; expected a number of the registry.")
    told: dict[str, Any] = {"actor": actor, "reason": reason, "evidence": {"by": "hand"}}
    if action == "stop":
        found = rolling(engine(), use_case)
        if found is None or found.challenger != int(version):
            raise ConfigError(
                f"Version {version} is not being rolled out; "
                f"{f'version {found.challenger} is' if found else 'no version is'}. Nothing was "
                "stopped."
            )
        entry = stop(engine(), use_case, found, request=None, **told)
        return {"use_case": use_case, "version": entry.version, "sequence": entry.sequence}
    require_fit(declared, int(version), describe_version(declared, int(version)))
    if action == "roll_out":
        if declared.rollout is None:
            raise ConfigError(
                f"{use_case} declares no rollout, so nobody would judge one at night. Declare "
                "`rollout:` in use_case.yaml, or promote the version."
            )
        entry = begin(engine(), declared, int(version), **told)
    else:
        entry = promote(
            engine(),
            use_case,
            int(version),
            action="roll_back" if action == "roll_back" else "promote",
            set_alias=lambda champion: set_champion(declared, champion),
            **told,
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
