"""Reading `use_case.yaml`, and saying what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError as PydanticError

from evergreen.contract.use_case import UseCase, read_sql
from evergreen.errors import ConfigError
from evergreen.settings import load_settings


def list_use_cases() -> list[str]:
    """Names of the use cases that exist, sorted."""
    folder = load_settings().use_cases
    return sorted(path.parent.name for path in folder.glob("*/use_case.yaml"))


def load_use_cases() -> list[UseCase]:
    """Load every use case that can be loaded, sorted by name; a broken one disturbs no other.

    See `broken_use_cases` for the rest.
    """
    return [found for found in _load_all().values() if isinstance(found, UseCase)]


def broken_use_cases() -> dict[str, ConfigError]:
    """Say of every use case that cannot be loaded why not, by name."""
    return {name: found for name, found in _load_all().items() if isinstance(found, ConfigError)}


def require_whole_use_cases() -> None:
    """Raise for the use cases that cannot be loaded.

    Raises
    ------
    ConfigError
        Folders are broken; the message names each with file and key.
    """
    if broken := broken_use_cases():
        raise ConfigError(
            f"Left out until mended: {', '.join(broken)}. All other use cases run on.\n"
            + "\n".join(str(error) for error in broken.values())
        )


def load_use_case(name: str) -> UseCase:
    """Load and validate one use case.

    Raises
    ------
    ConfigError
        It does not exist, is not YAML, or breaks the model; the message names file, key, what
        was found and what was expected.
    """
    root = load_settings().use_cases
    path = root / name / "use_case.yaml"
    if not path.is_file():
        raise ConfigError(
            f"There is no use case {name!r}: {path} does not exist. "
            f"Known use cases: {', '.join(list_use_cases()) or 'none'}."
        )
    return load_use_case_file(path)


def load_use_case_file(path: Path) -> UseCase:
    """Load one `use_case.yaml` from anywhere; the folder's name must be the use case's name."""
    try:
        declared: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Also dates that do not exist (2026-02-30): YAML has a type for dates.
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(declared, dict):
        raise ConfigError(f"{path} holds {type(declared).__name__}; expected a mapping of keys.")
    try:
        use_case = UseCase.model_validate(declared)
    except PydanticError as error:
        raise ConfigError(_explain(path, error)) from error
    if use_case.name != path.parent.name:
        raise ConfigError(
            f"{path}: name: found {use_case.name!r}, expected {path.parent.name!r}, "
            "the name of the folder."
        )
    use_case._folder = path.parent
    for sql in ("features.sql", "labels.sql"):
        read_sql(path.parent / sql)
    return use_case


def _load_all() -> dict[str, UseCase | ConfigError]:
    found: dict[str, UseCase | ConfigError] = {}
    for name in list_use_cases():
        try:
            found[name] = load_use_case(name)
        except ConfigError as error:
            found[name] = error
    return found


def _explain(path: Path, error: PydanticError) -> str:
    """Say all that is wrong, a line each: key, what was found, what was expected."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        kind, found, said = item["type"], item["input"], item["msg"]
        steps = [str(step) for step in item["loc"]]
        if steps[:1] == ["source"]:
            # The kind of source is a step of its own there, and no key of the file.
            del steps[1:2]
        where = ".".join(steps) or "(top level)"
        if kind == "extra_forbidden":
            lines.append(f"{where}: unknown key (found {_short(found)}); remove or rename it")
        elif kind == "missing":
            lines.append(f"{where}: missing; this key is required")
        elif kind.startswith("union_tag"):
            choice = item["ctx"]["discriminator"].strip("'")
            tag = f"found {found[choice]!r}" if choice in found else "missing"
            expected = item["ctx"].get("expected_tags", "'files', 'sql' or 'generator'")
            lines.append(f"{where}.{choice}: {tag}; expected one of {expected}")
        elif kind == "value_error" and isinstance(found, dict) and _PROBLEM.match(said):
            # Contradictions between keys, each told with its key; the whole section is no help.
            above = [*steps, ""]
            lines += [".".join(above) + problem for problem in said.splitlines()[1:]]
        else:
            said = said.removeprefix("Value error, ").replace("Input should be", "expected")
            lines.append(f"{where}: found {_short(found)}; {said}")
    return (
        f"{path} is not a valid use case:\n"
        + "\n".join(f"  - {line}" for line in lines)
        + "\nEvery key is explained in docs/use_case.md; `evergreen check` looks again."
    )


_PROBLEM = re.compile("Value error, contradictions:\n")


def _short(value: Any) -> str:
    """Quote a value; of a long one, its beginning."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
