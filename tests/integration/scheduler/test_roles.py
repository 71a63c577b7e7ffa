"""Who may do what under Airflow's FAB auth manager, asked of a real API server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from evergreen.ops import deploy
from evergreen.ops.local import postgres
from evergreen.ops.local.airflow_environment import airflow_environment
from evergreen.settings import PROJECT_ROOT, load_settings
from small_shop import GATE, write_small_shop

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
BIN = Path(sys.executable).parent
SECONDS = 180
PASSWORD = "correct horse"
# Of Airflow and ours; the last has none.
ROLES = {"vera": "Viewer", "otto": "Operator", "rita": "Releaser", "nora": "Public"}
USERS = ("vera", "otto", "rita", "admin")

_RUN = {"logical_date": None, "conf": {}}
_RELEASE = {"logical_date": None, "conf": {"version": 1, "reason": "by a person"}}
_DAYS = {"from_date": "2025-02-01T00:00:00Z", "to_date": "2025-02-02T00:00:00Z"}
_CLEAR = {"dry_run": True, "only_failed": False}
_ANY, _OPERATE, _RELEASING, _ADMIN = USERS, USERS[1:], USERS[2:], USERS[3:]
_RELEASES = "dags/shop_release/dagRuns"

# What is asked of which address, with what, and who may. `{run}` is a run of shop_release.
DOORS: dict[str, tuple[str, str, Any, tuple[str, ...]]] = {
    # Ours
    "our pages": ("GET", "/evergreen/", None, _ANY),
    "our overview": ("GET", "/evergreen/api/use-cases/shop/overview", None, _ANY),
    "our releases": ("GET", "/evergreen/api/use-cases/shop/releases", None, _ANY),
    "our quarantine": (
        "GET",
        "/evergreen/api/use-cases/shop/quarantine?table=orders&rule=x",
        None,
        _ANY,
    ),
    "our plan of a backfill": (
        "GET",
        "/evergreen/api/use-cases/shop/plan?dag_id=shop_ingest&from=2025-02-01&to=2025-02-02",
        None,
        _ANY,
    ),
    # To read
    "a DAG": ("GET", "dags/shop_release", None, _ANY),
    "runs": ("GET", "dags/~/dagRuns", None, _ANY),
    # To operate
    "train": ("POST", "dags/shop_train/dagRuns", _RUN, _OPERATE),
    "maintain": ("POST", "dags/maintenance/dagRuns", _RUN, _OPERATE),
    "backfill": ("POST", "backfills/dry_run", {"dag_id": "shop_ingest", **_DAYS}, _OPERATE),
    "pause": ("PATCH", "dags/shop_monitor", {"is_paused": True}, _OPERATE),
    "clear": ("POST", "dags/shop_train/clearTaskInstances", _CLEAR, _OPERATE),
    # To release
    "release": ("POST", _RELEASES, _RELEASE, _RELEASING),
    "pause releases": ("PATCH", "dags/shop_release", {"is_paused": False}, _RELEASING),
    "clear a release": ("POST", "dags/shop_release/clearTaskInstances", _CLEAR, _RELEASING),
    "clear a run of it": (
        "POST",
        f"{_RELEASES}/{{run}}/clear",
        {"dry_run": True},
        _RELEASING,
    ),
    "mark a release": ("PATCH", f"{_RELEASES}/{{run}}", {"state": "failed"}, _RELEASING),
    "mark a task of it": (
        "PATCH",
        f"{_RELEASES}/{{run}}/taskInstances/release_version",
        {"new_state": "success"},
        _RELEASING,
    ),
    "approve": (
        "PATCH",
        "dags/shop_train/dagRuns/{train}/taskInstances/approve_promotion/-1/hitlDetails",
        {"chosen_options": ["Approve"], "params_input": {}},
        _RELEASING,
    ),
    # The rest
    "make an event": ("POST", "assets/events", {"asset_id": 1}, _ADMIN),
    "delete a DAG": ("DELETE", "dags/absent", None, _ADMIN),
    "delete a run": ("DELETE", "dags/shop_train/dagRuns/absent", None, _ADMIN),
    "write an XCom": (
        "POST",
        "dags/shop_train/dagRuns/{train}/taskInstances/approve_promotion/xcomEntries",
        {"key": "return_value", "value": {"responded_by_user": {"name": "x"}}},
        _ADMIN,
    ),
    "read variables": ("GET", "variables", None, _ADMIN),
    "write a variable": ("POST", "variables", {"key": "a", "value": "b"}, _ADMIN),
    "read connections": ("GET", "connections", None, _ADMIN),
    "read the audit log": ("GET", "eventLogs", None, _ADMIN),
    "read users": ("GET", "/auth/fab/v1/users", None, _ADMIN),
    "make a role": ("POST", "/auth/fab/v1/roles", {"name": "r", "actions": []}, _ADMIN),
}

# Run in a process of Airflow's, against its database.
_USERS = f"""
import os
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
with get_application_builder() as builder:
    for name, role in {ROLES!r}.items():
        builder.sm.add_user(name, name, name, name + "@example.org", builder.sm.find_role(role),
                            {PASSWORD!r})
