"""What a row of the scoreboard is, and how a verdict follows from what was read back."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FEAST, EVIDENTLY, ZENML, STACKS = "Feast", "Evidently", "ZenML template", "mlops-stacks"
PLAIN, OURS = "Airflow, GX, MLflow", "Evergreen"
NOT_ITS_SUBJECT = "\N{EN DASH}"
CONTENDERS = (FEAST, EVIDENTLY, ZENML, STACKS, PLAIN, OURS)


@dataclass(frozen=True)
class Seen:
    """What one contender came to.

    Parameters
    ----------
    found
        What was read back, as one says it.
    passed
        Whether that is what passes.
    on_request
        Whether it is what an option gives that is not the default.
    """

    contender: str
    found: str
    passed: bool
    on_request: bool = False


@dataclass(frozen=True)
class Pain:
    """One row.

    Parameters
    ----------
    passes
        What has to be read back.
    run
        `module.function` of this package that makes what is seen, below a folder of its own. By
        name, because they import every contender. The data directory is one with a Postgres.
    more
        A test, a page or a command that shows more.
    note
        What else is to be known of the contenders.
    slow
        Whether it takes more than seconds, or installs packages.
    """

    number: int
    name: str
    passes: str
    run: str
    more: str
    note: str = ""
    slow: bool = False

    def see(self, folder: Path) -> list[Seen]:
        """Run it."""
        run: Callable[[Path], Iterable[Seen]]
        run = pkgutil.resolve_name(f"benchmarks.scoreboard.{self.run}")
        return list(run(folder))


def compare(
    contender: str, found: Mapping[str, Any], expected: Mapping[str, Any], **options: bool
) -> Seen:
    """Hold what was found, by name, against what was expected of all of it."""
    return Seen(contender, text(found), dict(found) == dict(expected), **options)


def text(found: Mapping[str, Any]) -> str:
    """Say what was found, by name."""
    return ", ".join(f"{name}: {_show(value)}" for name, value in found.items())


def verdict(seen: Iterable[Seen], contender: str) -> str:
    """Return what stands in the contender's cell of a row."""
    of_one = [one for one in seen if one.contender == contender]
    if not of_one:
        return NOT_ITS_SUBJECT
    found = _say(one.passed for one in of_one if not one.on_request)
    others = {_say([one.passed]) for one in of_one if one.on_request} - {found}
    return found + "".join(f"; on request {other}" for other in sorted(others))


def _say(passed: Iterable[bool]) -> str:
    return "pass" if all(passed) else "fail"


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_show, value))
    return "nothing" if value is None else str(value)
