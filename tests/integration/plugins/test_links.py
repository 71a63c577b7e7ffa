"""Where the buttons of tasks lead: to pages that the application serves, or nowhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from evergreen.provenance.staging import Staged
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from evergreen.training import tracking

Login = Callable[[str | None], Any]

# Starlette's test client, which Airflow's own modules import too, prefers a client of its own.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")

DAY = "2026-01-09"
MADE = {"use_case": "churn", "version": 3}


@pytest.fixture(scope="module")
def links() -> Iterator[Any]:
    """The module as DAG files import it."""
    sys.path.insert(0, str(PROJECT_ROOT / "dags"))
    import links

    yield links
    sys.path.remove(str(PROJECT_ROOT / "dags"))


@pytest.fixture
def task(links: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Ask for a link of a task that has ended, as the task runner does."""

    def address(link: str, task_id: str, given: Any, made: Any = None) -> str:
        monkeypatch.setattr(links, "XCom", SimpleNamespace(get_value=lambda **_: made))
        operator = SimpleNamespace(task_id=task_id, op_args=given)
        return getattr(links, link)().get_link(operator, ti_key=SimpleNamespace())

    return address


def staged(*chunks: str, **facts: str) -> dict[str, Any]:
    return Staged("churn", chunks[0], "folder", chunks, facts=facts).to_dict()


def keep_page(path: str) -> None:
    page = load_settings().quality / "churn" / "data_docs" / path
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"what {path} says")


@pytest.mark.parametrize(
    ("task_id", "suite", "facts"),
    [
        ("orders.validate_rows", "orders", {"table": "orders"}),
        ("validate_features", "features", {}),
        ("features.validate_features", "features", {}),
        ("score_again.validate_predictions", "predictions", {}),
    ],
)
def test_a_validation_leads_to_its_page_once_there_is_one(
    task: Callable[..., str], login: Login, task_id: str, suite: str, facts: dict[str, str]
) -> None:
    batch = staged(DAY, **facts)
    assert task("DataDocs", task_id, [batch]) == ""
    keep_page(f"{suite}/{DAY}.html")
    address = task("DataDocs", task_id, [batch])
    shown = login("viewer").get(address)
    assert (shown.status_code, shown.text) == (200, f"what {suite}/{DAY}.html says")


def test_a_validation_of_several_chunks_leads_to_all_of_them(
    task: Callable[..., str], login: Login
) -> None:
    keep_page("index.html")
    batch = staged("2026-01-01..2026-01-31", "2026-02-01..2026-02-28", table="orders")
    shown = login("viewer").get(task("DataDocs", "orders.validate_rows", [batch]))
    assert (shown.status_code, shown.text) == (200, "what index.html says")


@pytest.mark.parametrize(
    ("link", "given", "made"),
    [
        ("CalendarDay", [staged(DAY)], None),
        ("CalendarDay", [staged("2026-01-01..2026-01-31")], None),
        ("Releases", [], MADE),
    ],
)
def test_pages_of_the_use_case_are_served(
    task: Callable[..., str], login: Login, link: str, given: Any, made: Any
) -> None:
    address = task(link, "any", given, made)
    assert login("viewer").get(address).status_code == 200
    # The application serves one document for every page; the browser looks which it is.
    pages = re.search(r"PAGES = \[(.*?)\]", route(), re.DOTALL)
    assert pages
    _, _, kind, use_case, page = urlsplit(address).path.split("/")
    assert (kind, use_case) == ("use-cases", "churn")
    assert f'"{page}"' in pages[1]


def test_the_calendar_shows_the_days_of_the_run(task: Callable[..., str]) -> None:
    address = task("CalendarDay", "publish_rows", [staged("2026-01-01..2026-01-31")])
    assert urlsplit(address).query == "first=2026-01-01&last=2026-01-31"
    calendar = (Path(PROJECT_ROOT) / "plugins/www/src/pages/Calendar.tsx").read_text()
    assert 'query.get("first"), query.get("last")' in calendar


def test_what_made_nothing_leads_nowhere(task: Callable[..., str]) -> None:
    for link in ("Releases", "TrackedRun"):
        assert task(link, "train_challenger", []) == ""


def test_a_run_is_linked_where_browsers_reach_mlflow(
    task: Callable[..., str], home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.initialise()
    client = tracking.client.connect()
    run = client.create_run("0").info
    client.create_registered_model("churn")
    client.create_model_version("churn", "s3://nowhere", run.run_id)
    made = {**MADE, "version": 1}
    # The database itself has no pages.
    assert task("TrackedRun", "train_challenger", [], made) == ""
    monkeypatch.setenv("EVERGREEN_TRACKING_PAGES", "https://models.example.org/")
    expected = f"https://models.example.org/#/experiments/0/runs/{run.run_id}"
    assert task("TrackedRun", "train_challenger", [], made) == expected


def test_a_server_has_pages_unless_browsers_know_it_by_another_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().tracking_pages is None
    monkeypatch.setenv("EVERGREEN_TRACKING_URL", "http://mlflow:5000")
    assert load_settings().tracking_pages == "http://mlflow:5000"
    monkeypatch.setenv("EVERGREEN_TRACKING_PAGES", "http://127.0.0.1:5000")
    assert load_settings().tracking_pages == "http://127.0.0.1:5000"


def route() -> str:
    return (PROJECT_ROOT / "plugins/www/src/route.ts").read_text()
