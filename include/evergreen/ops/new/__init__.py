"""`evergreen new`: a first draft of a use case, from samples of somebody's files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from string import Template
from textwrap import indent, wrap
from typing import Any
from zoneinfo import available_timezones

import yaml

from evergreen.contract import UseCase, load_use_case_file
from evergreen.disk import scratch
from evergreen.errors import ConfigError
from evergreen.ops.new.columns import Found, Roles, find_columns, tell_days, tell_roles
from evergreen.ops.new.reading import Sample, read_sample
from evergreen.ops.new.templates import FEATURES, FEATURES_SQL, HEAD, LABELS_SQL
from evergreen.quality.split import split_rows
from evergreen.settings import load_settings
from evergreen.sql.connection import opened

_HORIZONS = (7, 14, 30, 60, 90, 180)
_Checks = list[tuple[str, str]]


def draft_use_case(name: str, samples: Sequence[Path], **wishes: str | None) -> list[str]:
    """Write the folder of a new use case, drafted from samples of its files.

    Parameters
    ----------
    name
        Of the use case and its folder.
    samples
        CSV or Parquet files of this machine that have the same columns.
    wishes
        What is not to be guessed: a `zone`; and the columns `entity`, `time` and `key`, by name in
        the file or as identifier. The key may be `none`: no column names a row.

    Returns
    -------
    list[str]
        What was written, what to confirm and what to do next, a line each.

    Raises
    ------
    ConfigError
        The folder exists already, a file is no table, or no column can be the time or the entity.
    SourceError
        A file cannot be read.

    Notes
    -----
    The folder appears whole, after it was loaded and its rows were judged, or not at all.
    """
    folder = load_settings().use_cases / name
    wishes = {role: given for role, given in wishes.items() if given is not None}
    if not re.fullmatch("[a-z][a-z0-9_]{0,62}", name):
        raise ConfigError(
            f"The name is {name!r}; expected lower-case letters, digits and _, a letter first."
        )
    if folder.exists():
        raise ConfigError(f"{folder} exists already, and is left alone. Choose another name.")
    if wishes.get("zone", "UTC") not in available_timezones():
        raise ConfigError(
            f"--zone is {wishes['zone']!r}; expected the name of a zone, such as Europe/Berlin."
        )
    sample = read_sample(samples)
    zone = wishes.get("zone") or sample.zone or "UTC"
    checks: _Checks = []
    if "zone" not in wishes:
        checks.append(("zone:", "whose midnights begin the days, and whose clock wrote the times?"))
    with opened("new") as connection, scratch("new") as place:
        connection.execute(f"SET TimeZone = '{zone}'")
        columns = find_columns(connection, sample.rows, zone)
        roles = tell_roles(connection, columns, wishes)
        declared = _declare(name, sample, columns, roles, tell_days(connection, roles), checks)
        ...
