"""The small shop delivered as one CSV file per day, so that tests can spoil and correct days."""

from __future__ import annotations

import csv
import io
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from evergreen.contract import Period, load_use_case_file
from evergreen.sources import open_source
from small_shop import FIRST_DAY, write_small_shop

Row = dict[str, str]
COLUMNS = ("order_id", "customer_id", "ordered_at", "amount_eur", "status")


def deliver(scratch: Path, data: Path, last: date) -> None:
    """Write the files of all days up to `last` into the folder `data`."""
    use_case = load_use_case_file(write_small_shop(scratch) / "use_case.yaml")
    data.mkdir(parents=True, exist_ok=True)
    rows = pa.concat_tables(
        open_source(use_case.events["orders"]).read(FIRST_DAY, last + timedelta(days=1))
    )
    by_day: dict[date, list[Row]] = {}
    for row in rows.select([*COLUMNS, "_day"]).to_pylist():
        by_day.setdefault(row.pop("_day"), []).append(row)
    for day in Period(FIRST_DAY, last + timedelta(days=1)).days:
        write_day(data, day, by_day.get(day, []))


def write_csv_shop(root: Path, data: Path, name: str, last_day: date) -> Path:
    """Write the folder `root/name` of a use case that reads those files."""
    folder = write_small_shop(
        root,
        name=name,
        last_day=last_day,
        source={"kind": "files", "path": str(data / "{day}.csv"), "missing": "fail"},
    )
    declared: dict[str, Any] = yaml.safe_load((folder / "use_case.yaml").read_text())
    declared["events"]["orders"]["batch"] = {
        "allow_empty": True,
        "max_quarantined_ratio": 1.0,
        "row_count_ratio": [0, 1000],
    }
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    return folder


def write_day(data: Path, day: date, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    (data / f"{day}.csv").write_text(text.getvalue())


def read_day(data: Path, day: date) -> list[Row]:
    with (data / f"{day}.csv").open() as file:
        return list(csv.DictReader(file))
