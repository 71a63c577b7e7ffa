"""What Airflow's UI shows as buttons of a task: pages about what it has made.

The task runner asks for the addresses when a task has ended, well or not; no button is shown for an
empty one.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink, BaseXCom
from airflow.sdk.configuration import conf
from airflow.sdk.execution_time.xcom import XCom

from evergreen import steps
from evergreen.contract import Period


def linked(made: Any, *links: BaseOperatorLink) -> Any:
    """Show buttons at the task that makes something, and return what it makes."""
    made.operator.operator_extra_links = links
    return made


class NightReport(BaseOperatorLink):
    """The page of the night that the task has written, served by the plugin."""

    name = "Report of the night"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address."""
        use_case, day = operator.op_args
        return _page(f"nights/{use_case}/{day}")


class DataDocs(BaseOperatorLink):
    """What was validated, rule by rule; also of what was refused."""

    name = "Data Docs"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address."""
        (staged,) = operator.op_args
        return _page(steps.find_data_docs(operator.task_id.rpartition("validate_")[2], staged))


class CalendarDay(BaseOperatorLink):
    """The days that the task was for, in the calendar of all tables."""

    name = "Calendar"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address."""
        (made,) = operator.op_args
        period = Period.parse(made["period"])
        return _page(
            f"use-cases/{made['use_case']}/calendar?first={period.start}&last={period.last}"
        )


class Releases(BaseOperatorLink):
    """Versions, what the gate said of them, and who is in charge."""

    name = "Releases"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address."""
        made = _result(ti_key)
        return _page(made and f"use-cases/{made['use_case']}/releases")


class TrackedRun(BaseOperatorLink):
    """The run of the version in MLflow, where its pages can be reached."""

    name = "MLflow"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address."""
        made = _result(ti_key)
        return made and steps.find_tracked_run(made["use_case"], made["version"])


def _result(ti_key: Any) -> Any:
    return XCom.get_value(ti_key=ti_key, key=BaseXCom.XCOM_RETURN_KEY) or ""


def _page(path: str) -> str:
    base = conf.get("api", "base_url", fallback="/").rstrip("/")
    return path and f"{base}/evergreen/{path}"
