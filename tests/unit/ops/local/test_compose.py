"""The compose file, checked without a container engine.

`compose-spec.json` is the schema of the Compose Specification, as published in the repository
compose-spec/compose-spec under the Apache License 2.0.
"""

import base64
import configparser
import json
import os
import re
import runpy
import shlex
import shutil
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
FILLED = {name: "not-a-secret" for name, kind, _ in VARIABLES if kind == "?"}


def _values(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def _example() -> dict[str, str]:
    return _values(EXAMPLE)


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
        "serving",
    }


def test_compose_example_and_tests_name_the_same_variables(tmp_path):
    check = [sys.executable, str(PROJECT_ROOT / ".ci" / "variables.py")]

    def said(project: Path) -> str:
        done = subprocess.run([*check, str(project)], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is (done.stderr == "")
        return done.stderr

    assert said(PROJECT_ROOT) == ""
    assert {name for name, _, _ in VARIABLES} == set(_example())

    # What it would say: each of them is in one place only.
    for name in ("docker-compose.yaml", ".env.example"):
        shutil.copy(PROJECT_ROOT / name, tmp_path)
    with (tmp_path / ".env.example").open("a") as example:
        example.write("FORGOTTEN=1\n")
    text = (tmp_path / ".env.example").read_text()
    text = text.replace("REDIS_PASSWORD=", "REDIS_PASSWORD=redis").replace("MLFLOW_PORT=5000\n", "")
    (tmp_path / ".env.example").write_text(text.replace("AIRFLOW_PORT=8080", "AIRFLOW_PORT="))
    (tmp_path / "tests").mkdir()
    test = 'import compose_file\nSECRETS["' + 'POSTGRES_SECRET"]\n'
    (tmp_path / "tests" / "test_stack.py").write_text(test)
    assert [line.strip() for line in said(tmp_path).splitlines()[1:]] == [
        "AIRFLOW_PORT is no secret and has no value in .env.example",
        "FORGOTTEN is in .env.example and not in docker-compose.yaml",
        "MLFLOW_PORT is in docker-compose.yaml and not in .env.example",
        "POSTGRES_SECRET is in test_stack.py and not in docker-compose.yaml",
        "REDIS_PASSWORD is a secret and has a value in .env.example",
    ]


def test_secrets_have_no_default_anywhere():
    example = _example()
    required = {name for name, kind, _ in VARIABLES if kind == "?"}
    assert {name for name in example if re.search("PASSWORD|KEY|SECRET", name)} == required
    assert [name for name in required if example[name]] == []
    assert [name for name, kind, _ in VARIABLES if name in required and kind != "?"] == []
    assert {kind for _, kind, _ in VARIABLES} == {"?", "-"}, "an unset variable would be empty"
    for name in required:
        assert re.search(rf"^# openssl rand .*\n{name}=$", EXAMPLE, re.MULTILINE), name


def test_a_written_env_has_new_secrets_and_is_never_overwritten(tmp_path):
    for name in ("Makefile", ".env.example"):
        shutil.copy(PROJECT_ROOT / name, tmp_path)
    command = ["make", "-C", str(tmp_path), "--no-print-directory", "env"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}

    subprocess.run(command, check=True, env=environment, capture_output=True)
    path = tmp_path / ".env"
    written = _values(path.read_text())
    again = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)

    assert path.stat().st_mode & 0o077 == 0
    secrets = {name: written[name] for name, kind, _ in VARIABLES if kind == "?"}
    assert len(set(secrets.values())) == len(secrets)
    assert len(base64.urlsafe_b64decode(secrets.pop("AIRFLOW_FERNET_KEY"))) == 32
    # They become part of URLs.
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in secrets.values())
    # Everything else is as the example says.
    assert {k: v for k, v in written.items() if v != _example()[k]}.keys() == {
        name for name, kind, _ in VARIABLES if kind == "?"
    }
    assert again.returncode != 0
    assert "is there already" in again.stderr
    assert _values(path.read_text()) == written


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


