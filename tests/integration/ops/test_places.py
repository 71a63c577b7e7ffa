"""What is wrong with a store or a catalog is said at deployment, before anything relies on it."""

from __future__ import annotations

import socket

import fsspec
import pytest
import sqlalchemy as sa

from evergreen import lake
from evergreen.errors import ConfigError, ServiceDownError
from evergreen.ops import deploy, identity, places
from evergreen.settings import Settings, load_settings
from object_store import SECRET, ObjectStore
from rest_catalog import RestCatalogServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def bucket(store: ObjectStore, home: Settings, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    store.declare(monkeypatch)
    store.keep_all(monkeypatch)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(home.home / "none"))
    return store


def test_each_place_is_tried_and_nothing_is_left_there(bucket: ObjectStore) -> None:
    told = list(deploy.initialise(load_settings()))
    assert told[:5] == [
        f"s3://evergreen/{name}"
        for name in ("warehouse", "artifacts", "staging", "quality", "reports")
    ]
    assert bucket.keys() == set()


@pytest.mark.parametrize("place", ["WAREHOUSE", "QUALITY"])
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("", "s3://nobodys/there", r"bucket does not exist"),
        ("AWS_SECRET_ACCESS_KEY", "another-5up3r", r"signature"),
        ("AWS_ACCESS_KEY_ID", "nobody", r"(Access Key Id|INVALID_ACCESS_KEY)"),
    ],
)
def test_what_a_store_refuses_is_told_with_the_setting(
    bucket: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    variable: str,
    value: str,
    said: str,
) -> None:
    for other in ("WAREHOUSE", "ARTIFACTS", "STAGING", "QUALITY", "REPORTS"):
        if other != place:
            monkeypatch.delenv(f"EVERGREEN_{other}")
    monkeypatch.setenv(variable or f"EVERGREEN_{place}", value)
    with pytest.raises(ConfigError, match=said) as caught:
        list(deploy.initialise(load_settings()))
    message = str(caught.value)
    assert f"s3://{'nobodys' if not variable else 'evergreen'}/" in message
    assert f"(EVERGREEN_{place})" in message and "AWS_SECRET_ACCESS_KEY" in message
    assert SECRET not in message and "5up3r" not in message


@pytest.mark.slow
@pytest.mark.parametrize("place", ["WAREHOUSE", "STAGING"])
def test_what_is_no_store_or_does_not_answer_is_told(
    bucket: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setattr(places, "_SECONDS", 15)
    for other in ("WAREHOUSE", "ARTIFACTS", "STAGING", "QUALITY", "REPORTS"):
        if other != place:
            monkeypatch.delenv(f"EVERGREEN_{other}")
    server = RestCatalogServer(tmp_path_factory.mktemp("catalog"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    with pytest.raises(ConfigError, match=rf"\(EVERGREEN_{place}\).*AWS_ENDPOINT_URL"):
        list(deploy.initialise(load_settings()))
    server.stop()
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(ServiceDownError, match=rf"\(EVERGREEN_{place}\) does not answer"):
        list(deploy.initialise(load_settings()))


def test_checksums_that_a_store_does_not_know_are_hinted_at(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    needed = "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
    with pytest.raises(ConfigError, match=rf"\(EVERGREEN_WAREHOUSE\).*{needed}"):
        list(deploy.initialise(load_settings()))


def test_a_store_that_says_nothing_is_not_waited_for(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_SECONDS", 1)
    monkeypatch.delenv("EVERGREEN_WAREHOUSE")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(ServiceDownError, match=r"\(EVERGREEN_ARTIFACTS\) does not answer"):
            list(deploy.initialise(load_settings()))


# --- whose catalog it is -------------------------------------------------------------------------


@pytest.fixture
def second_ledger(home: Settings) -> str:
    """URL of an empty database beside the first ledger's."""
    url = sa.make_url(home.database_url("ledger"))
    other = f"{url.database}_second"
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {other}"))
    admin.dispose()
    return url.set(database=other).render_as_string(hide_password=False)


@pytest.mark.parametrize("kind", ["sql", "rest"])
def test_a_catalog_is_of_one_deployment(
    home: Settings,
    second_ledger: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if kind == "rest":
        RestCatalogServer(tmp_path_factory.mktemp("catalog")).declare(monkeypatch)
        lake.catalog().create_namespace("evergreen")
    first = sa.make_url(home.database_url("ledger")).render_as_string()
    for _ in range(2):
        identity.require_own_catalog(load_settings())
    monkeypatch.setenv("EVERGREEN_LEDGER_URL", second_ledger)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(home.home / "none"))
    for _ in range(2):
        with pytest.raises(ConfigError, match="belongs to the deployment") as caught:
            list(deploy.initialise(load_settings()))
    message = str(caught.value)
    assert f"whose ledger is {first}; this is" in message
    assert f"whose ledger is {second_ledger}." in message
    # As the page says, for a ledger that is gone for good.
    removed = {"evergreen.deployment-id", "evergreen.deployment-ledger"}
    lake.catalog().update_namespace_properties("evergreen", removals=removed)
    identity.require_own_catalog(load_settings())
    monkeypatch.setenv("EVERGREEN_LEDGER_URL", first)
    with pytest.raises(ConfigError, match="belongs to the deployment"):
        identity.require_own_catalog(load_settings())
