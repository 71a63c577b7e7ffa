"""Runs of Airflow's DAGs: start them, follow them and what they set off, find the failed ones."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import takewhile
from typing import Any

from evergreen.contract import Period, join_days, parse_day
from evergreen.errors import ConfigError, ServiceDownError, TransientError
from evergreen.ops.local.airflow_client import (
    AirflowClient,
    ConflictError,
    Dag,
    Json,
    Run,
    Task,
)
from evergreen.provenance import commands
from evergreen.provenance.commands import Reprocess

Tell = Callable[[str], None]

# How long an event may take to start the run it is for, and an ended backfill to be seen as ended.
_START_SECONDS = 120
# Of many runs, the oldest are looked at: the others wait for them.
_WATCHED = 20
_LOOK_SECONDS = 10
# How long Airflow may give no answer, or a wrong one, while runs are followed.
_OUTAGE_SECONDS = 120
# A connection that breaks off is no outage.
_HICCUP_SECONDS = 10
_ERROR = re.compile(r"\w+(Error|Exception|Timeout): ")
# How a line of a log begins that is no continuation.
_EVENT = re.compile(r"\d{4}-\d\d-\d\dT")


@dataclass(frozen=True)
class Started:
    """Runs that were started; those of a paused DAG wait until it is unpaused."""

    runs: list[Run]
    paused: bool


@dataclass(frozen=True)
class Failure:
    """Runs of a DAG that failed and were not run again, and the commands that do so."""

    dag_id: str
    what: str
    mend: tuple[str, ...]


def start_run(
    client: AirflowClient,
    dag_id: str,
    *,
    day: str | None = None,
    conf: Mapping[str, str] | None = None,
    unpause: bool = False,
    tell: Tell,
) -> Started:
    """Trigger a DAG by hand.

    Parameters
    ----------
    day
        Its partition key, or the parameter `day` of a DAG without partitions.
    conf
        Values of its parameters, as text.

    Raises
    ------
    ConfigError
        There is no such DAG, or it does not take what it was given.
    """
    dag = client.dag(dag_id)
    given = dict(conf or {})
    if day is not None:
        parse_day(day)
        if not dag.is_partitioned:
            given["day"] = day
    values = _values(dag, given)
    paused = _let_run(client, dag, unpause=unpause)
    run = client.trigger(dag_id, conf=values, partition_key=day if dag.is_partitioned else None)
    tell(f"{dag_id}: started {run.run_id}")
    return Started([run], paused)


def start_backfill(
    client: AirflowClient,
    target: str,
    period: Period,
    *,
    reprocess: Reprocess = "failed",
    max_active_runs: int | None = None,
    conf: Mapping[str, str] | None = None,
    unpause: bool = False,
    tell: Tell,
) -> Started:
    """Start a run for each day of a period, and say which days get none and why.

    Parameters
    ----------
    target
        A use case, for its ingestion and what follows, or the id of a DAG.
    max_active_runs
        Default: what the DAG allows itself; Airflow asks backfills for a limit of their own.

    Raises
    ------
    ConfigError
        There is no such DAG, it cannot be backfilled, or it does not take what it was given.
    """
    dag = client.dag(f"{target}_ingest" if f"{target}_ingest" in client.dag_ids() else target)
    if not dag.is_backfillable:
        use_case = dag.dag_id.rpartition("_")[0]
        raise ConfigError(
            f"{dag.dag_id} is not run by days of its own; it follows others, or is started by "
            f"hand. Backfill what it follows ({commands.backfill(use_case, period, 'completed')}), "
            f"or trigger it (evergreen trigger {dag.dag_id})."
        )
    values = _values(dag, conf or {})
    paused = _let_run(client, dag, unpause=unpause)
    limit = max_active_runs or dag.max_active_runs
    before = _runs_of(client, dag, period)
    _create_backfill(client, dag, period, limit, reprocess, values, tell)
    known = {run.run_id for run in before}
    runs = _runs_of(client, dag, period)
    started = [run for run in runs if run.run_id not in known and run.run_type == "backfill"]
    days = join_days(parse_day(str(run.partition_key)) for run in started)
    labels = ", ".join(found.label for found in days) or "no day"
    tell(f"{dag.dag_id}: {len(started)} runs for {labels}, {limit} at a time")
    _tell_skipped(before, {run.partition_key for run in started}, reprocess, tell)
    return Started(started, paused)


def follow(
    client: AirflowClient,
    started: Sequence[Run],
    tell: Tell,
    *,
    timeout_seconds: float = float("inf"),
    poll_seconds: float = 1.0,
) -> list[Run]:
    """Wait until runs, and the runs their events set off, are finished; tell how they get on.

    Of a single run every task is told when it ends.

    Returns
    -------
    list of Run
        All of them, as they ended.

    Raises
    ------
    TransientError
        They are not finished in time, an event started no run, or Airflow has not answered for two
        minutes.
    """
    return _Follower(client, tell).follow(started, timeout_seconds, poll_seconds)


def find_failed(client: AirflowClient) -> list[Failure]:
    """Return what failed and was not run again since."""
    failed: dict[str, list[Run]] = {}
    for run in client.runs(state="failed"):
        failed.setdefault(run.dag_id, []).append(run)
    known = set(client.dag_ids())
    found = []
    for dag_id, runs in sorted(failed.items()):
        newest: dict[str | None, Run] = {run.partition_key: run for run in runs}
        begun = [run.started_at for run in runs if run.started_at]
        since = {"start_date_gte": min(begun).isoformat()} if begun else {}
        for run in client.runs(dag_id, **since) if dag_id in known else []:
            newest[run.partition_key] = run
        still = [key for key, run in newest.items() if run.state == "failed" and dag_id in known]
        if still:
            found.append(_failure(client.dag(dag_id), still))
    return found


def _failure(dag: Dag, keys: Iterable[str | None]) -> Failure:
    days = join_days(parse_day(key) for key in keys if key)
    use_case, _, stage = dag.dag_id.rpartition("_")
    if not days:
        return Failure(dag.dag_id, "its newest run", ("start it again, or clear it in the UI",))
    if dag.is_backfillable:
        target = use_case if stage == "ingest" else dag.dag_id
        mend = [commands.backfill(target, period) for period in days]
    elif "day" in dag.params:
        mend = [commands.run_day(dag.dag_id, day) for p in days for day in p.days]
    else:
        mend = [commands.backfill(use_case, period, "completed") for period in days]
    return Failure(dag.dag_id, ", ".join(period.label for period in days), tuple(mend))


# --- starting ------------------------------------------------------------------------------------


def _values(dag: Dag, given: Mapping[str, str]) -> Json:
    """Turn texts into what the DAG's parameters are; refuse those it does not have."""
    if unknown := sorted(set(given) - set(dag.params)):
        known = f"it knows {', '.join(sorted(dag.params))}" if dag.params else "it takes none"
        raise ConfigError(
            f"{dag.dag_id} has no parameter {', '.join(unknown)}; {known}. Nothing was started."
        )
    return {name: _value(dag.params[name], text) for name, text in given.items()}


