"""Where alerts go: mail, chat, webhooks, whatever Apprise knows. Its URLs are secrets."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from evergreen.errors import ConfigError, ServiceDownError
from evergreen.settings import alert_destinations

if TYPE_CHECKING:
    from apprise import Apprise

logger = logging.getLogger(__name__)


def open_destination(name: str, url: str) -> Apprise:
    """Open one destination; nothing is sent yet.

    Raises
    ------
    ConfigError
        The URL is none that Apprise knows.
    """
    from apprise import Apprise, AppriseAsset

    # Its icons are loaded from elsewhere by who reads the message; it stores nothing.
    asset = AppriseAsset(app_id="Evergreen", app_desc="Evergreen", app_url="", image_url_mask="")
    destination = Apprise(asset=asset)
    if not destination.add(url):
        raise ConfigError(
            f"EVERGREEN_ALERT_{name.upper()} is no URL of a destination. It may hold a secret, so "
            "it is not shown; the log line of `apprise` before this one says what is wrong. "
            "Expected something like mailtos://user:password@smtp.example.com?to=team@example.com "
            "or jsons://example.com/hook; docs/alerts.md has more."
        )
    return destination


def send(name: str, url: str, title: str, text: str) -> None:
    """Send one message to one destination.

    Raises
    ------
    ConfigError
        The URL is none that Apprise knows.
    ServiceDownError
        The destination did not take the message.
    """
    from apprise import NotifyFormat

    if not open_destination(name, url).notify(text, title, body_format=NotifyFormat.TEXT):
        raise ServiceDownError(refusal([name]))
    logger.info("told %s: %s", name, title)


async def send_to_all(title: str, text: str) -> None:
    """Send one message to all destinations, from where nobody may wait: the triggerer.

    Raises
    ------
    ConfigError, ServiceDownError
        As `send`; the others were told all the same.
    """
    import asyncio

    names, found = [], alert_destinations()
    told = await asyncio.gather(
        *(asyncio.to_thread(send, name, url, title, text) for name, url in found.items()),
        return_exceptions=True,
    )
    for name, outcome in zip(found, told, strict=True):
        if isinstance(outcome, BaseException):
            logger.warning("%s was not told: %s", name, outcome)
            names.append(name)
    if names:
        raise ServiceDownError(refusal(names))


def refusal(names: Iterable[str]) -> str:
    """Say that destinations did not take a message, and what to do."""
    listed = ", ".join(names)
    return (
        f"The alert did not reach {listed}; the log lines before this one say why. Decisions are "
        "on record, nothing else has failed. Mend the destination (EVERGREEN_ALERT_<NAME>), then "
        "clear this task; what a night has not told, the next one tells."
    )