# The whole of what each service is given of what is secret.
_MODELS = {"FEAST_DB_PASSWORD", "LEDGER_DB_PASSWORD", "MLFLOW_PASSWORD"}
_LAKE = {"CATALOG_DB_PASSWORD", *_MODELS}
_QUEUE = {"REDIS_PASSWORD", "CELERY_DB_PASSWORD"}
_METADATA = {"AIRFLOW_DB_PASSWORD"}
_USERS = {name for name, _, _ in VARIABLES if name.endswith("_DB_PASSWORD")}
SECRETS = {
    "postgres": {"POSTGRES_PASSWORD", *_USERS},
    "redis": {"REDIS_PASSWORD"},
    "mlflow": {"MLFLOW_DB_PASSWORD", "MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY"},
    "airflow-init": _METADATA | _LAKE | {"MLFLOW_DB_PASSWORD", "AIRFLOW_ADMIN_PASSWORD"},
    "airflow-apiserver": _METADATA
    | _LAKE
    | {"AIRFLOW_FERNET_KEY", "AIRFLOW_API_SECRET_KEY", "AIRFLOW_JWT_SECRET"},
    "airflow-scheduler": _METADATA | _QUEUE | {"AIRFLOW_FERNET_KEY", "AIRFLOW_JWT_SECRET"},
    "airflow-dag-processor": _METADATA,
    "airflow-triggerer": _METADATA | {"AIRFLOW_FERNET_KEY"},
    "airflow-worker": _QUEUE | _LAKE | {"BACKUP_DB_PASSWORD"},
    "serving": _MODELS | {"CATALOG_DB_PASSWORD", "SERVING_SECRET"},
}
# Files of a deployment that hold what use cases and an object store need.
FILES = {
    "mlflow": ["store.env"],
    "airflow-init": ["store.env"],
    "airflow-apiserver": ["store.env"],
    "airflow-triggerer": ["tasks.env"],
    "airflow-worker": ["store.env", "tasks.env"],
    "serving": ["store.env"],
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_the_secrets_that_it_needs_and_no_other(name):
    service = SERVICES[name]
    configs = [COMPOSE["configs"][config["source"]] for config in service.get("configs", [])]
    given = compose_file.VARIABLE.findall(json.dumps([service, configs]))
    assert {variable for variable, kind, _ in given if kind == "?"} == SECRETS[name]
    files = service.get("env_file", [])
    assert [file["path"] for file in files] == FILES.get(name, [])
    # Who has none of it need not make the file.
    assert not [file for file in files if file["required"]]


def test_the_page_on_access_has_the_same_table():
    page = (PROJECT_ROOT / "docs" / "access.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", page, re.MULTILINE))
    told = {name: set(re.findall(r"`([A-Z_]+)`", secrets)) for name, secrets in rows.items()}
    # It does not name all of the passwords of users.
    assert told == {**SECRETS, "postgres": {"POSTGRES_PASSWORD"}}


def test_workers_do_not_know_the_database_of_airflow():
    worker = SERVICES["airflow-worker"]["environment"]
    assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in worker
    for database in ("airflow", "mlflow"):
        url = compose_file.VARIABLE.sub("x", worker[f"EVERGREEN_{database.upper()}_URL"])
        assert (urlsplit(url).username, urlsplit(url).path) == ("backup", f"/{database}")


def test_every_secret_is_given_once_and_for_all():
    """Services that have a variable in common have the same value in it."""
    seen = {}
    for name in AIRFLOW:
        for variable, value in SERVICES[name]["environment"].items():
            if "backup:" not in str(value):
                assert seen.setdefault(variable, value) == value, (name, variable)
    assert {SERVICES[name]["image"] for name in (*AIRFLOW, "mlflow")} == {"evergreen:local"}
    assert len(AIRFLOW) == 6
    assert (
        seen["MLFLOW_TRACKING_PASSWORD"]
        == (SERVICES["mlflow"]["environment"]["MLFLOW_AUTH_ADMIN_PASSWORD"])
    )
    assert (
        seen["MLFLOW_TRACKING_USERNAME"]
        == (SERVICES["mlflow"]["environment"]["MLFLOW_AUTH_ADMIN_USERNAME"])
    )


