"""Alerts of a night or a training: what is due to each destination is sent, and then recorded.

What was sent is a row of the table `alerts`, so nothing is told twice. A process that is killed
between sending and recording sends the message again, with the same words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Any

import pyarrow as pa

from evergreen import lake
from evergreen.contract import UseCase
from evergreen.decisions.alerts import (
    ALERTS,
    News,
    Night,
    Training,
    due_by_night,
    due_by_trainings,
)
from evergreen.decisions.governor import read_retraining
from evergreen.monitoring.destinations import Kind, require_told, send, tell
from evergreen.monitoring.messages import Message, render_change, render_training
from evergreen.monitoring.night import publish
from evergreen.provenance import receipts
from evergreen.settings import alert_destinations

logger = logging.getLogger(__name__)

# A night also tells of trainings of so many days that ended since, and looks as far back for when
# a state began.
_DAYS = timedelta(days=7)


def tell_night(
    use_case: UseCase, tonight: date, mend: Sequence[str] = (), link: str = ""
) -> list[str]:
    """Tell each destination what has changed, if the night is the newest; see `_tell`.

    Parameters
    ----------
    mend
        Commands that make again what was bad on the night.
    link
        A page that messages refer to.
    """
    nights, ended = _recorded(use_case, tonight - _DAYS)
    if not nights or nights[-1].day != tonight:
        logger.info("%s is not the newest night of %s; it tells nothing", tonight, use_case.name)
        return []

    def render(news: News) -> Message:
        if news.concern == "training":
            return render_training(use_case, _of(news, ended), link)
        return render_change(use_case, news, nights[-1], mend, link)

    return _tell(use_case, tonight, lambda told: due_by_night(told, nights, ended), render)


def tell_training(use_case: UseCase, day: date, link: str = "") -> list[str]:
    """Tell each destination how the training of a day ended; see `_tell`."""
    _, ended = _recorded(use_case, day, day)
    return _tell(
        use_case,
        day,
        lambda told: due_by_trainings(told, ended),
        lambda news: render_training(use_case, _of(news, ended), link),
    )


def _kind(news: News) -> Kind:
    has_failed = news.concern == "training" and news.version is None
    if news.event == "begun" or has_failed:
        return "warning"
    return "success" if news.event == "over" else "info"


def _of(news: News, ended: Iterable[Training]) -> Training:
    return next(t for t in ended if (t.day, t.version) == (news.since, news.version))


def _tell(
    use_case: UseCase,
    day: date,
    due: Callable[[Sequence[News]], Iterable[News]],
    render: Callable[[News], Message],
) -> list[str]:
    """Tell each destination what is due to it, and record it; return who was told what.

    Raises
    ------
    ServiceDownError
        A destination did not take a message. Everything else was sent, and is on record.
    """
    sent: list[str] = []
    destinations = alert_destinations()

    def send_what_is_due(name: str) -> None:
        for news in due(_told(use_case, name)):
            title, text = render(news)
            send(name, destinations[name], title, text, _kind(news))
            _record(use_case, day, name, news, (title, text))
            sent.append(f"{name}: {title}")

    # One at a time: another run of this night may be telling the same.
    with receipts.recording(f"{use_case.name}.alerts of anybody"):
        missed = [n for n in destinations if not tell(n, partial(send_what_is_due, n))]
    require_told(missed)
    return sent


def _rows(use_case: UseCase) -> list[dict[str, Any]]:
    return sorted(lake.rows(use_case.name, "alerts"), key=lambda row: row["number"])


def _told(use_case: UseCase, destination: str) -> list[News]:
    return [
        News(row["concern"], row["event"], row["since"], row["version"])
        for row in _rows(use_case)
        if row["destination"] == destination
    ]


def _record(use_case: UseCase, day: date, destination: str, news: News, message: Message) -> None:
    rows = _rows(use_case)
    row = {
        "day": day,
        "use_case": use_case.name,
        "number": 1 + max((row["number"] for row in rows), default=0),
        "destination": destination,
        "concern": news.concern,
        "event": news.event,
        "since": news.since,
        "version": news.version,
        "title": message[0],
        "text": message[1],
    }
    of_day = [*(row for row in rows if row["day"] == day), row]
    table = pa.Table.from_pylist(of_day, schema=ALERTS)
    publish(use_case, day, "tell", "alerts", table, day)


def _recorded(
    use_case: UseCase, first: date, last: date | None = None
) -> tuple[list[Night], list[Training]]:
    """Return the nights on record, oldest first, and the trainings that ended."""
    nights, ended = [], []
    for row in lake.rows(use_case.name, "decisions", first, last):
        if row["kind"] == "governor":
            nights.append(Night(*read_retraining(row)))
        elif row["kind"] == "gate" or (row["kind"], row["decision"]) == ("request", "failed"):
            decision = row["decision"] if row["kind"] == "gate" else None
            reasons = tuple(row["reasons"])
            ended.append(Training(row["day"], row["version"], decision, reasons))
    return (
        sorted(nights, key=lambda night: night.day),
        sorted(ended, key=lambda training: (training.day, training.version or 0)),
    )
