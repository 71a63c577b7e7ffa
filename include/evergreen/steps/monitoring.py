"""Monitoring: one night's measurements, the governor's verdict, and perhaps a request."""

from __future__ import annotations

import logging
from typing import Any

from evergreen.contract import load_use_case, parse_day
from evergreen.errors import IncidentError

logger = logging.getLogger(__name__)


def measure_drift(use_case: str, day: str) -> dict[str, Any]:
    """Hold features and scores of the last nights against the champion's training reference."""
    from evergreen.monitoring import night

    return night.drift(load_use_case(use_case), parse_day(day))


def measure_performance(use_case: str, day: str) -> dict[str, Any]:
    """Compare scores with what happened: of the day whose labels matured, and of owed ones."""
    from evergreen.monitoring import outcomes

    return outcomes.performance(load_use_case(use_case), parse_day(day))


def measure_estimates(use_case: str, day: str) -> dict[str, Any]:
    """Estimate what the night's scores will turn out to be worth, before their labels are known."""
    from evergreen.monitoring import outcomes

    return outcomes.estimates(load_use_case(use_case), parse_day(day))


def measure_freshness(use_case: str, day: str) -> dict[str, Any]:
    """Measure how far each table lies behind the day."""
    from evergreen.monitoring import night

    return night.freshness(load_use_case(use_case), parse_day(day))


def measure_skew(use_case: str, day: str) -> dict[str, Any]:
    """Log what the online store serves to a sample of entities, and hold it against features."""
    from evergreen.monitoring import serving

    return serving.skew(load_use_case(use_case), parse_day(day))


def choose_owed_features(use_case: str, day: str, run: str, freshness: dict[str, Any]) -> list[str]:
    """Choose the owed days of features that are computed now, and put them on record.

    None, unless `monitoring.max_recomputed_days` allows some.
    """
    from evergreen.monitoring.recompute import start_owed

    owed = [parse_day(text) for text in freshness["owed"]]
    started = start_owed(load_use_case(use_case), parse_day(day), owed, run)
    return [chosen.isoformat() for chosen in started]


def start_owed_features(days: list[str]) -> dict[str, Any]:
    """Announce the chosen days, each by an asset event that starts its features."""
    return {"days": days}


def measure_staleness(use_case: str, day: str) -> dict[str, Any]:
    """List the days of tables whose inputs have changed since, with the commands that mend them."""
    from evergreen.monitoring import night

    return night.staleness(load_use_case(use_case), parse_day(day))


def decide_retraining(
    use_case: str, day: str, measured: list[dict[str, Any] | None]
) -> dict[str, Any]:
    """Let the governor weigh the night, and keep evidence and verdict in `decisions`."""
    from evergreen.monitoring.verdict import decide

    return decide(load_use_case(use_case), parse_day(day), measured)


def judge_rollout(use_case: str, day: str) -> dict[str, Any]:
    """Decide whether the rollout that is on goes on, holds, ends well or is stopped, and do it."""
    from evergreen.monitoring import rollout

    return rollout.judge(load_use_case(use_case), parse_day(day))


def is_taken_back(judged: dict[str, Any]) -> bool:
    """Whether scores of the night that come from the challenger are to be the champion's again."""
    return bool(judged["take_back"])


def measure_experiment(use_case: str, day: str) -> dict[str, Any]:
    """Compare those who were treated with those who were held out, by the outcomes known so far."""
    from evergreen.experiments import night

    return night.measure(load_use_case(use_case), parse_day(day))


def report_night(use_case: str, day: str) -> dict[str, Any]:
    """Write the night as one page, and keep a copy with the run of the version it was about.

    The page is in its place before MLflow is asked, and the decision long before the page.
    """
    from evergreen.monitoring.report import keep_report, write_report

    path, facts = write_report(load_use_case(use_case), parse_day(day))
    logger.info("the report of the night of %s: %s", day, path)
    keep_report(path, facts)
    return {"use_case": use_case, "day": day, "file": str(path)}


def is_retraining_wanted(verdict: dict[str, Any]) -> bool:
    """Whether the governor asks for retraining that has not been taken up yet.

    Raises
    ------
    IncidentError
        The night's data were bad. The decision is on record; the run fails so that somebody looks.
    """
    if verdict["incidents"]:
        raise IncidentError(
            f"{verdict['use_case']}, night of {verdict['day']}: "
            + "; ".join(verdict["incidents"])
            + ". Bad data is no reason to retrain, so nothing is requested. Mend what is bad, then "
            "run this night again: " + "; ".join(verdict["mend"])
        )
    return bool(verdict["wanted"])


def request_retraining(verdict: dict[str, Any]) -> dict[str, Any]:
    """State the request; it is announced as an asset event and starts training for the day."""
    return {
        "use_case": verdict["use_case"],
        "period": verdict["day"],
        "trigger": verdict["trigger"],
        "reason": "; ".join(verdict["reasons"]),
    }
