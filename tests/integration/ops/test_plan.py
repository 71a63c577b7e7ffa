"""What `evergreen plan` says of an edit is what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from embedded import Build
from evergreen import lake, steps
from evergreen.cli import main
from evergreen.contract import load_use_case
from evergreen.errors import ConfigError
from evergreen.ops.plan import Plan, plan
from evergreen.provenance.staleness import find_stale
from tiny_shop import (
    DAYS,
    FEATURES,
    NAME,
    WHOLE,
    apply,
    compute,
    declare,
    ingest,
    label,
    open_shop,
    score,
    train,
)

pytestmark = pytest.mark.timeout(300)

LAST = DAYS[-1]


def build_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop with a champion that has scored the newest two days."""
    folder = open_shop(root, monkeypatch)
    label(compute())
    steps.promote_challenger(train())
    for day in DAYS[-2:]:
        score(day)
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build_shop)


def planned() -> Plan:
    (found,) = plan(load_use_case(NAME))
    return found


def test_nothing_is_planned_for_what_is_as_it_was(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned()
    assert (found.findings, found.columns, found.commands, found.seconds) == ((), (), (), None)
    assert found.champion == "champion 1 still fits"
    monkeypatch.setattr("sys.argv", ["evergreen", "plan", NAME])
    main()
    assert "follows from the files as they are" in capsys.readouterr().out


def test_a_new_feature_costs_the_days_of_features_and_of_scores_and_keeps_the_champion(
    shop: Path,
) -> None:
    declare(shop, FEATURES | {"orders_so_far": "count(*)"}, {"orders_so_far": {"dtype": "int64"}})
    found = planned()
    assert found.columns == ("features gain orders_so_far; days before are without",)
    assert {(f.table, day) for f in found.findings for day in f.period.days} == {
        *(("features", day) for day in DAYS),
        *(("predictions", day) for day in DAYS[-2:]),
    }
    assert found.champion == "champion 1 still fits"
    assert found.seconds is not None
    assert found.seconds > 0
    # Ten days in runs of their own: those that were scored are scored again with them.
    assert found.commands == (
        "make up",
        f"evergreen backfill {NAME} {DAYS[0]} {LAST} --reprocess completed",
    )
    # What those do.
    apply()
    ingest()
    compute()
    for day in DAYS[-2:]:
        score(day)
    after = planned()
    assert (after.findings, after.columns, after.commands) == ((), (), ())


def test_a_renamed_feature_needs_another_model(shop: Path) -> None:
    names = {"days_since_last_order": "days_since_last_order", "last_amount": "newest_amount"}
    declare(shop, {names[name]: sql for name, sql in FEATURES.items()})
    found = planned()
    assert found.columns == (
        "features gain newest_amount; days before are without",
        "features are made without last_amount; old days keep it",
    )
    assert "champion 1 reads last_amount" in found.champion
    assert found.commands[-1] == f"evergreen trigger {NAME}_train --day {LAST}"


def test_another_label_costs_labels_only(shop: Path) -> None:
    path = shop / "labels.sql"
    path.write_text(path.read_text().replace("count(*)", "count(o.order_id)"))
    found = planned()
    assert {finding.table for finding in found.findings} == {"labels"}
    assert found.columns == ()


def test_a_rule_costs_everything_that_follows_from_its_table(shop: Path) -> None:
    path = shop / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["events"]["orders"]["rules"] = [
        {"name": "small", "sql": "amount < 40", "because": "Others are wholesale."}
    ]
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    assert {finding.table for finding in planned().findings} == {
        *("orders", "features", "labels", "predictions"),
    }


def test_a_column_cannot_change_its_type_and_the_plan_says_so_first(shop: Path) -> None:
    declare(shop, FEATURES, {"last_amount": {"dtype": "category"}})
    found = planned()
    sentence = "features cannot have last_amount as string, which is double there"
    assert found.columns == (f"{sentence}: give it another name",)
    assert found.commands == ()
    path = shop / "features.sql"
    path.write_text(path.read_text().replace(FEATURES["last_amount"], "'much'"))
    before = lake.read(NAME, "features")
    computed = steps.validate_features(steps.compute_features(NAME, WHOLE))
    with pytest.raises(ConfigError, match="last_amount as string, which is double there"):
        steps.publish_features(computed)
    assert lake.read(NAME, "features").equals(before)


def test_stale_days_are_in_the_plan_whatever_made_them_so(shop: Path) -> None:
    file = shop.parents[1] / "data" / f"{DAYS[4]}.csv"
    file.write_text(file.read_text() + f"late,c0-00,{DAYS[4]}T05:00:00Z,10\n")
    ingest(DAYS[4])
    found = planned()
    assert found.columns == ()
    assert {f.table for f in found.findings} == {s.table for s in find_stale(load_use_case(NAME))}
    assert "features" in {finding.table for finding in found.findings}
