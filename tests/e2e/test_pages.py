"""The pages in a real browser, of a real Airflow, with what the demo leaves: read, and pressed.

`EVERGREEN_DEMO_HOME` names the data directory of a demo that has ended, instead of running one; its
tables change. `EVERGREEN_TOUR` names a folder for pictures of the pages.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from evergreen import lake
from evergreen.contract import UseCase, load_use_case
from evergreen.ops import deploy
from evergreen.ops.local import airflow
from evergreen.ops.local.airflow_client import AirflowClient, connect
from evergreen.ops.local.runs import follow
from evergreen.provenance import receipts
from evergreen.release import ledger
from evergreen.settings import PROJECT_ROOT, Settings, load_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAME = "coffee"
PAGES = ("overview", "calendar", "drift", "performance", "releases", "quality", "entity", "lineage")
DONE, TOUR = (os.environ.get(f"EVERGREEN_{name}") for name in ("DEMO_HOME", "TOUR"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
]
_ONE_DAY = timedelta(days=1)


@dataclass
class House:
    """An Airflow over a finished demo."""

    settings: Settings
    url: str
    client: AirflowClient
    login: tuple[str, str]

    @property
    def use_case(self) -> UseCase:
        return load_use_case(NAME)

    def token(self, name: str, role: str | None) -> str:
        """Sign what Airflow's simple auth manager gives to a user with a role."""
        secrets = json.loads((self.settings.home / "airflow" / "secrets.json").read_text())
        now = int(time.time())
        claims = {"sub": name, "role": role, "teams": [], "iat": now, "nbf": now}
        claims |= {"exp": now + 3600, "iss": "evergreen", "aud": "apache-airflow"}
        return jwt.encode(claims, secrets["jwt_secret"], "HS512", headers={"kid": "not-used"})


@dataclass
class Sight:
    """A page, and what went wrong on it."""

    page: Page
    house: House
    problems: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        """Go to a page of ours and wait for its data."""
        self.page.goto(f"{self.house.url}/evergreen/{path}")
        self.page.wait_for_selector("main h1")
        self.page.wait_for_function("() => !document.querySelector('.skeleton, [aria-busy=true]')")
        return self.page

    def use_case(self, page: str, query: str = "") -> Page:
        return self.open(f"use-cases/{NAME}/{page}{query}")


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH; Debian has it: apt-get install chromium")
    folder, before = tempfile.TemporaryDirectory(prefix="evergreen-pages-"), dict(os.environ)
    for name in [name for name in os.environ if name.startswith("EVERGREEN_")]:
        del os.environ[name]
    os.environ["EVERGREEN_HOME"] = DONE or str(Path(folder.name) / "home")
    settings = load_settings()
    if DONE is None:
        demo = subprocess.run(
            [sys.executable, PROJECT_ROOT / "demo" / "run.py"], capture_output=True, text=True
        )
        assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
    try:
        deploy.start_services(settings)
        instance = airflow.find(settings)
        assert instance is not None
        client = connect(settings)
        client.wait_for_dags(f"{NAME}_ingest", f"{NAME}_release")
        yield House(settings, instance.url, client, (instance.username, instance.password))
    finally:
        deploy.stop_services(settings)
        os.environ.clear()
        os.environ.update(before)
        folder.cleanup()


@pytest.fixture(autouse=True)
def _environment(
    house: House, _no_settings_from_outside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(house.settings.home))


