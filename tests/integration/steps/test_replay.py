"""Late corrections, and outputs made again from their receipts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embedded import Build
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.errors import ConfigError, NotReadyError, PermanentError
from evergreen.lake import upkeep
from evergreen.ops import deploy
from evergreen.ops.status import show_status
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay, replay_receipt
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.provenance.staleness import find_stale
from evergreen.settings import load_settings
from evergreen.training.split import SplitPlan
from evergreen.training.tracking import describe_version
from small_shop import FIRST_DAY, write_small_shop

pytestmark = pytest.mark.timeout(300)

KNOWN = FIRST_DAY + timedelta(days=89)
CORRECTED = FIRST_DAY + timedelta(days=45)


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop with ninety days of orders, features and the labels that have matured."""
    folder = write_small_shop(root / "use_cases")
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    assert list(deploy.initialise(load_settings()))
    period = f"{FIRST_DAY}..{KNOWN}"
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", period, "orders")))
    make_features(period)
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def make_features(period: str) -> None:
    computed = steps.validate_features(steps.compute_features("shop", period))
    steps.publish_labels(steps.publish_features(computed))


def assembled(corrections: str = "as_known") -> tuple[Staged, pa.Table]:
    request = steps.accept_request("shop", str(KNOWN), "by hand", corrections)
    staged = Staged.from_dict(steps.assemble_training_set(request))
    (period,) = staged.periods()
    return staged, staged.read("training_set", period)


