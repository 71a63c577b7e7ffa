"""A model goes from one environment to another, with what it rests on, and is judged there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from embedded import _create, _disconnect
from evergreen import lake, steps
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.errors import (
    ConfigError,
    DamagedError,
    EvergreenError,
    NotReadyError,
    PermanentError,
)
from evergreen.provenance.replay import replay
from evergreen.release import ledger
from evergreen.release.exchange import Imported, export_model, import_model
from evergreen.release.registry import find_problems
from evergreen.settings import Settings
from evergreen.training.tracking import describe_registry, fetch_card, load_version
from tiny_shop import DAYS, NAME, apply, compute, label, open_shop, score, train

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

DAY, EARLIER = DAYS[-1], DAYS[-2]


@pytest.fixture
def enter(
    postgres_server: Settings, migrated: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[str], Path]]:
    """Go into an environment by its name: a data directory, databases, use cases of its own."""
    known: dict[str, dict[str, str]] = {}
    databases = []

    def go(name: str) -> Path:
        root = tmp_path / name
        if name not in known:
            monkeypatch.setenv("EVERGREEN_HOME", str(root / "home"))
            monkeypatch.setenv("EVERGREEN_ENVIRONMENT", name)
            databases.append(_create(postgres_server, migrated, monkeypatch))
            root.mkdir()
            open_shop(root, monkeypatch)
            label(compute())
            known[name] = {k: v for k, v in os.environ.items() if k.startswith("EVERGREEN_")}
        for variable, value in known[name].items():
            monkeypatch.setenv(variable, value)
        return root / "use_cases" / NAME

    yield go
    for database in databases:
        _disconnect(postgres_server, database)


@pytest.fixture
def bundle(enter: Callable[[str], Path], tmp_path: Path) -> Path:
    """The first champion of `staging`, taken along; the environment is `production` now."""
    enter("staging")
    trained = train()
    steps.promote_challenger(trained)
    export_model(NAME, trained["version"], str(tmp_path / "bundle"))
    score(DAY)
    enter("production")
    return tmp_path / "bundle"


def scores() -> dict[str, float]:
    rows = lake.read_day(NAME, "predictions", DAY).select(["customer_id", "score"]).to_pylist()
    return {row["customer_id"]: row["score"] for row in rows}


def test_a_champion_is_judged_and_serves_elsewhere(
    enter: Callable[[str], Path], bundle: Path
) -> None:
    (head,) = json.loads((bundle / "ledger.json").read_text())
    found = import_model(str(bundle), DAY)
    assert found.promoted
    use_case = load_use_case(NAME)
    (entry,) = ledger.entries(ledger.engine(), NAME)
    assert (entry.version, entry.actor) == (found.version, "evergreen import-model")
    assert entry.reason == "by hand (shop/1 of staging)"
    origin = {"environment": "staging", "version": "1", "ledger_hash": head["hash"]}
    assert json.loads(entry.evidence)["evidence"]["origin"] == origin
    registry = describe_registry(use_case)
    tags = registry.tags[found.version]
    assert registry.champion == found.version
    assert tags["origin"] == "shop/1 of staging"
    assert (tags["decision"], tags["lifecycle"]) == ("promote", "champion")
    assert tags["origin_ledger_hash"] == head["hash"]
    # Measured here: the decision of this environment is on record and on the card.
    (decision,) = [d for d in lake.read(NAME, "decisions").to_pylist() if d["kind"] == "gate"]
    assert (decision["decision"], decision["version"]) == ("promote", found.version)
    assert "promote" in fetch_card(use_case, found.version, "md")
    assert find_problems(use_case) == type(find_problems(use_case))()
    # The same features, the same scores.
    score(DAY)
    here = scores()
    enter("staging")
    assert scores() == here
    enter("production")
    with pytest.raises(PermanentError, match="copy of version shop/1 of staging"):
        replay(f"{NAME}/{found.version}")
    # Next, training here holds its challenger against it.
    assert train(reason="again")["evidence"]["champion"]["version"] == found.version


def test_imported_again_it_is_the_same_version(bundle: Path) -> None:
    first, second = import_model(str(bundle), DAY), import_model(str(bundle), DAY)
    assert (second.version, second.promoted) == (first.version, True)
    assert len(ledger.entries(ledger.engine(), NAME)) == 1
    assert len(describe_registry(load_use_case(NAME)).tags) == 1


def redeclare(folder: Path, **changes: dict[str, Any]) -> None:
    file = folder / "use_case.yaml"
    declared = yaml.safe_load(file.read_text())
    for key, values in changes.items():
        declared[key] |= values
    file.write_text(yaml.safe_dump(declared, sort_keys=False))


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({"mode": "shadow"}, "gate.mode is shadow"),
        ({"mode": "approve"}, "who approves promotes it by evergreen trigger"),
        ({"min_holdout_rows": 100_000}, "**refuse**"),
    ],
    ids=["shadow", "approve", "refused"],
)  # fmt: skip
def test_what_follows_is_for_this_environment_to_say(
    enter: Callable[[str], Path], bundle: Path, gate: dict[str, Any], told: str
) -> None:
    redeclare(enter("production"), gate=gate)
    asked = CliRunner().invoke(cli, ["import-model", str(bundle), "--day", str(DAY)])
    assert asked.exit_code == 1, asked.output
    assert told in asked.output
    assert ledger.entries(ledger.engine(), NAME) == []
    assert load_version(load_use_case(NAME), 1).tags["decision"] == (
        "refuse" if "min_holdout_rows" in gate else "promote"
    )


def test_what_is_no_such_bundle_is_refused(
    enter: Callable[[str], Path], bundle: Path, tmp_path: Path
) -> None:
    def refuse(error: type[EvergreenError], told: str) -> None:
        with pytest.raises(error, match=told):
            import_model(str(bundle), DAY)
        assert describe_registry(load_use_case(NAME)).tags == {}

    with pytest.raises(NotReadyError, match="of which it may have learned"):
        import_model(str(bundle), EARLIER)
    with pytest.raises(NotReadyError, match=r"holds no bundle\.json"):
        import_model(str(tmp_path), DAY)
    whole = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    head, model = bundle / "bundle.json", bundle / "model.ubj"
    for changed, error, told in (
        ({model: whole[model][:-1] + b"x"}, DamagedError, "model.ubj in .* has SHA-256"),
        ({head: b"{"}, DamagedError, "is no bundle"),
        ({head: whole[head].replace(b'"format": 1', b'"format": 2')}, PermanentError, "format 2"),
        (
            {head: whole[head].replace(b'"model.ubj"', b'"../model.ubj"')},
            DamagedError,
            "outside of it",
        ),
    ):
        for path, content in changed.items():
            assert content != whole[path]
            path.write_bytes(content)
        refuse(error, told)
        head.write_bytes(whole[head])
        model.write_bytes(whole[model])
    model.unlink()
    refuse(DamagedError, "lacks model.ubj")
    model.write_bytes(whole[model])
    folder = enter("production")
    sql = (folder / "features.sql").read_text()
    (folder / "features.sql").write_text(sql + "\n-- another\n")
    refuse(ConfigError, r"was trained with another features\.sql")
    (folder / "features.sql").write_text(sql)
    redeclare(folder, target={"horizon_days": 1})
    refuse(ConfigError, "was trained with another target")
    redeclare(folder, target={"horizon_days": 2})
    apply()
    assert isinstance(import_model(str(bundle), DAY), Imported)


def test_it_is_exported_to_a_new_place_only(
    enter: Callable[[str], Path], bundle: Path, tmp_path: Path
) -> None:
    enter("staging")
    asked = ["export-model", NAME, "1", "--to", str(tmp_path / "other")]
    assert CliRunner().invoke(cli, asked).exit_code == 0
    names = [
        sorted(path.relative_to(folder) for path in folder.rglob("*"))
        for folder in (bundle, tmp_path / "other")
    ]
    assert names[0] == names[1]
    with pytest.raises(PermanentError, match="is not empty"):
        export_model(NAME, 1, str(bundle))
    with pytest.raises(NotReadyError, match="version 7"):
        export_model(NAME, 7, str(tmp_path / "third"))
    # No customer is in it.
    customers = [
        key.encode() for key in lake.read_day(NAME, "features", DAY)["customer_id"].to_pylist()
    ]
    for path in bundle.rglob("*"):
        if path.is_file():
            assert not any(key in path.read_bytes() for key in customers), path
    assert DAY - timedelta(days=1) == EARLIER