@pytest.fixture(scope="module")
def browser(house: House) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def cookies(house: House, browser: Browser) -> list[Any]:
    """Log in as the administrator by Airflow's own form."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{house.url}/auth/login")
    for label, value in zip(("Username", "Password"), house.login, strict=True):
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda address: "/auth/login" not in address)
    found = context.cookies()
    context.close()
    return found


Looking = Callable[..., Sight]


@pytest.fixture
def look(house: House, browser: Browser, cookies: list[Any]) -> Iterator[Looking]:
    """Open a browser; afterwards nothing may have gone wrong in it."""
    contexts: list[BrowserContext] = []
    sights: list[Sight] = []

    def opened(role: str | None = "admin", **how: Any) -> Sight:
        context = browser.new_context(**how)
        contexts.append(context)
        if role == "admin":
            context.add_cookies(cookies)
        else:
            token = house.token("vera", role)
            context.add_cookies([{"name": "_token", "value": token, "url": house.url}])
        # The first request of a server imports the package.
        context.set_default_timeout(120_000)
        sight = Sight(context.new_page(), house)
        sights.append(sight)
        page, problems = sight.page, sight.problems
        page.on("console", lambda said: _note_error(said, problems))
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
        page.on("response", lambda answer: _note_status(answer, problems))
        page.on("request", lambda request: _note_foreign(request, house, problems))
        return sight

    yield opened
    for context in contexts:
        context.close()
    assert [problem for sight in sights for problem in sight.problems] == []


def _note_error(said: Any, problems: list[str]) -> None:
    if said.type == "error":
        problems.append(f"{said.location.get('url')}: {said.text}")


def _note_status(answer: Any, problems: list[str]) -> None:
    if answer.status >= 400:
        problems.append(f"{answer.status} {answer.url}")


def _note_foreign(request: Any, house: House, problems: list[str]) -> None:
    if not request.url.startswith((house.url, "data:", "blob:")):
        problems.append(f"asked another host: {request.url}")


# --- what pages show -----------------------------------------------------------------------------


def test_the_overview_says_what_ledger_and_tables_say(look: Looking, house: House) -> None:
    page = look().use_case("overview")
    champion = _champion(house)
    facts = _facts(page, "Champion")
    assert facts["Version"] == str(champion.version)
    assert (facts["By"], facts["Why"]) == (champion.actor, champion.reason)
    gate = _decision(house, "gate", champion.version)
    auc = json.loads(gate["evidence"])["evidence"]["challenger"]["auc"]
    metrics = _table(page, "Metrics with 95 % intervals")
    assert next(row for row in metrics if row["Metric"] == "auc")["Holdout"].startswith(
        f"{auc:.3f}"
    )
    tables = {row["Table"]: row for row in _table(page, "Tables and their freshness")}
    for table in ("orders", "features", "labels", "predictions", "performance", "drift"):
        rows = lake.read(NAME, table, columns=("day",))
        assert tables[table]["Rows"] == f"{rows.num_rows:,}", table
        assert tables[table]["Newest day"] == _day(max(rows["day"].to_pylist()))
    night = _decision(house, "governor")
    expect(page.locator("section", has_text="Last night")).to_contain_text(night["decision"])


def test_the_calendar_has_the_rows_of_every_day(look: Looking, house: House) -> None:
    page = look().use_case("calendar")
    labels = page.locator("[role=gridcell]").evaluate_all(
        "cells => cells.map(cell => cell.getAttribute('aria-label'))"
    )
    found = dict(label.split(": ", 1) for label in labels)
    last = lake.read(NAME, "orders", columns=("day",))["day"].to_pylist()
    newest = max(last)
    for n in range(60):
        day = newest - n * _ONE_DAY
        for table in ("orders", "features"):
            rows = lake.read_day(NAME, table, day).num_rows
            assert f"rows {rows:,}" in found[f"{table}, {_day(day)}"]
    for day in {*lake.read(NAME, "predictions", columns=("day",))["day"].to_pylist()}:
        versions = {*lake.read_day(NAME, "predictions", day)["model_version"].to_pylist()}
        (version,) = versions
        assert f"model version {version}" in found[f"predictions, {_day(day)}"]


def test_the_heat_map_marks_what_has_drifted(look: Looking, house: House) -> None:
    sight = look()
    page = sight.use_case("drift")
    rows = [row for row in lake.read(NAME, "drift").to_pylist() if row["slice"] == "all"]
    drifted = {
        (row["feature"], row["day"])
        for row in rows
        if row["drifted"] and row["reference"] == "expected"
    }
    marked = page.locator("[role=gridcell].drifted").evaluate_all(
        "cells => cells.map(cell => cell.getAttribute('aria-label'))"
    )
    assert len(marked) == len(drifted) > 0
    feature, night = max(
        (one for one in drifted if one[0] in house.use_case.features.columns), key=lambda it: it[1]
    )
    page = sight.use_case("drift", f"?night={night}&feature={feature}")
    tests = [r for r in lake.read_day(NAME, "drift", night).to_pylist() if r["feature"] == feature]
    assert len(_table(page, "Tests, drifted ones first")) == len(tests)
    shares = _table(page, f"Shares of {feature}")
    assert sum(float(row["tonight"].rstrip("%")) for row in shares) == pytest.approx(100, abs=1)


def test_performance_has_the_values_of_its_table(look: Looking) -> None:
    page = look().use_case("performance", "?metric=auc")
    rows = [
        row
        for row in lake.read(NAME, "performance").to_pylist()
        if (row["metric"], row["slice"]) == ("auc", "all")
    ]
    shown = {row["Day"]: row for row in _table(page, "Realised auc by day")}
    for row in rows:
        measured = f"{row['value']:.3f} ({row['lower']:.3f} to {row['upper']:.3f})"
        assert shown[_day(row["day"])]["Realised"] == measured
    assert len(shown) == len(rows) > 1


def test_releases_tell_the_ledger_and_the_evidence(look: Looking, house: House) -> None:
    page = look().use_case("releases", "?a=1&b=2")
    entries = ledger.entries(ledger.engine(), NAME)
    story = page.locator("ol.story > li").all_inner_texts()
    assert len(story) == len(entries)
    for text, entry in zip(story, reversed(entries), strict=True):
        assert f"version {entry.version}" in text
        assert entry.actor in text
        assert entry.reason in text
    for version in (1, 2):
        checks = json.loads(_decision(house, "gate", version)["verdict"])["checks"]
        passed = sum(check["passed"] for check in checks)
        expect(
            page.get_by_text(f"Evidence: {passed} of {len(checks)} rules passed").first
        ).to_be_visible()
    compared = _table(page, "Metrics, each on its own holdout, with 95 % intervals")
    auc = next(row for row in compared if row["Metric"] == "auc")
    for version in (1, 2):
        evidence = json.loads(_decision(house, "gate", version)["evidence"])["evidence"]
        assert auc[f"Version {version}"].startswith(f"{evidence['challenger']['auc']:.3f}")


def test_no_row_is_lost_on_the_page_of_quality(look: Looking, house: House) -> None:
    page = look().use_case("quality")
    shown = _table(page, "In = accepted + quarantined + duplicates + erased")
    counted = receipts.latest(NAME, "publish_orders")
    for row in shown:
        (counts,) = (r.counts for d, r in counted.items() if _day(d) == row["Day"])
        parts = [counts[name] for name in ("rows_in", "accepted", "quarantined", "duplicates")]
        assert row["Sum"] == "{:,} = {:,} + {:,} + {:,} + 0".format(*parts)
        assert row["Conserved"].endswith("yes")
    days = [day for day in counted if _day(day) in {row["Day"] for row in shown}]
    rejected = lake.read(NAME, "quarantine", min(days), max(days) + _ONE_DAY)["rules"].to_pylist()
    for row in _table(page, "Rules that rows broke, most rows first"):
        name = row["Rule"].replace(" ", "_")
        assert row["Rows"] == f"{sum(name in rules for rules in rejected):,}"
    page.get_by_role("button", name="Show rows").first.click()
    expect(page.get_by_role("table", name="Rows as they were delivered")).to_be_visible()


def test_a_customer_and_where_the_score_comes_from(look: Looking, house: House) -> None:
    sight = look()
    newest = max(lake.read(NAME, "predictions", columns=("day",))["day"].to_pylist())
    scored = lake.read_day(NAME, "predictions", newest).sort_by("rank").to_pylist()
    first, key = scored[0], house.use_case.entity.key
    page = sight.use_case("entity")
    page.get_by_role("searchbox").or_(page.get_by_role("combobox")).first.fill(str(first[key])[:3])
    page = sight.use_case("entity", f"?key={first[key]}")
    scores = _table(page, "Scores, newest first")
    assert (scores[0]["Day"], scores[0]["Rank"]) == (_day(newest), f"1 of {len(scored):,}")
    assert scores[0]["Score"].startswith(f"{first['score']:.3f}")
    values = {row["Feature"]: row for row in _table(page, "Features beside what is served online")}
    assert set(values) == set(house.use_case.features.columns)
    page.get_by_role("link", name=_day(newest)).first.click()
    page.wait_for_selector("ol.chain > li")
    text = page.locator("main").inner_text()
    (published,) = receipts.latest(NAME, "publish_predictions", newest, newest + _ONE_DAY).values()
    assert f"evergreen replay {published.sequence}" in text
    assert str(published.output_snapshot) in text
    version = first["model_version"]
    assert f"Training of version {version}" in text


def test_receipts_stand_with_their_run_and_the_card_on_the_dashboard(
    look: Looking, house: House
) -> None:
    sight = look()
    (run, *_) = house.client.runs(f"{NAME}_history")
    # In the frame that Airflow shows it in, as a tab of the run.
    sight.page.goto(
        f"{house.url}/dags/{run.dag_id}/runs/{run.run_id}/plugin/receipts",
        wait_until="domcontentloaded",
    )
    frame = sight.page.frame_locator("iframe")
    expect(frame.locator("article").first).to_be_visible(timeout=60_000)
    shown = frame.locator("article h2").all_inner_texts()
    assert any("publish features" in heading for heading in shown)
    _take_picture(sight.page, "receipts-in-airflow")
    sight.page.goto(f"{house.url}/plugin/evergreen/evergreen/use-cases/{NAME}/calendar")
    expect(frame.get_by_role("grid", name="Tables by day")).to_be_visible(timeout=60_000)
    _take_picture(sight.page, "calendar-in-airflow")
    sight.page.goto(house.url)
    champion = f"champion {_champion(house).version} since"
    expect(sight.page.get_by_text(champion)).to_be_visible(timeout=60_000)
    sight.page.get_by_text(champion).scroll_into_view_if_needed()
    _take_picture(sight.page, "dashboard-in-airflow")


@pytest.mark.parametrize("page", PAGES)
def test_a_use_case_without_data_says_what_to_do(look: Looking, page: str) -> None:
    shown = look().open(f"use-cases/churn/{page}")
    # The calendar of nothing is a calendar: its first day, on which nothing is expected.
    told = shown.locator("[role=grid]" if page == "calendar" else ".empty")
    expect(told.first).to_be_visible()


def test_what_is_not_there_is_said_on_the_page(look: Looking) -> None:
    sight = look()
    page = sight.use_case("entity", "?key=nobody")
    expect(page.get_by_role("alert")).to_contain_text("Nothing is known of customer_id 'nobody'")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    page = sight.open("use-cases/nowhere/overview")
    expect(page.get_by_text("There is no such page")).to_be_visible()
    # The browser tells the 404 of that key, and nothing else.
    assert all("nobody" in problem for problem in sight.problems)
    sight.problems.clear()


# --- who may what --------------------------------------------------------------------------------


def test_a_viewer_sees_no_buttons_and_is_refused(look: Looking, house: House) -> None:
    sight = look("viewer")
    newest = max(lake.read(NAME, "orders", columns=("day",))["day"].to_pylist())
    page = sight.use_case("calendar", f"?first={newest}&last={newest}")
    page.get_by_text("does not allow you to start runs").wait_for()
    assert page.get_by_role("button", name="Start backfill").count() == 0
    page = sight.use_case("releases")
    assert page.get_by_role("button", name=re.compile("Promote|Roll back")).count() == 0
    expect(page.get_by_text("does not allow you to promote")).to_be_visible()
    before = len(ledger.entries(ledger.engine(), NAME))
    conf = {"action": "roll_back", "version": 1, "reason": "a viewer tries"}
    tried = page.request.post(
        f"{house.url}/api/v2/dags/{NAME}_release/dagRuns", data={"logical_date": None, "conf": conf}
    )
    assert tried.status == 403
    assert len(ledger.entries(ledger.engine(), NAME)) == before


def test_without_a_role_nothing_is_shown(look: Looking, house: House) -> None:
    sight = look(None)
    for path in ("use-cases", f"use-cases/{NAME}/overview", f"use-cases/{NAME}/entities?like=C"):
        answer = sight.page.request.get(f"{house.url}/evergreen/api/{path}")
        assert answer.status == 403, path


# --- for everybody -------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_keep_the_rules_of_accessibility(look: Looking, house: House, scheme: str) -> None:
    sight = look(color_scheme=scheme)
    found = []
    for path in ("", *_addresses(house)):
        page = sight.open(path)
        _take_picture(page, f"{_name(path)}-{scheme}")
        for broken in Axe().run(page).response["violations"]:
            if broken["impact"] in ("serious", "critical"):
                nodes = [node["html"][:150] for node in broken["nodes"][:3]]
                found.append((path, broken["id"], nodes))
    assert found == []


def test_pages_fit_a_phone(look: Looking, house: House) -> None:
    sight = look(viewport={"width": 390, "height": 844})
    for path in ("", *_addresses(house)):
        page = sight.open(path)
        _take_picture(page, f"{_name(path)}-phone")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{path} is {width} pixels wide"


def test_the_calendar_is_used_by_keyboard_alone(look: Looking) -> None:
    page = look().use_case("calendar")
    page.locator("[role=gridcell][tabindex='0']").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_role("heading", name=re.compile("^Backfill .* to "))).to_be_visible()
    expect(page.get_by_role("table", name="Runs, in the order in which they run")).to_be_visible()


# --- what is pressed: last, since it changes the tables ------------------------------------------


def test_a_backfill_starts_from_the_calendar_and_ends(look: Looking, house: House) -> None:
    newest = max(lake.read(NAME, "orders", columns=("day",))["day"].to_pylist())
    first, before = newest - _ONE_DAY, receipts.newest_sequence(NAME)
    house.client.set_paused(f"{NAME}_ingest", paused=False)
    page = look().use_case("calendar", f"?first={first}&last={newest}")
    plan = _table(page, "Runs, in the order in which they run")
    assert (plan[0]["DAG"], plan[0]["Runs"]) == (f"{NAME}_ingest", "2")
    page.get_by_label("Every day again, also those that succeeded").check()
    page.get_by_role("button", name="Start backfill").click()
    expect(page.get_by_text("is over: 2 succeeded, 0 failed")).to_be_visible(timeout=600_000)
    runs = house.client.runs(f"{NAME}_ingest", run_type="backfill")
    days = {str(first), str(newest)}
    ended = follow(house.client, [r for r in runs if r.partition_key in days], lambda _: None)
    assert {run.state for run in ended} == {"success"}
    delivered = receipts.latest(NAME, "publish_orders", first, newest + _ONE_DAY)
    assert [r.sequence > before for r in delivered.values()] == [True, True]
    house.client.set_paused(f"{NAME}_ingest", paused=True)


def test_a_roll_back_stands_in_the_ledger_and_in_the_story(look: Looking, house: House) -> None:
    page = look().use_case("releases")
    before = ledger.entries(ledger.engine(), NAME)
    reason = f"a test of rolling back, after entry {len(before)}"
    former = ledger.champion(ledger.engine(), NAME).previous_version
    page.get_by_role("button", name=f"Roll back to version {former}").click()
    page.get_by_label(re.compile("^Why")).fill(reason)
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name=f"Yes, roll back to version {former}").click()
    expect(page.locator("ol.story > li").first).to_contain_text(reason, timeout=300_000)
    (entry,) = ledger.entries(ledger.engine(), NAME)[len(before) :]
    assert (entry.action, entry.version, entry.reason) == ("roll_back", former, reason)
    assert entry.actor == house.login[0]
    page = look().use_case("overview")
    assert _facts(page, "Champion")["Version"] == str(former)


# --- reading pages and tables --------------------------------------------------------------------


def _addresses(house: House) -> list[str]:
    """Return an address of each page with data on it."""
    newest = max(lake.read(NAME, "predictions", columns=("day",))["day"].to_pylist())
    orders = max(lake.read(NAME, "orders", columns=("day",))["day"].to_pylist())
    key = lake.read_day(NAME, "predictions", newest)[house.use_case.entity.key][0].as_py()
    night = max(lake.read(NAME, "drift", columns=("day",))["day"].to_pylist())
    queries = {
        "calendar": f"?first={orders}&last={orders}",
        "drift": f"?night={night}&feature=score",
        "releases": "?a=1&b=2",
        "entity": f"?key={key}",
        "lineage": f"?key={key}&day={newest}",
    }
    return [f"use-cases/{NAME}/{page}{queries.get(page, '')}" for page in PAGES]


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition("?")[0] or "all"


def _take_picture(page: Page, name: str) -> None:
    """Keep what a page looks like, small, if pictures are asked for."""
    if TOUR is None:
        return
    from PIL import Image

    page.wait_for_timeout(700)
    shot = io.BytesIO(page.screenshot())
    Image.open(shot).convert("RGB").quantize(96).save(Path(TOUR) / f"{name}.png", optimize=True)


def _champion(house: House) -> ledger.Entry:
    found = ledger.champion(ledger.engine(), NAME)
    assert found is not None
    return found


def _decision(house: House, kind: str, version: int | None = None) -> dict[str, Any]:
    """Return the newest decision of a kind."""
    rows = [
        row
        for row in lake.read(NAME, "decisions").to_pylist()
        if row["kind"] == kind and version in (None, row["version"])
    ]
    return max(rows, key=lambda row: row["day"])


def _day(day: date) -> str:
    return f"{day.day} {day:%b %Y}".replace("Sep ", "Sept ")


def _table(page: Page, caption: str) -> list[dict[str, str]]:
    """Return a table's rows by head."""
    rows: list[dict[str, str]] = page.evaluate(
        """caption => {
            const table = [...document.querySelectorAll("table")].find(
                one => one.caption.textContent === caption);
            const heads = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
            return [...table.tBodies[0].rows].map(row => Object.fromEntries(
                [...row.cells].map((cell, at) => [heads[at], cell.textContent])));
        }""",
        caption,
    )
    return rows


def _facts(page: Page, section: str) -> dict[str, str]:
    facts: dict[str, str] = page.evaluate(
        """title => {
            const section = [...document.querySelectorAll("section")].find(
                one => one.querySelector("h2")?.textContent === title);
            return Object.fromEntries([...section.querySelectorAll("dl.facts > div")].map(
                item => [...item.children].map(one => one.textContent)));
        }""",
        section,
    )
    return facts
