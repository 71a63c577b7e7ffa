"""The DAGs, parsed once as the DAG processor parses them; needs no database."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evergreen.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

# Airflow reads its environment when it is first imported.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="evergreen-dags-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(PROJECT_ROOT / "dags")
os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(PROJECT_ROOT / "plugins")
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"

DAGS = PROJECT_ROOT / "dags"


@pytest.fixture(scope="session")
def dag_bag() -> DagBag:
    sys.path.insert(0, str(DAGS))
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(DAGS)


@pytest.fixture
def run_python(tmp_path: Path) -> object:
    """Run code in a fresh interpreter, as a task does, and return what it prints."""

    found = os.pathsep.join([str(DAGS), os.environ.get("PYTHONPATH", "")])

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": found, "AIRFLOW_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
