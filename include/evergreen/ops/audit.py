"""Who did what: runs, approvals, promotions, days that were decided to be empty, erasures.

Everything is read where it is kept: Airflow's runs, answers and log of requests, the release
ledger, the table of decisions, receipts. Nothing is left out, and nothing is kept a second time.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, time
from typing import Literal

from evergreen import lake
from evergreen.ops.local.airflow_client import AirflowClient
from evergreen.provenance import receipts
from evergreen.release import ledger

# Told by the run that it has started.
_STARTED = "trigger_dag_run"


@dataclass(frozen=True, order=True)
class Act:
    """One line of an audit.

    Parameters
    ----------
    at
        Instant, UTC.
    use_case
        Empty for what concerns none, or all.
    actor
        A user's name; for what happens by itself, what has started it.
    act
        What was done, such as `run`, `approve_promotion`, `promote`, `without_data`.
    subject
        To what: a DAG, a version, a table.
    day
        The day or period of data that it was about; empty for none.
    because
        The reason that was given, the options that were chosen, or the parameters of the run.
    record
        Where it stands: id of the run or request in Airflow, sequence and hash in the ledger,
        sequence of the receipt.
    """

    at: datetime
    use_case: str
    actor: str
    act: str
    subject: str
    day: str
    because: str
    record: str


def list_acts(
    client: AirflowClient,
    use_cases: Iterable[str],
    since: date | None = None,
    only: str | None = None,
) -> list[Act]:
    """Return what was done, oldest first.

    Parameters
    ----------
    use_cases
        Whose ledgers, decisions and receipts are read.
    since
        First day, UTC.
    only
        The use case that it is about; None for all, and for what concerns none.

    Raises
    ------
    ServiceDownError
        Airflow or a database does not answer: an audit that lacks something looks like one that
        does not.
    """
    known = {*use_cases}
    begin = datetime.combine(since or date(1970, 1, 1), time(), UTC)
    found = [*_in_airflow(client, known, begin)]
    for use_case in known if only is None else [only]:
        found += [*_releases(use_case), *_deliveries(use_case), *_erasures(use_case)]
    wanted = (act for act in found if act.at >= begin and only in (None, act.use_case))
    return sorted(wanted)


def write_acts(acts: Iterable[Act], form: Literal["csv", "json"]) -> str:
    """Return acts as CSV with a header, or as a JSON list; instants in ISO 8601."""
    rows = [{**asdict(act), "at": act.at.isoformat(timespec="seconds")} for act in acts]
    if form == "json":
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Act)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _in_airflow(client: AirflowClient, known: set[str], begin: datetime) -> Iterator[Act]:
    def of(dag_id: str | None) -> str:
        use_case = (dag_id or "").rpartition("_")[0]
        return use_case if use_case in known else ""

    for run in client.runs(updated_at_gte=begin.isoformat()):
        at = run.queued_at or run.run_after
        if at is None:
            continue
        actor = run.triggering_user_name or run.triggered_by or run.run_type
        conf = json.dumps(run.conf, sort_keys=True, ensure_ascii=False) if run.conf else ""
        key = run.partition_key or ""
        yield Act(_utc(at), of(run.dag_id), actor, "run", run.dag_id, key, conf, run.run_id)
    for answer in client.answers():
        actor = answer.user or "nobody, in time"
        yield Act(
            *(_utc(answer.responded_at), of(answer.dag_id), actor, answer.task_id),
            *(answer.dag_id, answer.partition_key or "", ", ".join(answer.chosen_options)),
            answer.run_id,
        )
    for request in client.requests(begin):
        if request.event == _STARTED:
            continue
        yield Act(
            *(_utc(request.when), of(request.dag_id), request.owner or "", request.event),
            *(request.dag_id or "", "", request.task_id or "", request.run_id or ""),
        )


def _releases(use_case: str) -> Iterator[Act]:
    for entry in ledger.entries(ledger.engine(), use_case):
        yield Act(
            *(
                entry.recorded_at,
                use_case,
                entry.actor,
                entry.action,
                f"version {entry.challenger or entry.version}",
            ),
            *("", entry.reason, f"ledger {entry.sequence} {entry.hash}"),
        )


def _deliveries(use_case: str) -> Iterator[Act]:
    columns = ("trigger", "evidence")
    for row in lake.rows(use_case, "decisions", None, None, columns, {"kind": "delivery"}):
        decided = json.loads(row["evidence"])["evidence"]
        at = _utc(datetime.fromisoformat(decided["decided_at"]))
        yield Act(
            *(at, use_case, decided["decided_by"], "without_data", row["trigger"]),
            *(str(row["day"]), decided["reason"], "table decisions"),
        )


def _erasures(use_case: str) -> Iterator[Act]:
    for receipt in receipts.of_kind(use_case, "erase"):
        assert receipt.recorded_at is not None
        yield Act(
            *(_utc(receipt.recorded_at), use_case, str(receipt.inputs.get("actor", ""))),
            *(receipt.step, receipt.output_table, str(receipt.day)),
            *(str(receipt.inputs.get("reason", "")), f"receipt {receipt.sequence}"),
        )


def _utc(at: datetime) -> datetime:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
