import os
import re
import subprocess

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
    assert {"demo", "up", "down", "status"} <= called
    assert called <= set(cli.commands)


def test_recipes_use_the_project_environment_only():
    recipes = [line for line in MAKEFILE.splitlines() if line.startswith("\t")]
    tools = "pip|uv|python|pytest|ruff|mypy|evergreen|airflow"
    # A tool at the place of a command: at the start, or after ; && | and the like.
    bare = [line for line in recipes if re.search(rf"(^\t@?|[;&|] *)({tools})\b", line)]
    assert bare == []


def test_without_python_311_the_message_says_what_to_do(tmp_path):
    # A directory of its own: the real one is set up already.
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((PROJECT_ROOT / name).read_bytes())
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("python3.11", "python3", "python"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n")
        (tools / name).chmod(0o755)
    answer = _make("-C", str(tmp_path), "setup", PATH=f"{tools}:{os.environ['PATH']}")
    assert answer.returncode != 0
    assert "Python 3.11 is needed" in answer.stderr
    assert "make setup PYTHON=" in answer.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("tool", ["ruff check", "ruff format", "mypy"])
def test_pre_commit_runs_the_tools_of_check(tool):
    assert f"entry: .venv/bin/{tool}" in (PROJECT_ROOT / ".pre-commit-config.yaml").read_text()
    assert f"$(BIN)/{tool}" in MAKEFILE


def test_gate_runs_checks_and_tests_without_standard_input():
    gate = PROJECT_ROOT / ".ci" / "run"
    assert os.access(gate, os.X_OK)
    text = gate.read_text()
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("exec make check test-faults test </dev/null")


def test_licence_is_complete():
    text = (PROJECT_ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "APPENDIX" in text
