from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from evergreen.contract import list_use_cases
from evergreen.settings import PROJECT_ROOT, Settings, load_settings

PLUGINS = PROJECT_ROOT / "plugins"
Login = Callable[[str | None], Any]

# Starlette's test client, which Airflow's own modules import too, prefers a client of its own.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")


@pytest.fixture
def app(plugin: ModuleType) -> Any:
    return plugin.build_app()


@pytest.fixture
def stranger(app: Any) -> Any:
    """A browser without token or cookie, at the application where Airflow mounts it."""
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    airflow = FastAPI()
    airflow.mount("/evergreen", app)
    return TestClient(airflow)


@pytest.fixture
def login(app: Any, stranger: Any) -> Iterator[Login]:
    from airflow.api_fastapi.app import create_auth_manager, purge_cached_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.security import get_user

    def as_role(role: str | None) -> Any:
        app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(
            username="ada", role=role
        )
        return stranger

    create_auth_manager()
    yield as_role
    purge_cached_app()


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


# --- authentication ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/data-docs/churn/", "/data-docs/churn/index.html"])
def test_a_stranger_gets_nothing(stranger: Any, site: Path, path: str) -> None:
    answer = stranger.get(f"/evergreen{path}")

    assert answer.status_code == 401
    assert "Log in" in answer.text
    assert "all validations" not in answer.text


def test_no_route_is_without_authentication(app: Any) -> None:
    from airflow.api_fastapi.core_api.security import get_user

    def calls(dependant: Any) -> Iterator[Any]:
        yield dependant.call
        for inner in dependant.dependencies:
            yield from calls(inner)

    assert len(app.routes) == 3
    assert all(get_user in calls(route.dependant) for route in app.routes)


def test_a_user_without_a_role_is_refused(login: Login, site: Path) -> None:
    assert login(None).get("/evergreen/data-docs/churn/").status_code == 403


def test_a_viewer_reads_data_docs(login: Login, site: Path) -> None:
    viewer = login("viewer")

    assert viewer.get("/evergreen/data-docs/churn/").text == "all validations"
    page = viewer.get("/evergreen/data-docs/churn/orders/2026-01-01..2026-01-03.html")
    assert page.text == "three days"
    assert page.headers["content-type"].startswith("text/html")


def test_pages_may_not_run_or_load_anything(login: Login, stranger: Any, site: Path) -> None:
    refused = stranger.get("/evergreen/data-docs/churn/")
    shown = login("viewer").get("/evergreen/data-docs/churn/")

    for answer in (refused, shown):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "private" in answer.headers["cache-control"]


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
def test_nothing_else_is_a_page(plugin: ModuleType, site: Path, use_case: str, path: str) -> None:
    assert plugin.find_page(use_case, path) is None


_parts = st.one_of(
    st.sampled_from(["..", ".", "", "~", "orders", "churn", "data_docs", "index.html"]),
    st.sampled_from(["secret.html", "validations", "link.html", ".index.lock", "\0", "\\..\\"]),
    st.text(max_size=5),
)


@effort(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts=st.lists(_parts, max_size=8))
def test_no_path_leads_out_of_the_site(plugin: ModuleType, site: Path, parts: list[str]) -> None:
    found = plugin.find_page("churn", "/".join(parts))

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


def test_the_page_leads_to_the_newest_report(login: Login, report: Path) -> None:
    report.with_name("2025-12-31.html").write_text("older")
    report.with_name("zebra.html").write_text("no night")

    page = login("viewer").get("/evergreen/").text

    assert 'href="nights/churn/2026-01-09"' in page
    assert page.count("nights/") == 1


# --- the page ------------------------------------------------------------------------------------


def test_the_page_explains_that_nothing_runs(login: Login) -> None:
    answer = login("viewer").get("/evergreen/")

    assert answer.status_code == 200
    assert "The embedded Postgres under" in answer.text
    assert "Traceback" not in answer.text
    assert all(name in answer.text for name in list_use_cases())


def test_the_page_explains_that_a_server_is_down(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CATALOG", "LEDGER"):
        url = "postgresql+psycopg2://ada:hunter2@127.0.0.1:1/evergreen"
        monkeypatch.setenv(f"EVERGREEN_{name}_URL", url)

    answer = login("viewer").get("/evergreen/")

    assert answer.status_code == 200
    # Champion, decisions, tables, rows and what is stale of each use case.
    assert answer.text.count('class="problem"') == 5 * len(list_use_cases())
    assert "Connection refused" in answer.text
    assert "hunter2" not in answer.text


def test_a_broken_use_case_is_named_and_the_others_are_shown(
    login: Login, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cases" / "torn").mkdir(parents=True)
    (tmp_path / "cases" / "torn" / "use_case.yaml").write_text("name: torn\ntitel: <b>Torn</b>\n")
    churn = PROJECT_ROOT / "include" / "use_cases" / "churn"
    (tmp_path / "cases" / "churn").symlink_to(churn, target_is_directory=True)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path / "cases"))

    page = login("viewer").get("/evergreen/").text

    assert "titel: unknown key" in page
    assert "<b>Torn</b>" not in page
    assert "Churn prediction from orders" in page


