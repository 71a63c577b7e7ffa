"""One day of every table: stage the source's rows, validate the batch, publish the table.

Every row ends in its table, in `quarantine` with the rules it broke, or is counted as an exact
duplicate. A day that breaks a batch rule is refused: its rejected rows go to `refused`. Backfill
this DAG to re-ingest days: features and scores of the same days follow by asset events, once all
tables have the day.

A source that is late is waited for, for hours. Where it will never deliver, trigger the day with a
reason in `without_data`: it is published empty, and the decision is kept in `decisions`.
"""

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, dag, task, task_group

from conventions import ASKED_BY, DAY, RUN, asset, dag_arguments, daily, publisher
from deadlines import source_due
from evergreen import steps
from evergreen.contract import UseCase, load_use_cases
from links import CalendarDay, DataDocs, linked
from patience import UNTIL_DELIVERED

ASKED_AT = "{{ dag_run.start_date }}"


def ingest(use_case: UseCase) -> None:
    """Build `<use_case>_ingest`: a group of tasks for each table."""

    @dag(
        **dag_arguments(use_case, "ingest", __doc__),
        schedule=daily(use_case, hour=0),
        params={
            "without_data": Param(
                None,
                type=["null", "string"],
                minLength=5,
                title="The day has no data and never will: the reason",
            ),
            "table": Param(
                None, enum=[None, *use_case.tables], title="Of this table; all if none is chosen"
            ),
        },
        deadline=source_due(use_case),
        is_paused_upon_creation=True,
        max_active_runs=3,
    )
    def build() -> None:
        @task_group
        def ingest_table(name: str) -> None:
            reason = (
                f"{{{{ (params.without_data or '') if params.table in (None, '{name}') else '' }}}}"
            )
            staged = task(steps.one_day(steps.stage_rows), **UNTIL_DELIVERED)(
                use_case.name, DAY, name, RUN, reason, ASKED_BY, ASKED_AT
            )
            validated = linked(task(steps.validate_rows)(staged), DataDocs())
            published = publisher(steps.publish_rows, asset(use_case, name))(validated)
            linked(published, CalendarDay())

        groups = [ingest_table.override(group_id=name)(name) for name in use_case.tables]
        if len(groups) > 1:
            # Where Airflow waits for several assets, events that coincide are lost (ADR 0036).
            day = asset(use_case, use_case.day_asset)
            groups >> EmptyOperator(task_id="announce_day", outlets=[day])

    build()


for use_case in load_use_cases():
    if use_case.base is None:
        ingest(use_case)
