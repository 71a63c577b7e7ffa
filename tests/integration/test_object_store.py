"""Warehouse and artifacts on an S3-compatible server: what works on a disk works there, too."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.erasure import run
from evergreen.errors import DamagedError, PermanentError
from evergreen.features import store as feature_store
from evergreen.lake import compaction, upkeep
from evergreen.lake.opening import open_files
from evergreen.ops import deploy
from evergreen.ops.backup.make import back_up
from evergreen.ops.backup.restore import restore
from evergreen.provenance.replay import replay
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from evergreen.sql.connection import opened
from evergreen.training import tracking
from object_store import BUCKET, ObjectStore
from small_shop import FIRST_DAY, load, write_small_shop

pytestmark = pytest.mark.timeout(300)

DAY = date(2026, 1, 1)
NEXT = DAY + timedelta(days=1)


@pytest.fixture
def bucket(store: ObjectStore, home: Settings, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """An empty bucket, in which all data are from now on."""
    store.declare(monkeypatch)
    store.keep_all(monkeypatch)
    store.empty()
    return store


@pytest.fixture
def shop(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The small shop, declared and without a day."""
    folder = write_small_shop(tmp_path / "use_cases")
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", load_settings().database_url("ledger"))
    assert list(deploy.initialise(load_settings()))


def publish(value: int, day: date = DAY, **more: Any) -> int:
    columns = {"value": [value], **{name: [extra] for name, extra in more.items()}}
    rows = pa.table({**columns, "day": pa.array([day], pa.date32())})
    return lake.publish("shop", "orders", rows, [day]).snapshot_id


def values(snapshot_id: int | None = None) -> list[int]:
    return lake.read("shop", "orders", snapshot_id=snapshot_id).sort_by("day")["value"].to_pylist()


def soon() -> datetime:
    """Return an instant at which everything done so far is old, to a store that counts seconds."""
    return datetime.now(UTC) + timedelta(seconds=2)


def test_days_are_published_and_read_by_everybody(bucket: ObjectStore) -> None:
    first = publish(1)
    publish(2, NEXT, note="new")
    publish(3)
    assert values() == [3, 2] and values(first) == [1]
    assert lake.partitions("shop", "orders") == {DAY: 1, NEXT: 1}
    assert lake.read_day("shop", "orders", NEXT)["note"].to_pylist() == ["new"]

    scan = lake.scan("shop", "orders")
    assert len(scan.paths) == 2
    assert all(path.startswith("s3://evergreen/warehouse/") for path in scan.paths)
    pieces = pa.concat_tables(lake.stream(scan, ["day", "note"], 1))
    assert pieces.sort_by("day")["note"].to_pylist() == [None, "new"]
    with opened("test") as connection:
        # The first file is older than the second column.
        rows = open_files(connection, scan.paths).order("day").select("value", "note").fetchall()
    assert rows == [(3, None), (2, "new")]


def test_damage_is_found_and_mended(bucket: ObjectStore) -> None:
    publish(1)
    (path,) = lake.scan("shop", "orders").paths
    key = path.removeprefix(f"s3://{BUCKET}/")
    whole = bucket.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    harmed = whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]
    bucket.client.put_object(Bucket=BUCKET, Key=key, Body=harmed)
    with pytest.raises(DamagedError, match="is damaged"):
        values()
    with opened("test") as connection, pytest.raises(DamagedError, match="is damaged"):
        open_files(connection, [path])
    bucket.client.delete_object(Bucket=BUCKET, Key=key)
    assert set(lake.damaged_days("shop", "orders")) == {DAY}
    with pytest.raises(DamagedError, match="is missing"):
        values()
    publish(2)
    assert values() == [2]


def test_upkeep_frees_what_nothing_refers_to(bucket: ObjectStore) -> None:
    kept = publish(1)
    lake.tag("shop", "orders", kept, "training-1")
    for value in range(2, 6):
        publish(value)
    publish(9, NEXT)
    bucket.client.put_object(
        Bucket=BUCKET, Key="warehouse/shop/orders/data/stray.parquet", Body=b"half"
    )
    assert upkeep.expire_snapshots("shop", "orders", soon()) > 0
    crowded = bucket.keys()
    removed = upkeep.remove_orphan_files("shop", "orders", soon())
    left = bucket.keys()
    assert removed.files == len(crowded - left) > 5 and removed.bytes > 0
    # Three days' rows: two that stand, and the tagged one.
    assert len([key for key in left if key.endswith(".parquet")]) == 3
    assert values() == [5, 9] and values(kept) == [1]
    compaction.compact("shop", "orders")
    assert values() == [5, 9]

    (lost, *_) = lake.scan("shop", "orders").paths
    bucket.client.delete_object(Bucket=BUCKET, Key=lost.removeprefix(f"s3://{BUCKET}/"))
    with pytest.raises(PermanentError, match="are missing"):
        upkeep.remove_orphan_files("shop", "orders", soon())


