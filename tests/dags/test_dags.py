"""The DAGs parse, are what the reviewed snapshots say, and stay light."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from jinja2 import Template

import club
from evergreen.contract import list_use_cases, load_use_case
from evergreen.settings import PROJECT_ROOT
from small_shop import write_small_shop

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import DAG

COMMON = ("train", "score", "monitor", "release", "history")
OF_TABLES = ("ingest", "features", *COMMON)
# Of a use case that builds on the features of another.
OF_FEATURES = ("labels", *COMMON)
DAGS = PROJECT_ROOT / "dags"
SNAPSHOTS = Path(__file__).parent / "snapshots"
HEAVY = (
    "pandas", "numpy", "pyarrow", "scipy", "xgboost", "mlflow", "feast", "great_expectations",
    "duckdb", "sklearn", "pyiceberg", "ibis", "matplotlib",
)  # fmt: skip


def test_every_file_imports(dag_bag: DagBag) -> None:
    assert dag_bag.import_errors == {}


def test_every_use_case_has_every_stage(dag_bag: DagBag) -> None:
    expected = {
        f"{name}_{stage}"
        for name in list_use_cases()
        for stage in (OF_FEATURES if load_use_case(name).base else OF_TABLES)
    }
    assert set(dag_bag.dags) == expected | {"maintenance"}
    assert {"churn_ingest", "spend_labels"} < expected


@pytest.mark.parametrize(
    "stage",
    [*(f"churn_{stage}" for stage in OF_TABLES), "spend_labels", "spend_history", "maintenance"],
)
def test_dag_is_what_was_reviewed(dag_bag: DagBag, stage: str) -> None:
    """Review the diff of the snapshot; `UPDATE_SNAPSHOTS=1 make test` writes it."""
    path = SNAPSHOTS / f"{stage}.json"
    described = json.dumps(_describe(dag_bag.dags[stage]), indent=2, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        path.write_text(described)
    assert described == path.read_text()


def test_every_dag_is_for_operators_or_for_releasers(dag_bag: DagBag) -> None:
    given = runpy.run_path(str(PROJECT_ROOT / "plugins" / "evergreen_roles.py"))["permissions"]()
    dags = {
        role: {of.removeprefix("DAG:") for action, of in may if of.startswith("DAG:")}
        for role, may in given.items()
    }
    released = {dag_id for dag_id in dag_bag.dags if dag_id.endswith("_release")}
    assert dags["Operator"] & set(dag_bag.dags) == set(dag_bag.dags) - released
    assert dags["Releaser"] - dags["Operator"] == released
    # Nobody gets all DAGs at once: a new kind would be given away with them.
    assert not [may for may in given.values() if ("can_edit", "DAGs") in may]


def test_use_cases_differ_in_nothing_but_names(dag_bag: DagBag) -> None:
    for stage in OF_TABLES:
        shapes = []
        for name in list_use_cases():
            base = load_use_case(name).base or name
            if base != name and stage not in COMMON[:-1]:
                continue
            described = _describe(dag_bag.dags[f"{name}_{stage}"])
            for own in ("first_day", "last_day", "params"):
                described.pop(own)
            shape = json.dumps(described)
            # Nothing of another but the features is shared.
            shape = shape.replace(f'"{base}/features"', '"USE_CASE/features"')
            shapes.append(shape.replace(f"{name}/", "USE_CASE/").replace(f":{name}", ":USE_CASE"))
        assert len(shapes) >= 2
        assert len(set(shapes)) == 1, stage


def test_every_dag_explains_itself(dag_bag: DagBag) -> None:
    for dag_id, dag in dag_bag.dags.items():
        assert dag.doc_md and len(dag.doc_md) > 80, dag_id
        assert any(tag.startswith("stage:") for tag in dag.tags), dag_id


def test_features_start_by_the_only_table_or_by_a_night(dag_bag: DagBag) -> None:
    started_by = dag_bag.dags["churn_features"].timetable.asset_condition
    assert type(started_by).__name__ == "AssetAny"
    (table,) = load_use_case("churn").tables
    assert [asset.name for asset in started_by.objects] == [f"churn/{table}", "churn/recomputation"]
    assert "announce_day" not in dag_bag.dags["churn_ingest"].task_ids


def test_one_task_announces_a_day_of_several_tables(
    dag_bag: DagBag, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    club.write_club(tmp_path)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path / "use_cases"))
    tables = [f"{club.CLUB}/{name}" for name in club.TABLES]
    dags = type(dag_bag)(DAGS / "ingest.py").dags | type(dag_bag)(DAGS / "features.py").dags
    ingest = dags[f"{club.CLUB}_ingest"]
    publish = {f"{name}.publish_rows" for name in club.TABLES}
    assert [a.name for task in sorted(publish) for a in ingest.get_task(task).outlets] == sorted(
        tables
    )
    announce = ingest.get_task("announce_day")
    assert announce.upstream_task_ids == publish
    assert announce.trigger_rule == "all_success"
    assert [asset.name for asset in announce.outlets] == [f"{club.CLUB}/all_tables"]
    started_by = dags[f"{club.CLUB}_features"].timetable.asset_condition
    # Each of them starts a run by itself: ADR 0036.
    assert type(started_by).__name__ == "AssetAny"
    assert [asset.name for asset in started_by.objects] == [
        f"{club.CLUB}/all_tables",
        f"{club.CLUB}/recomputation",
    ]


def test_a_published_event_has_the_key_of_its_run_or_those_that_are_named(dag_bag: DagBag) -> None:
    from airflow.sdk.execution_time.context import OutletEventAccessors

    days = ["2026-01-05", "2026-01-06"]
    request = {"use_case": "churn", "day": days[0], "trigger": "drift", "reasons": ["so"]}
    tasks = dag_bag.dags["churn_monitor"].task_dict
    for publish, given, keys in (
        (tasks["start_owed_features"], days, {*days}),
        (tasks["request_retraining"], request, set()),
    ):
        (outlet,) = publish.outlets
        events = OutletEventAccessors()
        published = publish.python_callable(given, outlet_events=events)
        assert events[outlet].extra == published
        assert events[outlet].partition_keys == keys


def test_permanent_errors_are_not_retried(dag_bag: DagBag) -> None:
    from airflow.sdk.definitions.retry_policy import RetryAction

    from evergreen.errors import SourceMissingError, ValidationError

    checked = 0
    for dag in dag_bag.dags.values():
        for task in dag.tasks:
            policy = task.retry_policy
            assert policy.evaluate(ValidationError("bad"), 1, 3).action is RetryAction.FAIL
            assert policy.evaluate(SourceMissingError("late"), 1, 3).action is not RetryAction.FAIL
            assert policy.evaluate(ConnectionError("net"), 1, 3).action is not RetryAction.FAIL
            checked += 1
    assert checked > 20


def test_a_run_for_one_day_refuses_a_range_at_its_first_task(dag_bag: DagBag) -> None:
    """An asset event carries its run's key, so a range would reach every DAG behind."""
    from evergreen.errors import ConfigError

    day = "{{ partition_key or params.get('day') }}"
    refused = set()
    for stage in ("ingest", "features", "train", "score", "monitor"):
        dag = dag_bag.dags[f"churn_{stage}"]
        for task in (task for task in dag.roots if day in task.op_args):
            given = ["2025-12-30..2025-12-31" if a == day else str(a) for a in task.op_args]
            with pytest.raises(ConfigError, match=r"a range; .*_history"):
                task.python_callable(*given)
            refused.add(stage)
    assert refused == {"ingest", "features", "train", "score", "monitor"}


