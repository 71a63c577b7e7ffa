"""`evergreen new`: a first draft of a use case, from samples of somebody's files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from evergreen.contract import load_use_case_file
from evergreen.disk import scratch
from evergreen.errors import ConfigError
from evergreen.ops.new import text
from evergreen.ops.new.declare import declare
from evergreen.ops.new.profile import identifiers
from evergreen.ops.new.roles import tell_past
from evergreen.ops.new.sniff import read_samples
from evergreen.ops.new.tables import Wishes, as_delivered, further_tables, main_table, name_by_role
from evergreen.settings import load_settings
from evergreen.sql.connection import opened

__all__ = ["Wishes", "draft_use_case"]

_HEAD = """\
# Drafted from samples. What only a person can know is marked CHECK, with the reason.
# Every key is explained in docs/use_case.md.
"""


def draft_use_case(name: str, samples: Sequence[Path], wishes: Wishes) -> list[str]:
    """Write the folder of a new use case, drafted from samples of its files.

    Parameters
    ----------
    name
        Of the use case and its folder.
    samples
        CSV or Parquet files of this machine; those with the same columns are one table. Features
        are made of the first table with a time and somebody to predict for.
    wishes
        What is not to be guessed.

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
    The folder appears whole, after it was loaded once, or not at all.
    """
    folder = load_settings().use_cases / name
    _require_possible(name, folder, wishes)
    found = read_samples(samples)
    _require_columns([column for one in found for column in one.rows.schema.names], wishes)
    zone = wishes.zone or next((one.zone for one in found if one.zone), None) or "UTC"
    with opened("new") as connection:
        main = main_table(connection, found, wishes, zone)
        past = tell_past(connection, main.roles, main.sample.named_days)
        rest = [one for one in found if one is not main.sample]
        main, past = as_delivered(main, past)
        others = further_tables(connection, rest, main, zone)
    if not main.sample.header:
        name_by_role(main)
    tables = [main, *others]
    declared, checks = declare(name, tables, past, zone, wishes)
    entity, worth = declared["entity"]["key"], main.roles.amount is not None
    read = ", ".join(
        f"{table.name} ({table.kind}) from {table.sample.rows.num_rows:,} rows of "
        f"{' and '.join(path.name for path in table.sample.paths[:3])}"
        for table in tables
    )
    commands = [
        f"evergreen check {name}",
        "make up",
        f"evergreen trigger {name}_history --unpause --from {past.first} --to {past.last}",
        f"evergreen trigger {name}_train --unpause --day {past.last}",
    ]
    relations = {table.relation: table.kind for table in others}
    files = {
        "use_case.yaml": _HEAD + text.yaml_text(declared, checks),
        "features.sql": text.features_sql(entity, main.name, relations, worth=worth),
        "labels.sql": text.labels_sql(entity, main.name),
        "README.md": text.readme(name, read, checks, commands),
    }
    with scratch("new") as place:
        draft = Path(place) / name
        draft.mkdir()
        for file, content in files.items():
            (draft / file).write_text(content, encoding="utf-8")
        load_use_case_file(draft / "use_case.yaml")
        shutil.copytree(draft, folder)
    return [
        f"Read {read}.",
        f"Wrote {', '.join(files)} in {folder}.",
        f"Confirm what is marked CHECK in use_case.yaml ({len(checks)}):",
        *(f"  {path}: {why}" for path, why in checks.items()),
        "Then:",
        *(f"  {command}" for command in commands),
    ]


def _require_possible(name: str, folder: Path, wishes: Wishes) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise ConfigError(
            f"The name is {name!r}; expected lower-case letters, digits and _, a letter first."
        )
    if folder.exists():
        raise ConfigError(f"{folder} exists already, and is left alone. Choose another name.")
    try:
        ZoneInfo(wishes.zone or "UTC")
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise ConfigError(
            f"--zone is {wishes.zone!r}; expected the name of a zone, such as Europe/Berlin."
        ) from error


def _require_columns(sources: Sequence[str], wishes: Wishes) -> None:
    known = {*sources, *identifiers(sources)}
    for option, given in (("entity", wishes.entity), ("time", wishes.time), ("key", wishes.key)):
        if given is not None and given not in known and (option, given) != ("key", "none"):
            raise ConfigError(
                f"--{option} is {given!r}, which is no column; there are {', '.join(sources)}."
            )
