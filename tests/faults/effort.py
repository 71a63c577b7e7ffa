"""How much is tried."""

from __future__ import annotations

from typing import NamedTuple

import pytest


class Effort(NamedTuple):
    """How much is tried."""

    order_free: int
    corrected: int
    data_kills: int
    model_kills: int
    seed: int


_FEW = pytest.param("few", marks=pytest.mark.slow)
_MANY = pytest.param("many", marks=pytest.mark.faults)
FEW_AND_MANY = pytest.mark.parametrize("effort", [_FEW, _MANY], indirect=True)
MANY = pytest.mark.parametrize("effort", [_MANY], indirect=True)