def test_a_late_source_is_waited_for_and_nothing_else_is(dag_bag: DagBag) -> None:
    from airflow.sdk.definitions.retry_policy import RetryAction

    from evergreen.errors import ServiceDownError, SourceMissingError, ValidationError

    task = dag_bag.dags["churn_ingest"].task_dict["orders.stage_rows"]
    cleared = 40
    for before in (0, cleared):
        most = before + task.retries

        def decided(error: Exception, tries: int, before: int = before, most: int = most) -> Any:
            return task.retry_policy.evaluate(error, before + tries, most).action

        for tries in (1, 20, task.retries):
            assert decided(SourceMissingError("late"), tries) is RetryAction.RETRY
            assert decided(ValidationError("bad"), tries) is RetryAction.FAIL
        # A backfill's days are past, and no other backfill may begin while it waits.
        context = {"dag_run": SimpleNamespace(run_type="backfill")}
        late = SourceMissingError("late")
        for tries, action in ((3, RetryAction.RETRY), (4, RetryAction.FAIL)):
            decision = task.retry_policy.evaluate(late, before + tries, most, context)
            assert decision.action is action
        for error in (ConnectionError("net"), ServiceDownError("down"), KeyError("a bug")):
            assert decided(error, 3) is RetryAction.DEFAULT
            assert decided(error, 4) is RetryAction.FAIL
    # Tries come at most ten minutes apart.
    hours = task.retries * task.max_retry_delay.total_seconds() / 3600
    assert 10 < hours < 24
    # Who loads a history by hand waits for the answer.
    assert dag_bag.dags["churn_history"].task_dict["orders.stage_rows"].retries == 3