def test_databases_are_made_as_the_settings_name_them():
    made = re.findall(r"CREATE DATABASE (\w+) OWNER (\w+);", _databases())
    owners = dict(made)
    assert set(owners) == {*DATABASES, "celery", "mlflow_auth"}
    assert {name: owner for name, owner in made if name != owner} == {"mlflow_auth": "mlflow"}
    init = SERVICES["airflow-init"]["environment"]
    for database in DATABASES:
        url = urlsplit(compose_file.VARIABLE.sub("x", init[f"EVERGREEN_{database.upper()}_URL"]))
        assert (url.username, url.path) == (owners[database], f"/{database}")
    assert init["EVERGREEN_AIRFLOW_URL"] == init["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]


def _databases():
    return COMPOSE["configs"]["databases"]["content"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_privilege_and_limits(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    # Compose copies a config that is written in its file into the container, which it cannot there.
    assert service["read_only"] is ("configs" not in service)
    assert service["pids_limit"] <= 2048
    [(variable, kind, default)] = compose_file.VARIABLE.findall(service["mem_limit"])
    assert (kind, variable.endswith("_MEMORY")) == ("-", True)
    assert re.fullmatch(r"\d+[mg]", default)
    # The image of ours names its user; the others would start as root.
    assert ("user" in service) == (service["image"] != "evergreen:local")


def test_a_worker_has_the_memory_of_the_steps_that_it_runs_at_once():
    example = _example()
    steps = int(example["WORKER_CONCURRENCY"]) * int(example["EVERGREEN_MEMORY_MB"])
    assert int(example["WORKER_MEMORY"].removesuffix("g")) * 1000 >= 2 * steps


def test_ports_are_published_on_loopback_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_airflow_options_exist_in_the_installed_version():
    # Read, not imported: importing Airflow writes a configuration into the user's home.
    [package] = find_spec("airflow").submodule_search_locations
    known = yaml.safe_load((Path(package) / "config_templates" / "config.yml").read_text())
    provider = runpy.run_path(str(Path(package) / "providers" / "celery" / "get_provider_info.py"))
    known |= provider["get_provider_info"]()["config"]
    stated = {variable for name in AIRFLOW for variable in SERVICES[name]["environment"]}
    for variable in stated:
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
    filled = compose_file.load(FILLED)["services"]["airflow-worker"]
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
    assert commands == [
        ["airflow", "db"],
        ["python", "/app/plugins/evergreen_roles.py"],
        ["evergreen", "init"],
    ]
    for name in ("redis", "mlflow"):
        [_, flag, script, *_] = SERVICES[name].get("entrypoint") or SERVICES[name]["command"]
        assert flag == "-c"
        subprocess.run(["sh", "-n", "-c", script.replace("$$", "$")], check=True)


def test_mlflow_asks_for_a_login_and_sees_no_source_file():
    service = SERVICES["mlflow"]
    assert "--app-name=basic-auth" in service["command"]
    assert service["entrypoint"][:2] == ["sh", "-c"]
    assert "evergreen.training.tracking.login" in service["entrypoint"][2]
    login = configparser.ConfigParser()
    login.read_string(compose_file.load(FILLED)["configs"]["mlflow-login"]["content"])
    assert login["mlflow"]["admin_username"] == service["environment"]["MLFLOW_AUTH_ADMIN_USERNAME"]
    # It is in the environment, where a new one is found.
    assert "admin_password" not in login["mlflow"]
    assert urlsplit(login["mlflow"]["database_uri"]).path == "/mlflow_auth"
    assert service["volumes"] == ["data:/data"]


@pytest.mark.parametrize("ignores", [".gitignore", ".dockerignore"])
def test_source_files_stay_out_of_repository_and_image(ignores):
    [default] = [value for name, _, value in VARIABLES if name == "SOURCES_DIR"]
    entries = (PROJECT_ROOT / ignores).read_text().splitlines()
    assert default.removeprefix("./") in {entry.strip("/") for entry in entries}


@pytest.mark.parametrize("entry", [".env", "*.env", ".git", ".venv", ".evergreen", "tests"])
def test_image_leaves_secrets_and_data_out(entry):
    assert entry in (PROJECT_ROOT / ".dockerignore").read_text().splitlines()


def test_image_runs_as_an_ordinary_user_from_the_lock():
    lines = (PROJECT_ROOT / "Dockerfile").read_text().splitlines()
    assert lines.index("USER evergreen") > max(
        number for number, line in enumerate(lines) if line.startswith(("RUN", "COPY"))
    )
    assert "STOPSIGNAL SIGINT" in lines
    assert any("--require-hashes requirements-image.txt" in line for line in lines)
    # What installs stays behind.
    _, build, final = re.split("^FROM ", "\n".join(lines), flags=re.MULTILINE)
    assert "uv pip" in build
    assert "uv" not in re.findall(r"[a-z]+", final)
    assert "pip uninstall --yes --quiet setuptools wheel pip" in final


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-image.txt"])
def test_every_locked_package_has_hashes(name):
    lock = (PROJECT_ROOT / name).read_text()
    packages = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert len(packages) == len(re.findall("==", lock)) > 200
    assert [package for package in packages if "--hash=sha256:" not in package] == []


def test_the_image_has_of_the_lock_what_runs_and_nothing_of_development():
    whole, image = _locked("requirements.txt"), _locked("requirements-image.txt")
    assert image.items() < whole.items()
    development = _named("requirements-dev.in")
    assert {"pytest", "ruff", "mypy", "hypothesis", "bandit"} <= development <= set(whole)
    assert development & set(image) == {"jsonschema"}, "Airflow reads parameters with that one"
    assert _named("requirements.in") <= set(image)
    assert {"uv", "pip", "setuptools"} & set(image) == set()


def _locked(name):
    lock = (PROJECT_ROOT / name).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", lock, re.MULTILINE))


def _named(name):
    lines = (PROJECT_ROOT / name).read_text().splitlines()
    return {re.match(r"[a-z0-9-]+", line)[0] for line in lines if re.match(r"[a-z]", line)}
