"""Who may ask for scores: bearer tokens that expire, and how often each may ask."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import jwt
from cachetools import LRUCache
from limits import RateLimitItem, parse

from evergreen.errors import ConfigError
from evergreen.settings import Settings, secret

_ALGORITHM, _AUDIENCE = "HS256", "evergreen-serve"
_FILE = "serving.secret"
_FEWEST = 32
_REMEMBERED = 1_000
_HOW = "`evergreen serve-token` makes one."


class RefusedError(Exception):
    """A token that lets nobody in, with the reason that may be told."""


def secret_of(settings: Settings) -> str:
    """Return what tokens are signed by: the secret `serving`, else a file of the data directory.

    Raises
    ------
    ConfigError
        It is too short to be one.
    """
    try:
        found = secret("serving")
    except ConfigError:
        path = settings.home / _FILE
        with suppress(FileExistsError), open(path, "x", opener=_private) as file:
            file.write(secrets.token_urlsafe(48))
        found = path.read_text().strip()
    if len(found) < _FEWEST:
        raise ConfigError(
            f"EVERGREEN_SECRET_SERVING has {len(found)} characters; expected at least {_FEWEST}, "
            "at random."
        )
    return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def make_token(signed_by: str, name: str, days: float, now: datetime | None = None) -> str:
    """Make a token for somebody that lets them ask for scores for some days."""
    issued = now or datetime.now(UTC)
    claims = {
        "sub": name,
        "aud": _AUDIENCE,
        "iat": issued,
        "exp": issued + timedelta(days=days),
    }
    return jwt.encode(claims, signed_by, algorithm=_ALGORITHM)


class Door:
    """Lets in whose token is valid, as often as is allowed.

    Parameters
    ----------
    rate
        Keys that one name may ask for, such as `2000/second`.
    """

    def __init__(self, signed_by: str, rate: str) -> None:
        self._signed_by = signed_by
        try:
            self._rate: RateLimitItem = parse(rate)
        except ValueError as error:
            raise ConfigError(
                f"EVERGREEN_SERVING_RATE is {rate!r}; expected a number of keys by time, such as "
                "2000/second."
            ) from error
        # By header: for whom, and until when. By name: since when, and how many keys.
        self._known: LRUCache[str, tuple[str, float]] = LRUCache(_REMEMBERED)
        self._asked: LRUCache[str, tuple[float, int]] = LRUCache(_REMEMBERED)

    def name_of(self, header: str | None) -> str:
        """Return for whom the token of an `Authorization` header was made.

        Raises
        ------
        RefusedError
            There is none, or it is not valid, or no longer.
        """
        header = header or ""
        name, expires = self._known.get(header, ("", 0.0))
        if time.time() >= expires:
            name, expires = self._verified(header)
            self._known[header] = name, expires
        return name

    def _verified(self, header: str) -> tuple[str, float]:
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer" or not token:
            raise RefusedError(
                "The request has no bearer token. `evergreen serve-token` makes one."
            )
        try:
            claims = jwt.decode(
                token.strip(),
                self._signed_by,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                options={"require": ["exp", "sub"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise RefusedError(
                "The token has expired. `evergreen serve-token` makes one."
            ) from error
        except jwt.InvalidTokenError as error:
            raise RefusedError("The token is not one of this service.") from error
        return str(claims["sub"]), float(claims["exp"])

    def wait_seconds(self, name: str, keys: int) -> float:
        """Count keys that somebody asks for; return for how long they must wait, 0 if not."""
        now, window = time.monotonic(), self._rate.get_expiry()
        began, asked = self._asked.get(name, (now, 0))
        if now - began >= window:
            began, asked = now, 0
        if asked + keys > self._rate.amount:
            return max(1.0, began + window - now)
        self._asked[name] = began, asked + keys
        return 0.0
