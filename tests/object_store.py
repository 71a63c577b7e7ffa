"""An S3-compatible store of its own: `rclone serve s3` over a folder, whose folders are buckets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import boto3
import fsspec
import pytest

KEY, SECRET = "somebody", "store-secret-5up3r"
BUCKET = "evergreen"

_RCLONE = Path(sys.executable).with_name("rclone")


def serve(folder: Path, port: int, key: str, secret: str) -> list[str]:
    """The command that serves the folders in a folder as buckets."""
    command = [str(_RCLONE), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{key},{secret}", "--vfs-cache-mode", "off"]
    # Nobody's configuration is read.
    return [*command, "--config", "", "--log-level", "ERROR"]


class ObjectStore:
    """A running store, until `stop`; `start` begins again on the same folder and port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / BUCKET).mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def start(self) -> None:
        command = serve(self._folder, self._port, KEY, SECRET)
        self._process = subprocess.Popen(command)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
            except ConnectionRefusedError:
                assert self._process.poll() is None, "rclone has ended"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def declare(self, patch: pytest.MonkeyPatch, url: str | None = None) -> None:
        """Let every client of S3 in this process and its children come here, or to a `url`."""
        patch.setenv("AWS_ENDPOINT_URL", url or self.url)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        # It knows no checksums behind the content, as many stores that are not Amazon's.
        patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        # Clients are kept, with what they were told when they were made.
        fsspec.filesystem("s3").clear_instance_cache()
        if kept := sys.modules.get("mlflow.store.artifact.s3_artifact_repo"):
            kept._cached_get_s3_client.cache_clear()

    def keep_all(self, patch: pytest.MonkeyPatch) -> None:
        """Let everything that need not be on the disk be in the bucket."""
        for place in ("WAREHOUSE", "ARTIFACTS", "STAGING", "QUALITY", "REPORTS"):
            patch.setenv(f"EVERGREEN_{place}", f"s3://{BUCKET}/{place.lower()}")

    def keys(self, prefix: str = "") -> set[str]:
        """What lies in the bucket, as somebody else's client sees it."""
        pages = self.client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=prefix)
        return {item["Key"] for page in found for item in page.get("Contents", [])}

    def age(self, path: str, instant: datetime) -> None:
        """Let an object of `<bucket>/<key>` be as old as that."""
        os.utime(self._folder / path, (instant.timestamp(),) * 2)
        # It remembers what it has listed.
        self.stop()
        self.start()

    def empty(self) -> None:
        """Remove all that is in the bucket."""
        for key in self.keys():
            self.client.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path_factory.mktemp("store"))
    yield store
    store.stop()