@pytest.mark.slow
def test_a_use_case_lives_there_from_orders_to_scores(
    bucket: ObjectStore, shop: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = FIRST_DAY + timedelta(days=89)
    period = f"{FIRST_DAY}..{known}"
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", period, "orders")))
    computed = steps.validate_features(steps.compute_features("shop", period))
    features = steps.publish_features(computed)
    steps.materialize_online(features)
    steps.publish_labels(features)

    request = steps.accept_request("shop", str(known), "by hand")
    challenger = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    promoted = steps.promote_challenger(steps.judge_challenger(challenger))
    models = {key for key in bucket.keys("artifacts/") if key.endswith("/model.ubj")}
    assert len(models) == 1
    use_case = load_use_case("shop")
    assert tracking.load_version(use_case, promoted["version"]).reads

    resolved = steps.resolve_model("shop", str(known))
    steps.publish_predictions(steps.validate_predictions(steps.score_customers(resolved)))
    scored = lake.read_day("shop", "predictions", known)
    assert scored.num_rows > 100
    customer = scored["customer_id"][0].as_py()
    assert feature_store.read_online(use_case, [customer])
    assert replay(f"shop/{promoted['version']}").equal
    measures = (steps.measure_drift, steps.measure_performance, steps.measure_freshness)
    measured = [measure("shop", str(known)) for measure in (*measures, steps.measure_skew)]
    steps.decide_retraining("shop", str(known), measured)
    steps.report_night("shop", str(known))
    # All of it lies in the bucket, and nothing beside it.
    home = load_settings().home
    assert {path.name for path in home.iterdir()} <= {"location", "owner.lock", "scratch"}
    assert not [path for path in (home / "scratch").rglob("*") if path.is_file()]
    assert not bucket.keys("staging/")
    assert bucket.keys("quality/shop/data_docs/predictions/")
    # As Airflow does with its plugin folder.
    monkeypatch.syspath_prepend(PROJECT_ROOT / "plugins")
    _look_at_pages(known)
    _sweep(bucket)

    saved = back_up(tmp_path / "safe")
    remote = saved.remote
    assert {path.removeprefix(f"s3://{BUCKET}/") for path in remote} <= bucket.keys()
    assert len(remote) > 100 and len(saved.left_out) == 2
    before = lake.read("shop", "predictions")
    lake.catalog().drop_table(("shop", "predictions"))
    restore(tmp_path / "safe", force=True)
    assert lake.read("shop", "predictions").equals(before)
    bucket.client.delete_object(Bucket=BUCKET, Key=remote[0].removeprefix(f"s3://{BUCKET}/"))
    with pytest.raises(PermanentError, match="1 files of this backup are gone"):
        restore(tmp_path / "safe", force=True)


@pytest.mark.slow
def test_an_erased_customer_is_in_no_object(
    bucket: ObjectStore, shop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER", f"s3://{BUCKET}/logs")
    load(FIRST_DAY, FIRST_DAY + timedelta(days=9), labels=False)
    features = lake.read("shop", "features")
    who = features["customer_id"][0].as_py()
    places = {
        *("artifacts/shop/run/nights/x.html", "reports/shop/2026-01-01.html"),
        *("quality/shop/data_docs/index.html", "logs/dag_id=shop/run_id=1/attempt=1.log"),
        "staging/shop/features-2026-01-01/features.csv",
    }
    for key in places:
        bucket.client.put_object(Bucket=BUCKET, Key=key, Body=f"<p>{who}</p>".encode())
    keys = bucket.keys()

    def holding() -> set[str]:
        found = set()
        for key in sorted(bucket.keys()):
            content = bucket.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            if key.endswith(".parquet"):
                content += repr(pq.read_table(pa.BufferReader(content)).to_pydict()).encode()
            if who.encode() in content:
                found.add(key)
        return found

    assert len(holding()) > 10
    assert places <= holding()
    subject = run.find_subject("shop", who)
    outcome = run.erase(subject, "ann", "request 17", load_settings())
    assert outcome.left == () and outcome.files > 10
    assert holding() == set()
    # Nothing was made in the place of what went.
    assert {key for key in bucket.keys() - keys if key.endswith(("/", "data"))} == set()
    assert places - bucket.keys() == {"staging/shop/features-2026-01-01/features.csv"}
    left = lake.read("shop", "features")
    assert left.num_rows == features.num_rows - features["customer_id"].to_pylist().count(who)
    steps.verify_tables()


def _look_at_pages(day: date) -> None:
    """What the plugin shows lies there, and nothing else is shown."""
    from evergreen_ui import files

    found = files.find_page("shop", "")
    assert found and f"predictions/{day}.html" in found.read_text()
    page = files.find_page("shop", f"predictions/{day}.html")
    assert page and "rank" in page.read_text()
    report = files.find_report("shop", str(day))
    assert report and str(day) in report.read_text()
    assert files.find_report("shop", "2020-01-01") is None
    up = "../" * 3
    for path in (
        *("../index", f"{up}quality/shop/index", f"predictions/{up}validations", "nothing.html"),
        *(f"{up}warehouse", "/evergreen/quality/shop/data_docs/index.html", "s3://evergreen/a"),
        *("..", "predictions", "predictions/../../validations/predictions", "a\0b"),
        f"../validations/predictions/{day}.json",
    ):
        assert files.find_page("shop", path) is None, path


def _sweep(bucket: ObjectStore) -> None:
    """What died long ago goes; what is new or is not staged stays."""
    staging = load_settings().staging
    for name in ("features-old-1", "features-new-2"):
        (staging / "shop" / name / "attempt" / "features-day.parquet").write_bytes(b"half")
    aged = staging / "shop" / "features-old-1" / "attempt" / "features-day.parquet"
    bucket.age(aged.path, datetime.now(UTC) - timedelta(days=3))
    assert steps.sweep_staging() == {"swept": ["features-old-1"]}
    assert bucket.keys("staging/") == {"staging/shop/features-new-2/attempt/features-day.parquet"}