def correct(day: date) -> None:
    """Publish the day again without half of its orders, as a corrected source would have it."""
    rows = lake.read_day("shop", "orders", day)
    batch = Staged("shop", str(day), "")
    publish_chunk(batch, "publish_orders", "orders", rows.slice(rows.num_rows // 2), [day])


@pytest.mark.slow
def test_training_sees_what_was_known_and_not_what_was_corrected_later(shop: Path) -> None:
    request = steps.accept_request("shop", str(KNOWN), "by hand")
    trained = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    _, before = assembled()
    correct(CORRECTED)
    stale = find_stale(load_use_case("shop"))
    assert {item.table for item in stale} == {"features", "labels"}
    assert {item.causes for item in stale} == {(CORRECTED,)}
    assert min(item.day for item in stale if item.table == "features") == CORRECTED
    assert min(item.day for item in stale) == CORRECTED - timedelta(days=21)
    # Before it is mended, and after.
    assert assembled()[1].equals(before)
    make_features(f"{CORRECTED}..{KNOWN}")
    assert find_stale(load_use_case("shop")) == []
    staged, after = assembled()
    assert after.equals(before)
    assert any(name.startswith("features/") for name in staged.inputs)
    assert any(name.startswith("labels/") for name in staged.inputs)
    # The same rows give the same model, hence the version that there is already.
    again = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    assert again["version"] == trained["version"]
    assert replay(f"shop/{trained['version']}").equal
    # On demand the corrections count, and a day that is processed after them knows them.
    assert not assembled("as_corrected")[1].equals(before)
    with pytest.raises(ConfigError, match="as_corrected"):
        steps.accept_request("shop", str(KNOWN), "by hand", "whatever")


def test_a_training_run_is_made_again_byte_for_byte(shop: Path) -> None:
    path = shop / "use_case.yaml"
    searching = "training:\n  models: [trees]\n  tuning: {trials: 3}"
    declared = path.read_text().replace("training:", searching)
    path.write_text(declared.replace("min_history_days: 20", "min_history_days: 6"))
    request = steps.accept_request("shop", str(KNOWN), "by hand")
    trained = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    version = describe_version(load_use_case("shop"), trained["version"])
    # Searching and calibrating are made again, too.
    assert version.tags["trials"] == '{"trees": 3}'
    assert SplitPlan.from_json(version.tags["plan"]).calibration
    run_id = version.run_id
    outcome = replay(run_id)
    assert outcome.equal, outcome
    assert outcome.notes == ()
    assert [item.what for item in outcome.compared][-1] == "model file"
    assert {"rows of final", "rows of holdout"} <= {item.what for item in outcome.compared}

    path.write_text(path.read_text().replace("models: [trees]", "models: [linear]"))
    different = replay(run_id)
    assert not different.equal
    changed = [item.what for item in different.compared if not item.equal]
    assert changed == ["family", "measured model", "model file"]
    assert any("another booster" in note for note in different.notes)
    assert any("code has changed" in note for note in different.notes)


def test_every_table_of_the_chain_is_made_again_from_its_receipt(shop: Path) -> None:
    request = steps.accept_request("shop", str(KNOWN), "by hand")
    trained = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    scored = steps.score_customers(
        {"use_case": "shop", "day": str(KNOWN), "version": trained["version"]}
    )
    steps.publish_predictions(steps.validate_predictions(scored))
    matured = KNOWN - timedelta(days=21)
    rejected = min(lake.partitions("shop", "quarantine"))
    chosen = {
        step: receipts.latest("shop", step)[day]
        for step, day in {
            "publish_orders": CORRECTED,
            "publish_orders_quarantine": rejected,
            "publish_features": KNOWN,
            "publish_labels": matured,
            "publish_predictions": KNOWN,
        }.items()
    }
    # What came later does not matter.
    correct(CORRECTED)
    for receipt in chosen.values():
        outcome = replay(str(receipt.sequence))
        assert outcome.equal, outcome
        assert outcome.compared[0].replayed == receipt.content != ""
    # A receipt that tells something else is found out.
    lying = replace(chosen["publish_features"], content="0" * 32)
    assert not replay_receipt(lying).equal


def test_a_replay_that_is_impossible_says_why(shop: Path) -> None:
    receipt = receipts.latest("shop", "publish_features")[KNOWN]
    with pytest.raises(PermanentError, match=r"another lock file .*make setup"):
        replay_receipt(replace(receipt, lock_digest="0" * 16))
    with pytest.raises(PermanentError, match="another declaration of features"):
        replay_receipt(replace(receipt, contract_digest="0" * 16))
    with pytest.raises(PermanentError, match="measure_drift, which is not replayed"):
        replay_receipt(replace(receipt, step="measure_drift"))
    with pytest.raises(NotReadyError, match="no receipt 999999"):
        replay("999999")
    with pytest.raises(NotReadyError, match=r"version 7"):
        replay("shop/7")
    correct(CORRECTED)
    upkeep.expire_snapshots("shop", "orders", datetime(2999, 1, 1, tzinfo=UTC))
    with pytest.raises(NotReadyError, match="was expired"):
        replay(str(receipt.sequence))


def test_a_repeated_publish_commits_nothing(shop: Path) -> None:
    tables = ("orders", "quarantine", "features", "labels")
    before = {table: lake.snapshot_id("shop", table) for table in tables}
    stamps = lake.read_day("shop", "features", KNOWN)["created_at"]
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", str(KNOWN), "orders")))
    make_features(str(KNOWN))
    assert {table: lake.snapshot_id("shop", table) for table in tables} == before
    assert lake.read_day("shop", "features", KNOWN)["created_at"].equals(stamps)


def test_a_commit_that_was_never_receipted_is_listed_until_its_run_is_repeated(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def killed(table: str) -> Iterator[Any]:
        yield lambda rows: None

    with monkeypatch.context() as patched:
        patched.setattr(receipts, "recording", killed)
        correct(CORRECTED)
    stale = find_stale(load_use_case("shop"))
    orders = [item for item in stale if item.table == "orders"]
    assert [(item.day, item.reason) for item in orders] == [
        (CORRECTED, "committed by a run that died before its receipt")
    ]
    assert {item.day for item in stale if item.table == "features"} == set(
        lake.days_between(CORRECTED, KNOWN + timedelta(days=1))
    )
    correct_again = lake.read_day("shop", "orders", CORRECTED)
    publish_chunk(
        Staged("shop", str(CORRECTED), ""), "publish_orders", "orders", correct_again, [CORRECTED]
    )
    assert {item.table for item in find_stale(load_use_case("shop"))} == {"features", "labels"}
    make_features(f"{CORRECTED}..{KNOWN}")
    assert find_stale(load_use_case("shop")) == []


def test_status_and_the_nightly_table_list_what_is_stale_and_what_mends_it(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_status(load_settings())
    assert "shop: nothing is stale." in capsys.readouterr().out
    correct(KNOWN)
    show_status(load_settings())
    shown = capsys.readouterr().out
    command = f"evergreen backfill shop {KNOWN} {KNOWN} --reprocess completed"
    assert "Stale in shop" in shown
    assert f"orders of {KNOWN} changed" in shown
    assert command in shown
    assert steps.measure_staleness("shop", str(KNOWN)) == {"stale": 2}
    (row, labels) = lake.read_day("shop", "staleness", KNOWN).to_pylist()
    assert (row["table"], row["first_day"], row["last_day"]) == ("features", KNOWN, KNOWN)
    assert row["mend"] == [command]
    # Labels of the last 21 days wait for their horizon; one has just reached it.
    assert (labels["table"], labels["last_day"]) == ("labels", KNOWN - timedelta(days=21))


@pytest.mark.slow
def test_a_past_night_keeps_its_decision_and_its_reference(shop: Path) -> None:
    def night(day: date) -> dict[str, Any]:
        measured = [
            steps.measure_drift("shop", str(day)),
            steps.measure_performance("shop", str(day)),
            steps.measure_freshness("shop", str(day)),
            steps.measure_skew("shop", str(day)),
        ]
        return steps.decide_retraining("shop", str(day), measured)

    request = steps.accept_request("shop", str(KNOWN), "by hand")
    first = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))[
        "version"
    ]
    steps.release_version("shop", "promote", str(first), "a test", "ann")
    night(KNOWN)
    before = lake.read_day("shop", "decisions", KNOWN).to_pylist()
    drift = lake.read_day("shop", "drift", KNOWN)
    path = shop / "use_case.yaml"
    path.write_text(path.read_text().replace("max_cutoffs: 6", "max_cutoffs: 4"))
    second = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))[
        "version"
    ]
    steps.release_version("shop", "promote", str(second), "a test", "ann")
    next_day = KNOWN + timedelta(days=1)
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", str(next_day), "orders")))
    make_features(str(next_day))
    verdict = night(KNOWN)
    assert verdict["decision"] == "wait"
    assert lake.read_day("shop", "decisions", KNOWN).to_pylist() == before
    assert lake.read_day("shop", "drift", KNOWN).equals(drift)
    # A night that was never looked at is judged now, and put on record.
    night(KNOWN - timedelta(days=1))
    assert lake.read_day("shop", "decisions", KNOWN - timedelta(days=1)).num_rows == 1
