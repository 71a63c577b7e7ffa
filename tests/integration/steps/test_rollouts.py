"""Rollouts through the tables: in shadow, by shares, into charge, and back, night after night."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

import tiny_shop
from embedded import Build
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.errors import ConfigError, NotReadyError, PermanentError
from evergreen.ops import deploy
from evergreen.provenance import receipts
from evergreen.provenance.replay import replay
from evergreen.provenance.staleness import find_stale
from evergreen.release import ledger
from evergreen.scoring.explain import explain
from evergreen.settings import load_settings
from registry import client
from tiny_shop import NAME, compute, ingest, label, train

pytestmark = pytest.mark.timeout(600)

KNOWN = 9
DAYS = [tiny_shop.DAYS[0] + timedelta(days=n) for n in range(KNOWN + 12)]
TRAINED = DAYS[KNOWN - 1]
NIGHTS = DAYS[KNOWN:]
ROLLOUT: dict[str, Any] = {
    "shadow_nights": 2,
    "shares": [0.3, 1.0],
    "nights_per_share": 1,
    "require": "nothing",
    "margin": 0.2,
    # Two models of some dozens of rows agree by chance.
    "min_correlation": -1.0,
    "max_shift": 100.0,
    "max_band_change": 1.0,
    "max_slowdown": 1000.0,
}


def build(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a shop with version 1 in charge; version 2 is better, and version 3 bad."""
    folder = tiny_shop.write_shop(root, DAYS)
    change(folder, rollout=ROLLOUT, last_day=DAYS[-1])
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(folder.parent))
    assert list(deploy.initialise(load_settings()))
    known = f"{DAYS[0]}..{TRAINED}"
    ingest(known)
    label(compute(known))
    assert train(TRAINED)["version"] == 1
    release("promote", 1)
    training = declared(folder)["training"]
    change(folder, training={**training, "seed": 77})
    assert train(TRAINED)["version"] == 2
    change(folder, training={**training, "models": ["linear"]})
    assert train(TRAINED)["version"] == 3
    return folder


@pytest.fixture
def shop(begin_with: Callable[[Build], Path]) -> Path:
    return begin_with(build)


def declared(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "use_case.yaml").read_text())
    return found


def change(folder: Path, **keys: Any) -> None:
    path = folder / "use_case.yaml"
    path.write_text(yaml.safe_dump(declared(folder) | keys, sort_keys=False))


def release(action: str, version: int) -> dict[str, Any]:
    return steps.release_version(NAME, action, str(version), "a test", "ann")


def live(day: date, *, labelled: bool = True) -> dict[str, Any]:
    """Let a day come, be scored, and its night be judged."""
    ingest(day)
    computed = compute(day)
    if labelled:
        label(computed)
    tiny_shop.score(day)
    return night(day)


def night(day: date) -> dict[str, Any]:
    judged = steps.judge_rollout(NAME, str(day))
    if steps.is_taken_back(judged):
        steps.take_back(NAME, str(day))
    return judged


def rows(table: str, day: date) -> pa.Table:
    return lake.read_day(NAME, table, day).sort_by("customer_id")


def shares(day: date) -> dict[str, int]:
    counted = rows("predictions", day)["variant"].value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in counted}


def book() -> list[tuple[str, int, int | None, float | None]]:
    found = ledger.entries(ledger.engine(), NAME)
    assert ledger.verify(ledger.engine(), NAME) == ()
    return [(e.action, e.version, e.challenger, e.share) for e in found]


def version_of(day: date) -> int:
    return int(receipts.latest(NAME, "publish_predictions")[day].inputs["model_version"])


