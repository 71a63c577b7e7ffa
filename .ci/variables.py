"""Fail unless compose, `.env.example` and the tests of its services name the same variables.

python .ci/variables.py [FOLDER]    # of the project; the working directory by default
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_IN_COMPOSE = re.compile(r"(?<!\$)\$\{([A-Z_]+)(:[?-])?")
_IN_EXAMPLE = re.compile(r"^([A-Z_]+)=(.*)$", re.MULTILINE)
# How tests name one of them: a key of what they fill the file with.
_IN_TESTS = re.compile(r"""SECRETS\[["']([A-Z_]+)["']\]""")


def disagreements(project: Path) -> list[str]:
    """Return what is named in one place and not in another, and secrets that are no secrets."""
    compose = _IN_COMPOSE.findall((project / "docker-compose.yaml").read_text())
    example = dict(_IN_EXAMPLE.findall((project / ".env.example").read_text()))
    used, required = {name for name, _ in compose}, {name for name, how in compose if how == ":?"}
    told = {
        "is in docker-compose.yaml and not in .env.example": used - {*example},
        "is in .env.example and not in docker-compose.yaml": {*example} - used,
        "is a secret and has a value in .env.example": {n for n in required if example.get(n)},
        "is no secret and has no value in .env.example": {
            name for name in used - required if example.get(name) == ""
        },
    }
    for test in sorted((project / "tests").rglob("test_*.py")):
        text = test.read_text()
        if "compose_file" in text:
            told[f"is in {test.name} and not in docker-compose.yaml"] = {
                *_IN_TESTS.findall(text)
            } - used
    return sorted(f"{name} {what}" for what, names in told.items() for name in names)


if __name__ == "__main__":
    if found := disagreements(Path(*sys.argv[1:]) if sys.argv[1:] else Path.cwd()):
        raise SystemExit("Variables of the deployment disagree:\n  " + "\n  ".join(found))
