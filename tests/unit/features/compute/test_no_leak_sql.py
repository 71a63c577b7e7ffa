"""Every shipped use case's SQL, against random orders and a spoilt future."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen.contract import AnyTable, UseCase, arrow, load_use_case_file
from evergreen.features.compute.past import Given
from evergreen.features.compute.result import features_task, labels_task
from evergreen.features.compute.run import (
    compute_features,
    compute_labels,
    iter_features,
    iter_labels,
)
from evergreen.settings import PROJECT_ROOT
from evergreen.sql.shards import Shard

DAY = date(2025, 6, 30)
SHIPPED = sorted((PROJECT_ROOT / "include" / "use_cases").glob("*/use_case.yaml"))


Rows = dict[str, list[dict[str, Any]]]


def random_rows(use_case: UseCase, chance: random.Random, rows: int) -> Rows:
    """Rows of forty entities over three years around `DAY`, some exactly at midnight."""
    start = use_case.as_of(date(2023, 12, 31))
    made: Rows = {name: [] for name in use_case.tables}
    for name, table in use_case.tables.items():
        for number in range(rows if table.kind == "events" else rows // 10):
            instant = start + timedelta(minutes=chance.randrange(3 * 365 * 24 * 60))
            if chance.random() < 0.1:
                instant = use_case.as_of(use_case.day_of(instant))
            if chance.random() < 0.02:
                instant = use_case.as_of(DAY) + timedelta(microseconds=chance.choice([-1, 0, 1]))
            row = _row(table, chance, instant)
            # What happens at an instant lies behind it.
            row["day"] = use_case.day_of(instant + timedelta(microseconds=1))
            if table.row_key:
                row[table.row_key] = f"o{number}"
            if table.entity_key:
                row[table.entity_key] = f"c{chance.randrange(40)}"
            made[name].append(row)
    return made


def _row(table: AnyTable, chance: random.Random, instant: datetime) -> dict[str, Any]:
    return {
        name: {
            "string": (
                chance.choice(column.values) if column.values else f"s{chance.randrange(5)}"
            ),
            "int64": chance.randrange(1, 20),
            "float64": chance.randrange(1, 10_000) / 100,
            "bool": chance.random() < 0.5,
            "timestamp": instant,
            "date": instant.date(),
        }[column.dtype]
        for name, column in table.published.items()
    }


def written(folder: Path, use_case: UseCase, rows: Rows) -> dict[str, Given]:
    found = {}
    for name, table in use_case.tables.items():
        fields = [(column, arrow(c.dtype)) for column, c in table.published.items()]
        path = folder / f"{name}-{random.random()}.parquet"
        schema = pa.schema([*fields, ("day", pa.date32())])
        pq.write_table(pa.Table.from_pylist(rows[name], schema=schema), path)
        found[name] = Given([str(path)])
    return found


def spoilt(use_case: UseCase, rows: Rows, end: date, chance: random.Random) -> list[Rows]:
    """Return the rows with all that lies at or after `end` deleted, changed and multiplied."""
    variants: list[Rows] = [{}, {}, {}, {}]
    for name, table in use_case.tables.items():
        past = [row for row in rows[name] if row["day"] < end]
        future = [row for row in rows[name] if row["day"] >= end]
        assert len(past) > 5
        assert len(future) > 5
        numbers = [n for n, c in table.published.items() if c.dtype in ("int64", "float64")]
        changed = [row | dict.fromkeys(numbers, 10**6) for row in future]
        if table.entity_key:
            changed = [row | {table.entity_key: f"c{chance.randrange(80)}"} for row in changed]
        versions = [past, past + changed, past + future * 3, past[::-1] + future]
        for variant, version in zip(variants, versions, strict=True):
            variant[name] = version
    return variants


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_features_and_labels_do_not_see_their_future(path: Path, seed: int, tmp_path: Path):
    use_case, chance = load_use_case_file(path), random.Random(seed)
    rows = random_rows(use_case, chance, 1_500)
    days = [DAY - timedelta(days=n) for n in (40, 3, 0)]
    for compute, task in (
        (compute_features, features_task(use_case)),
        (compute_labels, labels_task(use_case)),
    ):
        whole = compute(use_case, written(tmp_path, use_case, rows), days)
        assert whole.num_rows > 20
        for other in spoilt(use_case, rows, task.end(DAY), chance):
            found = compute(use_case, written(tmp_path, use_case, other), days)
            for name in task.schema.names:
                assert found[name].equals(whole[name]), name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 16])
def test_shards_add_up_to_the_whole(path: Path, count: int, tmp_path: Path):
    use_case = load_use_case_file(path)
    given = written(tmp_path, use_case, random_rows(use_case, random.Random(3), 1_500))
    days, key = [DAY - timedelta(days=n) for n in (40, 3, 0)], use_case.entity.key
    for compute, iterate in ((compute_features, iter_features), (compute_labels, iter_labels)):
        parts = [
            rows
            for index in range(count)
            for _, rows in iterate(use_case, given, days, shard=Shard(index, count))
        ]
        assert sum(part.num_rows > 0 for part in parts) > count / 2
        together = pa.concat_tables(parts).sort_by([("as_of", "ascending"), (key, "ascending")])
        assert together.equals(compute(use_case, given, days))