def test_every_task_ends_some_day_and_knows_its_parameters(
    dag_bag: DagBag, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evergreen import steps
    from evergreen.errors import ConfigError

    monkeypatch.setattr(steps, "has_champion", lambda use_case: True)
    for dag in dag_bag.dags.values():
        known = dict.fromkeys(dag.params, "x")
        for task in dag.tasks:
            assert 1 <= task.execution_timeout.total_seconds() / 3600 <= 24, task.task_id
            # As the task runner calls it, before the task itself.
            check = task._pre_execute_hook
            check(_context(dag, known))
            check(_context(dag, None))
            with pytest.raises(ConfigError, match="given form, which its DAG does not know"):
                check(_context(dag, {**known, "form": "x"}))


def _context(dag: Any, conf: dict[str, Any] | None, key: str | None = None) -> dict[str, Any]:
    run = SimpleNamespace(conf=conf, partition_key=key)
    return {"dag": dag, "dag_run": run, "params": {**dict.fromkeys(dag.params), **(conf or {})}}


@pytest.mark.parametrize(
    ("dag_id", "key", "conf", "fields"),
    [
        ("churn_ingest", "2026-01-02", {}, {"use_case": "churn", "day": "2026-01-02"}),
        ("churn_train", None, {"day": "2026-01-02"}, {"use_case": "churn", "day": "2026-01-02"}),
        (
            "churn_history",
            None,
            {"from": "2026-01-02", "to": "2026-01-04"},
            {"use_case": "churn", "day": "2026-01-02..2026-01-04"},
        ),
        ("churn_release", None, {"version": 1}, {"use_case": "churn"}),
        ("maintenance", None, {}, {}),
    ],
)
def test_a_task_logs_with_its_use_case_and_day(
    dag_bag: DagBag, dag_id: str, key: str | None, conf: dict[str, Any], fields: dict[str, str]
) -> None:
    from structlog.contextvars import clear_contextvars, get_contextvars

    dag = dag_bag.dags[dag_id]
    clear_contextvars()
    try:
        dag.tasks[0]._pre_execute_hook(_context(dag, conf, key))
        assert get_contextvars() == fields
    finally:
        clear_contextvars()


def test_before_the_first_training_nothing_is_scored(
    dag_bag: DagBag, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from evergreen import steps

    monkeypatch.setattr(steps, "has_champion", lambda use_case: use_case == "churn")
    for name in ("churn", "spend"):
        dag = dag_bag.dags[f"{name}_score"]
        check = dag.get_task("resolve_model")._pre_execute_hook
        if name == "churn":
            check(_context(dag, None))
        else:
            with pytest.raises(AirflowSkipException, match="Run spend_train, then clear this run"):
                check(_context(dag, None))


def test_a_mode_says_what_follows_a_yes(
    dag_bag: DagBag, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    modes = ("auto", "approve", "shadow")
    for mode in modes:
        write_small_shop(tmp_path, name=mode, gate={"mode": mode, "approval_hours": 12})
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path))
    dags = type(dag_bag)(DAGS / "train.py").dags
    tasks = {mode: set(dags[f"{mode}_train"].task_dict) for mode in modes}
    assert tasks["approve"] - tasks["auto"] == {"approve_promotion"}
    assert tasks["auto"] - tasks["shadow"] == {"is_promotable", "promote_challenger"}

    # When nobody answers, that is a no; who says yes answers for it.
    approval = dags["approve_train"].get_task("approve_promotion")
    assert approval.defaults == ["Reject"]
    assert approval.response_timeout.total_seconds() == 12 * 3600
    assert approval.upstream_task_ids == {"is_promotable"}
    assert "promote_challenger" in approval.downstream_task_ids
    for mode, answer, name in (
        ("approve", {"responded_by_user": {"id": "7", "name": "ann"}}, "ann"),
        ("auto", None, ""),
    ):
        task = dags[f"{mode}_train"].get_task("promote_challenger")
        ti = SimpleNamespace(xcom_pull=lambda task_id, found=answer: found)
        assert Template(task.op_args[1]).render(ti=ti) == name


def test_the_deadline_of_ingestion_calls_what_exists(dag_bag: DagBag) -> None:
    import inspect

    from evergreen import steps

    (deadline,) = dag_bag.dags["churn_ingest"].deadline
    module, _, name = deadline.callback.path.rpartition(".")
    assert module == "evergreen.steps"
    assert inspect.iscoroutinefunction(getattr(steps, name))


def test_a_declared_delay_is_a_deadline_of_every_run_for_a_day(
    dag_bag: DagBag, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_small_shop(tmp_path, zone="Europe/Berlin", monitoring={"max_delay_hours": 6.5})
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path))
    dags = {s: type(dag_bag)(DAGS / f"{s}.py").dags[f"shop_{s}"] for s in OF_TABLES}
    assert [s for s, dag in dags.items() if dag.deadline] == ["ingest", "features", "score"]
    for stage in ("ingest", "features", "score"):
        (deadline,) = dags[stage].deadline
        stored = deadline.reference.serialize_reference()
        assert stored == {"reference_type": "DayDue", "zone": "Europe/Berlin", "hours": 6.5}
        assert deadline.interval == timedelta()
    # By default there is none but that of a late source.
    assert [s for s in OF_TABLES if dag_bag.dags[f"churn_{s}"].deadline] == ["ingest"]


