"""Change the champion by hand: promote a version, or roll back to one; begin a rollout, or stop it.

The decision and its reason are appended to the release ledger; the registry's alias follows. Give a
day to score it again with the new champion (other days keep the version that scored them).
"""

from airflow.sdk import Param, dag, task, task_group

from conventions import asset, dag_arguments, day_param, publisher
from evergreen import steps
from evergreen.contract import UseCase, load_use_cases
from links import CalendarDay, DataDocs, Releases, TrackedRun, linked
from shards import score_customers


def release(use_case: UseCase) -> None:
    """Build `<use_case>_release`."""

    @dag(
        **dag_arguments(use_case, "release", __doc__),
        schedule=None,
        params={
            "action": Param("promote", enum=["promote", "roll_back", "roll_out", "stop"]),
            # No defaults: the form insists on both.
            "version": Param(type="integer", minimum=1, title="Version in the registry"),
            "reason": Param(type="string", minLength=5, title="Reason"),
            "day": day_param("Score this day again with the new champion"),
        },
        is_paused_upon_creation=False,
        max_active_runs=1,
    )
    def build() -> None:
        released = task(steps.release_version)(
            use_case.name,
            "{{ params.action }}",
            "{{ params.version }}",
            "{{ params.reason }}",
            "{{ dag_run.triggering_user_name or 'unknown' }}",
        )
        linked(released, Releases(), TrackedRun())

        @task_group
        def score_again() -> None:
            resolved = task(steps.resolve_release)(released, "{{ params.day or '' }}")
            wanted = task.short_circuit(steps.has_day)(resolved)
            staged = score_customers(use_case, resolved, wanted)
            validated = linked(task(steps.validate_predictions)(staged), DataDocs())
            publish = publisher(steps.publish_predictions, asset(use_case, "predictions"))
            linked(publish(validated), CalendarDay())

        score_again()

    build()


for use_case in load_use_cases():
    release(use_case)
