"""Reasons on demand, of scores that were published."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from evergreen import lake, steps
from evergreen.cli import main
from evergreen.contract import load_use_case
from evergreen.errors import ConfigError, NotReadyError, PermanentError
from evergreen.lake import upkeep
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.provenance.staleness import find_stale
from evergreen.scoring.explain import explain
from evergreen.settings import Settings
from evergreen.training.model import Model
from tiny_shop import DAYS, NAME, compute, label, open_shop, score, train

pytestmark = pytest.mark.timeout(300)

LAST = DAYS[-1]


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A shop whose last day was scored by its first version."""
    folder = open_shop(tmp_path, monkeypatch)
    label(compute())
    steps.release_version(NAME, "promote", str(train()["version"]), "a test", "ann")
    score(LAST)
    yield folder


def ask_for_all_bands(folder: Path) -> None:
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["scoring"] = {"reasons_for": ["high", "medium", "low"]}
    path.write_text(yaml.safe_dump(declared, sort_keys=False))


def correct_features(folder: Path) -> None:
    sql = folder / "features.sql"
    sql.write_text(sql.read_text().replace("/ 86400.0", "/ 86400.0 + 1"))
    compute(LAST)


def test_anybody_is_explained_as_the_batch_explains_the_highest_band(shop: Path) -> None:
    published = lake.read_day(NAME, "predictions", LAST)
    assert {"high", "low"} <= set(published["band"].to_pylist())
    assert all(bool(row["reasons"]) == (row["band"] == "high") for row in published.to_pylist())
    receipt = receipts.latest(NAME, "publish_predictions")[LAST]
    assert replay(str(receipt.sequence)).equal

    keys = published["customer_id"].to_pylist()[::-1]
    explained = explain(load_use_case(NAME), LAST, keys)
    assert explained.schema == published.schema
    assert explained["customer_id"].to_pylist() == keys
    assert all(explained["reasons"].to_pylist())
    for name in set(published.column_names) - {"reasons"}:
        assert explained[name].to_pylist() == published[name].to_pylist()[::-1]
    high = published["reasons"].to_pylist()[: published["band"].to_pylist().count("high")]
    assert explained["reasons"].to_pylist()[::-1][: len(high)] == high

    # Asked for reasons in all bands, scoring gives just these, and the day is to be scored again.
    ask_for_all_bands(shop)
    assert [(item.table, item.day) for item in find_stale(load_use_case(NAME))] == [
        ("predictions", LAST)
    ]
    score(LAST)
    again = lake.read_day(NAME, "predictions", LAST)
    assert again["reasons"].to_pylist() == explained["reasons"].to_pylist()[::-1]


def test_the_version_and_the_features_of_then_are_used(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = lake.read_day(NAME, "predictions", LAST).to_pylist()[-1]
    key = last["customer_id"]
    before = explain(load_use_case(NAME), LAST, [key]).to_pylist()
    # Neither a new champion nor a correction of the features is what scored the day.
    path = shop / "use_case.yaml"
    path.write_text(path.read_text().replace("max_rounds: 20", "max_rounds: 10"))
    second = train()["version"]
    steps.release_version(NAME, "promote", str(second), "a test", "ann")
    correct_features(shop)
    assert explain(load_use_case(NAME), LAST, [key]).to_pylist() == before
    monkeypatch.setattr("sys.argv", ["evergreen", "explain", NAME, "--day", str(LAST), key])
    main()
    told, *reasons = capsys.readouterr().out.splitlines()
    assert told == f"{key}: score {last['score']:.4g}, {last['band']}, version 1"
    assert [line.strip() for line in reasons] == before[0]["reasons"]


def test_what_cannot_be_explained_is_told(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = load_use_case(NAME)
    key = lake.read_day(NAME, "predictions", LAST)["customer_id"][0].as_py()
    with pytest.raises(NotReadyError, match=rf"not scored nobody, no one on {LAST}; it scored \d+"):
        explain(declared, LAST, ["nobody", key, "no one"])
    with pytest.raises(NotReadyError, match=rf"not scored {DAYS[0]}; the newest day is {LAST}"):
        explain(declared, DAYS[0], [key])
    with pytest.raises(ConfigError, match="customer_id is int64; found c7"):
        events = declared.events["orders"]
        columns = events.columns | {
            "customer_id": events.columns["customer_id"].model_copy(update={"dtype": "int64"})
        }
        table = events.model_copy(update={"columns": columns})
        explain(declared.model_copy(update={"events": {"orders": table}}), LAST, ["c7"])
    # What is on record is not what the published scores were made by.
    with monkeypatch.context() as patched:
        patched.setattr(Model, "predict", lambda *_, **__: {"score": np.array([2.0])})
        with pytest.raises(PermanentError, match="does not give the scores that were published"):
            explain(declared, LAST, [key])
    # No training has read these features, so nothing keeps their snapshot.
    correct_features(shop)
    score(LAST)
    correct_features(shop)
    upkeep.expire_snapshots(NAME, "features", datetime(2999, 1, 1, tzinfo=UTC))
    with pytest.raises(NotReadyError, match=rf"was expired.* shop_score --day {LAST}"):
        explain(load_use_case(NAME), LAST, [key])
