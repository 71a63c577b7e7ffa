import json
import threading
from collections import defaultdict
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from evergreen.errors import NotReadyError, PermanentError, ServiceDownError, TransientError
from evergreen.local.airflow import Instance
from evergreen.local.airflow_client import AirflowClient

RUN = {
    "dag_id": "churn_score",
    "dag_run_id": "manual__2026-03-01T00:00:00+00:00",
    "run_type": "manual",
    "state": "success",
    "partition_key": "2026-03-01",
    "start_date": "2026-03-02T00:00:00Z",
    "end_date": None,
    "conf": None,
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
        url = f"http://127.0.0.1:{self.http.server_port}"
        return AirflowClient(Instance(url, "admin", password, {}, Path("airflow.log")))


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
    assert (run.partition_key, run.ended_at, run.conf, run.finished) == (
        "2026-03-01",
        None,
        {},
        True,
    )


def test_wait_polls_until_the_run_is_finished_and_gives_up_in_time(server):
    path = "/dags/churn_score/dagRuns/manual__2026-03-01T00%3A00%3A00%2B00%3A00"
    states = ["queued", "running", "failed"]
    server.answers["GET", path] = [(200, {**RUN, "state": state}) for state in states]
    client = server.client()
    run = client.wait("churn_score", RUN["dag_run_id"], timeout_seconds=5, poll_seconds=0)
    assert run.state == "failed"
    server.answers["GET", path] = [(200, {**RUN, "state": "running"})]
    with pytest.raises(TransientError, match="running"):
        client.wait("churn_score", RUN["dag_run_id"], timeout_seconds=0, poll_seconds=0)


def test_lists_are_read_page_by_page(server):
    pages = [100, 100, 3]
    server.answers["GET", "/dags/d/dagRuns"] = [(200, {"dag_runs": [RUN] * n}) for n in pages]
    assert len(server.client().runs("d", state="success")) == sum(pages)
    queries = [parse_qs(urlsplit(target).query) for _, target, _ in server.seen]
    assert [query["offset"] for query in queries] == [["0"], ["100"], ["200"]]
    assert all(query["state"] == ["success"] for query in queries)


def test_an_expired_token_is_renewed_and_a_wrong_password_is_an_error(server):
    server.answers["GET", "/importErrors"] = [(200, {"import_errors": []})]
    client = server.client()
    assert client.import_errors() == {}
    server.tokens += 1
    assert client.import_errors() == {}
    with pytest.raises(PermanentError, match="Invalid credentials"):
        server.client("wrong").import_errors()


def test_refusals_carry_airflows_words(server):
    server.answers["POST", "/backfills"] = [(409, {"detail": "already a running backfill"})]
    with pytest.raises(PermanentError, match=r"409.*already a running backfill"):
        server.client().backfill("d", date(2026, 3, 1), date(2026, 3, 5))
    server.answers["POST", "/backfills"] = [(503, {"detail": "locked"})]
    with pytest.raises(ServiceDownError, match="locked"):
        server.client().backfill("d", date(2026, 3, 1), date(2026, 3, 5))


def test_backfill_days_are_midnights_in_utc(server):
    server.answers["POST", "/backfills"] = [(200, {"id": 7})]
    assert server.client().backfill("d", date(2026, 3, 1), date(2026, 3, 5)) == 7
    body = server.seen[-1][2]
    assert body["from_date"] == "2026-03-01T00:00:00+00:00"
    assert body["to_date"] == "2026-03-05T00:00:00+00:00"


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
        client.import_errors()