def test_the_page_of_an_empty_home(login: Login, home: Settings) -> None:
    from evergreen.provenance import receipts
    from evergreen.release import ledger, ledger_table

    without_tables = login("viewer").get("/evergreen/").text
    receipts.create_tables()
    ledger_table.create_tables(ledger.engine())
    empty = login("viewer").get("/evergreen/").text

    # Rows and what is stale are read from the receipts, the champion from the ledger.
    assert without_tables.count('class="problem"') == 3 * len(list_use_cases())
    assert "relation &#34;receipts&#34; does not exist" in without_tables
    assert 'class="problem"' not in empty
    for sentence in (
        "No model was promoted yet",
        "Nothing was decided yet",
        "No table was published yet",
        "No day was ingested yet",
        "Nothing is stale",
        "nothing was validated yet",
    ):
        assert empty.count(sentence) == len(list_use_cases())


def test_the_page_shows_the_facts_and_escapes_them(
    login: Login, home: Settings, site: Path
) -> None:
    import pyarrow as pa

    from evergreen import lake
    from evergreen.decisions.stored import DECISIONS
    from evergreen.provenance import receipts
    from evergreen.provenance.receipts import Receipt
    from evergreen.release import ledger, ledger_table

    first, hostile = date(2026, 1, 1), "<script>alert('x')</script><img src=x onerror=alert(1)>"
    days = [first + timedelta(n) for n in range(20)]
    decisions = [
        {"day": day, "use_case": "churn", "kind": "governor", "decision": "wait", "version": 41,
         "reasons": [f"reason {day}", hostile]}
        for day in days
    ]  # fmt: skip
    lake.publish("churn", "decisions", pa.Table.from_pylist(decisions, DECISIONS), days)
    receipts.create_tables()
    with receipts.recording("churn.orders") as record:
        record(
            Receipt("churn", "publish_orders", day, str(day), {}, "churn.orders", 1,
                    {"rows_in": 4000 + n, "accepted": 3000, "quarantined": 1000, "duplicates": n},
                    0, "", "", "", "", 1.0)
            for n, day in enumerate(days)
        )  # fmt: skip
    ledger_table.create_tables(ledger.engine())
    entry = ledger.append(
        ledger.engine(),
        "churn",
        "promote",
        41,
        actor="a run",
        reason=hostile,
    )

    page = login("viewer").get("/evergreen/").text

    assert "Version 41" in page
    assert f"{entry.recorded_at:%Y-%m-%d %H:%M} UTC" in page
    assert "<script" not in page
    assert "<img" not in page
    # Ten decisions and the champion's reason.
    assert page.count("&lt;script&gt;alert(") == 11
    assert "reason 2026-01-20" in page
    assert "reason 2026-01-10" not in page
    # Those receipts name no declaration, and two years before them were never ingested.
    assert "use_case.yaml or SQL has changed what orders are" in page
    assert "never published" in page
    assert "evergreen trigger churn_history --from" in page
    # Fourteen days of rows.
    assert "4,019" in page
    assert "4,006" in page
    assert "4,005" not in page
    assert page.index("4,019") < page.index("4,006")
    assert 'href="data-docs/churn/"' in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_page_shows_what_was_published_since_it_was_last_loaded(
    login: Login, home: Settings
) -> None:
    import pyarrow as pa

    from evergreen import lake

    viewer = login("viewer")
    for day, total in ((date(2026, 1, 1), "1,234"), (date(2026, 1, 2), "2,468")):
        rows = pa.table({"day": pa.array([day] * 1234, pa.date32())})
        lake.publish("churn", "orders", rows, [day])
        page = viewer.get("/evergreen/").text
        assert f"{total}<" in page
        assert f">{day}<" in page


# --- the plugin ----------------------------------------------------------------------------------


def test_airflow_loads_the_plugin_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow import plugins_manager, settings
    from airflow.api_fastapi.core_api.datamodels.plugins import PluginResponse

    monkeypatch.setattr(settings, "PLUGINS_FOLDER", str(PLUGINS))
    caches = (
        plugins_manager._get_plugins,
        plugins_manager._get_ui_plugins,
        plugins_manager.get_fastapi_plugins,
    )
    for cached in caches:
        cached.cache_clear()
    try:
        problems = plugins_manager.get_import_errors()
        (ours,) = [p for p in plugins_manager.get_plugin_info() if p["name"] == "evergreen"]
        apps, _ = plugins_manager.get_fastapi_plugins()
        views, _ = plugins_manager._get_ui_plugins()
    finally:
        for cached in caches:
            cached.cache_clear()

    assert problems == {}
    assert [record.getMessage() for record in caplog.records] == []
    # An invalid destination would remove the plugin from the UI without an error.
    shown = PluginResponse.model_validate(ours)
    assert [(v.url_route, v.href, v.destination) for v in shown.external_views] == [
        ("evergreen", "evergreen/", "nav")
    ]
    assert "/evergreen" in [app["url_prefix"] for app in apps]
    assert "evergreen" in [view["url_route"] for view in views]


def test_loading_the_plugin_costs_a_task_nothing() -> None:
    code = f"""
import runpy, sys
import airflow.sdk.execution_time.task_runner
from airflow.sdk import plugins_manager
before = set(sys.modules)
runpy.run_path({str(PLUGINS / "evergreen_plugin.py")!r})
heavy = ("airflow.api_fastapi", "evergreen", "fastapi", "pyarrow", "pyiceberg", "sqlalchemy")
print([m for m in set(sys.modules) - before if m.split(".")[0] in heavy or m.startswith(heavy)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_mounted_application_is_made_at_the_first_request(plugin: ModuleType) -> None:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    (mounted,) = plugin.EvergreenPlugin.fastapi_apps
    airflow = FastAPI()
    airflow.mount(mounted["url_prefix"], mounted["app"])

    assert TestClient(airflow).get("/evergreen/").status_code == 401
