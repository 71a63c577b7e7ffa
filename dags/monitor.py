"""Watch, every night at 02:00, whether the world has moved away from the model.

Measures drift of features and score against the champion's training reference, the performance
realised on days whose labels have matured, also late ones, freshness and volume of the tables, and
whether the online store serves what features are. The governor weighs them and may request
retraining; only the newest day may, so a backfill of old nights never starts training. Features
that are further behind than they may be are computed, if `monitoring.max_recomputed_days` allows
it. What tonight's scores will be worth is estimated. Days whose inputs have changed since are
listed in `staleness`, with the commands that mend them. A rollout that is on goes on, holds, ends
or is stopped, with the day's scores taken back. What has begun or ended since is told to
whom the settings name, once. At the end the night is told on one page, linked from `report_night`.
"""

from airflow.sdk import chain, dag, task, task_group

from conventions import DAY, RUN, asset, dag_arguments, daily, publisher
from evergreen import steps
from evergreen.contract import UseCase, load_use_cases
from links import NightReport, linked


def monitor(use_case: UseCase) -> None:
    """Build `<use_case>_monitor`."""

    @dag(
        **dag_arguments(use_case, "monitor", __doc__),
        schedule=daily(use_case, hour=2),
        is_paused_upon_creation=True,
        # For the sake of the machine. A backfill has a limit of its own, and may run nights in any
        # order and at once: what a night records does not depend on other nights.
        max_active_runs=1,
    )
    def build() -> None:
        @task_group
        def measure() -> list:
            return [
                task(steps.measure_drift)(use_case.name, DAY),
                task(steps.measure_performance)(use_case.name, DAY),
                task(steps.measure_freshness)(use_case.name, DAY),
                task(steps.measure_skew)(use_case.name, DAY),
            ]

        stale = task(steps.measure_staleness)(use_case.name, DAY)
        estimated = task(steps.measure_estimates)(use_case.name, DAY)
        measured = measure()
        _, _, freshness, _ = measured
        choose = task.short_circuit(steps.choose_owed_features)
        owed = choose(use_case.name, DAY, RUN, freshness)
        publisher(steps.start_owed_features, asset(use_case, "recomputation"))(owed)
        # A measurement that fails for good arrives as None: the others still count.
        decide = task(steps.decide_retraining, trigger_rule="all_done")
        verdict = decide(use_case.name, DAY, measured)
        wanted = task.short_circuit(steps.is_retraining_wanted)(verdict)
        request = publisher(steps.request_retraining, asset(use_case, "retraining"))(verdict)
        chain(wanted, request)
        # Whatever was decided or failed; nothing waits for it.
        report = task(steps.report_night, trigger_rule="all_done")(use_case.name, DAY)
        linked(report, NightReport())
        chain([verdict, stale, estimated], report)
        if use_case.experiment:
            chain(task(steps.measure_experiment)(use_case.name, DAY), report)
        if use_case.rollout:
            judged = task(steps.judge_rollout)(use_case.name, DAY)
            back = task.short_circuit(steps.is_taken_back)(judged)
            taken = publisher(steps.take_back, asset(use_case, "predictions"))
            chain(back, taken(use_case.name, DAY))
            chain(judged, report)
        # Beside all that, so that a destination that is down holds nothing up.
        task(steps.tell_night)(verdict, "{{ ti.log_url }}")

    build()


for use_case in load_use_cases():
    monitor(use_case)
