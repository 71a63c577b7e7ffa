"""Work in shards, through the real tables: the same rows, whatever the number of shards."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import tiny_shop
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.errors import ConfigError, CrossingError, StagingError
from evergreen.ops.check import find_problems
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.settings import Settings, load_settings
from tiny_shop import DAYS, NAME, WHOLE

TABLES = ("features", "labels", "predictions")
SOME = DAYS[-4:-2]


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return tiny_shop.open_shop(tmp_path, monkeypatch)


def declare_shards(folder: Path, count: int) -> None:
    path = folder / "use_case.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"shards": count}))


def in_shards(planned: dict[str, Any], step: Any, chance: random.Random) -> list[dict[str, Any]]:
    """Do the shards in any order, one of them twice, as workers do."""
    shards = [*range(load_use_case(NAME).shards)]
    done = {shard: step(planned, shard) for shard in chance.sample(shards, len(shards))}
    again = chance.choice(shards)
    done[again] = step(planned, again)
    return [done[shard] for shard in shards]


def live(period: str, chance: random.Random) -> None:
    """Features and labels of a period by shards, and scores of its last day."""
    planned = steps.plan_features(NAME, period)
    parts = in_shards(planned, steps.compute_features_of, chance)
    published = steps.publish_features(steps.validate_features(parts))
    labels = steps.plan_labels(published)
    steps.publish_labels(published, in_shards(labels, steps.compute_labels_of, chance))


def score(day: date, chance: random.Random) -> None:
    planned = steps.plan_scores(steps.resolve_model(NAME, str(day)))
    parts = in_shards(planned, steps.score_customers_of, chance)
    steps.publish_predictions(steps.validate_predictions(parts))


def standing() -> dict[tuple[str, date], pa.Table]:
    return {
        (table, day): lake.read_day(NAME, table, day).drop_columns(
            ["created_at"] if table == "features" else []
        )
        for table in TABLES
        for day in SOME
    }


@pytest.mark.slow
def test_the_same_rows_in_the_same_order_for_any_number_of_shards(shop: Path) -> None:
    tiny_shop.label(tiny_shop.compute())
    judged = tiny_shop.train()
    steps.release_version(NAME, "promote", str(judged["version"]), "a test", "ann")
    for day in SOME:
        tiny_shop.score(day)
    whole, snapshots = standing(), [lake.snapshot_id(NAME, table) for table in TABLES]
    declare_shards(shop, 4)
    chance = random.Random(4)
    live(WHOLE, chance)
    for day in SOME:
        score(day, chance)
    # Each day said the same, so nothing was committed.
    assert [lake.snapshot_id(NAME, table) for table in TABLES] == snapshots
    # And with nothing there before.
    declare_shards(shop, 16)
    for table in TABLES:
        lake.catalog().drop_table((NAME, table))
    for day in DAYS[-4:]:
        live(str(day), chance)
    for day in SOME:
        score(day, chance)
    for place, rows in standing().items():
        assert rows.num_rows > 50, place
        assert rows.equals(whole[place]), place
    assert not list(load_settings().staging.glob("*/*"))
    newest = receipts.latest(NAME, "publish_features", SOME[0], DAYS[-1])[SOME[1]]
    assert replay(str(newest.sequence)).equal


@pytest.mark.parametrize(
    "column",
    [
        "percent_rank() OVER (PARTITION BY d.as_of ORDER BY max(o.amount))",
        "sum(o.amount) / sum(sum(o.amount)) OVER (PARTITION BY d.as_of)",
        "(SELECT count(*) FROM orders AS a WHERE a.ordered_at < d.as_of) * 1.0",
        "max((SELECT sum(a.amount) FROM orders AS a WHERE a.ordered_at < o.ordered_at "
        "AND a.customer_id <> o.customer_id))",
    ],
    ids=["rank over all", "share of all", "number of all", "of another"],
)
def test_sql_that_crosses_entities_is_refused_in_shards_only(shop: Path, column: str) -> None:
    tiny_shop.declare(shop, {"other": column}, {"other": {"nullable": True}})
    computed = steps.compute_features(NAME, str(DAYS[-1]))
    steps.publish_features(steps.validate_features(computed))
    before = lake.read(NAME, "features", DAYS[0], DAYS[-1])
    declare_shards(shop, 4)
    planned = steps.plan_features(NAME, str(DAYS[-1]))
    with pytest.raises(CrossingError, match=r"features.sql .* declare shards: 1"):
        for shard in range(4):
            steps.compute_features_of(planned, shard)
    assert lake.read(NAME, "features", DAYS[0], DAYS[-1]).equals(before)
    assert any("computing only some of them changed" in problem for problem in find_problems(NAME))


def test_workers_of_another_release_do_not_share_a_run(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare_shards(shop, 2)
    planned = steps.plan_features(NAME, str(DAYS[-1]))
    steps.compute_features_of(planned, 0)
    monkeypatch.setattr(receipts, "lock_digest", lambda: "of another release")
    with pytest.raises(StagingError, match="Let all workers run one release"):
        steps.compute_features_of(planned, 1)


@pytest.mark.parametrize("count", [0, 1025, "many"])
def test_a_number_of_shards_that_makes_no_sense_is_refused(shop: Path, count: Any) -> None:
    declare_shards(shop, count)
    with pytest.raises(ConfigError, match="shards"):
        load_use_case(NAME)
