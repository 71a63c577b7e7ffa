"""An experiment through the tables: who is in which group, what came of both, by night."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from click.testing import CliRunner

import tiny_shop
from embedded import Build
from evergreen import lake, steps
from evergreen.cli import cli
from evergreen.contract import load_use_case
from evergreen.errors import ConfigError
from evergreen.ops import deploy
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.settings import load_settings
from tiny_shop import NAME, compute, ingest, label, train

pytestmark = pytest.mark.timeout(300)

KNOWN = 9
DAYS = [tiny_shop.DAYS[0] + timedelta(days=n) for n in range(KNOWN + 7)]
NIGHTS = DAYS[KNOWN:]
EXPERIMENT: dict[str, Any] = {
    "name": "win_back",
    "hold_out": 0.4,
    "starts": NIGHTS[0],
    "ends": NIGHTS[4],
    "bands": ["high", "medium", "low"],
    "smallest_effect": 0.2,
}
WORTH = """
SELECT o.customer_id, d.as_of, coalesce(sum(o.amount) FILTER (o.ordered_at >= d.as_of), 0) AS label
FROM as_of_days AS d INNER JOIN orders AS o ON o.ordered_at < d.horizon_end
GROUP BY o.customer_id, d.as_of
HAVING max(o.ordered_at) FILTER (o.ordered_at < d.as_of) >= d.as_of - INTERVAL 72 HOUR
"""


def build(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop with a champion, and beside it a use case that says what customers are worth."""
    folder = tiny_shop.write_shop(root, DAYS)
    change(folder, last_day=DAYS[-1])
    worth = folder.parent / "worth"
    worth.mkdir()
    declared = {
        "name": "worth",
        "title": "What customers order for",
        "features": {"of": NAME},
        "target": {
            "kind": "number",
            "name": "spend",
            "description": "Value of their orders.",
            "horizon_days": 2,
        },
    }
    (worth / "use_case.yaml").write_text(yaml.safe_dump(declared))
    (worth / "labels.sql").write_text(WORTH)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    assert list(deploy.initialise(load_settings()))
    ingest(f"{DAYS[0]}..{DAYS[KNOWN - 1]}")
    label(compute(f"{DAYS[0]}..{DAYS[KNOWN - 1]}"))
    assert train(DAYS[KNOWN - 1])["version"] == 1
    steps.release_version(NAME, "promote", "1", "a test", "ann")
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build)


def change(folder: Path, **keys: Any) -> None:
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text()) | keys
    path.write_text(yaml.safe_dump(declared, sort_keys=False))


def live(day: date, *, scored: bool = True) -> None:
    ingest(day)
    published = compute(day)
    label(published)
    steps.publish_labels({**published, "use_case": "worth"})
    if scored:
        tiny_shop.score(day)


def measured(day: date) -> pa.Table:
    steps.measure_experiment(NAME, str(day))
    return lake.read_day(NAME, "effects", day)


def rows(table: str, day: date, use_case: str = NAME) -> pa.Table:
    return lake.read_day(use_case, table, day).sort_by("customer_id")


def groups(day: date) -> dict[str, str | None]:
    found = rows("predictions", day)
    return dict(zip(found["customer_id"].to_pylist(), found["group"].to_pylist(), strict=True))


def expected(days: list[date], labels: str = NAME) -> dict[str, list[float]]:
    """Outcomes by group, of everybody on their first day, by hand."""
    seen: set[str] = set()
    found: dict[str, list[float]] = {"hold_out": [], "treatment": []}
    for day in days:
        known = rows("labels", day, labels) if labelled(day, labels) else None
        outcomes = (
            dict(zip(known["customer_id"].to_pylist(), known["label"].to_pylist(), strict=True))
            if known
            else {}
        )
        for customer, group in groups(day).items():
            if group and customer not in seen:
                seen.add(customer)
                if outcomes.get(customer) is not None:
                    found[group].append(float(outcomes[customer]))
    return found


def labelled(day: date, use_case: str) -> bool:
    return bool(lake.partitions(use_case, "labels").get(day))