def _value(schema: Json, text: str) -> Any:
    kinds = schema.get("type", "string")
    if "string" in ([kinds] if isinstance(kinds, str) else kinds):
        return text
    try:
        return json.loads(text)
    except ValueError:
        # Airflow says what it expects.
        return text


def _let_run(client: AirflowClient, dag: Dag, *, unpause: bool) -> bool:
    """Unpause a DAG if asked to; tell whether its runs will have to wait."""
    if dag.is_paused and unpause:
        client.set_paused(dag.dag_id, paused=False)
    return dag.is_paused and not unpause


def _runs_of(client: AirflowClient, dag: Dag, period: Period) -> list[Run]:
    bounds = {"partition_date_gte": str(period.start), "partition_date_lte": str(period.last)}
    return client.runs(dag.dag_id, **bounds)


def _create_backfill(
    client: AirflowClient,
    dag: Dag,
    period: Period,
    limit: int,
    reprocess: Reprocess,
    conf: Json,
    tell: Tell,
) -> None:
    deadline, told = time.monotonic() + _START_SECONDS, False
    request = commands.backfill_request(dag.dag_id, period, reprocess, limit)
    while True:
        try:
            client.backfill({**request, "dag_run_conf": conf or None})
        except ConflictError as error:
            runs = client.runs(dag.dag_id, run_type="backfill")
            active = [str(run.partition_key) for run in runs if not run.finished]
            if active or time.monotonic() > deadline:
                raise ConfigError(
                    f"{dag.dag_id} is being backfilled already, and Airflow runs one backfill of a "
                    f"DAG at a time ({', '.join(active[:5]) or 'no day'} unfinished). Wait for it, "
                    "cancel it in the UI, or start single days with `evergreen trigger`."
                ) from error
        else:
            return
        if not told:
            # All its runs have ended; Airflow notices that only now and then.
            tell(f"Waiting for Airflow to close the earlier backfill of {dag.dag_id}.")
            told = True
        time.sleep(2)