def test_a_challenger_goes_from_shadow_over_a_share_into_charge(shop: Path) -> None:
    release("roll_out", 2)
    assert live(NIGHTS[0])["decision"] == "hold"
    # In shadow everybody has the champion's score, and the other's is kept.
    assert shares(NIGHTS[0]) == {"champion": rows("features", NIGHTS[0]).num_rows}
    shadows = rows("shadows", NIGHTS[0])
    assert shadows["customer_id"].equals(rows("predictions", NIGHTS[0])["customer_id"])
    assert set(shadows["model_version"].to_pylist()) == {2}
    assert live(NIGHTS[1])["decision"] == "advance"
    first = live(NIGHTS[2])
    found = shares(NIGHTS[2])
    assert 0.1 < found["challenger"] / sum(found.values()) < 0.5
    published = rows("predictions", NIGHTS[2])
    by = dict(
        zip(published["variant"].to_pylist(), published["model_version"].to_pylist(), strict=True)
    )
    assert by == {"champion": 1, "challenger": 2}
    assert sorted(published["rank"].to_pylist()) == list(range(1, published.num_rows + 1))
    assert first["decision"] == "advance"
    # Nobody is in charge of anything else yet; then the challenger is.
    champion = ledger.champion(ledger.engine(), NAME)
    assert champion and champion.version == 1
    assert live(NIGHTS[3])["decision"] == "finish"
    assert shares(NIGHTS[3]) == {"challenger": rows("features", NIGHTS[3]).num_rows}
    assert book() == [
        ("promote", 1, None, None),
        ("roll_out", 1, 2, 0.0),
        ("roll_out", 1, 2, 0.3),
        ("roll_out", 1, 2, 1.0),
        ("promote", 2, None, None),
    ]
    assert live(NIGHTS[4])["decision"] is None
    assert shares(NIGHTS[4]) == {"champion": rows("features", NIGHTS[4]).num_rows}
    assert version_of(NIGHTS[4]) == 2
    assert not lake.partitions(NAME, "shadows").get(NIGHTS[4])
    assert find_stale(load_use_case(NAME)) == []


@pytest.mark.slow
def test_who_got_a_challengers_score_keeps_it_and_days_are_repeated_as_they_were(
    shop: Path,
) -> None:
    change(shop, rollout={**ROLLOUT, "shadow_nights": 1, "shares": [0.3, 0.6]})
    release("roll_out", 2)
    chosen: dict[str, str] = {}
    for day in NIGHTS[:3]:
        live(day)
        today = rows("predictions", day)
        for key, variant in zip(
            today["customer_id"].to_pylist(), today["variant"].to_pylist(), strict=True
        ):
            if chosen.get(key) == "challenger":
                assert variant == "challenger"
            chosen[key] = variant
    before = {day: rows("predictions", day) for day in NIGHTS[:3]}
    assert "finish" not in {entry[0] for entry in book()}
    for day in NIGHTS[:3]:
        tiny_shop.score(day)
        assert rows("predictions", day).equals(before[day])
        for step in ("publish_predictions", "publish_shadows"):
            again = replay(str(receipts.latest(NAME, step)[day].sequence))
            assert again.equal, again
    explained = explain(load_use_case(NAME), NIGHTS[2], [*chosen][-20:-10:3])
    assert explained.num_rows


@pytest.mark.slow
def test_a_night_repeated_or_of_the_past_decides_nothing_again(shop: Path) -> None:
    release("roll_out", 2)
    live(NIGHTS[0])
    assert live(NIGHTS[1])["decision"] == "advance"
    known = book()
    assert night(NIGHTS[1])["decision"] is None
    assert night(NIGHTS[0])["decision"] is None
    assert book() == known
    (row,) = lake.rows(NAME, "decisions", NIGHTS[1], NIGHTS[1], equal={"kind": "rollout"})
    assert (row["decision"], row["version"]) == ("advance", 2)
    # The next day is there, and not scored yet; then it is scored without its night.
    ingest(NIGHTS[2])
    compute(NIGHTS[2])
    assert night(NIGHTS[2])["decision"] == "hold"
    tiny_shop.score(NIGHTS[2])
    assert live(NIGHTS[3])["decision"] == "advance"
    assert book() == [*known, ("roll_out", 1, 2, 1.0)]


