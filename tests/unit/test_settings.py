"""Every path is understood once; what is written under it is found by every reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from evergreen.errors import ConfigError
from evergreen.settings import Keeper, load_settings, look_up_secrets, secret


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


@pytest.fixture
def keeper() -> Iterator[dict[str, str]]:
    """What is kept beside the environment, by name."""
    kept: dict[str, str] = {}
    look_up_secrets(Keeper("the vault", kept.get))
    yield kept
    look_up_secrets(None)


def test_a_secret_comes_from_the_environment_or_from_who_keeps_it(
    keeper: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper["evergreen_secret_shop"] = "kept"
    assert secret("shop") == secret("SHOP") == "kept"
    monkeypatch.setenv("EVERGREEN_SECRET_SHOP", "stated")
    assert secret("shop") == "stated"
    # Empty is as good as absent, wherever.
    monkeypatch.setenv("EVERGREEN_SECRET_SHOP", "")
    assert secret("shop") == "kept"
    keeper["evergreen_secret_shop"] = ""
    with pytest.raises(ConfigError) as missing:
        secret("shop")
    assert "EVERGREEN_SECRET_SHOP is not set" in str(missing.value)
    assert "Or give it to the vault as evergreen_secret_shop" in str(missing.value)


def test_without_a_keeper_only_the_variable_is_named() -> None:
    with pytest.raises(ConfigError) as missing:
        secret("shop")
    assert str(missing.value) == (
        "The environment variable EVERGREEN_SECRET_SHOP is not set. Set it to the secret."
    )
