"""Where people look at what a task has made. Addresses are empty where there is nothing to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evergreen.contract import load_use_case
from evergreen.provenance.staging import Staged
from evergreen.settings import load_settings


def find_data_docs(stage: str, staged: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Return the page of what was validated, below the pages: its own, or the list of chunks.

    The suite is named by the table that was delivered, or by the stage, whether its shards were
    several or one.
    """
    batch = Staged.gather(staged)
    suite = batch.facts.get("table") or stage
    labels = [chunk.label for chunk in batch.periods()]
    page = f"{suite}/{labels[0]}.html" if len(labels) == 1 else "index.html"
    kept = load_settings().quality / batch.use_case / "data_docs" / page
    return f"data-docs/{batch.use_case}/{page}" if kept.is_file() else ""


def find_tracked_run(use_case: str, version: int) -> str:
    """Return the URL of a version's run in MLflow, if browsers reach its pages."""
    from evergreen.training.tracking import find_page

    return find_page(load_use_case(use_case), version)
