"""Who gets what of the plugin's application: nobody without Airflow's login and permission."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evergreen.contract import list_use_cases
from evergreen.settings import PROJECT_ROOT, Settings

Login = Callable[[str | None], Any]

# Starlette's test client, which Airflow's own modules import too, prefers a client of its own.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")

# Paths, and the DAG that they are about; None for what is about none.
DOORS = {
    "/": None,
    "/use-cases/churn/calendar": None,
    "/runs/churn_score/manual": None,
    "/assets/card.js": None,
    "/metrics": None,
    "/data-docs/churn/index.html": "churn_ingest",
    "/nights/churn/2026-01-01": "churn_monitor",
    "/cards/churn/1": "churn_release",
    "/api/use-cases": None,
    "/api/use-cases/churn/overview": "churn_monitor",
    "/api/use-cases/churn/calendar": "churn_monitor",
    "/api/use-cases/churn/runs?from=2026-01-01&to=2026-01-02": "churn_monitor",
    "/api/use-cases/churn/plan?dag_id=churn_ingest&from=2026-01-01&to=2026-01-02": "churn_monitor",
    "/api/use-cases/churn/drift": "churn_monitor",
    "/api/use-cases/churn/drift/2026-01-01/score": "churn_monitor",
    "/api/use-cases/churn/performance": "churn_monitor",
    "/api/use-cases/churn/releases": "churn_release",
    "/api/use-cases/churn/quality": "churn_ingest",
    "/api/use-cases/churn/quarantine?table=orders&rule=x": "churn_ingest",
    "/api/use-cases/churn/entities": "churn_score",
    "/api/use-cases/churn/entities/C1": "churn_score",
    "/api/use-cases/churn/lineage/2026-01-01/C1": "churn_score",
    "/api/use-cases/spend/quality": "churn_ingest",
    "/api/use-cases/spend/overview": "spend_monitor",
    "/api/dag-runs/churn_score/manual": "churn_score",
}


@pytest.fixture
def lake(home: Settings) -> None:
    """Databases with our tables, and nothing in them."""
    from evergreen.provenance import receipts
    from evergreen.release import ledger, ledger_table

    receipts.create_tables()
    ledger_table.create_tables(ledger.engine())


@pytest.mark.parametrize("path", DOORS)
def test_a_stranger_gets_nothing(stranger: Any, path: str) -> None:
    answer = stranger.get(f"/evergreen{path}")

    assert answer.status_code == 401
    assert "Log in to Airflow" in answer.text


@pytest.mark.parametrize("path", DOORS)
def test_a_user_without_a_role_is_refused(login: Login, path: str) -> None:
    assert login(None).get(f"/evergreen{path}").status_code == 403


@pytest.mark.parametrize(("path", "dag_id"), [(p, dag) for p, dag in DOORS.items() if dag])
def test_who_may_not_read_the_dag_is_told_which(
    login: Login, monkeypatch: pytest.MonkeyPatch, path: str, dag_id: str
) -> None:
    viewer = login("viewer")
    _forbid(monkeypatch, dag_id)

    answer = viewer.get(f"/evergreen{path}")

    assert answer.status_code == 403
    assert dag_id in answer.text


def test_no_route_is_without_authentication_and_all_are_tried_here(app: Any) -> None:
    from airflow.api_fastapi.core_api.security import get_user

    def calls(dependant: Any) -> Iterator[Any]:
        yield dependant.call
        for inner in dependant.dependencies:
            yield from calls(inner)

    routes = list(_routes(app))
    assert all(get_user in calls(route.dependant) for route in routes)
    assert all(route.methods <= {"GET"} for route in routes)
    tried = [path.partition("?")[0] for path in DOORS]
    assert [r.path for r in routes if not any(r.path_regex.match(path) for path in tried)] == []


def test_use_cases_that_a_user_may_not_read_are_not_listed(
    login: Login, lake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = login("viewer")
    all_of_them = viewer.get("/evergreen/api/use-cases").json()["use_cases"]
    _forbid(monkeypatch, "churn_monitor")
    listed = viewer.get("/evergreen/api/use-cases").json()["use_cases"]

    assert [entry["name"] for entry in all_of_them] == list_use_cases()
    assert [entry["name"] for entry in listed] == [n for n in list_use_cases() if n != "churn"]


def test_what_is_watched_is_told_of_use_cases_that_a_user_may_read(
    login: Login, lake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prometheus_client.parser import text_string_to_metric_families as parse

    def told() -> dict[str, float]:
        answer = viewer.get("/evergreen/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        (readable,) = (f for f in parse(answer.text) if f.name == "evergreen_readable")
        return {one.labels["use_case"]: one.value for one in readable.samples}

    viewer = login("viewer")
    all_of_them = told()
    _forbid(monkeypatch, "churn_monitor")

    assert all_of_them == dict.fromkeys(list_use_cases(), 1)
    assert told() == dict.fromkeys([n for n in list_use_cases() if n != "churn"], 1)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("viewer", []),
        ("user", ["churn_ingest", "churn_score"]),
        ("admin", ["churn_ingest", "churn_score"]),
    ],
)
def test_only_who_may_start_runs_is_offered_to(
    login: Login, lake: None, dags: None, role: str, may: list[str]
) -> None:
    session = login(role).get("/evergreen/api/use-cases").json()

    entries = {entry["name"]: entry for entry in session["use_cases"]}
    assert session["user"] == "ada"
    assert entries["churn"]["may_trigger"] == may
    assert entries["churn"]["dags"] == {"ingest": "churn_ingest", "score": "churn_score"}
    # Airflow has no DAG of it.
    assert entries["coffee"]["may_trigger"] == []


def test_what_is_offered_is_asked_dag_by_dag(
    login: Login, lake: None, dags: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = login("user")
    _forbid(monkeypatch, "churn_score")

    entries = user.get("/evergreen/api/use-cases").json()["use_cases"]

    assert {e["name"]: e["may_trigger"] for e in entries}["churn"] == ["churn_ingest"]


def test_a_broken_use_case_is_named_and_the_others_are_shown(
    login: Login, lake: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cases" / "torn").mkdir(parents=True)
    (tmp_path / "cases" / "torn" / "use_case.yaml").write_text("name: torn\ntitel: <b>Torn</b>\n")
    churn = PROJECT_ROOT / "include" / "use_cases" / "churn"
    (tmp_path / "cases" / "churn").symlink_to(churn, target_is_directory=True)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path / "cases"))
    viewer = login("viewer")

    listed = viewer.get("/evergreen/api/use-cases").json()["use_cases"]
    broken = viewer.get("/evergreen/api/use-cases/torn/overview")

    assert [(e["name"], "titel: unknown key" in e["problem"]) for e in listed] == [
        ("churn", False),
        ("torn", True),
    ]
    assert broken.status_code == 400
    assert "titel: unknown key" in broken.json()["detail"]


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("use-cases/nobody/overview", 404, "There is no use case"),
        ("use-cases/..%2fchurn/overview", 404, ""),
        ("use-cases/churn/calendar?from=yesterday", 422, "from: Input should be a valid date"),
        ("use-cases/churn/runs", 422, "from: Field required"),
        ("use-cases/churn/performance?metric=luck", 400, "expected one of auc"),
        ("use-cases/churn/quarantine?table=%27;--&rule=x", 400, "expected one of orders"),
        ("use-cases/churn/drift/2026-01-01/x", 404, "was not measured on 2026-01-01"),
        ("use-cases/churn/entities/C1", 404, "Nothing is known of customer_id 'C1'"),
        ("use-cases/churn/lineage/2026-01-01/C1", 404, "was not scored on 2026-01-01"),
        ("use-cases/churn/plan?dag_id=nix&from=2026-01-01&to=2026-01-02", 404, "no DAG 'nix'"),
        ("use-cases/churn/plan?dag_id=churn_score&from=2026-01-01&to=2026-01-02", 400, "Expected"),
        ("use-cases/churn/plan?dag_id=churn_ingest&from=2026-01-02&to=2026-01-01", 400, "after"),
        ("use-cases/churn/entities?like=" + "x" * 500, 422, "at most 200 characters"),
        ("dag-runs/churn_score/absent", 404, "no run 'absent'"),
    ],
)
def test_what_cannot_be_answered_is_explained(
    login: Login, lake: None, dags: None, path: str, status: int, told: str
) -> None:
    answer = login("viewer").get(f"/evergreen/api/{path}")

    assert answer.status_code == status
    assert told in answer.text
    assert answer.headers["content-type"] == "application/json" or not told


@pytest.mark.parametrize(
    "page", ["overview", "calendar", "drift", "performance", "releases", "quality", "entities"]
)
def test_every_page_of_an_empty_home_has_an_answer(login: Login, lake: None, page: str) -> None:
    viewer = login("viewer")

    for name in list_use_cases():
        answer = viewer.get(f"/evergreen/api/use-cases/{name}/{page}")
        assert answer.status_code == 200, answer.text


def test_a_server_that_is_down_is_named_without_its_password(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CATALOG", "LEDGER"):
        url = "postgresql+psycopg2://ada:hunter2@127.0.0.1:1/evergreen"
        monkeypatch.setenv(f"EVERGREEN_{name}_URL", url)

    answer = login("viewer").get("/evergreen/api/use-cases/churn/overview")

    assert answer.status_code == 503
    assert "does not answer" in answer.json()["detail"]
    assert "Connection refused" in answer.text
    assert "hunter2" not in answer.text


def test_tables_that_were_never_created_are_explained(login: Login, home: Settings) -> None:
    answer = login("viewer").get("/evergreen/api/use-cases/churn/overview")

    assert answer.status_code == 503
    assert 'relation "receipts" does not exist' in answer.json()["detail"]
    assert "make up" in answer.text


def test_pages_run_our_scripts_and_load_from_us_only(login: Login) -> None:
    page = login("viewer").get("/evergreen/use-cases/churn/calendar")
    policy = dict(
        part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
    )

    assert page.status_code == 200
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy["frame-ancestors"] == "'self'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "private" in page.headers["cache-control"]
    # The address below which everything else lies, whatever Airflow is mounted at.
    assert '<base href="/evergreen/"' in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_what_a_page_loads_is_there_and_kept(login: Login) -> None:
    import re

    viewer = login("viewer")
    page = viewer.get("/evergreen/").text
    loaded = re.findall(r'(?:src|href)="(?:\./)?(assets/[^"]+)"', page)

    assert any(name.endswith(".js") for name in loaded)
    assert any(name.endswith(".css") for name in loaded)
    for name in loaded:
        answer = viewer.get(f"/evergreen/{name}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    # Its name stays, so it is asked for again.
    card = viewer.get("/evergreen/assets/card.js")
    assert card.headers["content-type"].startswith(("text/javascript", "application/javascript"))
    assert "no-cache" in card.headers["cache-control"]
    assert viewer.get("/evergreen/assets/..%2findex.html").status_code == 404


def test_the_state_of_days_is_that_of_their_newest_runs(
    login: Login, lake: None, dags: None, airflow_tables: Any
) -> None:
    from airflow.models import DagRun
    from airflow.utils.types import DagRunType

    runs = [
        ("2026-01-01", "failed"),
        ("2026-01-01", "success"),
        ("2026-01-02", "success"),
        ("2026-01-02", "failed"),
        ("2026-01-03", "running"),
        ("2026-01-09", "failed"),
    ]
    with airflow_tables() as session:
        for number, (day, state) in enumerate(runs):
            run = DagRun(
                dag_id="churn_score",
                run_id=f"run-{number}",
                run_type=DagRunType.MANUAL,
                run_after=datetime(2026, 1, 1, tzinfo=UTC),
                state=state,
                partition_key=day,
            )
            session.add(run)

    found = login("viewer").get("/evergreen/api/use-cases/churn/runs?from=2026-01-01&to=2026-01-05")

    assert [(run["day"], run["state"], run["run_id"]) for run in found.json()] == [
        ("2026-01-02", "failed", "run-3"),
        ("2026-01-03", "running", "run-4"),
    ]


@pytest.fixture
def dags(airflow_tables: Any) -> Iterator[None]:
    """Two DAGs of `churn`, as Airflow knows them."""
    from airflow.models import DagModel, DagRun
    from airflow.models.dagbundle import DagBundleModel
    from sqlalchemy import delete

    with airflow_tables() as session:
        session.merge(DagBundleModel(name="dags"))
        session.flush()
        for dag_id in ("churn_ingest", "churn_score"):
            found = DagModel(dag_id=dag_id, bundle_name="dags", max_active_runs=3, is_stale=False)
            session.add(found)
    yield
    with airflow_tables() as session:
        session.execute(delete(DagRun))
        session.execute(delete(DagModel))


def _routes(app: Any) -> Iterator[Any]:
    for route in app.routes:
        yield from [route] if hasattr(route, "dependant") else ()


def _forbid(monkeypatch: pytest.MonkeyPatch, dag_id: str) -> None:
    """Let Airflow's auth manager refuse one DAG to everybody."""
    from airflow.api_fastapi.app import get_auth_manager

    manager = get_auth_manager()
    allowed = manager.is_authorized_dag

    def refuse(*, details: Any = None, **asked: Any) -> bool:
        return (details is None or details.id != dag_id) and allowed(details=details, **asked)

    monkeypatch.setattr(manager, "is_authorized_dag", refuse)
