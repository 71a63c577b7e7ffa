"""The values for Airflow's chart fit this image, these settings and this Airflow."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen.settings import DATABASES, PROJECT_ROOT

VALUES = PROJECT_ROOT / "helm" / "values.yaml"


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return yaml.safe_load(VALUES.read_text())


@pytest.fixture(scope="module")
def plain(values: dict[str, Any]) -> dict[str, str]:
    found = {entry["name"]: entry["value"] for entry in values["env"]}
    assert len(found) == len(values["env"])
    assert all(isinstance(value, str) for value in found.values())
    return found


def in_the_secret() -> set[str]:
    """Variables that the head of the file asks for."""
    head = VALUES.read_text().partition("executor:")[0].partition("holds,")[2]
    return set(re.findall(r"\b(?:AIRFLOW__|EVERGREEN_|AWS_)\w+", head))


def test_every_variable_is_a_setting(plain: dict[str, str]) -> None:
    known = (PROJECT_ROOT / "docs" / "settings.md").read_text()
    ours = [name for name in {*plain, *in_the_secret()} if not name.startswith("AIRFLOW__")]
    others = {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GX_ANALYTICS_ENABLED"}
    others |= {"MLFLOW_DISABLE_TELEMETRY", "GIT_PYTHON_REFRESH"}
    assert [name for name in ours if f"`{name}`" not in known and name not in others] == []
    compose = (PROJECT_ROOT / "docker-compose.yaml").read_text()
    assert all(f"{name}: " in compose for name in others)


def test_what_is_secret_is_in_the_secret_alone(
    values: dict[str, Any], plain: dict[str, str]
) -> None:
    wanted = {f"EVERGREEN_{name.upper()}_URL" for name in DATABASES}
    assert wanted <= in_the_secret()
    assert not in_the_secret() & plain.keys()
    (source,) = yaml.safe_load(values["extraEnvFrom"])
    assert source == {"secretRef": {"name": "evergreen"}}
    # The chart's own Secrets would win over it.
    switched = values["enableBuiltInSecretEnvVars"]
    assert {name for name in in_the_secret() if name.startswith("AIRFLOW__")} <= switched.keys()
    assert not any(switched.values())
    assert values["webserver"]["defaultUser"] == {"enabled": False}


def test_pods_share_no_volume(values: dict[str, Any], plain: dict[str, str]) -> None:
    for name in ("WAREHOUSE", "ARTIFACTS", "STAGING", "QUALITY", "REPORTS"):
        assert plain[f"EVERGREEN_{name}"].startswith("s3://")
    assert values["config"]["logging"]["remote_base_log_folder"].startswith("s3://")
    # The chart's defaults have a volume for each of these.
    for part in ("workers", "triggerer", "logs", "dags"):
        assert values[part]["persistence"] == {"enabled": False}
    for part in ("postgresql", "redis"):
        assert values[part] == {"enabled": False}
    assert not {"volumes", "volumeMounts"} & values.keys()


def test_dags_and_plugins_are_those_of_the_image(values: dict[str, Any]) -> None:
    dockerfile = (PROJECT_ROOT / "Dockerfile").read_text()
    assert "WORKDIR /app\n" in dockerfile and "COPY . .\n" in dockerfile
    for name in ("dags", "plugins"):
        assert values["config"]["core"][f"{name}_folder"] == f"/app/{name}"
        assert (PROJECT_ROOT / name).is_dir()
    assert f"--uid {values['uid']} " in dockerfile
    assert f"AIRFLOW_HOME={values['airflowHome']}\n" in dockerfile


def test_options_are_those_of_this_airflow(values: dict[str, Any]) -> None:
    locked = re.search(
        r"^apache-airflow==(\S+)", (PROJECT_ROOT / "requirements.txt").read_text(), re.M
    )
    assert locked and values["airflowVersion"] == locked[1]
    spec = importlib.util.find_spec("airflow.config_templates")
    assert spec and spec.submodule_search_locations
    template = Path(next(iter(spec.submodule_search_locations))) / "config.yml"
    known = yaml.safe_load(template.read_text())
    for section, options in values["config"].items():
        assert options.keys() <= known[section]["options"].keys(), section
        assert all(isinstance(value, str) for value in options.values())


def test_a_task_has_room_for_what_it_may_use(values: dict[str, Any], plain: dict[str, str]) -> None:
    limits = values["workers"]["resources"]["limits"]
    assert int(limits["cpu"]) >= int(plain["EVERGREEN_THREADS"])
    assert float(limits["memory"].removesuffix("Gi")) * 1024 > 2 * int(plain["EVERGREEN_MEMORY_MB"])
    spill = int(plain["EVERGREEN_SPILL_MB"]) / 1000
    assert float(limits["ephemeral-storage"].removesuffix("Gi")) > spill
