"""Reports of nights, kept with the run of the version that was watched."""

from __future__ import annotations

from datetime import date

from evergreen.contract import UseCase
from evergreen.settings import Settings
from evergreen.training.tracking.client import connect, explained
from evergreen.training.tracking.runs import describe_version


def keep_night(
    use_case: UseCase, version: int, day: date, page: str, settings: Settings | None = None
) -> None:
    """Keep the page of a night as `nights/<day>.html` of the version's run; replaces an earlier.

    Raises
    ------
    NotReadyError
        There is no such version.
    ServiceDownError
        The tracking store does not answer.
    """
    run_id = describe_version(use_case, version, settings).run_id
    with explained(f"version {version} of {use_case.name}"):
        connect(settings).log_text(run_id, page, f"nights/{day}.html")
