"""The compose file as a container engine would read it: variables filled in."""

from __future__ import annotations

import re
from typing import Any

import yaml

from evergreen.settings import PROJECT_ROOT

TEXT = (PROJECT_ROOT / "docker-compose.yaml").read_text()
# ${NAME}, ${NAME:?message} or ${NAME:-default}; `$$` is a dollar for the container's shell.
VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z_]+)(?::([?-])([^}]*))?\}")


def load(values: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the whole file; without `values` its variables stay as they are written."""

    def fill(match: re.Match[str]) -> str:
        name, kind, default = match.groups()
        return values.get(name) or (default if kind == "-" else values[name])

    text = TEXT if values is None else VARIABLE.sub(fill, TEXT).replace("$$", "$")
    return yaml.safe_load(text)


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Return the environment of one service; YAML takes some of the values for numbers."""
    return {name: str(value) for name, value in service["environment"].items()}
