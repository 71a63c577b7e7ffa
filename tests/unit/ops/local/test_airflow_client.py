import json
import threading
from collections import defaultdict
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from evergreen.contract import Period
from evergreen.errors import ConfigError, NotReadyError, PermanentError, ServiceDownError
from evergreen.ops.local.airflow_client import AirflowClient, connect
from evergreen.provenance import commands
from evergreen.settings import load_settings

BACKFILL = commands.backfill_request("d", Period.parse("2026-03-01..2026-03-05"), "failed", 3)

RUN = {
    "dag_id": "churn_score",
    "dag_run_id": "manual__2026-03-01T00:00:00+00:00",
    "run_type": "manual",
    "state": "success",
    "partition_key": "2026-03-01",
    "start_date": "2026-03-02T00:00:00Z",
    "end_date": None,
}


class Server:
    """Answers from a table; knows which token it gave out last."""

    def __init__(self) -> None:
        self.answers = defaultdict(list)
        self.seen = []
        self.tokens = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _reply(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, answer = server.reply(
                    self.command, self.path, body, self.headers.get("Authorization")
                )
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            do_GET = do_POST = do_PATCH = _reply

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def reply(self, method, target, body, authorization):
        path = urlsplit(target).path
        if path == "/auth/token":
            if body != {"username": "admin", "password": "right"}:
                return 401, {"detail": "Invalid credentials"}
            self.tokens += 1
            return 201, {"access_token": f"token-{self.tokens}"}
        if authorization != f"Bearer token-{self.tokens}":
            return 401, {"detail": "Signature has expired"}
        self.seen.append((method, target, body))
        answers = self.answers[method, path.removeprefix("/api/v2")]
        # The last answer stays.
        return answers.pop(0) if len(answers) > 1 else answers[0] if answers else (404, "nothing")

    def client(self, password="right"):
        return AirflowClient(f"http://127.0.0.1:{self.http.server_port}", f"admin:{password}")


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_trigger_sends_key_conf_and_no_logical_date(server):
    server.answers["POST", "/dags/churn_score/dagRuns"] = [(200, RUN)]
    run = server.client().trigger("churn_score", conf={"a": 1}, partition_key="2026-03-01")
    assert server.seen[-1][2] == {
        "logical_date": None,
        "conf": {"a": 1},
        "partition_key": "2026-03-01",
    }
    assert run.started_at == datetime(2026, 3, 2, tzinfo=UTC)
    assert (run.partition_key, run.finished) == ("2026-03-01", True)


def test_lists_are_read_page_by_page(server):
    pages = [100, 100, 3]
    server.answers["GET", "/dags/d/dagRuns"] = [(200, {"dag_runs": [RUN] * n}) for n in pages]
    assert len(server.client().runs("d", state="success")) == sum(pages)
    queries = [parse_qs(urlsplit(target).query) for _, target, _ in server.seen]
    assert [query["offset"] for query in queries] == [["0"], ["100"], ["200"]]
    assert all(query["state"] == ["success"] for query in queries)


def test_an_expired_token_is_renewed_and_a_wrong_password_is_an_error(server):
    server.answers["GET", "/dags"] = [(200, {"dags": []})]
    client = server.client()
    assert client.dag_ids() == []
    server.tokens += 1
    assert client.dag_ids() == []
    with pytest.raises(PermanentError, match="Invalid credentials"):
        server.client("wrong").dag_ids()


def test_refusals_carry_airflows_words(server):
    server.answers["POST", "/backfills"] = [(409, {"detail": "already a running backfill"})]
    with pytest.raises(PermanentError, match=r"409.*already a running backfill"):
        server.client().backfill(BACKFILL)
    server.answers["POST", "/backfills"] = [(503, {"detail": "locked"})]
    with pytest.raises(ServiceDownError, match="locked"):
        server.client().backfill(BACKFILL)


def test_a_backfill_covers_partitions_of_any_hour_of_its_days(server):
    server.answers["POST", "/backfills"] = [(200, {"id": 7})]
    assert server.client().backfill(BACKFILL) == 7
    body = server.seen[-1][2]
    assert body["from_date"] == "2026-03-01T00:00:00Z"
    assert body["to_date"] == "2026-03-05T23:59:59Z"


def test_another_airflow_is_reached_by_url_and_login_from_the_environment(server, monkeypatch):
    server.answers["GET", "/dags"] = [(200, {"dags": []})]
    url = f"http://127.0.0.1:{server.http.server_port}"
    monkeypatch.setenv("EVERGREEN_AIRFLOW_API", f"{url}/")
    with pytest.raises(ConfigError, match="EVERGREEN_SECRET_AIRFLOW is not set"):
        connect(load_settings())
    monkeypatch.setenv("EVERGREEN_SECRET_AIRFLOW", "admin:right")
    assert connect(load_settings()).dag_ids() == []
    monkeypatch.setenv("EVERGREEN_SECRET_AIRFLOW", f"token-{server.tokens}")
    assert connect(load_settings()).dag_ids() == []
    monkeypatch.setenv("EVERGREEN_SECRET_AIRFLOW", "expired")
    with pytest.raises(PermanentError, match="Signature has expired"):
        connect(load_settings()).dag_ids()


def test_without_an_airflow_it_is_said_how_to_get_one():
    with pytest.raises(ServiceDownError, match=r"make up.*EVERGREEN_AIRFLOW_API"):
        connect(load_settings())


def test_missing_dags_are_explained_by_import_errors(server):
    server.answers["GET", "/dags"] = [(200, {"dags": [{"dag_id": "a"}]})]
    error = {"filename": "score.py", "stack_trace": "NameError: boom"}
    server.answers["GET", "/importErrors"] = [(200, {"import_errors": [error]})]
    server.client().wait_for_dags("a")
    with pytest.raises(NotReadyError, match="boom"):
        server.client().wait_for_dags("a", "b")
    server.answers["GET", "/importErrors"] = [(200, {"import_errors": []})]
    with pytest.raises(NotReadyError, match=r"knows no DAGs \['b'\]"):
        server.client().wait_for_dags("a", "b", timeout_seconds=-1)


def test_nobody_listening_is_said_so(server):
    client = server.client()
    server.http.server_close()
    server.http.shutdown()
    with pytest.raises(ServiceDownError, match="make up"):
        client.dag_ids()
