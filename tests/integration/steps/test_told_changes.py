"""Alerts of nights and trainings, through the tables, to a real mail server and a real webhook."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from click.testing import CliRunner

from embedded import Build
from evergreen import lake, steps
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.decisions.alarm import Night
from evergreen.decisions.governor import (
    Champion,
    Change,
    Performance,
    RetrainingEvidence,
    decide_retraining,
    record_retraining_decision,
)
from evergreen.errors import ServiceDownError
from evergreen.monitoring import alerting
from evergreen.monitoring.night import publish
from evergreen.provenance import receipts
from tiny_shop import DAYS, compute, label, open_shop, score, train

pytestmark = pytest.mark.timeout(600)

LINK = "http://airflow.example.com/a_run"
BEGAN = DAYS[-3]


class Webhook(ThreadingHTTPServer):
    """Keeps what is posted, as long as it is up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.got: list[dict[str, str]] = []
        self.is_up = True

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_port}/hook"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.got]


class _Post(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.is_up:
            self.server.got.append(json.loads(body))
        self.send_response(200 if self.server.is_up else 503)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class MailServer:
    """Keeps the mails it is sent."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.got.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"

    @property
    def url(self) -> str:
        to = "to=team@example.com&from=evergreen@example.com&mode=insecure"
        return f"mailto://127.0.0.1:{self.port}?{to}"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    server = Webhook()
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("EVERGREEN_ALERT_OPS", server.url)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    server = MailServer()
    controller = Controller(server, hostname="127.0.0.1", port=server.port)
    controller.start()
    monkeypatch.setenv("EVERGREEN_ALERT_TEAM", server.url)
    yield server
    controller.stop()


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop whose last days have no scores yet, and whose champion nothing disturbs."""
    folder = open_shop(root, monkeypatch)
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["monitoring"] = {"min_ks": 1.0, "psi_bands": [98.0, 99.0], "max_staleness_days": 1}
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    label(compute(f"{DAYS[0]}..{DAYS[-4]}"))
    judged = train(DAYS[-4])
    steps.release_version("shop", "promote", str(judged["version"]), "a test", "ann")
    score(DAYS[-4])
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def night(day: date, *, bad: bool = False) -> dict[str, Any]:
    """Decide on a night; on a bad one a measurement has failed for good."""
    calm = {"incidents": [], "bad": []}
    measured = [
        {"nights": [], "change": None, **calm},
        {"performance": None, **calm},
        None if bad else calm,
        calm,
    ]
    return steps.decide_retraining("shop", str(day), measured)


def tell(day: date, *, bad: bool = False) -> list[str]:
    return steps.tell_night(night(day, bad=bad), LINK)


def new_day(day: date) -> None:
    label(compute(day))
    score(day)


def rows() -> list[tuple[Any, ...]]:
    if not lake.exists("shop", "alerts"):
        return []
    columns = ("number", "day", "destination", "concern", "event", "since")
    found = lake.read("shop", "alerts").to_pylist()
    return sorted(tuple(row[name] for name in columns) for row in found)


@pytest.mark.slow
def test_a_state_is_told_when_it_begins_and_when_it_ends(
    shop: Path, webhook: Webhook, mail: MailServer
) -> None:
    calm, bad, worse, mended = DAYS[-4:]
    # The training of the last seven days is the first thing there is to tell.
    tell(calm)
    assert webhook.titles == [f"shop, training of {calm}: version 1 passes the gate"]
    assert "What follows: it becomes the champion." in webhook.got[0]["message"]

    new_day(bad)
    told = tell(bad, bad=True)
    title = f"shop, night of {bad}: bad data"
    assert told == [f"ops: {title}", f"team: {title}"]
    assert (webhook.titles[1:], [m["subject"] for m in mail.got[1:]]) == ([title], [title])
    text = mail.got[1].get_content()
    assert text.replace("\r\n", "\n") == webhook.got[1]["message"] + "\n"
    assert text.splitlines() == [
        "What: freshness was not measured; see measure_freshness's log",
        f"Since: the night of {bad}",
        "What follows: nothing is retrained yet (incident)",
        "What to do: mend what is bad, then run the night again:",
        f"  evergreen backfill shop_monitor {bad} {bad} --reprocess completed",
        f"Where: {LINK}",
    ]
    # Once.
    assert tell(bad, bad=True) == []
    # It goes on: silence.
    new_day(worse)
    assert tell(worse, bad=True) == []
    new_day(mended)
    over = f"shop, night of {mended}: the data are right again"
    assert [message["type"] for message in webhook.got] == ["info", "warning"]
    assert tell(mended) == [f"ops: {over}", f"team: {over}"]
    assert f"since the night of {bad}" in webhook.got[2]["message"]
    assert tell(mended) == []
    # The newest night is broken again, and mended again.
    assert tell(mended, bad=True)
    assert tell(mended)
    assert [row[2:5] for row in rows() if row[2] == "ops"] == [
        ("ops", "training", "happened"),
        *[("ops", "incident", "begun"), ("ops", "incident", "over")] * 2,
    ]
    # What is told says nothing of decisions, and is what its receipt says.
    assert {row["kind"] for row in lake.read("shop", "decisions").to_pylist()} == {
        *("gate", "governor", "request")
    }
    assert set(receipts.latest("shop", "tell")) == {calm, bad, mended}
    assert steps.verify_tables()["shop.alerts"] == 3


@pytest.mark.slow
def test_nights_of_the_past_tell_nothing(shop: Path, webhook: Webhook) -> None:
    tell(DAYS[-4])
    del webhook.got[:]
    for day in DAYS[-3:]:
        new_day(day)
    # Made up for later, in any order; features of newer days are there.
    for day in (DAYS[-2], DAYS[-3]):
        assert tell(day, bad=True) == []
    assert tell(DAYS[-1]) == []
    # A night without features of its own is the newest, until a later one is decided on.
    later = DAYS[-1] + timedelta(days=1)
    assert len(tell(later, bad=True)) == 1
    assert tell(DAYS[-1], bad=True) == []
    assert webhook.titles == [f"shop, night of {later}: bad data"]


def test_a_destination_that_is_down_keeps_nothing_else_from_being_told(
    shop: Path, webhook: Webhook, mail: MailServer
) -> None:
    bad, worse = DAYS[-3:-1]
    webhook.is_up = False
    new_day(bad)
    verdict = night(bad, bad=True)
    with pytest.raises(ServiceDownError, match=r"did not reach ops; .* clear this task") as raised:
        steps.tell_night(verdict, LINK)
    # No secret, no address.
    assert "hook" not in str(raised.value)
    assert f"shop, night of {bad}: bad data" in [mail["subject"] for mail in mail.got]
    assert {row[2] for row in rows()} == {"team"}
    assert night(bad, bad=True) == verdict
    count = len(mail.got)

    # The next night tells who does not know yet, and since when.
    webhook.is_up = True
    new_day(worse)
    tell(worse, bad=True)
    assert f"shop, night of {worse}: bad data" in webhook.titles
    assert f"Since: the night of {bad}" in webhook.got[-2]["message"] + webhook.got[-1]["message"]
    assert len(mail.got) == count


def test_a_process_killed_between_sending_and_recording_tells_again(
    shop: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(DAYS[-4])
    new_day(BEGAN)
    with monkeypatch.context() as patch:
        patch.setattr(alerting, "_record", _killed)
        with pytest.raises(KeyboardInterrupt):
            tell(BEGAN, bad=True)
    assert len(tell(BEGAN, bad=True)) == 1
    assert tell(BEGAN, bad=True) == []
    assert webhook.got[-2] == webhook.got[-1]
    assert len(rows()) == 2


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_requests_and_trainings_are_told_once(shop: Path, webhook: Webhook) -> None:
    path = shop / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["monitoring"] |= {"max_model_age_days": 1, "cooldown_days": 0}
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    tell(DAYS[-4])
    del webhook.got[:]
    new_day(DAYS[-3])
    new_day(day := DAYS[-2])
    verdict = night(day)
    assert verdict["decision"] == "retrain"
    for _ in range(2):
        steps.tell_night(verdict, LINK)
    assert webhook.titles == [f"shop, night of {day}: retraining is requested, because of schedule"]
    assert "shop_train runs for" in webhook.got[0]["message"]

    steps.accept_request("shop", str(day), "a test")
    steps.fail_request("shop", str(day), "a_run")
    for _ in range(2):
        steps.tell_training("shop", str(day), LINK)
    assert webhook.titles[1:] == [f"shop, training of {day}: failed"]
    assert "a_run" in webhook.got[1]["message"]
    assert [message["type"] for message in webhook.got] == ["info", "warning"]
    judged = train(day)
    for _ in range(2):
        steps.tell_training("shop", str(day), LINK)
    assert judged["version"] == 2
    assert [title.partition("version 2 ")[0] for title in webhook.titles[2:]] == [
        f"shop, training of {day}: "
    ]
    assert "evergreen card shop --version 2" in webhook.got[2]["message"]
    # A night finds nothing more to tell.
    assert steps.tell_night(verdict, LINK) == []


def decide(day: date, *, drifts: bool | None, degraded: bool | None) -> dict[str, Any]:
    """Let the governor decide on made-up measurements (None: not measured), and record it."""
    declared = load_use_case("shop")
    columns = ("last_amount",) if drifts else ()
    seen = Night(day, 1, 3, columns, (), False, 0.5 if drifts else 0.0, bool(drifts), columns)
    worse = Performance(day, 1, 50, "auc", 0.6, 0.7, bool(degraded))
    change = Change(day, day - timedelta(days=1), day + timedelta(days=3), ("last_amount",))
    evidence = RetrainingEvidence(
        use_case="shop",
        day=day,
        newest_day=day,
        nights=() if drifts is None else (seen,),
        performance=None if degraded is None else worse,
        champion=Champion(1, DAYS[-4]),
        changes=(change,) if drifts else (),
    )
    verdict = decide_retraining(evidence, declared.monitoring)
    table = record_retraining_decision(evidence, declared.monitoring, verdict)
    part = {"kind": "governor"}
    publish(declared, day, "decide_retraining", "decisions", table, day, part=part)
    return {"use_case": "shop", "day": str(day), "mend": []}


def test_drift_and_degradation_are_told_from_what_is_stored(shop: Path, webhook: Webhook) -> None:
    steps.tell_training("shop", str(DAYS[-4]), LINK)
    del webhook.got[:]
    for day, drifts, degraded, expected in (
        (DAYS[-3], True, False, ["drift"]),
        # Not measured: neither goes on nor ends.
        (DAYS[-2], None, None, []),
        (DAYS[-1], False, True, ["the champion has become worse", "drift is over"]),
        (DAYS[-1] + timedelta(days=1), False, None, []),
        (DAYS[-1] + timedelta(days=2), False, False, ["the champion is as good as it should be"]),
    ):
        before = len(webhook.got)
        verdict = decide(day, drifts=drifts, degraded=degraded)
        for _ in range(2):
            steps.tell_night(verdict, LINK)
        titles = [title.removeprefix(f"shop, night of {day}: ") for title in webhook.titles]
        told = [title for title in titles[before:] if "retraining is requested" not in title]
        assert sorted(told) == sorted(expected), day
    drift = webhook.got[0]["message"]
    assert f"retraining is asked for on {DAYS[-3] + timedelta(days=3)}" in drift
    assert f"evergreen backfill shop {DAYS[-4]} {DAYS[-3]} --reprocess completed" in drift


def test_without_destinations_nothing_is_told_and_nothing_recorded(shop: Path) -> None:
    new_day(BEGAN)
    assert tell(BEGAN, bad=True) == []
    assert rows() == []


def test_a_test_message_reaches_everybody_and_no_secret_is_shown(
    webhook: Webhook,
    mail: MailServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert CliRunner().invoke(cli, "alert").output == "Told ops, team.\n"
    assert webhook.titles == [m["subject"] for m in mail.got] == ["A test of Evergreen"]
    monkeypatch.setenv("EVERGREEN_ALERT_TYPO", "mailto:/ann:hunter2@example.com")
    refused = CliRunner().invoke(cli, "alert")
    assert isinstance(refused.exception, ServiceDownError)
    assert "did not reach typo; " in str(refused.exception)
    assert len(webhook.got) == len(mail.got) == 2
    ours = [record.getMessage() for record in caplog.records]
    assert any("EVERGREEN_ALERT_TYPO is no URL of a destination" in line for line in ours)
    assert "hunter2" not in "".join([*ours, refused.output, str(refused.exception)])
    for name in ("OPS", "TEAM", "TYPO"):
        monkeypatch.delenv(f"EVERGREEN_ALERT_{name}")
    assert "set EVERGREEN_ALERT_<NAME>" in CliRunner().invoke(cli, "alert").output


def test_a_late_run_is_told(webhook: Webhook, mail: MailServer) -> None:
    run = {"dag_id": "my_shop_features", "partition_key": "2025-03-10", "state": "running"}
    context = {"dag_run": run, "deadline": {"deadline_time": "2025-03-11 06:00"}}
    asyncio.run(steps.tell_late_run(context))
    run |= {"dag_id": "my_shop_ingest"}
    webhook.is_up = False
    with pytest.raises(ServiceDownError, match="did not reach ops"):
        asyncio.run(steps.tell_late_run(context))
    assert webhook.titles == ["my_shop_features of 2025-03-10 is late"]
    assert "evergreen trigger my_shop_features --day 2025-03-10" in webhook.got[0]["message"]
    assert [m["subject"] for m in mail.got] == [
        "my_shop_features of 2025-03-10 is late",
        "my_shop_ingest of 2025-03-10 is late",
    ]
    assert "without_data" in mail.got[1].get_content()
