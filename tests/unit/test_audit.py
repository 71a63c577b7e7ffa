"""The audit of what is locked finds what there is, with and without a network."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from evergreen.settings import PROJECT_ROOT

AUDIT = PROJECT_ROOT / ".ci" / "audit.py"
PIN = PROJECT_ROOT / ".ci" / "pin.py"
BIN = Path(sys.executable).parent
DIGEST = "sha256:" + "5f" * 32


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The script's own names; its stored answers are made up, and a day old."""
    names = runpy.run_path(str(AUDIT))
    stored = {
        "source": "a test",
        "taken_on": "2026-05-01",
        "advisories": {
            "requests": [
                {
                    "id": "PYSEC-1",
                    "aliases": ["CVE-1"],
                    "summary": "It leaks.",
                    "affected": [{"ranges": [[{"introduced": "2"}, {"fixed": "2.32.0"}]]}],
                }
            ]
        },
    }
    (tmp_path / "advisories.json").write_text(json.dumps(stored))
    (tmp_path / "audit.toml").write_text("max_age_days = 30\n")
    found = names["audit_vulnerabilities"].__globals__
    monkeypatch.setitem(found, "STORED", tmp_path / "advisories.json")
    monkeypatch.setitem(found, "HERE", tmp_path)
    return found


def lock(folder: Path, *pinned: str) -> Path:
    path = folder / "lock.txt"
    path.write_text("".join(f"{one} \\\n    --hash=sha256:{'0' * 64}\n" for one in pinned))
    return path


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.9", False), ("2", True), ("2.9.1", True), ("2.31.9", True), ("2.32.0", False)],
)
def test_a_version_is_affected_from_the_one_on_that_brought_it_until_it_was_mended(
    audit: dict[str, Any], version: str, expected: bool
) -> None:
    advisory = {"affected": [{"ranges": [[{"introduced": "2"}, {"fixed": "2.32.0"}]]}]}
    assert audit["affects"](advisory, version) is expected


def test_other_ways_to_say_which_versions_are_affected(audit: dict[str, Any]) -> None:
    twice = [{"introduced": "0"}, {"fixed": "1"}, {"introduced": "3"}]
    assert [
        audit["affects"]({"affected": [{"ranges": [twice]}]}, v) for v in ("0.5", "2", "4")
    ] == [
        True,
        False,
        True,
    ]
    last = [{"introduced": "0"}, {"last_affected": "1.5"}]
    assert [audit["affects"]({"affected": [{"ranges": [last]}]}, v) for v in ("1.5", "1.6")] == [
        True,
        False,
    ]
    named = {"affected": [{"ranges": [], "versions": ["1.0"]}]}
    assert [audit["affects"](named, v) for v in ("1.0", "1.1")] == [True, False]