"""
_QUESTION = """
import sys
from airflow.models import TaskInstance
from airflow.models.hitl import HITLDetail
from airflow.utils.session import create_session
from sqlalchemy import select
with create_session() as session:
    ti = session.scalar(select(TaskInstance).where(
        TaskInstance.run_id == sys.argv[1], TaskInstance.task_id == "approve_promotion"))
    ti.state = "awaiting_input"
    session.add(HITLDetail(ti_id=ti.id, options=["Approve", "Reject"], subject="Promote?",
                           multiple=False, params={}))
"""
_GIFT = """
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
with get_application_builder() as builder:
    role = builder.sm.find_role("Operator")
    builder.sm.add_permission_to_role(role, builder.sm.create_permission("can_edit", "DAGs"))
"""


class Airflow:
    """Airflow's database and API server under FAB, and nothing that runs tasks."""

    def __init__(self, environment: dict[str, str], url: str, log: Path) -> None:
        self.environment, self.url, self.log = environment, url, log
        self._logins: dict[str, httpx.Client] = {}

    def run(self, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env={**self.environment, **changes},
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def must(self, *command: str, **changes: str) -> None:
        done = self.run(*command, **changes)
        assert done.returncode == 0, done.stdout + done.stderr

    def token(self, user: str, password: str = PASSWORD) -> httpx.Response:
        login = {"username": user, "password": password}
        return httpx.post(f"{self.url}/auth/token", json=login, trust_env=False)

    def ask(self, user: str, method: str, path: str, body: Any = None) -> httpx.Response:
        if user not in self._logins:
            token = self.token(user).json()["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            self._logins[user] = httpx.Client(
                base_url=self.url, headers=headers, timeout=60, trust_env=False
            )
        address = path if path.startswith("/") else f"/api/v2/{path}"
        return self._logins[user].request(method, address, json=body)


@pytest.fixture(scope="module")
def airflow() -> Iterator[Airflow]:
    folder = tempfile.TemporaryDirectory(prefix="evergreen-roles-")
    before = dict(os.environ)
    root = Path(folder.name)
    write_small_shop(root / "use_cases", gate={**GATE, "mode": "approve"})
    os.environ["EVERGREEN_HOME"] = str(root / "home")
    os.environ["EVERGREEN_USE_CASES"] = str(root / "use_cases")
    settings = load_settings()
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    server = None
    try:
        postgres.start(settings)
        list(deploy.initialise(settings))
        environment = {
            **airflow_environment(settings, port),
            "AIRFLOW__CORE__AUTH_MANAGER": FAB,
            "AIRFLOW_ADMIN_PASSWORD": PASSWORD,
        }
        made = Airflow(environment, f"http://127.0.0.1:{port}", root / "server.log")
        made.must("airflow", "db", "migrate")
        made.must("python", "plugins/evergreen_roles.py")
        made.must("python", "-c", _USERS)
        made.must("airflow", "dags", "reserialize")
        with made.log.open("wb") as output:
            server = subprocess.Popen(
                [str(BIN / "airflow"), "api-server"],
                env=environment,
                cwd=PROJECT_ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(made, server)
        yield made
    finally:
        if server is not None:
            server.terminate()
            server.wait(30)
        postgres.stop(settings)
        os.environ.clear()
        os.environ.update(before)
        folder.cleanup()


def wait_for(airflow: Airflow, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{airflow.url}/api/v2/version", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"Airflow does not answer:\n{airflow.log.read_text()[-4_000:]}")


@pytest.fixture(scope="module")
def runs(airflow: Airflow) -> dict[str, str]:
    """A release, and a training that waits for a person's approval."""
    started = {}
    for name, dag, body in (("run", "shop_release", _RELEASE), ("train", "shop_train", _RUN)):
        answer = airflow.ask("admin", "POST", f"dags/{dag}/dagRuns", body)
        assert answer.is_success, answer.text
        started[name] = answer.json()["dag_run_id"]
    airflow.must("python", "-c", _QUESTION, started["train"])
    return started


@pytest.mark.parametrize("door", DOORS)
def test_every_role_gets_exactly_its_own(airflow: Airflow, runs: dict[str, str], door: str) -> None:
    method, path, body, allowed = DOORS[door]

    answers = {
        user: airflow.ask(user, method, path.format(**runs), body) for user in (*USERS, "nora")
    }

    assert {user for user, answer in answers.items() if answer.status_code != 403} == set(allowed)
    told = {user: answers[user].text for user in allowed}
    # What is allowed is not refused for another reason: it may only not be there, or be done.
    assert {answers[user].status_code for user in allowed} <= {200, 201, 204, 404, 409}, told


def test_who_releases_and_approves_is_on_record(airflow: Airflow, runs: dict[str, str]) -> None:
    started = airflow.ask("rita", "POST", _RELEASES, _RELEASE).json()

    assert started["triggering_user_name"] == "rita"
    asked = airflow.ask("vera", "GET", DOORS["approve"][1].format(**runs)).json()
    assert asked["responded_by_user"]["name"] == "rita"


def test_what_is_asked_of_many_dags_at_once_is_decided_for_each(
    airflow: Airflow, runs: dict[str, str]
) -> None:
    """Airflow's addresses with `~` name the DAG in the body."""
    tasks = [
        {
            "dag_id": "shop_release",
            "dag_run_id": runs["run"],
            "task_id": "release_version",
            "new_state": "skipped",
        }
    ]
    body = {"actions": [{"action": "update", "entities": tasks}]}

    answer = airflow.ask("otto", "PATCH", "dags/~/dagRuns/~/taskInstances", body)

    assert answer.status_code == 403 or (
        answer.json()["update"]["success"] == []
        and answer.json()["update"]["errors"][0]["status_code"] == 403
    ), answer.text
    path = f"{_RELEASES}/{runs['run']}/taskInstances/release_version"
    assert airflow.ask("vera", "GET", path).json()["state"] != "skipped"


def test_the_pages_offer_to_start_what_may_be_started(airflow: Airflow) -> None:
    def offered(user: str) -> set[str]:
        [shop] = airflow.ask(user, "GET", "/evergreen/api/use-cases").json()["use_cases"]
        return set(shop["may_trigger"])

    assert offered("vera") == set()
    assert offered("rita") - offered("otto") == {"shop_release"}
    assert offered("otto") >= {"shop_ingest", "shop_monitor", "shop_train"}
    assert offered("admin") == offered("rita")


def test_nobody_gets_in_without_a_login(airflow: Airflow) -> None:
    for path in ("/evergreen/", "/evergreen/api/use-cases", "/api/v2/dags"):
        assert httpx.get(f"{airflow.url}{path}", trust_env=False).status_code == 401
        headers = {"Authorization": "Bearer ey.not.atoken"}
        refused = httpx.get(f"{airflow.url}{path}", headers=headers, trust_env=False)
        assert refused.status_code in (401, 403)
    assert airflow.token("otto", "wrong").status_code == 401
    assert airflow.token("nobody").status_code == 401
    # What others have by default.
    for password in ("admin", "airflow", "evergreen", ""):
        assert not airflow.token("admin", password).is_success


def test_a_role_that_does_not_exist_is_refused(airflow: Airflow) -> None:
    named = ("--username", "x", "--firstname", "x", "--lastname", "x", "--email", "x@example.org")
    done = airflow.run(
        "airflow", "users", "create", *named, "--role", "Releasor", "--password", PASSWORD
    )

    assert done.returncode != 0
    assert "Releasor is not a valid role" in done.stdout + done.stderr
    assert not airflow.token("x").is_success


def test_a_new_deployment_takes_back_what_was_given_by_hand(airflow: Airflow) -> None:
    airflow.must("python", "-c", _GIFT)
    airflow.must("python", "plugins/evergreen_roles.py")

    listed = airflow.run("airflow", "roles", "list", "--permission", "--output", "json").stdout
    edits = {
        entry["resource"]
        # Airflow may warn of things before.
        for entry in json.loads(listed.splitlines()[-1])
        if entry["name"] == "Operator" and "can_edit" in entry["action"]
    }
    assert "DAGs" not in edits
    assert "DAG:shop_release" not in edits
    assert "DAG:shop_ingest" in edits


def test_a_changed_password_of_the_administrator_takes_effect(airflow: Airflow) -> None:
    changed = "battery staple"
    airflow.must("python", "plugins/evergreen_roles.py", AIRFLOW_ADMIN_PASSWORD=changed)

    assert airflow.token("admin", PASSWORD).status_code == 401
    assert airflow.token("admin", changed).is_success
    # Nobody else's.
    assert airflow.token("rita").is_success


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"AIRFLOW_ADMIN_PASSWORD": ""}, "AIRFLOW_ADMIN_PASSWORD is not set"),
        (
            {
                "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple."
                "simple_auth_manager.SimpleAuthManager"
            },
            "These roles are for FAB",
        ),
    ],
)
def test_a_deployment_that_cannot_have_them_is_told(
    airflow: Airflow, changes: dict[str, str], told: str
) -> None:
    done = airflow.run("python", "plugins/evergreen_roles.py", **changes)

    assert done.returncode != 0
    assert told in done.stderr
