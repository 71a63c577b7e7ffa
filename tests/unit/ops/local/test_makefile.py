import os
import re
import subprocess
from pathlib import Path

import pytest

from evergreen.settings import PROJECT_ROOT

MAKEFILE = (PROJECT_ROOT / "Makefile").read_text()


def _make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=PROJECT_ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _targets() -> set[str]:
    return set(re.findall(r"^\.PHONY: (\S+)$", MAKEFILE, re.MULTILINE))


def test_help_lists_every_target_with_a_sentence():
    answer = _make("help")
    assert answer.returncode == 0, answer.stderr
    listed = dict(re.findall(r"^  make (\S+) +(\S.*)$", answer.stdout, re.MULTILINE))
    assert set(listed) == _targets()
    assert {"help", "setup", "lock", "check", "test", "demo", "up", "down", "status"} <= set(listed)


def test_help_is_what_a_bare_make_shows():
    assert _make().stdout == _make("help").stdout


def test_every_command_a_target_calls_exists():
    from evergreen.cli import cli

    called = set(re.findall(r"\$\(BIN\)/evergreen (\w+)", MAKEFILE))
    assert {"up", "down", "status"} <= called
    assert called <= set(cli.commands)


def test_recipes_use_the_project_environment_only():
    recipes = [line for line in MAKEFILE.splitlines() if line.startswith("\t")]
    tools = "pip|uv|python|pytest|ruff|mypy|evergreen|airflow"
    # A tool at the place of a command: at the start, or after ; && | and the like.
    bare = [line for line in recipes if re.search(rf"(^\t@?|[;&|] *)({tools})\b", line)]
    assert bare == []


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A directory that is not set up, and `bin`, where programs of this machine are hidden."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((PROJECT_ROOT / name).read_bytes())
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("python3.11", "python3", "python", "uv"):
        _program(tools / name, "exit 1")
    others = [folder for folder in os.get_exec_path() if not Path(folder, "uv").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join([str(tools), *others]))
    return tmp_path


def _program(path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# A Python 3.12 whose pip brings a uv of our own.
_PYTHON_312 = """
case "$*" in
  -c*) echo 3.12 ;;
  --version) echo Python 3.12.1 ;;
  *--target*uv*)
    while [ "$1" != --target ]; do shift; done
    mkdir "$2/bin"
    cp bin/uv-of-pip "$2/bin/uv" ;;
  *) exit 1 ;;
esac
"""


def test_without_any_python_the_message_says_what_to_do(elsewhere):
    answer = _make("-C", str(elsewhere), "setup")
    assert answer.returncode != 0
    assert "Python 3.11 is needed" in answer.stderr
    assert answer.stderr.splitlines()[-2].strip() == "make setup PYTHON=/path/to/python3.11"
    assert not (elsewhere / ".venv").exists()


@pytest.mark.parametrize("reachable", [True, False])
def test_another_python_fetches_python_311_if_it_can(elsewhere, reachable):
    tools = elsewhere / "bin"
    (tools / "uv").unlink()
    _program(tools / "python3", _PYTHON_312)
    fetch = 'case "$*" in *find*) cat have 2>/dev/null ;; *install*) mv fetched have ;; esac'
    _program(tools / "uv-of-pip", fetch)
    _program(tools / "managed", "echo managed: $*; [ $1 = --version ]")
    if reachable:
        (elsewhere / "fetched").write_text(str(tools / "managed"))
    answer = _make("-C", str(elsewhere), "setup")
    assert answer.returncode != 0
    assert "No Python 3.11 here (python3 is Python 3.12.1)" in answer.stderr
    if reachable:
        assert "managed: -m venv .venv" in answer.stdout
        assert "is needed" not in answer.stderr
    else:
        assert answer.stderr.splitlines()[-2].strip() == "make setup PYTHON=/path/to/python3.11"
        assert answer.stdout == ""
    assert not (elsewhere / ".venv").exists()


@pytest.mark.parametrize("tool", ["ruff check", "ruff format", "mypy"])
def test_pre_commit_runs_the_tools_of_check(tool):
    assert f"entry: .venv/bin/{tool}" in (PROJECT_ROOT / ".pre-commit-config.yaml").read_text()
    assert f"$(BIN)/{tool}" in MAKEFILE


def test_gate_runs_checks_and_tests_without_standard_input():
    gate = PROJECT_ROOT / ".ci" / "run"
    assert os.access(gate, os.X_OK)
    text = gate.read_text()
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith(
        "exec make check audit $pins $pages test-airflow test-pages test-faults test-slow test "
        "</dev/null"
    )


def test_licence_is_complete():
    text = (PROJECT_ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "APPENDIX" in text
