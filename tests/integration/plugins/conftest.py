"""The plugin, executed as Airflow's plugin manager executes it, and the application it mounts."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from evergreen.settings import PROJECT_ROOT

# Airflow reads its environment when it is first imported, and other rooms may have set it already.
if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="evergreen-plugins-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"

PLUGINS = PROJECT_ROOT / "plugins"
# Airflow puts its plugin folder there.
sys.path.append(str(PLUGINS))

Login = Callable[[str | None], Any]


@pytest.fixture(scope="session")
def plugin() -> ModuleType:
    path = PLUGINS / "evergreen_plugin.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def airflow_tables() -> Any:
    """Airflow's own database, empty; returns a factory of its sessions."""
    import airflow.models as models
    from airflow import settings
    from airflow.models.base import Base
    from airflow.utils.session import create_session

    models.import_all_models()
    Base.metadata.create_all(settings.engine)
    return create_session


@pytest.fixture
def app(airflow_tables: Any) -> Any:
    from evergreen_ui.app import build_app

    return build_app()


@pytest.fixture
def stranger(app: Any) -> Any:
    """A browser without token or cookie, at the application where Airflow mounts it."""
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    airflow = FastAPI()
    airflow.mount("/evergreen", app)
    return TestClient(airflow, raise_server_exceptions=False)


@pytest.fixture
def login(app: Any, stranger: Any) -> Iterator[Login]:
    """Log a browser in as a user of Airflow's simple auth manager with that role."""
    from airflow.api_fastapi.app import create_auth_manager, purge_cached_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.security import get_user

    def as_role(role: str | None) -> Any:
        app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(
            username="ada", role=role
        )
        return stranger

    create_auth_manager()
    yield as_role
    purge_cached_app()
