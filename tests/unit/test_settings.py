"""Every path is understood once; what is written under it is found by every reader."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from evergreen.settings import load_settings


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("s3://bucket/warehouse/", "s3://bucket/warehouse"),
        ("gs://bucket", "gs://bucket"),
        ("/data/wh/", "/data/wh"),
        ("/data/a%20b", "/data/a%20b"),
        ("file:///data/a%20b", "/data/a b"),
        ("file:/data/wh", "/data/wh"),
        ("/data/x/../wh", "/data/wh"),
        ("/data/x://y", "/data/x:/y"),
    ],
)
def test_a_place_is_a_url_or_an_absolute_path(
    text: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WAREHOUSE", "ARTIFACTS"):
        monkeypatch.setenv(f"EVERGREEN_{name}", text)
    assert (load_settings().warehouse, load_settings().artifacts) == (found, found)


def test_relative_paths_do_not_depend_on_where_a_process_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    for name in ("HOME", "WAREHOUSE", "ARTIFACTS", "BACKUPS", "USE_CASES"):
        monkeypatch.setenv(f"EVERGREEN_{name}", f"./{name.lower()}")
    found = load_settings()
    assert found.warehouse == str(tmp_path / "warehouse")
    assert found.artifacts == str(tmp_path / "artifacts")
    assert (found.backups, found.use_cases) == (tmp_path / "backups", tmp_path / "use_cases")
    monkeypatch.setenv("EVERGREEN_WAREHOUSE", "~/warehouse")
    monkeypatch.setenv("EVERGREEN_USE_CASES", "~/use_cases")
    assert load_settings().warehouse == "/home/somebody/warehouse"
    assert load_settings().use_cases == Path("/home/somebody/use_cases")


def test_artifacts_are_told_to_mlflow_as_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_ARTIFACTS", "s3://bucket/models/")
    assert load_settings().artifacts_url == "s3://bucket/models"
    monkeypatch.setenv("EVERGREEN_ARTIFACTS", "/data/50% #1")
    assert unquote(urlsplit(load_settings().artifacts_url).path) == "/data/50% #1"