def test_a_bad_challenger_is_stopped_within_the_night_and_its_scores_are_taken_back(
    shop: Path,
) -> None:
    change(shop, rollout={**ROLLOUT, "shadow_nights": 1, "nights_per_share": 5})
    release("roll_out", 3)
    assert [live(day)["decision"] for day in NIGHTS[:2]] == ["advance", "hold"]
    day = NIGHTS[2]
    # The labels of the first night are there.
    ingest(day)
    label(compute(day))
    tiny_shop.score(day)
    assert shares(day)["challenger"] > 0
    judged = steps.judge_rollout(NAME, str(day))
    assert judged["decision"] == "stop"
    assert "labels show that it is worse: a loss +0." in judged["reasons"][0]
    # Killed in between; the night is run again.
    assert steps.is_taken_back(steps.judge_rollout(NAME, str(day)))
    steps.take_back(NAME, str(day))
    assert not steps.is_taken_back(steps.judge_rollout(NAME, str(day)))
    assert set(shares(day)) == {"champion"}
    # As if the champion had scored everybody, which a replay does.
    assert replay(str(receipts.latest(NAME, "publish_predictions")[day].sequence)).equal
    assert book()[-1] == ("stop", 1, None, None)
    entry = ledger.entries(ledger.engine(), NAME)[-1]
    kept = json.loads(entry.evidence)["evidence"]
    assert kept["agreement"]["rows"] == rows("features", day).num_rows
    live(NIGHTS[3])
    assert set(rows("predictions", NIGHTS[3])["model_version"].to_pylist()) == {1}


