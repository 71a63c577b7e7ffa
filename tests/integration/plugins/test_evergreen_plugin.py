"""The plugin, as Airflow finds and loads it."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from evergreen.settings import PROJECT_ROOT

PLUGINS = PROJECT_ROOT / "plugins"

# Starlette's test client, which Airflow's own modules import too, prefers a client of its own.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")


def test_airflow_loads_the_plugin_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow import plugins_manager, settings
    from airflow.api_fastapi.core_api.datamodels.plugins import PluginResponse

    monkeypatch.setattr(settings, "PLUGINS_FOLDER", str(PLUGINS))
    caches = (
        plugins_manager._get_plugins,
        plugins_manager._get_ui_plugins,
        plugins_manager.get_fastapi_plugins,
    )
    for cached in caches:
        cached.cache_clear()
    try:
        problems = plugins_manager.get_import_errors()
        (ours,) = [p for p in plugins_manager.get_plugin_info() if p["name"] == "evergreen"]
        apps, _ = plugins_manager.get_fastapi_plugins()
        views, _ = plugins_manager._get_ui_plugins()
    finally:
        for cached in caches:
            cached.cache_clear()

    assert problems == {}
    assert [record.getMessage() for record in caplog.records] == []
    # An invalid destination would remove the plugin from the UI without an error.
    shown = PluginResponse.model_validate(ours)
    assert [(v.url_route, v.href, v.destination) for v in shown.external_views] == [
        ("evergreen", "evergreen/", "nav"),
        ("receipts", "evergreen/runs/{DAG_ID}/{RUN_ID}", "dag_run"),
    ]
    assert [(r.name, r.bundle_url, r.destination) for r in shown.react_apps] == [
        ("Evergreen", "evergreen/assets/card.js", "dashboard")
    ]
    assert "/evergreen" in [app["url_prefix"] for app in apps]
    assert "evergreen" in [view["url_route"] for view in views]


def test_loading_the_plugin_costs_a_task_nothing() -> None:
    code = f"""
import runpy, sys
import airflow.sdk.execution_time.task_runner
from airflow.sdk import plugins_manager
before = set(sys.modules)
runpy.run_path({str(PLUGINS / "evergreen_plugin.py")!r})
ours = ("evergreen", "evergreen_ui")
heavy = (*ours, "airflow.api_fastapi", "fastapi", "pyarrow", "pyiceberg", "sqlalchemy")
print([m for m in set(sys.modules) - before if m.split(".")[0] in heavy or m.startswith(heavy)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_mounted_application_is_made_at_the_first_request(
    plugin: ModuleType, airflow_tables: object
) -> None:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    (mounted,) = plugin.EvergreenPlugin.fastapi_apps
    airflow = FastAPI()
    airflow.mount(mounted["url_prefix"], mounted["app"])

    assert TestClient(airflow).get("/evergreen/").status_code == 401


def test_airflow_does_not_execute_the_application_in_every_process() -> None:
    from airflow._shared.module_loading import find_path_from_directory

    executed = [str(path) for path in find_path_from_directory(str(PLUGINS), ".airflowignore")]

    assert str(PLUGINS / "evergreen_plugin.py") in executed
    assert [path for path in executed if path.endswith(".py")] == [
        str(PLUGINS / "evergreen_plugin.py")
    ]
