"""The `feast` command on this project: `python -m evergreen.features.store.feast_cli <words>`."""

from __future__ import annotations

import os
import sys

from feast.cli.cli import cli

from evergreen.features.store import environment
from evergreen.settings import PROJECT_ROOT, load_settings


def main() -> None:
    """Run `feast` in `feature_repo`, with the variables that its YAML file needs."""
    os.environ.update(environment(load_settings()))
    cli(["--chdir", str(PROJECT_ROOT / "feature_repo"), *sys.argv[1:]])


if __name__ == "__main__":
    main()
