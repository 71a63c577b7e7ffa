"""What GitHub is told to run, and what a release says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen.settings import PROJECT_ROOT

WORKFLOWS = sorted((PROJECT_ROOT / ".github" / "workflows").glob("*.yaml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))


def load(path: Path) -> dict[str, Any]:
    # YAML 1.1 takes the key `on` for true.
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return {("on" if key is True else key): value for key, value in found.items()}


def commands(job: dict[str, Any]) -> list[str]:
    """What a job runs, once per combination of its matrix."""
    lines = [step["run"] for step in job["steps"] if "run" in step]
    made = []
    for combination in job.get("strategy", {}).get("matrix", {}).get("include", [{}]):
        for line in lines:
            made.append(
                re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda m, c=combination: str(c[m[1]]), line)
            )
    return made


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_job_runs_make_targets_that_exist(path: Path) -> None:
    jobs = load(path)["jobs"]
    assert jobs
    for name, job in jobs.items():
        targets = [
            word
            for line in commands(job)
            for told in re.findall(r"\bmake ([^\n>|]*)", line)
            for word in told.split()
            if not word.startswith("-") and "=" not in word
        ]
        assert targets, name
        assert set(targets) <= TARGETS, name
        combinations = job.get("strategy", {}).get("matrix", {}).get("include", [{}])
        minutes = [one.get("minutes", job["timeout-minutes"]) for one in combinations]
        assert max(minutes) <= 180, name


def test_all_that_must_hold_is_checked() -> None:
    run = {c for path in WORKFLOWS for job in load(path)["jobs"].values() for c in commands(job)}
    for target in ("check", "test", "test-slow", "test-faults", "audit", "image"):
        assert f"make {target}" in run


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_may_do_little(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if used := step.get("uses"):
                assert re.fullmatch(r"actions/[a-z-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})", used), used
            # Text from outside reaches no shell as a part of the script.
            assert "${{" not in re.sub(r"\$\{\{ matrix\.\w+ \}\}", "", step.get("run", ""))
    if "pull_request" in workflow["on"]:
        assert all("permissions" not in job for job in workflow["jobs"].values())


# --- releases ------------------------------------------------------------------------------------


def _notes() -> Any:
    spec = importlib.util.spec_from_file_location("notes", PROJECT_ROOT / ".ci" / "notes.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_changelog_knows_the_version_or_what_is_not_released() -> None:
    notes = _notes()
    found = notes.sections()
    assert found.keys() & {notes.declared_version(), "Unreleased"}
    assert all(found.values())


def test_a_release_says_what_the_changelog_says(tmp_path: Path) -> None:
    notes = _notes()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n### Added\n- B.\n\n"
        "## [0.1.0]\n### Added\n- A.\n"
    )
    assert notes.notes("0.2.0", tmp_path) == "### Added\n- B.\n"
    with pytest.raises(SystemExit, match=r"is of version 0\.2\.0; expected 0\.1\.0"):
        notes.notes("0.1.0", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n### Added\n- B.\n")
    with pytest.raises(SystemExit, match=r"says nothing of 0\.2\.0"):
        notes.notes("0.2.0", tmp_path)
