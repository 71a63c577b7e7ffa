"""The command on a lake: it reads tables as they are, and writes none."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import tiny_shop
from evergreen import lake, steps
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.discovery.rows import newest_day
from evergreen.errors import NotReadyError
from evergreen.provenance import receipts
from evergreen.settings import Settings
from evergreen.targets.binary import BinaryTarget

pytestmark = pytest.mark.timeout(300)


def test_features_are_proposed_of_what_is_in_the_lake(
    home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = tiny_shop.write_shop(tmp_path)
    # The only feature does not know what says who leaves.
    tiny_shop.declare(folder, {"days_since_last_order": "0.0 * count(*)"})
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    tiny_shop.apply()
    tiny_shop.ingest()
    with pytest.raises(
        NotReadyError, match=r"has no labels.*trigger shop_history --from 2025-03-10"
    ):
        newest_day(load_use_case("shop"))
    published = steps.validate_features(steps.compute_features("shop", tiny_shop.WHOLE))
    steps.publish_labels(steps.publish_features(published))
    # A few dozen customers decide.
    monkeypatch.setattr(BinaryTarget, "enough", {"rows": 50, "minority_rows": 10})
    before = _state()
    found = CliRunner().invoke(cli, ["discover", "shop", "--seed", "3"], catch_exceptions=False)
    assert found.exit_code == 0
    assert "Proposed: orders_amount_" in found.stdout
    assert "shop on 2025-03-19: " in found.stderr
    assert "computed" in found.stderr
    assert _state() == before
    early = CliRunner().invoke(cli, ["discover", "shop", "--day", "2025-03-15"])
    assert isinstance(early.exception, NotReadyError)


def _state() -> tuple[dict[str, int | None], int]:
    tables = {table: lake.snapshot_id("shop", table) for table in lake.tables("shop")}
    return tables, receipts.newest_sequence()
