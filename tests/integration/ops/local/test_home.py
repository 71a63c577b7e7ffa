"""The data directory: closed to others, one owner at a time, and where it was made."""

import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from demo.run import _start_over as start_over
from demo.run import demo as run_demo

from evergreen import lake, steps
from evergreen.cli import main, run_command
from evergreen.errors import BusyError, ConfigError
from evergreen.ops import deploy
from evergreen.ops.backup.make import back_up
from evergreen.ops.local import home as data_home
from evergreen.ops.local import postgres
from evergreen.settings import load_settings
from small_shop import FIRST_DAY, write_small_shop

_HOLD = """
import sys, time
from evergreen.ops.local.home import claimed
from evergreen.settings import load_settings
sys.argv = ["/somewhere/bin/evergreen", "demo"]
with claimed(load_settings()):
    print("held", flush=True)
    time.sleep(300)
"""


@contextmanager
def _held_by_another():
    command = [sys.executable, "-c", _HOLD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def _run(monkeypatch, *arguments: str) -> int:
    demo = arguments == ("demo",)
    monkeypatch.setattr("sys.argv", ["demo/run.py"] if demo else ["evergreen", *arguments])
    try:
        run_command(run_demo) if demo else main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# --- one owner -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["up"], ["down"], ["demo"], ["init"], ["restore", "backup"]])
def test_whoever_is_at_work_is_named_and_left_alone(monkeypatch, capsys, command):
    home = load_settings().home
    with _held_by_another() as holder:
        # What the demo that runs has made so far.
        for name in ("warehouse/coffee", "demo"):
            (home / name).mkdir(parents=True)
        (home / "demo" / "made-by-demo").touch()
        before = sorted(home.rglob("*"))
        assert _run(monkeypatch, *command) == 1
        error = capsys.readouterr().err
        assert f"{home} is in use by `evergreen demo` (process {holder.pid}, " in error
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)", error)
        assert "EVERGREEN_HOME" in error
        assert sorted(home.rglob("*")) == before
        assert holder.poll() is None


def test_the_demo_starts_over_on_what_a_demo_left_and_on_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    for name in ("warehouse/coffee", "demo"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "demo" / "made-by-demo").touch()
    start_over(load_settings())
    assert not (tmp_path / "warehouse").exists()
    assert (tmp_path / "demo" / "made-by-demo").exists()
    (tmp_path / "warehouse" / "shop").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds data that no demo made \(shop\)"):
        start_over(load_settings())
    assert (tmp_path / "warehouse" / "shop").exists()


def test_a_claim_ends_with_the_process_that_has_it_even_by_kill():
    settings = load_settings()
    with _held_by_another() as holder:
        with pytest.raises(BusyError), data_home.claimed(settings):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with data_home.claimed(settings):
            # What it calls may claim, too, without letting go of it.
            with data_home.claimed(settings):
                pass
            code = "from evergreen.ops.deploy import *\nstop_services(load_settings())"
            code = f"from evergreen.settings import load_settings\n{code}"
            other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
            assert b"BusyError" in other.stderr


@pytest.mark.slow
def test_two_first_starts_at_once_do_not_meet(home):
    command = [sys.executable, "-c", "from evergreen.cli import main; main()", "init"]
    with subprocess.Popen(command) as first:
        while not (home.home / "owner.json").exists():
            assert first.poll() is None
            time.sleep(0.01)
        # In the midst of it, for as long as the second takes.
        first.send_signal(signal.SIGSTOP)
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        first.send_signal(signal.SIGCONT)
        assert second.returncode == 1
        assert second.stderr.startswith("BusyError: ")
    assert first.returncode == 0


# --- privacy -------------------------------------------------------------------------------------


@pytest.fixture
def embedded(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="evergreen-test-") as folder:
        # Passable, as /home is.
        Path(folder).chmod(0o755)
        monkeypatch.setenv("EVERGREEN_HOME", f"{folder}/home")
        settings = load_settings()
        yield settings
        postgres.stop(settings)


@pytest.mark.parametrize("existing", [None, 0o755, 0o777])
def test_other_users_can_read_nothing_and_the_server_runs(embedded, existing):
    if existing:
        (embedded.home / "warehouse").mkdir(parents=True)
        embedded.home.chmod(existing)
        (embedded.home / "postgres.lock").touch(mode=0o666)
    postgres.start(embedded)
    assert postgres.running(embedded)
    table = Path(embedded.warehouse) / "orders.parquet"
    table.parent.mkdir(exist_ok=True)
    table.write_text("a customer")
    found = embedded.home.stat()
    assert not found.st_mode & stat.S_IRWXO
    assert not found.st_mode & (stat.S_IRGRP | stat.S_IWGRP)
    if os.geteuid() != 0:
        assert stat.S_IMODE(found.st_mode) == 0o700
        return
    # Postgres's user passes through; its group is its own.
    assert found.st_gid == pwd.getpwnam("pgserver").pw_gid
    reads = [["ls", embedded.home], ["cat", table], ["cat", embedded.home / "postgres.lock"]]
    reads.append(["ls", embedded.postgres_dir])
    for command in reads:
        done = subprocess.run(
            command, user="nobody", group="nogroup", extra_groups=[], capture_output=True
        )
        assert b"Permission denied" in done.stderr, command


def test_a_directory_that_users_share_is_refused(monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("EVERGREEN_HOME", str(shared))
    with pytest.raises(ConfigError, match=f"EVERGREEN_HOME.*{shared}/evergreen"):
        data_home.prepare(load_settings())
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


# --- the place -----------------------------------------------------------------------------------


def _load(day) -> None:
    steps.publish_rows(steps.validate_rows(steps.stage_rows("shop", str(day), "orders")))


@pytest.fixture
def shop(home, monkeypatch, tmp_path):
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(write_small_shop(tmp_path / "use_cases").parent))
    assert list(deploy.initialise(home))
    _load(FIRST_DAY)
    return home


def test_a_moved_directory_is_refused_by_whatever_reads_it_and_works_by_its_old_name(
    shop, monkeypatch, capsys, tmp_path
):
    orders = lake.read("shop", "orders")
    old, new = shop.home, tmp_path / "another disk"
    old.rename(new)
    monkeypatch.setenv("EVERGREEN_HOME", str(new))
    for command in ("up", "down", "status", "init", "backup", "demo"):
        assert _run(monkeypatch, command) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"ConfigError: The data directory {new} was made as {old}")
    with pytest.raises(ConfigError):
        lake.read("shop", "orders")

    [link] = re.findall(r"^or .*: (ln -s .*)$", error, re.MULTILINE)
    subprocess.run(link, shell=True, check=True)
    for place in (old, new):
        monkeypatch.setenv("EVERGREEN_HOME", str(place))
        assert load_settings().home == old
        assert lake.read("shop", "orders").equals(orders)
    _load(FIRST_DAY.replace(day=2))
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", load_settings().urls["ledger"])
    assert len(back_up(tmp_path / "backup").tables) == 2

    old.unlink()
    [move] = re.findall(r"^.* (mv .*)$", error, re.MULTILINE)
    subprocess.run(move, shell=True, check=True)
    monkeypatch.setenv("EVERGREEN_HOME", str(old))
    assert len(lake.partitions("shop", "orders")) == 2


def test_a_copy_is_refused_beside_its_original(monkeypatch, tmp_path):
    settings = load_settings()
    data_home.prepare(settings)
    shutil.copytree(settings.home, tmp_path / "copy")
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "copy"))
    with pytest.raises(ConfigError, match=f"EVERGREEN_HOME={settings.home}"):
        load_settings()
