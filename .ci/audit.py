"""Audit what is locked: known vulnerabilities, licences, and a bill of materials in build/.

    python .ci/audit.py
    python .ci/audit.py --refresh DIR    # stored advisories, of a clone of pypa/advisory-database

Vulnerabilities are asked of OSV by pip-audit. Where OSV cannot be reached, pip-audit asks a server
on loopback that answers from `advisories.json`, what the Python Packaging Advisory Database had of
our packages on a day; how old that is, is said. What is ignored is in `audit.toml`, with a reason
and until when.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BIN = Path(sys.executable).parent
LOCK, IMAGE_LOCK = ROOT / "requirements.txt", ROOT / "requirements-image.txt"
STORED = HERE / "advisories.json"
BUILD = ROOT / "build"
_OSV = "api.osv.dev"


def locked(lock: Path) -> dict[str, str]:
    """Return the versions that a lock names."""
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))


# --- vulnerabilities -----------------------------------------------------------------------------


def ignored(today: date) -> list[str]:
    """Return the advisories that are ignored on a day: those whose time is not over."""
    entries = tomllib.loads((HERE / "audit.toml").read_text()).get("ignored", [])
    for entry in entries:
        if entry.keys() != {"id", "reason", "until"}:
            raise SystemExit(f"audit.toml: {entry} needs id, reason and until, and nothing else.")
    return [entry["id"] for entry in entries if today <= entry["until"]]


def affects(advisory: dict[str, Any], version: str) -> bool:
    """Return whether a version is among those that an advisory (OSV's format) names."""
    for affected in advisory["affected"]:
        if version in affected.get("versions", []):
            return True
        for events in affected["ranges"]:
            inside = False
            for event in events:
                if "introduced" in event:
                    inside = inside or Version(version) >= Version(event["introduced"])
                elif "fixed" in event:
                    inside = inside and Version(version) < Version(event["fixed"])
                elif "last_affected" in event:
                    inside = inside and Version(version) <= Version(event["last_affected"])
            if inside:
                return True
    return False


def answer(stored: dict[str, Any], query: dict[str, Any]) -> dict[str, Any]:
    """Answer what pip-audit asks of OSV: the advisories of one version of a package."""
    name = query["package"]["name"]
    found = [one for one in stored["advisories"].get(name, []) if affects(one, query["version"])]
    vulns = [
        one
        | {
            "affected": [
                {
                    "package": {"name": name, "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": e} for e in affected["ranges"]],
                }
                for affected in one["affected"]
            ]
        }
        for one in found
    ]
    return {"vulns": vulns} if vulns else {}


@contextmanager
def serving(stored: dict[str, Any]) -> Iterator[str]:
    """Answer like OSV, on loopback, from what is stored; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answer(stored, query)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()


def is_reachable() -> bool:
    """Return whether OSV can be asked."""
    try:
        socket.create_connection((_OSV, 443), timeout=5).close()
    except OSError:
        return False
    return True


def audit_vulnerabilities(lock: Path, today: date, *, reachable: bool) -> bool:
    """Return whether no package of a lock has a known vulnerability that is not ignored."""
    command = [
        *(str(BIN / "pip-audit"), "--requirement", str(lock), "--require-hashes", "--disable-pip"),
        *("--vulnerability-service", "osv", "--progress-spinner", "off", "--desc", "on"),
        *(word for found in ignored(today) for word in ("--ignore-vuln", found)),
    ]
    if reachable:
        return _run(command)
    stored = json.loads(STORED.read_text())
    age = (today - date.fromisoformat(stored["taken_on"])).days
    print(
        f"{_OSV} cannot be reached. Asking what {stored['source']} said on {stored['taken_on']}, "
        f"{age} days ago."
    )
    limit = tomllib.loads((HERE / "audit.toml").read_text())["max_age_days"]
    if age > limit:
        print(
            f"WARNING: that is more than {limit} days; what became known since is not found. Run "
            "this where OSV can be reached, or refresh the stored advisories."
        )
    with serving(stored) as address:
        return _run([*command, "--osv-url", address])


def refresh(database: Path) -> None:
    """Store what a clone of pypa/advisory-database has of the locked packages."""
    last = subprocess.run(
        ["git", "-C", str(database), "log", "-1", "--format=%H %cs"],
        check=True,
        capture_output=True,
        text=True,
    )
    commit, taken_on = last.stdout.split()
    advisories = {}
    for name in locked(LOCK):
        files = sorted((database / "vulns" / name).glob("*.yaml"))
        found = [_shortened(yaml.safe_load(file.read_text())) for file in files]
        if kept := [one for one in found if one is not None]:
            advisories[name] = kept
    stored = {
        "source": "the Python Packaging Advisory Database (CC-BY-4.0)",
        "commit": commit,
        "taken_on": taken_on,
        "advisories": advisories,
    }
    STORED.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    print(f"{sum(map(len, advisories.values()))} advisories of {len(advisories)} packages.")


def _shortened(advisory: dict[str, Any]) -> dict[str, Any] | None:
    """Leave what is needed to answer; None for one that was withdrawn."""
    if "withdrawn" in advisory:
        return None
    kept: dict[str, Any] = {"id": advisory["id"], "aliases": advisory.get("aliases", [])}
    text = advisory.get("summary") or advisory.get("details", "")
    kept["summary"] = " ".join(text.split())[:200]
    kept["affected"] = []
    for affected in advisory["affected"]:
        ranges = [r["events"] for r in affected.get("ranges", []) if r["type"] == "ECOSYSTEM"]
        # Those of ranges are in them.
        named = {} if ranges else {"versions": affected.get("versions", [])}
        kept["affected"].append({"ranges": ranges, **named})
    return kept


# --- licences and bill of materials --------------------------------------------------------------


def audit_licences() -> bool:
    """Return whether every locked package has a licence that pyproject.toml allows."""
    names = sorted(locked(LOCK))
    return _run(
        [
            *(str(BIN / "pip-licenses"), "--python", str(BIN / "python"), "--with-system"),
            *("--format", "csv", "--output-file", str(BUILD / "licences.csv")),
            *("--packages", *names),
        ]
    )


def write_bill_of_materials() -> bool:
    """Write what the image has, in CycloneDX's format; return whether that went well."""
    return _run(
        [
            *(str(BIN / "cyclonedx-py"), "requirements", str(IMAGE_LOCK)),
            *("--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible"),
            *("--output-file", str(BUILD / "sbom.cdx.json")),
        ]
    )


def _run(command: list[str]) -> bool:
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> None:
    """Audit, or refresh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refresh", metavar="DIR", type=Path)
    if (database := parser.parse_args().refresh) is not None:
        refresh(database)
        return
    BUILD.mkdir(exist_ok=True)
    today = datetime.now(UTC).date()
    done = {
        "vulnerabilities": audit_vulnerabilities(LOCK, today, reachable=is_reachable()),
        "licences": audit_licences(),
        "bill of materials": write_bill_of_materials(),
    }
    if failed := [name for name, passed in done.items() if not passed]:
        raise SystemExit(f"The audit found something: {', '.join(failed)}. See docs/access.md.")
    print("Audited: build/licences.csv, build/sbom.cdx.json.")


if __name__ == "__main__":
    main()