@pytest.mark.parametrize("what", ["gone", pytest.param("invalid", marks=pytest.mark.slow)])
def test_a_challenger_that_cannot_score_costs_nobody_a_score(
    shop: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release("roll_out", 2)
    live(NIGHTS[0])
    if what == "gone":
        client().delete_model_version(NAME, "2")
    else:
        from evergreen.scoring import score as scoring

        known = scoring.score

        def broken(*arguments: Any, variant: str = "champion", **more: Any) -> pa.Table:
            table = known(*arguments, variant=variant, **more)
            if variant == "champion":
                return table
            at = table.schema.get_field_index("score")
            nothing = pa.array([float("nan")] * table.num_rows)
            return table.set_column(at, table.schema.field(at), nothing)

        monkeypatch.setattr(scoring, "score", broken)
    judged = live(NIGHTS[1])
    assert set(rows("predictions", NIGHTS[1])["model_version"].to_pylist()) == {1}
    assert judged["decision"] == "stop"
    assert f"it has not scored {NIGHTS[1]}" in judged["reasons"][0]
    assert replay(str(receipts.latest(NAME, "publish_predictions")[NIGHTS[1]].sequence)).equal
    assert book()[-1][0] == "stop"


@pytest.mark.slow
def test_with_both_versions_gone_the_error_says_so_and_the_night_waits(shop: Path) -> None:
    release("roll_out", 2)
    live(NIGHTS[0])
    for version in "12":
        client().delete_model_version(NAME, version)
    known = book()
    ingest(NIGHTS[1])
    label(compute(NIGHTS[1]))
    with pytest.raises(NotReadyError, match=r"Version 1 of shop.*deleted"):
        tiny_shop.score(NIGHTS[1])
    assert night(NIGHTS[1])["decision"] == "hold"
    assert book() == known


@pytest.mark.slow
def test_labels_that_never_mature_end_it(shop: Path) -> None:
    change(
        shop,
        rollout={
            **ROLLOUT,
            "shadow_nights": 1,
            "require": "better",
            "unproven_share": 0.3,
            "max_nights": 1,
        },
    )
    release("roll_out", 2)
    found = [live(day, labelled=False) for day in NIGHTS[:4]]
    assert [judged["decision"] for judged in found] == ["advance", "hold", "hold", "stop"]
    assert shares(NIGHTS[2])["challenger"] < shares(NIGHTS[2])["champion"]
    assert "what is required (better)" in found[-1]["reasons"][0]
    assert set(rows("predictions", NIGHTS[3])["model_version"].to_pylist()) == {1}


@pytest.mark.slow
def test_both_versions_are_compared_by_the_labels_that_have_matured(shop: Path) -> None:
    change(shop, rollout={**ROLLOUT, "shadow_nights": 1, "nights_per_share": 3})
    release("roll_out", 2)
    assert [live(day)["decision"] for day in NIGHTS[:4]] == ["advance", "hold", "hold", "advance"]
    (row,) = lake.rows(NAME, "decisions", NIGHTS[3], NIGHTS[3], equal={"kind": "rollout"})
    paired = json.loads(row["evidence"])["evidence"]["paired"]
    # Horizons of two days: of four scored days the labels of two are known.
    assert paired["days"] == 2
    assert paired["rows"] > paired["entities"] > 20
    assert paired["lower"] < paired["difference"] < paired["upper"]
    labels = pa.concat_tables([rows("labels", day) for day in NIGHTS[:2]])
    scored = [
        pa.concat_tables([rows(t, d) for d in NIGHTS[:2]]) for t in ("predictions", "shadows")
    ]
    names = ["customer_id", "day", "variant", "score"]
    both = pa.concat_tables([table.select(names) for table in scored])
    losses = {}
    for variant in ("champion", "challenger"):
        of = both.filter(pc.equal(both["variant"], variant))
        joined = of.join(labels, keys=["customer_id", "day"], join_type="inner")
        target = load_use_case(NAME).target
        losses[variant] = target.losses(
            target.read_labels(joined["label"]), joined["score"].to_numpy()
        ).mean()
    assert paired["champion"] == pytest.approx(losses["champion"])
    assert paired["difference"] == pytest.approx(losses["challenger"] - losses["champion"])


@pytest.mark.slow
def test_a_salt_that_is_changed_on_the_way_changes_nobody(shop: Path) -> None:
    change(shop, rollout={**ROLLOUT, "shadow_nights": 1, "shares": [0.3, 0.9]})
    release("roll_out", 2)
    live(NIGHTS[0])
    live(NIGHTS[1])
    before = rows("predictions", NIGHTS[1])
    change(shop, rollout={**declared(shop)["rollout"], "salt": "another"})
    live(NIGHTS[2])
    after = rows("predictions", NIGHTS[2])
    chosen = before.filter(pc.equal(before["variant"], "challenger"))["customer_id"]
    still = after.filter(pc.is_in(after["customer_id"], chosen.combine_chunks()))
    assert set(still["variant"].to_pylist()) == {"challenger"}


def test_what_people_may_ask_for_by_hand(shop: Path) -> None:
    with pytest.raises(ConfigError, match="Version 2 is not being rolled out; no version is"):
        release("stop", 2)
    with pytest.raises(PermanentError, match="expected another version"):
        release("roll_out", 1)
    release("roll_out", 2)
    with pytest.raises(ConfigError, match="version 2 is"):
        release("stop", 1)
    release("stop", 2)
    assert book()[-1] == ("stop", 1, None, None)
    change(shop, rollout=None)
    with pytest.raises(ConfigError, match="declares no rollout"):
        release("roll_out", 2)


def test_what_the_gate_lets_pass_is_rolled_out(shop: Path) -> None:
    change(shop, training={**declared(shop)["training"], "models": ["trees"], "seed": 77})
    judged = train(TRAINED)
    assert judged["decision"] == "promote", judged
    promoted = steps.promote_challenger(judged)
    assert promoted["version"] == 1
    assert book()[-1] == ("roll_out", 1, judged["version"], 0.0)
    assert steps.promote_challenger(judged) == promoted
