"""Data Docs, reports of nights and model cards: shown to who may see them, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from evergreen.settings import Settings, load_settings
from evergreen_ui import files

Login = Callable[[str | None], Any]

# Starlette's test client, which Airflow's own modules import too, prefers a client of its own.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")


@pytest.fixture
def site() -> Path:
    """The Data Docs of `churn`, beside things nobody may fetch."""
    quality = load_settings().quality
    for path, text in {
        "churn/data_docs/index.html": "all validations",
        "churn/data_docs/orders/2026-01-01..2026-01-03.html": "three days",
        "churn/data_docs/.index.lock": "hidden",
        "churn/data_docs/orders/.draft.html.17": "hidden",
        "churn/validations/orders/secret.json": "classified",
        "churn/data_docs_of_old/index.html": "classified",
        "secret.html": "classified",
    }.items():
        (quality / path).parent.mkdir(parents=True, exist_ok=True)
        (quality / path).write_text(text)
    (quality / "churn/data_docs/link.html").symlink_to(quality / "secret.html")
    return quality / "churn/data_docs"


# --- data docs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use_case", "path"),
    [
        ("nobody", ""),
        ("..", "secret.html"),
        (".", "churn/data_docs/index.html"),
        ("churn", "absent.html"),
        ("churn", "orders"),
        ("churn", "../validations/orders/secret.json"),
        ("churn", "orders/../../../secret.html"),
        ("churn", "../data_docs_of_old/index.html"),
        ("churn", "/etc/passwd"),
        ("churn", "//etc/passwd"),
        ("churn", "link.html"),
        ("churn", ".index.lock"),
        ("churn", "orders/.draft.html.17"),
        ("churn", "\0"),
        ("churn", "x" * 5000),
    ],
)
def test_nothing_else_is_a_page(site: Path, use_case: str, path: str) -> None:
    assert files.find_page(use_case, path) is None


_parts = st.one_of(
    st.sampled_from(["..", ".", "", "~", "orders", "churn", "data_docs", "index.html"]),
    st.sampled_from(["secret.html", "validations", "link.html", ".index.lock", "\0", "\\..\\"]),
    st.text(max_size=5),
)


@effort(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts=st.lists(_parts, max_size=8))
def test_no_path_leads_out_of_the_site(site: Path, parts: list[str]) -> None:
    found = files.find_page("churn", "/".join(parts))

    assert found is None or found.read_text() in ("all validations", "three days")


@pytest.mark.parametrize(
    "path",
    [
        "churn/%2e%2e/validations/orders/secret.json",
        "churn/..%2fvalidations%2forders%2fsecret.json",
        "churn/%2fetc%2fpasswd",
        "..%2fchurn/index.html",
        "nobody/",
        "nobody/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    ],
)
def test_encoded_tricks_end_in_404(login: Login, site: Path, path: str) -> None:
    answer = login("viewer").get(f"/evergreen/data-docs/{path}")

    assert answer.status_code == 404
    assert "classified" not in answer.text
    assert "root:" not in answer.text
    assert "<script>" not in answer.text


# --- reports of nights ---------------------------------------------------------------------------


@pytest.fixture
def report() -> Path:
    """The report of one night of `churn`, beside what nobody may fetch."""
    settings = load_settings()
    path = settings.night_report("churn", date(2026, 1, 9))
    path.parent.mkdir(parents=True)
    path.write_text("what the night said")
    (path.parent / ".2026-01-10.html.17").write_text("half")
    (settings.reports / "secret.html").write_text("classified")
    return path


def test_reports_are_behind_the_same_door(login: Login, stranger: Any, report: Path) -> None:
    address = "/evergreen/nights/churn/2026-01-09"
    refused = stranger.get(address)
    assert refused.status_code == 401
    assert "what the night said" not in refused.text
    assert login(None).get(address).status_code == 403
    shown = login("viewer").get(address)
    assert (shown.status_code, shown.text) == (200, "what the night said")
    assert shown.headers["content-type"].startswith("text/html")
    for answer in (refused, shown):
        assert "script-src" not in answer.headers["content-security-policy"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("churn/2026-01-10", "evergreen report churn 2026-01-10"),
        ("churn/yesterday", "expected a day written YYYY-MM-DD"),
        ("churn/2026-01-09.html", "expected a day written YYYY-MM-DD"),
        ("churn/..%2fsecret", ""),
        ("churn/.2026-01-10.html.17", "expected a day"),
        ("..%2f/secret.html", ""),
        ("nobody/2026-01-09", "There is no use case"),
        ("nobody/%3Cscript%3Ealert(1)%3C%2Fscript%3E", ""),
    ],
)
def test_a_night_without_a_report_says_what_to_do(
    login: Login, report: Path, path: str, told: str
) -> None:
    answer = login("viewer").get(f"/evergreen/nights/{path}")

    assert answer.status_code == 404
    assert told in answer.text
    for foreign in ("classified", "half", "<script>"):
        assert foreign not in answer.text


# --- model cards ---------------------------------------------------------------------------------


def test_a_version_without_a_card_says_so(login: Login, home: Settings) -> None:
    from evergreen.training.tracking import initialise

    initialise()
    answer = login("viewer").get("/evergreen/cards/churn/7")

    assert answer.status_code == 404
    assert "7" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")
