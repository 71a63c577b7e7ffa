"""Train a challenger on what was known at the end of one day, and let the gate decide.

Runs when the governor requests retraining (the request carries the day and the reason), or by hand:
trigger it with a partition key, or fill in the day. The reason is on the triggering asset event and
is the first task's result.
"""

from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, PartitionedAssetTimetable, chain, dag, task

from conventions import DAY, RUN, asset, dag_arguments, day_param
from evergreen import steps
from evergreen.contract import UseCase, load_use_cases
from links import Releases, TrackedRun, linked

REASON = (
    "{% for events in triggering_asset_events.values() %}{{ events[-1].extra.reason }}"
    "{% else %}by hand{% endfor %}"
)
# Who has approved, if anybody had to.
APPROVED_BY = (
    "{% set answer = ti.xcom_pull('approve_promotion') or {} %}"
    "{{ (answer.get('responded_by_user') or {}).get('name', '') }}"
)


def train(use_case: UseCase) -> None:
    """Build `<use_case>_train`."""
    gate = use_case.gate

    @dag(
        **dag_arguments(use_case, "train", __doc__, timeout=timedelta(hours=12)),
        schedule=PartitionedAssetTimetable(assets=asset(use_case, "retraining")),
        params={
            "day": day_param("Train on what was known at the end of this day"),
            "corrections": Param(
                "as_known",
                enum=["as_known", "as_corrected"],
                title="Days that were corrected after this day was processed",
            ),
        },
        is_paused_upon_creation=False,
        max_active_runs=1,
    )
    def build() -> None:
        request = task(steps.accept_request)(use_case.name, DAY, REASON, "{{ params.corrections }}")
        training_set = task(steps.assemble_training_set)(request, RUN)
        chosen = task(steps.choose_recipe)(training_set)
        challenger = task(steps.train_challenger)(chosen)
        verdict = task(steps.judge_challenger)(challenger)
        for judged in (challenger, verdict):
            linked(judged, Releases(), TrackedRun())
        # The run still ends as failed: the promotion, which cannot start, is a leaf as well.
        failure = task(steps.fail_request, trigger_rule="one_failed")(use_case.name, DAY, RUN)
        tell = task(steps.tell_training, trigger_rule="all_done")
        chain(verdict, failure, tell(use_case.name, DAY, "{{ ti.log_url }}"))
        if gate.mode == "shadow":
            return
        passed = task.short_circuit(steps.is_promotable)(verdict)
        promoted = linked(
            task(steps.promote_challenger)(verdict, APPROVED_BY), Releases(), TrackedRun()
        )
        if gate.mode == "approve":
            approval = ApprovalOperator(
                task_id="approve_promotion",
                subject=f"Promote the challenger of {use_case.name}?",
                body="{{ ti.xcom_pull('judge_challenger')['summary'] }}",
                defaults=ApprovalOperator.REJECT,
                execution_timeout=None,
                response_timeout=timedelta(hours=gate.approval_hours),
            )
            chain(passed, approval, promoted)
        else:
            chain(passed, promoted)

    build()


for use_case in load_use_cases():
    train(use_case)