def _tell_skipped(
    before: Sequence[Run], started: set[str | None], reprocess: Reprocess, tell: Tell
) -> None:
    newest = {run.partition_key: run for run in before if run.partition_key not in started}
    skipped: dict[str, list[date]] = {}
    for key, run in newest.items():
        skipped.setdefault(run.state, []).append(parse_day(str(key)))
    for state, days in sorted(skipped.items()):
        labels = ", ".join(period.label for period in join_days(days))
        why = {
            "success": "has succeeded before; --reprocess completed runs it again",
            "failed": "has failed before; --reprocess failed runs it again",
        }.get(state, f"is {state} already")
        tell(f"  skipped: {labels} {why} (now: --reprocess {reprocess})")


# --- following -----------------------------------------------------------------------------------


class _Follower:
    def __init__(self, client: AirflowClient, tell: Tell) -> None:
        self._client, self._tell = client, tell
        self._runs: dict[tuple[str, str], Run] = {}
        # Finished runs whose events may yet start others, and since when.
        self._pending: dict[tuple[str, str], float] = {}
        self._consumers = client.consumers()
        self._paused: dict[str, bool] = {}
        self._explained: set[tuple[str, str, str]] = set()
        self._explained_at = 0.0
        self._told_tasks: set[Task] = set()

    def follow(self, started: Sequence[Run], timeout: float, poll: float) -> list[Run]:
        for run in started:
            self._see(run)
        alone = started[0] if len(started) == 1 else None
        deadline, told, heard = time.monotonic() + timeout, "", time.monotonic()
        while True:
            try:
                self._look()
                if alone:
                    self._tell_tasks(alone)
                heard = time.monotonic()
            except ServiceDownError as error:
                # The runs go on, and what ended is started again.
                if (silent := time.monotonic() - heard) > _OUTAGE_SECONDS:
                    raise
                if told != str(error) and silent > _HICCUP_SECONDS:
                    told = str(error)
                    self._tell(told)
                time.sleep(poll)
                continue
            if (text := self._progress()) != told:
                self._tell(text)
                told = text
            unfinished = [run for run in self._runs.values() if not run.finished]
            if not unfinished and not self._pending:
                return list(self._runs.values())
            if time.monotonic() > deadline:
                raise TransientError(f"Not finished after {timeout:.0f} s: {text}")
            time.sleep(poll)

    def _look(self) -> None:
        self._refresh()
        if time.monotonic() - self._explained_at > _LOOK_SECONDS:
            self._explain_waiting()
            self._explained_at = time.monotonic()

    def _refresh(self) -> None:
        unfinished: dict[str, int] = {}
        for key, run in list(self._runs.items()):
            if run.finished or unfinished.setdefault(run.dag_id, 0) >= _WATCHED:
                continue
            unfinished[run.dag_id] += 1
            self._see(self._client.run(*key))
        answered, silent = bool(unfinished), None
        for key, since in list(self._pending.items()):
            try:
                if self._all_started(key, since):
                    del self._pending[key]
                answered = True
            except ServiceDownError as error:
                # Airflow answers 500 about an event one of whose runs is still queued.
                silent = error
        if silent and not answered:
            raise silent

    def _see(self, run: Run) -> None:
        key = run.dag_id, run.run_id
        self._runs[key] = run
        if run.state == "failed":
            self._explain(run, "failed")
        if run.state == "success":
            self._pending[key] = time.monotonic()

    def _all_started(self, key: tuple[str, str], since: float) -> bool:
        """Take up the runs that a finished run's events have started; tell whether it is all."""
        owed = set()
        for event in self._client.events(*key):
            for started in event.runs:
                if started not in self._runs:
                    self._see(self._client.run(*started))
            owed |= {dag for dag in self._consumers.get(event.asset, []) if self._listens(dag)}
            owed -= {dag for dag, _ in event.runs}
        if owed and time.monotonic() - since > _START_SECONDS:
            raise TransientError(
                f"{', '.join(sorted(owed))} was not started by {' ('.join(key)}) within "
                f"{_START_SECONDS} s. Is the scheduler running? Look at {self._client.url}."
            )
        return not owed

    def _listens(self, dag_id: str) -> bool:
        if dag_id not in self._paused:
            self._paused[dag_id] = self._client.dag(dag_id).is_paused
            if self._paused[dag_id]:
                self._tell(f"{dag_id} is paused and takes no events: it does not follow.")
        return not self._paused[dag_id]

    def _progress(self) -> str:
        total = Counter(run.dag_id for run in self._runs.values())
        done = Counter(run.dag_id for run in self._runs.values() if run.state == "success")
        failed = Counter(run.dag_id for run in self._runs.values() if run.state == "failed")
        return ", ".join(
            f"{dag} {done[dag]}/{n}" + (f" ({failed[dag]} failed)" if failed[dag] else "")
            for dag, n in total.items()
        )

    def _tell_tasks(self, run: Run) -> None:
        for task in self._client.tasks(run.dag_id, run.run_id):
            if task.state in ("success", "skipped") and task not in self._told_tasks:
                self._told_tasks.add(task)
                took = f"{task.duration_seconds or 0:6.1f} s"
                self._tell(f"  {task.task_id:<36} {task.state:<8} {took}")

    def _explain_waiting(self) -> None:
        running = [run for run in self._runs.values() if run.state == "running"]
        for run in running[:_WATCHED]:
            self._explain(run, "up_for_retry")

    def _explain(self, run: Run, state: str) -> None:
        """Say, once, which tasks of a run are in a bad state, and the error they ended with."""
        for task in self._client.tasks(run.dag_id, run.run_id, state=state):
            told = (run.run_id, task.task_id, state)
            if told in self._explained:
                continue
            self._explained.add(told)
            said = _error_in(self._client.log(task).splitlines())
            what = "failed" if state == "failed" else "will be tried again"
            self._tell(f"  {run.dag_id} {run.partition_key or ''}: {task.task_id} {what}")
            for line in said:
                self._tell(f"    {line}")


def _error_in(log: Sequence[str]) -> list[str]:
    """Return the last error of a log: its line and those that belong to it; else the last line."""
    starts = [n for n, line in enumerate(log) if _ERROR.match(line)]
    if not starts:
        return list(log[-1:])
    first, *rest = log[starts[-1] :]
    return [first, *takewhile(lambda line: not _EVENT.match(line), rest)]
