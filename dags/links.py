"""What Airflow's UI shows as a button of a task."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf


class NightReport(BaseOperatorLink):
    """The page of the night that the task has written, served by the plugin."""

    name = "Report of the night"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address; the task runner asks for it when the task has ended."""
        use_case, day = operator.op_args
        base = conf.get("api", "base_url", fallback="/").rstrip("/")
        return f"{base}/evergreen/nights/{use_case}/{day}"


def link_report(report: Any) -> None:
    """Show the button at the task that writes reports."""
    report.operator.operator_extra_links = (NightReport(),)
