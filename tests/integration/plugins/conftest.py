"""The plugin, executed as Airflow's plugin manager executes it."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from types import ModuleType

import pytest

from evergreen.settings import PROJECT_ROOT

# Airflow reads its environment when it is first imported, and other rooms may have set it already.
if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="evergreen-plugins-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"

PLUGINS = PROJECT_ROOT / "plugins"


@pytest.fixture(scope="session")
def plugin() -> ModuleType:
    path = PLUGINS / "evergreen_plugin.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
