"""Print what CHANGELOG.md says of a version, if pyproject.toml is of that version.

python .ci/notes.py 0.2.0
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def declared_version(root: Path = ROOT) -> str:
    """Return the version, which pyproject.toml alone says."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def sections(root: Path = ROOT) -> dict[str, str]:
    """Return the text of every version, and of `Unreleased`, the newest first."""
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    parts = re.split(r"^## \[([^\]]+)\].*\n", changelog, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))


def notes(version: str, root: Path = ROOT) -> str:
    """Return the notes of a release; ends the program if it is none."""
    if version != (declared := declared_version(root)):
        sys.exit(f"pyproject.toml is of version {declared}; expected {version}. Set it first.")
    if not (text := sections(root).get(version)):
        sys.exit(
            f"CHANGELOG.md says nothing of {version}; expected a section `## [{version}]`: rename "
            "`Unreleased`, and begin a new one."
        )
    return f"{text}\n"


if __name__ == "__main__":
    sys.stdout.write(notes(*sys.argv[1:]))
