"""Features of some entities with rows that no table holds yet, held against the batch's."""

from __future__ import annotations

import random
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evergreen import lake, steps
from evergreen.contract import Period, load_use_case
from evergreen.features.compute.some import compute_some
from evergreen.ops import deploy
from evergreen.provenance import receipts
from evergreen.quality.delivery import read_and_split
from evergreen.settings import Settings
from small_shop import load, write_small_shop

FIRST = date(2024, 6, 1)
# Its features are the first to start from totals up to the 1st of August.
DAY = date(2025, 2, 24)
YESTERDAY = DAY - timedelta(days=1)


@pytest.mark.slow
def test_they_are_those_of_the_batch_and_nothing_is_published(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_small_shop(tmp_path, first_day=FIRST, last_day=DAY, shards=3)
    path = folder / "use_case.yaml"
    path.write_text(path.read_text().replace("customers: 900", "customers: 300"))
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path))
    assert list(deploy.initialise(home))
    history = f"{FIRST}..{YESTERDAY - timedelta(days=1)}"
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", history, "orders")))
    load(YESTERDAY, labels=False)
    use_case = load_use_case("shop")
    daily = use_case.events["orders"].daily
    assert daily and FIRST < daily.stored_before(YESTERDAY) < daily.stored_before(DAY)

    ((_, split),) = read_and_split(use_case.tables["orders"], Period.parse(str(DAY)))
    came = split.accepted.drop_columns(["row_id", "source"])
    everybody = lake.read_day("shop", "features", YESTERDAY)["customer_id"].to_pylist()
    keys = {*came["customer_id"].to_pylist(), *random.Random(5).sample(everybody, 40)}
    before = receipts.newest_sequence()
    computed = compute_some(use_case, keys, DAY, {"orders": came})
    one = compute_some(use_case, [min(keys)], DAY, {"orders": came})
    assert receipts.newest_sequence() == before

    load(DAY, labels=False)
    stored = lake.read_day("shop", "features", DAY).select(computed.column_names)
    stored = stored.cast(computed.schema).sort_by("customer_id")
    wanted = stored.filter(pc.is_in(stored["customer_id"], pa.array(sorted(keys))))
    assert computed.num_rows > 40
    assert computed.combine_chunks().equals(wanted.combine_chunks())
    assert one.equals(computed.slice(0, 1))
    # A day that the lake has counts as it has it, whatever came beside it.
    assert compute_some(use_case, keys, DAY, {"orders": came}).equals(computed)