def test_what_is_vulnerable_fails_without_a_network(
    audit: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    today = date(2026, 5, 2)
    check = audit["audit_vulnerabilities"]

    assert not check(lock(tmp_path, "requests==2.31.0"), today, reachable=False)
    said = capfd.readouterr().out
    assert "PYSEC-1" in said
    assert "2.32.0" in said
    assert "1 days ago" in said
    assert "WARNING" not in said

    assert check(lock(tmp_path, "requests==2.32.0", "idna==3.1"), today, reachable=False)


def test_old_answers_are_used_with_a_warning(
    audit: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    locked = lock(tmp_path, "requests==2.32.0")

    assert audit["audit_vulnerabilities"](locked, date(2026, 6, 1), reachable=False)

    assert "WARNING: that is more than 30 days" in capfd.readouterr().out


def test_what_is_ignored_is_so_until_its_day(audit: dict[str, Any], tmp_path: Path) -> None:
    entry = '[[ignored]]\nid = "PYSEC-1"\nreason = "We do not."\nuntil = 2026-05-10\n'
    (tmp_path / "audit.toml").write_text(f"max_age_days = 30\n{entry}")
    locked = lock(tmp_path, "requests==2.31.0")

    assert audit["audit_vulnerabilities"](locked, date(2026, 5, 10), reachable=False)
    assert not audit["audit_vulnerabilities"](locked, date(2026, 5, 11), reachable=False)

    (tmp_path / "audit.toml").write_text('[[ignored]]\nid = "PYSEC-1"\n')
    with pytest.raises(SystemExit, match="needs id, reason and until"):
        audit["ignored"](date(2026, 5, 1))


def test_what_is_stored_is_of_what_is_locked(audit: dict[str, Any]) -> None:
    stored = json.loads((PROJECT_ROOT / ".ci" / "advisories.json").read_text())
    assert len(stored["advisories"]) > 20
    date.fromisoformat(stored["taken_on"])
    # Others were dropped from the lock since, or are new: some are always known.
    assert {"requests", "mlflow", "jinja2"} <= set(stored["advisories"])


def test_a_licence_that_is_not_allowed_fails(audit: dict[str, Any], tmp_path: Path) -> None:
    """By the list of pyproject.toml, on a package that is put beside the others."""
    for name, licence in (("closed", "GPL-3.0-only"), ("silent", ""), ("open", "MIT")):
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        said = f"License: {licence}\n" if licence else ""
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{said}")

    def check(name: str) -> int:
        return subprocess.run(
            [str(BIN / "pip-licenses"), "--python", str(BIN / "python"), "--packages", name],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=PROJECT_ROOT,
            capture_output=True,
            check=False,
        ).returncode

    assert [check(name) for name in ("open", "closed", "silent")] == [0, 1, 1]


def test_the_bill_of_materials_names_what_the_image_installs(
    audit: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(audit, "BUILD", tmp_path)

    assert audit["write_bill_of_materials"]()

    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    named = {part["name"]: part["version"] for part in bill["components"]}
    assert named == audit["locked"](PROJECT_ROOT / "requirements-image.txt")


# --- images --------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The files that name images, and a `docker` that says digests."""
    for name in ("Dockerfile", "docker-compose.yaml"):
        (tmp_path / name).write_text((PROJECT_ROOT / name).read_text())
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$4" = postgres:0 ] && exit 1\necho {DIGEST}\n')
    docker.chmod(0o755)
    return tmp_path


def pin(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PIN), *arguments],
        env={**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_images_are_pinned_by_what_the_registry_says(images: Path) -> None:
    done = pin(images)

    assert done.returncode == 0, done.stderr
    compose, dockerfile = ((images / n).read_text() for n in ("docker-compose.yaml", "Dockerfile"))
    assert f"    image: postgres:18@{DIGEST}\n" in compose
    assert "  image: evergreen:local\n" in compose
    assert dockerfile.count(f"FROM python:3.11-slim-bookworm@{DIGEST}") == 2
    assert f"FROM python:3.11-slim-bookworm@{DIGEST} AS build\n" in dockerfile
    assert pin(images, "--check").returncode == 0
    # Again: the digests of then.
    (images / "bin" / "docker").write_text(f"#!/bin/sh\necho {DIGEST.replace('5f', '6a')}\n")
    assert pin(images).returncode == 0
    assert DIGEST not in (images / "docker-compose.yaml").read_text()


def test_what_is_not_pinned_is_named(images: Path) -> None:
    compose = images / "docker-compose.yaml"
    pin(images)
    compose.write_text(compose.read_text().replace(f"redis:7.2-bookworm@{DIGEST}", "redis:7@x"))

    done = pin(images, "--check")

    assert done.returncode != 0
    assert "Not pinned by a digest: docker-compose.yaml: redis:7." in done.stderr


def test_a_registry_that_does_not_answer_changes_nothing(images: Path) -> None:
    compose = images / "docker-compose.yaml"
    compose.write_text(compose.read_text().replace("postgres:18", "postgres:0"))
    before = compose.read_text()

    done = pin(images)

    assert done.returncode != 0
    assert "The registry gives no digest for postgres:0" in done.stderr
    assert compose.read_text() == before
