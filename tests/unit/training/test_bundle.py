"""A bundle on an S3-compatible server is the same as in a folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from evergreen.errors import DamagedError, NotReadyError, PermanentError
from evergreen.training.bundle import BUNDLE_FILE, FORMAT, Bundle, Declared, opened, seal, send


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in (
        ("ACCESS_KEY_ID", "k"),
        ("SECRET_ACCESS_KEY", "s"),
        ("REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="models")
    yield "models"
    server.stop()


def test_it_goes_to_an_object_store_and_comes_back(bucket: str, tmp_path: Path) -> None:
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
    place = f"s3://{bucket}/churn-3"
    with pytest.raises(NotReadyError, match="to the end"), opened(place):
        pass
    send(tmp_path, place)
    with opened(place) as (found, folder):
        assert found == bundle
        assert seal(folder) == bundle.files
    with pytest.raises(PermanentError, match="is not empty"):
        send(tmp_path, place)
    store = boto3.client("s3", region_name="us-east-1")
    store.put_object(Bucket=bucket, Key="churn-3/model.ubj", Body=b"{other}")
    with pytest.raises(DamagedError, match="SHA-256"), opened(place):
        pass