def test_every_night_leads_to_its_report(dag_bag: DagBag) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = dag_bag.dags["churn_monitor"]
    task = dag.get_task("report_night")
    (link,) = task.operator_extra_links
    # As the task runner has it in the end, rendered.
    ended = SimpleNamespace(op_args=["churn", "2026-01-09"])
    address = link.get_link(ended, ti_key=None)
    assert address.endswith("/evergreen/nights/churn/2026-01-09")
    # What the UI knows of the task.
    known = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("report_night")
    assert known.extra_links == ["Report of the night"]
    # Neither what was decided nor a failed measurement stops it, and nothing waits for it.
    assert task.trigger_rule == "all_done"
    assert task.upstream_task_ids == {"decide_retraining", "measure_estimates", "measure_staleness"}
    assert task.downstream_task_ids == set()


def test_parsing_imports_no_heavy_library(run_python: Callable[[str], str]) -> None:
    shared = ("conventions", "links", "patience", "deadlines", "shards")
    files = sorted(p.name for p in (PROJECT_ROOT / "dags").glob("*.py") if p.stem not in shared)
    assert len(files) == len({*OF_TABLES, *OF_FEATURES}) + 2
    code = "\n".join(
        [
            "import runpy, sys, airflow.sdk",
            "from airflow.providers.standard.operators.hitl import ApprovalOperator",
            "before = set(sys.modules)",
            *(f"runpy.run_path({str(PROJECT_ROOT / 'dags' / name)!r})" for name in files),
            "ours = {m.split('.')[0] for m in set(sys.modules) - before}",
            f"print(sorted(ours & set({HEAVY!r})))",
        ]
    )
    assert run_python(code).strip().splitlines()[-1] == "[]"


def _describe(dag: DAG) -> dict[str, Any]:
    timetable = dag.timetable
    condition = getattr(timetable, "asset_condition", None)
    return {
        "schedule": type(timetable).__name__,
        "cron": getattr(timetable, "expression", None),
        "triggered_by": [found.name for found in _assets(condition)],
        "first_day": dag.start_date.isoformat(),
        "last_day": dag.end_date.isoformat() if dag.end_date else None,
        "catchup": dag.catchup,
        "paused_upon_creation": dag.is_paused_upon_creation,
        "max_active_runs": dag.max_active_runs,
        "tags": sorted(dag.tags),
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
        "tasks": {
            task.task_id: {
                "type": task.task_type,
                "downstream": sorted(task.downstream_task_ids),
                "retries": task.retries,
                "timeout_hours": task.execution_timeout.total_seconds() / 3600,
                "trigger_rule": str(task.trigger_rule),
                "outlets": [outlet.name for outlet in task.outlets],
                "links": [link.name for link in task.operator_extra_links],
            }
            for task in dag.tasks
        },
    }


def _assets(condition: Any) -> list[Any]:
    if condition is None:
        return []
    return [condition] if hasattr(condition, "name") else list(condition.objects)


def test_shards_are_mapped_tasks_between_a_plan_and_one_publish(
    dag_bag: DagBag, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_small_shop(tmp_path, name="parted", shards=4)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(tmp_path))
    stages = {
        "features": ["plan_features", "compute_features_of", "validate_features"],
        "history": ["plan_features", "compute_features_of", "validate_features"],
        "score": ["plan_scores", "score_customers_of", "validate_predictions"],
        "release": ["plan_scores", "score_customers_of", "validate_predictions"],
    }
    labels = ["plan_labels", "compute_labels_of", "publish_labels"]
    for stage, chain in stages.items():
        dag = type(dag_bag)(DAGS / f"{stage}.py").dags[f"parted_{stage}"]
        tasks = {task.task_id.split(".")[-1]: task for task in dag.tasks}
        for plan, mapped, gathers in (chain, labels) if "plan_labels" in tasks else (chain,):
            assert tasks[mapped].op_kwargs_expand_input.value == {"shard": [0, 1, 2, 3]}
            assert tasks[mapped].upstream_task_ids == {tasks[plan].task_id}
            assert tasks[mapped].task_id in tasks[gathers].upstream_task_ids
    # Nothing is planned for a release that scores no day again.
    assert tasks["plan_scores"].upstream_task_ids >= {"score_again.has_day"}
    whole = {task.task_id.split(".")[-1] for task in dag_bag.dags["churn_features"].tasks}
    assert not whole & {*stages["features"][:2], *labels[:2]}
