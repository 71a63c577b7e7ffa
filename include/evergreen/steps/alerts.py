"""Alerts: what a night and a training tell, to whom `EVERGREEN_ALERT_<NAME>` names."""

from __future__ import annotations

from typing import Any

from evergreen.contract import load_use_case, parse_day


def tell_night(verdict: dict[str, Any], link: str) -> list[str]:
    """Tell each destination, once, what has begun or ended by the governor's verdict."""
    from evergreen.monitoring import alerting

    declared = load_use_case(verdict["use_case"])
    return alerting.tell_night(declared, parse_day(verdict["day"]), verdict["mend"], link)


def tell_training(use_case: str, day: str, link: str) -> list[str]:
    """Tell each destination, once, how the training of a day ended."""
    from evergreen.monitoring import alerting

    return alerting.tell_training(load_use_case(use_case), parse_day(day), link)
