"""Try each place that is a URL, by the way in which it is used, before anything relies on it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

from fsspec.asyn import sync

from evergreen.errors import ConfigError, ServiceDownError
from evergreen.lake.sealed import write_and_read
from evergreen.settings import Settings, as_folder, is_catalog_elsewhere

# Clients of a store wait for minutes, and some for ever.
_SECONDS = 30
_CONTENT = b"Evergreen can write here.\n"
# How the clients name what may be otherwise in a while.
_NO_ANSWER = re.compile(
    r"connect|time.?out|slow.?down|unavailable|internal.?(error|failure)|status 5\d\d", re.I
)


def require_places(settings: Settings) -> Iterator[str]:
    """Write, read back and remove a small object in each place that is a URL.

    Yields
    ------
    str
        Each place that works.

    Raises
    ------
    ConfigError
        The store answers, and does not do it.
    ServiceDownError
        It does not answer.
    """
    places = settings.places
    if is_catalog_elsewhere():
        # That one says where its tables are.
        del places["warehouse"]
    if settings.tracking_url:
        del places["artifacts"]
    for name, place in places.items():
        if "://" not in place:
            continue
        shown = _without_login(place)
        file = f"{place}/.evergreen-{uuid.uuid4().hex}"
        try:
            found = write_and_read(file, _CONTENT) if name == "warehouse" else _through_fsspec(file)
        # Each client has errors of its own.
        except Exception as error:
            answer = _without_login(f"{type(error).__name__}: {error}".rstrip(": "))
            what = f"{shown} (EVERGREEN_{name.upper()})"
            check = (
                f"Check that the place is there, EVERGREEN_{name.upper()}, AWS_ENDPOINT_URL, "
                "AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a store that does not "
                "know Amazon's newer checksums needs "
                "AWS_REQUEST_CHECKSUM_CALCULATION=when_required."
            )
            if isinstance(error, TimeoutError) or _NO_ANSWER.search(answer):
                raise ServiceDownError(f"{what} does not answer ({answer}). {check}") from error
            raise ConfigError(f"Nothing can be kept in {what} ({answer}). {check}") from error
        if found != _CONTENT:
            raise ConfigError(f"{shown} gave back {found!r}, and not what was written there.")
        yield shown


def _through_fsspec(file: str) -> bytes:
    """Do it as all but tables is kept, and not for ever."""
    path = as_folder(file)
    access = path.fs
    sync(access.loop, access._pipe_file, path.path, _CONTENT, timeout=_SECONDS)
    found: bytes = sync(access.loop, access._cat_file, path.path, timeout=_SECONDS)
    sync(access.loop, access._rm_file, path.path, timeout=_SECONDS)
    return found


def _without_login(text: str) -> str:
    return re.sub("//[^/@]*@", "//", text)
