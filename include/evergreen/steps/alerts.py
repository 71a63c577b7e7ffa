"""Alerts: what a night and a training tell, to whom `EVERGREEN_ALERT_<NAME>` names."""

from __future__ import annotations

import logging
from typing import Any

from evergreen.contract import load_use_case, parse_day
from evergreen.settings import alert_destinations

logger = logging.getLogger(__name__)


def tell_night(verdict: dict[str, Any], link: str) -> list[str]:
    """Tell each destination, once, what has begun or ended by the governor's verdict."""
    if not _is_anybody_named():
        return []
    from evergreen.monitoring import alerting

    declared = load_use_case(verdict["use_case"])
    return alerting.tell_night(declared, parse_day(verdict["day"]), verdict["mend"], link)


def tell_training(use_case: str, day: str, link: str) -> list[str]:
    """Tell each destination, once, how the training of a day ended."""
    if not _is_anybody_named():
        return []
    from evergreen.monitoring import alerting

    return alerting.tell_training(load_use_case(use_case), parse_day(day), link)


def _is_anybody_named() -> bool:
    named = bool(alert_destinations())
    if not named:
        logger.info("nobody is told: no EVERGREEN_ALERT_<NAME> is set")
    return named
