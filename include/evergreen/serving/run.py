"""Run the service until it is told to end."""

from __future__ import annotations

import os

import uvicorn

from evergreen.contract import load_use_case
from evergreen.serving.access import Door, secret_of
from evergreen.serving.app import Options, create_app
from evergreen.settings import load_settings

# Keys that one name may ask for.
_RATE = "20000/second"


def run(use_case: str, host: str, port: int) -> None:
    """Serve the scores of a use case; requests that have begun are answered before it ends."""
    settings = load_settings()
    door = Door(secret_of(settings), os.environ.get("EVERGREEN_SERVING_RATE") or _RATE)
    app = create_app(load_use_case(use_case), door, Options())
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, loop="auto")
