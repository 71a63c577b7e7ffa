"""A backup from before an erasure brings nobody back."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from backup_days import KNOWN, load_days
from click.testing import CliRunner

from evergreen import lake, steps
from evergreen.cli import cli
from evergreen.ops.backup.make import back_up
from evergreen.provenance import erased
from evergreen.settings import Settings
from small_shop import FIRST_DAY

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


def customers(settings: Settings) -> set[str]:
    found: set[str] = set()
    for table in lake.tables("shop"):
        rows = lake.read("shop", table)
        if "customer_id" in rows.column_names:
            found |= set(rows["customer_id"].to_pylist())
    return found


def test_who_was_erased_since_is_erased_again(shop: Settings) -> None:
    who, other, *_ = sorted(customers(shop))
    folder = shop.backups / "before"
    back_up(folder)
    arguments = ["erase", "shop", who, "--yes", "--by", "ann", "--reason", "request 17"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert f"{folder} of " in done.output and "until about" in done.output
    after = lake.read("shop", "orders")
    back_up(shop.backups / "after")

    # The ledger of the backup has never heard of it.
    restored = CliRunner().invoke(cli, ["restore", str(folder), "--force"])
    assert restored.exit_code == 0, restored.output + repr(restored.exception)
    assert customers(shop) >= {other} and who not in customers(shop)
    assert lake.read("shop", "orders").num_rows == after.num_rows
    (again,) = erased.erasures("shop")
    assert again.closed and (again.actor, again.reason) == ("ann", "request 17")
    steps.verify_tables()
    load_days(f"{FIRST_DAY}..{KNOWN + timedelta(days=1)}")
    assert who not in customers(shop)

    # One that was made after the erasure has it on record.
    restored = CliRunner().invoke(cli, ["restore", str(shop.backups / "after"), "--force"])
    assert restored.exit_code == 0
    assert erased.erasures("shop")[0].closed and who not in customers(shop)


def test_without_erasures_a_restore_writes_nothing_of_them(shop: Settings, tmp_path: Path) -> None:
    back_up(tmp_path / "safe")
    assert CliRunner().invoke(cli, ["restore", str(tmp_path / "safe"), "--force"]).exit_code == 0
    assert not (shop.backups / "erasures.json").exists()
