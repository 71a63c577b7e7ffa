"""Start the embedded Postgres again whenever it is gone, until ended."""

from __future__ import annotations

import logging
import time

import psycopg2

from evergreen.errors import EvergreenError
from evergreen.ops.local import postgres
from evergreen.settings import load_settings

_SECONDS = 2
_logger = logging.getLogger("postgres_keeper")


def _keep() -> None:
    settings = load_settings()
    while settings.embedded:
        if not postgres.running(settings):
            _logger.warning("Postgres does not run; starting it")
            try:
                postgres.start(settings)
            except (EvergreenError, psycopg2.Error) as error:
                _logger.warning("%s", error)
            else:
                _logger.warning("Postgres runs again")
        time.sleep(_SECONDS)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s")
    _keep()
