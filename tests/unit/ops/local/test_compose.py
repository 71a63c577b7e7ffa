"""The compose file, checked without a container engine.

`compose-spec.json` is the schema of the Compose Specification, as published in the repository
compose-spec/compose-spec under the Apache License 2.0.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

import compose_file
from compose_file import TEXT
from evergreen.settings import DATABASES, PROJECT_ROOT

COMPOSE = compose_file.load()
SERVICES = COMPOSE["services"]
AIRFLOW = [name for name in SERVICES if name.startswith("airflow-")]
EXAMPLE = (PROJECT_ROOT / ".env.example").read_text()
VARIABLES = compose_file.VARIABLE.findall(TEXT)


def _example() -> dict[str, str]:
    lines = [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_is_valid_by_the_compose_schema():
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(COMPOSE)] == []
    broken = {**COMPOSE, "services": {"x": {"imagee": "y"}}}
    assert list(validator.iter_errors(broken)), "the schema must be able to object"


def test_has_every_service():
    assert set(SERVICES) == {
        "postgres",
        "redis",
        "mlflow",
        "airflow-init",
        "airflow-apiserver",
        "airflow-scheduler",
        "airflow-dag-processor",
        "airflow-triggerer",
        "airflow-worker",
    }


def test_every_variable_is_explained_in_the_example_and_every_example_is_used():
    used = {name for name, _, _ in VARIABLES}
    assert used == set(_example())


def test_secrets_have_no_default_anywhere():
    example = _example()
    required = {name for name, kind, _ in VARIABLES if kind == "?"}
    assert {name for name in example if re.search("PASSWORD|KEY|SECRET", name)} == required
    assert [name for name in required if example[name]] == []
    assert [name for name, kind, _ in VARIABLES if name in required and kind != "?"] == []
    assert {kind for _, kind, _ in VARIABLES} == {"?", "-"}, "an unset variable would be empty"
    for name in required:
        assert re.search(rf"^# openssl rand .*\n{name}=$", EXAMPLE, re.MULTILINE), name


def test_no_literal_password_in_any_value():
    def values(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if isinstance(value, str) and re.search("PASSWORD|SECRET|FERNET|AUTH$", key):
                    assert value.startswith("${"), key
                yield from values(value)
        elif isinstance(node, list):
            for value in node:
                yield from values(value)
        else:
            yield str(node)

    urls = [value for value in values(SERVICES) if "://" in value and "@" in value]
    assert len(urls) > 10
    for url in urls:
        bare = re.sub(r"\$\{[^}]*\}", "VARIABLE", url)
        assert urlsplit(bare.removeprefix("db+")).password == "VARIABLE", url


def test_dependencies_exist_and_conditions_can_be_met():
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, (name, needed)
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed], (name, needed)
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[needed]["restart"] == "no"


def test_every_lasting_service_has_a_health_check_and_named_volumes_exist():
    for name, service in SERVICES.items():
        assert ("healthcheck" in service) == (name != "airflow-init"), name
        for volume in service.get("volumes", []):
            source = volume.split(":", 1)[0]
            assert source in COMPOSE["volumes"] or source.startswith("${SOURCES_DIR"), name


def test_airflow_services_share_secrets_urls_and_image():
    shared = [SERVICES[name] for name in AIRFLOW]
    assert len(shared) == 6
    assert {service["image"] for service in shared} == {"evergreen:local"}
    for variable in (
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__API__SECRET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "AIRFLOW__API_AUTH__JWT_ISSUER",
        "AIRFLOW__CELERY__BROKER_URL",
        "EVERGREEN_TRACKING_URL",
        *(f"EVERGREEN_{database.upper()}_URL" for database in DATABASES),
    ):
        assert len({service["environment"][variable] for service in shared}) == 1, variable


def test_databases_are_made_as_the_settings_name_them():
    made = re.findall(r"CREATE DATABASE (\w+);", COMPOSE["configs"]["databases"]["content"])
    assert tuple(made) == DATABASES
    environment = SERVICES["airflow-worker"]["environment"]
    for database in DATABASES:
        assert environment[f"EVERGREEN_{database.upper()}_URL"].endswith(f"@postgres/{database}")
    assert (
        environment["EVERGREEN_AIRFLOW_URL"] == environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    )


def test_ports_are_published_on_loopback_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_airflow_options_exist_in_the_installed_version():
    # Read, not imported: importing Airflow writes a configuration into the user's home.
    [package] = find_spec("airflow").submodule_search_locations
    known = yaml.safe_load((Path(package) / "config_templates" / "config.yml").read_text())
    provider = runpy.run_path(str(Path(package) / "providers" / "celery" / "get_provider_info.py"))
    known |= provider["get_provider_info"]()["config"]
    for variable in SERVICES["airflow-worker"]["environment"]:
        if variable.startswith("AIRFLOW__"):
            _, section, option = variable.lower().split("__")
            assert option in known[section]["options"], variable


# What each Airflow process does first, without a server to talk to.
_IMPORTS = """
import sys
from importlib import import_module
from airflow.configuration import conf
from airflow.executors.executor_loader import ExecutorLoader
from celery.app.backends import by_url
executor = ExecutorLoader.get_default_executor_name().module_path
ExecutorLoader.import_default_executor_cls()
conf.getimport("core", "auth_manager")
module, name = sys.argv[1].rsplit(".", 1)
app = getattr(import_module(module), name)
backend, _ = by_url(app.conf.result_backend, app.loader)
app.loader.import_default_modules()
import_module("celery.bin.worker")
import_module("airflow.providers.celery.cli.celery_command")
print(executor, backend.__module__, app.connection().transport.driver_name)
"""


def test_the_lock_can_import_what_every_process_is_configured_with(tmp_path):
    secrets = {name: "not a secret" for name, kind, _ in VARIABLES if kind == "?"}
    filled = compose_file.load(secrets)["services"]["airflow-worker"]
    [check] = [part for part in filled["healthcheck"]["test"] if "celery --app" in part]
    app = shlex.split(check)[2]
    environment = {**os.environ, **compose_file.environment(filled), "AIRFLOW_HOME": str(tmp_path)}
    environment["AIRFLOW__LOGGING__BASE_LOG_FOLDER"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, app],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == [
        "airflow.providers.celery.executors.celery_executor.CeleryExecutor",
        "celery.backends.database",
        "redis",
    ]


def test_shell_scripts_parse():
    *shell, script = SERVICES["airflow-init"]["command"]
    assert shell == ["bash", "-euc"]
    plain = script.replace("$$", "$")
    subprocess.run(["bash", "-n", "-c", plain], check=True)
    commands = [shlex.split(line)[:2] for line in plain.replace("\\\n", "").splitlines()]
    assert commands == [["airflow", "db"], ["airflow", "users"], ["evergreen", "init"]]


def test_mlflow_gets_no_secret_but_its_database_password_and_no_source_file():
    service = SERVICES["mlflow"]
    assert "env_file" not in service
    assert [name for name in service["environment"] if not name.startswith("MLFLOW_")] == [
        "GIT_PYTHON_REFRESH"
    ]
    secrets = {name for name, kind, _ in VARIABLES if kind == "?"}
    used = set(compose_file.VARIABLE.findall(json.dumps(service)))
    assert {name for name, _, _ in used} & secrets == {"POSTGRES_PASSWORD"}
    assert service["volumes"] == ["data:/data"]
    assert all("env_file" in SERVICES[name] for name in AIRFLOW)


@pytest.mark.parametrize("ignores", [".gitignore", ".dockerignore"])
def test_source_files_stay_out_of_repository_and_image(ignores):
    [default] = [value for name, _, value in VARIABLES if name == "SOURCES_DIR"]
    entries = (PROJECT_ROOT / ignores).read_text().splitlines()
    assert default.removeprefix("./") in {entry.strip("/") for entry in entries}


@pytest.mark.parametrize("entry", [".env", ".git", ".venv", ".evergreen"])
def test_image_leaves_secrets_and_data_out(entry):
    assert entry in (PROJECT_ROOT / ".dockerignore").read_text().splitlines()


def test_image_runs_as_an_ordinary_user_from_the_lock():
    lines = (PROJECT_ROOT / "Dockerfile").read_text().splitlines()
    assert lines.index("USER evergreen") > max(
        number for number, line in enumerate(lines) if line.startswith(("RUN", "COPY"))
    )
    assert "STOPSIGNAL SIGINT" in lines
    assert any("--require-hashes requirements.txt" in line for line in lines)


def test_every_locked_package_has_hashes():
    lock = (PROJECT_ROOT / "requirements.txt").read_text()
    packages = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert len(packages) == len(re.findall("==", lock)) > 200
    assert [package for package in packages if "--hash=sha256:" not in package] == []
