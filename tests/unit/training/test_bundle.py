"""A bundle on an S3-compatible server is the same as in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from evergreen.errors import DamagedError, NotReadyError, PermanentError
from evergreen.training.bundle import BUNDLE_FILE, FORMAT, Bundle, Declared, opened, seal, send
from object_store import BUCKET, ObjectStore


@pytest.fixture
def bucket(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path_factory.mktemp("store"))
    store.declare(monkeypatch)
    yield store
    store.stop()


def test_it_goes_to_an_object_store_and_comes_back(bucket: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "model.ubj").write_bytes(b"{trees}")
    (tmp_path / "plots" / "roc.png").write_bytes(b"\x89PNG")
    bundle = Bundle(
        format=FORMAT,
        use_case="churn",
        origin={"environment": "staging", "version": "3", "ledger_hash": ""},
        declared=Declared({"orders": "int64"}, "a", "b", {"name": "gone"}),
        tags={"day": "2026-01-01"},
        parameters={},
        metrics={"holdout_auc": 0.75},
        datasets=(),
        files=seal(tmp_path),
    )
    (tmp_path / BUNDLE_FILE).write_text(json.dumps(bundle.to_dict()))
    place = f"s3://{BUCKET}/churn-3"
    with pytest.raises(NotReadyError, match="to the end"), opened(place):
        pass
    send(tmp_path, place)
    with opened(place) as (found, folder):
        assert found == bundle
        assert seal(folder) == bundle.files
    with pytest.raises(PermanentError, match="is not empty"):
        send(tmp_path, place)
    bucket.client.put_object(Bucket=BUCKET, Key="churn-3/model.ubj", Body=b"{other}")
    with pytest.raises(DamagedError, match="SHA-256"), opened(place):
        pass
