"""Reading `use_case.yaml`, and saying what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError as PydanticError

from evergreen.contract.sources import FilesSource
from evergreen.contract.use_case import UseCase, read_sql
from evergreen.errors import ConfigError
from evergreen.settings import load_settings
from evergreen.targets.kinds import KINDS

# What a use case has from the one it builds on, and may not declare itself.
_INHERITED = (
    *("first_day", "last_day", "zone", "entity"),
    *("events", "attributes", "references"),
)
# Keys of earlier contracts, and what to write instead.
_FORMER = {
    "source": "moved into its table: events.<table>.source",
    "orders": "moved: write events: and below it orders: with source, key, timestamp, columns",
    "events.*.time": "renamed: timestamp",
    "daily": "moved into its table: events.<table>.daily; the SQL reads it as <table>_daily",
    "approval": "moved: gate, as mode: approve",
    "label": "renamed: target",
    "features.recency": "optional, and moved: training.baselines: [<feature>]",
    "gate.min_holdout_minority": "renamed: min_holdout_minority_rows",
    "monitoring.max_auc_drop": "renamed: max_performance_drop",
    "monitoring.min_drifted": "renamed: min_weight, as a share of the champion's importance",
}
_PROBLEM = re.compile("Value error, contradictions:\n")
_TAGS = ("files", "sql", "generator", *KINDS)


def list_use_cases() -> list[str]:
    """Names of the use cases that exist, sorted."""
    folder = load_settings().use_cases
    return sorted(path.parent.name for path in folder.glob("*/use_case.yaml"))


def load_all() -> tuple[list[UseCase], dict[str, ConfigError]]:
    """Load every use case, sorted by name; a broken one disturbs no other.

    Returns
    -------
    tuple
        Those that can be loaded, and why the others cannot.
    """
    found, broken = [], {}
    for name in list_use_cases():
        try:
            found.append(load_use_case(name))
        except ConfigError as error:
            broken[name] = error
    return found, broken


def load_use_cases() -> list[UseCase]:
    """Load the use cases that can be loaded, sorted by name; see `load_all`."""
    return load_all()[0]


def require_whole_use_cases() -> None:
    """Raise for the use cases that cannot be loaded.

    Raises
    ------
    ConfigError
        Folders are broken; the message names each with file and key.
    """
    if broken := load_all()[1]:
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
    declared = _read(path)
    base = _base_of(path, declared)
    if base is not None:
        declared = _with_base(path, declared, base)
    try:
        use_case = UseCase.model_validate(declared)
    except PydanticError as error:
        raise ConfigError(_explain(path, error)) from error
    if use_case.name != path.parent.name:
        raise ConfigError(
            f"{path}: name: found {use_case.name!r}, expected {path.parent.name!r}, "
            "the name of the folder."
        )
    _require_zone(path, declared, use_case)
    use_case._folder, use_case._base = path.parent, base
    for sql in (use_case.features_path, path.parent / "labels.sql"):
        read_sql(sql)
    return use_case


def _read(path: Path) -> dict[str, Any]:
    try:
        declared: Any = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Also dates that do not exist (2026-02-30): YAML has a type for dates.
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(declared, dict):
        raise ConfigError(f"{path} holds {type(declared).__name__}; expected a mapping of keys.")
    return declared


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError:
        # Eight times as slow, but its error shows the line.
        return yaml.safe_load(text)


def _base_of(path: Path, declared: dict[str, Any]) -> str | None:
    features = declared.get("features")
    if not isinstance(features, dict) or "of" not in features:
        return None
    base = features["of"]
    problems = [f"features.{key}: not beside `of`" for key in features if key != "of"]
    problems += [f"{key}: declared by {base}, not here" for key in _INHERITED if key in declared]
    if not isinstance(base, str) or base == declared.get("name"):
        problems.append(f"features.of: found {base!r}, expected the name of another use case")
    serving = declared.get("serving")
    if isinstance(serving, dict) and serving.get("push"):
        problems.append(f"serving.push: the tables are those of {base}, which declares it")
    if (path.parent / "features.sql").exists():
        problems.append(f"features.sql: the features are those of {base}; remove the file")
    if problems:
        raise ConfigError(_listed(path, problems))
    return str(base)


def _with_base(path: Path, declared: dict[str, Any], base: str) -> dict[str, Any]:
    """Return the declaration with all that it has from the use case it builds on."""
    other = path.parent.parent / base / "use_case.yaml"
    if not other.is_file():
        raise ConfigError(
            _listed(path, [f"features.of: found {base!r}, but {other} does not exist"])
        )
    theirs = _read(other)
    if _base_of(other, theirs) is not None:
        further = theirs["features"]["of"]
        raise ConfigError(
            _listed(path, [f"features.of: {base} builds on {further} itself; name {further}"])
        )
    inherited = {key: theirs[key] for key in (*_INHERITED, "features") if key in theirs}
    return {**declared, **inherited}


def _require_zone(path: Path, declared: dict[str, Any], use_case: UseCase) -> None:
    """Refuse files of one day each, in a zone of their own, where nobody says whose days they are.

    Rows around midnight would lie outside of their file's day, few enough to go unnoticed.
    """
    if "zone" in declared:
        return
    for table in use_case.tables.values():
        if not isinstance(table.source, FilesSource) or "{day" not in table.source.path:
            continue
        column = table.columns.get(table.time or "")
        if column is not None and column.zone not in (None, use_case.zone):
            problem = (
                f"zone: missing; {table.kind}.{table.name} has a file for each day and its times "
                f"are of {column.zone}. Write whose midnights begin the days: zone: {column.zone}, "
                "or zone: UTC if the files are cut there"
            )
            raise ConfigError(_listed(path, [problem]))


def _explain(path: Path, error: PydanticError) -> str:
    """Say all that is wrong, a line each: key, what was found, what was expected."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        kind, found, said = item["type"], item["input"], item["msg"]
        steps = [str(step) for step in item["loc"]]
        # The kind of a source or target is a step of its own there, and no key of the file.
        steps = [
            step
            for before, step in zip(["", *steps], steps, strict=False)
            if not (before in ("source", "target") and step in _TAGS)
        ]
        where = ".".join(steps) or "(top level)"
        former = _FORMER.get(re.sub(r"^(events)\.\w+\.", r"\1.*.", where))
        if kind == "extra_forbidden":
            instead = former or "remove or rename it"
            lines.append(f"{where}: unknown key (found {_short(found)}); {instead}")
        elif kind == "missing":
            lines.append(f"{where}: missing; this key is required")
        elif kind.startswith("union_tag"):
            choice = item["ctx"]["discriminator"].strip("'").removesuffix("()").lstrip("_")
            tag = f"found {found[choice]!r}" if choice in found else "missing"
            expected = item["ctx"].get("expected_tags", "'files', 'sql' or 'generator'")
            lines.append(f"{where}.{choice}: {tag}; expected one of {expected}")
        elif kind == "value_error" and isinstance(found, dict) and _PROBLEM.match(said):
            # Contradictions between keys, each told with its key; the whole section is no help.
            above = [*steps, ""]
            for problem in said.splitlines()[1:]:
                key = (".".join(above) + problem).partition(":")[0]
                instead = f" ({_FORMER[key]})" if key in _FORMER else ""
                lines.append(".".join(above) + problem + instead)
        else:
            said = said.removeprefix("Value error, ").replace("Input should be", "expected")
            lines.append(f"{where}: found {_short(found)}; {said}")
    return _listed(path, lines)


def _listed(path: Path, lines: list[str]) -> str:
    return (
        f"{path} is not a valid use case:\n"
        + "\n".join(f"  - {line}" for line in lines)
        + "\nEvery key is explained in docs/use_case.md; `evergreen check` looks again."
    )


def _short(value: Any) -> str:
    """Quote a value; of a long one, its beginning."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
