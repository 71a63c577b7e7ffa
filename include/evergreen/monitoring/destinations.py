"""Where alerts go: mail, chat, webhooks, whatever Apprise knows. Its URLs are secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from evergreen.errors import ConfigError, ServiceDownError
from evergreen.settings import alert_destinations

logger = logging.getLogger(__name__)

Kind = Literal["info", "success", "warning"]


def send(name: str, url: str, title: str, text: str, kind: Kind = "info") -> None:
    """Send one message to one destination.

    Parameters
    ----------
    name
        What the destination is called; its URL is never logged.
    kind
        What chats colour and pagers sort by.

    Raises
    ------
    ConfigError
        The URL is none that Apprise knows.
    ServiceDownError
        The destination did not take the message.
    """
    from apprise import Apprise, AppriseAsset, NotifyFormat

    # Apprise's icons would be loaded from elsewhere by who reads the message.
    asset = AppriseAsset(app_id="Evergreen", app_desc="Evergreen", app_url="", image_url_mask="")
    destination = Apprise(asset=asset)
    with _masked(url):
        if not destination.add(url):
            raise ConfigError(
                f"EVERGREEN_ALERT_{name.upper()} is no URL of a destination. It may hold a secret, "
                "so it is not shown; the log line of `apprise` before this one says what is wrong. "
                "Expected something like jsons://example.com/hook or "
                "mailtos://user:password@smtp.example.com?to=team@example.com; docs/alerts.md has "
                "more."
            )
        if not destination.notify(text, title, kind, body_format=NotifyFormat.TEXT):
            raise ServiceDownError(f"It did not take the message {title!r}.")
    logger.info("told %s: %s", name, title)


@contextmanager
def _masked(url: str) -> Iterator[None]:
    """Keep a URL out of Apprise's log, which shows those it cannot read."""

    def mask(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().replace(url, "the URL"), ()
        return True

    logs = logging.getLogger("apprise")
    logs.addFilter(mask)
    try:
        yield
    finally:
        logs.removeFilter(mask)


async def send_to_all(title: str, text: str, kind: Kind = "info") -> None:
    """Send one message to all destinations, at once.

    Raises
    ------
    ServiceDownError
        One was not told; the others were.
    """
    destinations = alert_destinations()
    missed = []

    def send_to(name: str) -> None:
        if not tell(name, lambda: send(name, destinations[name], title, text, kind)):
            missed.append(name)

    # Apprise takes seconds, and the loop is the triggerer's.
    await asyncio.gather(*(asyncio.to_thread(send_to, name) for name in destinations))
    require_told(missed)


def tell(name: str, sending: Callable[[], None]) -> bool:
    """Send, and return whether the destination was told; if not, the log says why."""
    try:
        sending()
    except (ConfigError, ServiceDownError) as error:
        logger.warning("%s was not told: %s", name, error)
        return False
    return True


def require_told(missed: Iterable[str]) -> None:
    """Fail if some destinations were not told.

    Raises
    ------
    ServiceDownError
        With their names, and what to do.
    """
    if names := ", ".join(missed):
        raise ServiceDownError(
            f"The alert did not reach {names}; the log lines before this one say why. Decisions "
            "are on record, nothing else has failed. Mend the destination "
            "(EVERGREEN_ALERT_<NAME>; `evergreen alert` tries it), then clear this task; what a "
            "night has not told, the next one tells."
        )