def test_groups_are_kept_and_the_first_day_of_everybody_counts(shop: Path) -> None:
    change(shop, experiment=EXPERIMENT)
    for day in NIGHTS[:5]:
        # The third night is never scored; whoever came on that day enters later.
        live(day, scored=day != NIGHTS[2])
        if day == NIGHTS[0]:
            assert steps.measure_experiment(NAME, str(day)) == {"rows": 0}
    scored = [day for day in NIGHTS[:5] if day != NIGHTS[2]]
    kept: dict[str, str | None] = {}
    for day in scored:
        for customer, group in groups(day).items():
            assert kept.setdefault(customer, group) == group
    share = np.mean([group == "hold_out" for group in kept.values()])
    assert 0.3 < share < 0.5
    table = measured(NIGHTS[4])
    plain = table.filter(pc.and_(pc.equal(table["slice"], "all"), pc.invert(table["adjusted"])))
    (found,) = plain.to_pylist()
    by_hand = expected(scored)
    # Horizons of two days: nothing is known of those who entered on the last two.
    assert len(by_hand["hold_out"]) + len(by_hand["treatment"]) < len(kept)
    assert found["hold_out_rows"] == len(by_hand["hold_out"])
    assert found["treatment_rows"] == len(by_hand["treatment"])
    assert found["hold_out"] == pytest.approx(np.mean(by_hand["hold_out"]))
    assert found["treatment"] == pytest.approx(np.mean(by_hand["treatment"]))
    assert found["effect"] == pytest.approx(found["treatment"] - found["hold_out"])
    # Nobody was treated in truth.
    assert found["lower"] < 0 < found["upper"]
    assert found["mismatch"] > 0.001
    # Measured again, it is the same; and an earlier night is about fewer, whenever it is repeated.
    assert measured(NIGHTS[4]).equals(table)
    before = measured(NIGHTS[2]).to_pylist()[0]
    assert before["hold_out_rows"] + before["treatment_rows"] < (
        found["hold_out_rows"] + found["treatment_rows"]
    )
    receipt = receipts.latest(NAME, "publish_predictions")[NIGHTS[3]]
    assert replay(str(receipt.sequence)).equal
    # After its last day nobody enters.
    live(NIGHTS[5])
    live(NIGHTS[6])
    assert set(groups(NIGHTS[5]).values()) == {None}
    told = CliRunner().invoke(cli, ["experiment", NAME, "--plot", str(shop / "uplift.svg")])
    assert told.exit_code == 0, told.output
    assert "decile=10" in told.output and "as observed" in told.output
    assert (shop / "uplift.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_a_share_that_is_changed_on_the_way_moves_nobody_who_has_entered(shop: Path) -> None:
    change(shop, experiment=EXPERIMENT)
    for day in NIGHTS[:3]:
        live(day)
    before = {day: groups(day) for day in NIGHTS[:3]}
    change(shop, experiment=EXPERIMENT | {"hold_out": 0.1})
    live(NIGHTS[3])
    after = groups(NIGHTS[3])
    moved = {c for c, group in before[NIGHTS[2]].items() if c in after and after[c] != group}
    assert moved
    found = measured(NIGHTS[3]).to_pylist()[0]
    by_hand = expected(NIGHTS[:4])
    assert found["hold_out_rows"] == len(by_hand["hold_out"])
    # Groups of other sizes than are declared now: nothing is to be believed.
    assert found["mismatch"] < 0.001
    told = CliRunner().invoke(cli, ["experiment", NAME])
    assert "The groups are not as large as declared" in told.output


@pytest.mark.slow
def test_the_outcome_may_be_what_another_use_case_is_about(shop: Path) -> None:
    change(shop, experiment=EXPERIMENT | {"outcome": "worth"})
    for day in NIGHTS[:4]:
        live(day)
    found = measured(NIGHTS[3]).to_pylist()[0]
    by_hand = expected(NIGHTS[:4], "worth")
    assert found["outcome"] == "worth"
    assert found["treatment_rows"] == len(by_hand["treatment"])
    assert found["treatment"] == pytest.approx(np.mean(by_hand["treatment"]))
    change(shop, experiment=EXPERIMENT | {"outcome": "nothing"})
    with pytest.raises(ConfigError, match="nothing"):
        measured(NIGHTS[3])


def test_without_an_experiment_no_score_has_a_group_and_one_is_planned_by_past_days(
    shop: Path,
) -> None:
    for day in NIGHTS[:3]:
        live(day)
    assert "group" not in rows("predictions", NIGHTS[0]).column_names
    with pytest.raises(ConfigError, match="declares no experiment"):
        steps.measure_experiment(NAME, str(NIGHTS[2]))
    change(shop, experiment=EXPERIMENT)
    # What was published before says nothing of groups.
    assert steps.measure_experiment(NAME, str(NIGHTS[2])) == {"rows": 0}
    told = CliRunner().invoke(cli, ["experiment", NAME, "--plan"])
    assert told.exit_code == 0, told.output
    assert "40% of them held out" in told.output
    # A day that is scored again gets the column, and the table has rows with and without.
    tiny_shop.score(NIGHTS[2])
    assert set(groups(NIGHTS[2]).values()) == {"hold_out", "treatment"}
    assert load_use_case(NAME).experiment is not None
