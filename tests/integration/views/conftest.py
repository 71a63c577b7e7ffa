"""The shop that people watch: a champion and nights, some with trouble."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embedded import Build
from evergreen.contract import UseCase, load_use_case
from watched_shop import NAME, build_watched_shop


@pytest.fixture
def folder(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_watched_shop)


@pytest.fixture
def shop(folder: Path) -> UseCase:
    return load_use_case(NAME)
