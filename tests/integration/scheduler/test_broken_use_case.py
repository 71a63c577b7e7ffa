"""A folder breaks while two use cases run: deployment, steps and upkeep of the other go on."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from csv_shop import deliver, write_csv_shop
from evergreen import lake, steps
from evergreen.cli import main
from evergreen.contract import load_use_case
from evergreen.errors import ConfigError
from evergreen.features.store import read_online
from evergreen.ops import deploy
from evergreen.settings import Settings
from small_shop import FIRST_DAY

NEXT = FIRST_DAY + timedelta(days=20)


def load(name: str, period: str) -> None:
    steps.publish_rows(steps.validate_rows(steps.stage_rows(name, period, "orders")))
    staged = steps.validate_features(steps.compute_features(name, period))
    steps.materialize_online(steps.publish_features(staged))


@pytest.mark.slow
def test_the_other_use_case_runs_on(
    home: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    root = tmp_path / "use_cases"
    deliver(tmp_path / "simulated", tmp_path / "data", NEXT)
    for name in ("alpha", "beta"):
        write_csv_shop(root, tmp_path / "data", name, NEXT)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(root))
    list(deploy.initialise(home))
    for name in ("alpha", "beta"):
        load(name, f"{FIRST_DAY}..{NEXT - timedelta(days=1)}")
    keys = lake.read("beta", "features")["customer_id"].to_pylist()[:20]
    before = read_online(load_use_case("beta"), keys)

    file = root / "beta" / "use_case.yaml"
    whole = file.read_text()
    file.write_text(whole.replace("horizon_days", "horizon"))
    lines = list(deploy.initialise(home))
    assert "feature definitions of alpha" in lines
    assert lines[-1].startswith(f"left out beta: {file} is not a valid use case")
    assert "target.horizon: unknown key" in lines[-1]
    load("alpha", str(NEXT))
    with pytest.raises(ConfigError, match=r"target\.horizon: unknown key"):
        steps.stage_rows("beta", str(NEXT), "orders")
    assert "alpha.orders" in steps.expire_snapshots("30")
    assert {"alpha.orders", "beta.orders"} <= set(steps.compact_tables())

    for command, code in (("check", 1), ("status", 0)):
        monkeypatch.setattr("sys.argv", ["evergreen", command])
        ended = 0
        try:
            main()
        except SystemExit as end:
            ended = int(end.code or 0)
        assert ended == code, command
        said = capsys.readouterr()
        assert "target.horizon: unknown key" in said.out + said.err
        assert str(file) in said.out + said.err
        assert "alpha: " in said.out

    file.write_text(whole)
    assert not any(line.startswith("left out") for line in deploy.initialise(home))
    assert read_online(load_use_case("beta"), keys).equals(before)
    load("beta", str(NEXT))

    shutil.rmtree(root / "alpha")
    file.write_text("name: [")
    assert any(line.startswith("left out beta") for line in deploy.initialise(home))
