"""What treatment changed, held against worlds in which that is known."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from evergreen.contract import Experiment
from evergreen.experiments.effect import (
    ALL,
    DECILES,
    Effect,
    effects_table,
    entities_needed,
    measure_effects,
)
from evergreen.experiments.report import draw

DECLARED = Experiment(name="win_back", starts=date(2026, 1, 1), hold_out=0.2, smallest_effect=0.05)


def world(
    chance: np.random.Generator, entities: int, effect: float, hold_out: float = 0.2
) -> pa.Table:
    """Entities who lapse with a probability that the score nearly is, less so if treated."""
    score = chance.beta(2, 2, entities)
    treated = chance.random(entities) >= hold_out
    lapses = chance.random(entities) < np.clip(score - effect * treated, 0, 1)
    groups = np.where(treated, "treatment", "hold_out")
    return pa.table({"group": groups, "score": score, "outcome": lapses.astype(float)})


def overall(rows: pa.Table) -> tuple[Effect, Effect]:
    plain, adjusted, *_ = measure_effects(rows, DECLARED)
    assert (plain.slice, plain.adjusted) == (ALL, False)
    assert (adjusted.slice, adjusted.adjusted) == (ALL, True)
    return plain, adjusted


def test_an_effect_is_found_and_the_score_takes_variance_out() -> None:
    plain, adjusted = overall(world(np.random.default_rng(1), 20_000, 0.1))
    for found in (plain, adjusted):
        assert found.upper is not None and found.upper < 0
        assert found.effect == pytest.approx(-0.1, abs=0.03)
        assert found.mismatch is not None and found.mismatch > 0.001
        assert found.hold_out_rows + found.treatment_rows == 20_000

    def width(found: Effect) -> float:
        assert found.lower is not None and found.upper is not None
        return found.upper - found.lower

    # The score explains a fifth of what happens.
    assert width(adjusted) < 0.93 * width(plain)


@pytest.mark.slow
def test_looking_every_night_sees_nothing_where_nothing_is() -> None:
    chance = np.random.default_rng(2)
    nightly = once = 0
    histories = 60
    for _ in range(histories):
        rows = world(chance, 3_000, 0.0)
        looks = [overall(rows.slice(0, n))[1] for n in range(300, 3_001, 300)]
        nightly += any(not (e.lower <= 0 <= e.upper) for e in looks)  # type: ignore[operator]
        once += any(e.p_value < 0.05 for e in looks)  # type: ignore[operator]
    assert nightly / histories <= 0.05
    assert once / histories > 0.1


@pytest.mark.slow
def test_as_many_entities_as_planned_find_the_smallest_effect() -> None:
    chance = np.random.default_rng(3)
    past = world(chance, 20_000, 0.0)
    needed = {
        adjusted: entities_needed(past, DECLARED, adjusted=adjusted) for adjusted in (False, True)
    }
    assert needed[True] < 0.9 * needed[False]
    found = [
        overall(world(chance, int(needed[True]), DECLARED.smallest_effect))[1].p_value
        for _ in range(80)
    ]
    power = np.mean([p < 0.05 for p in found if p is not None])
    assert power == pytest.approx(0.8, abs=0.12)


def test_however_large_an_effect_is_ten_are_held_out() -> None:
    past = world(np.random.default_rng(3), 20_000, 0.0)
    huge = DECLARED.model_copy(update={"smallest_effect": 5.0})
    assert entities_needed(past, huge, adjusted=True) == 50


def test_groups_of_other_sizes_than_declared_are_noticed() -> None:
    plain, _ = overall(world(np.random.default_rng(4), 5_000, 0.0, hold_out=0.3))
    assert plain.mismatch is not None and plain.mismatch < 1e-6


def test_deciles_are_of_the_score_and_equally_many() -> None:
    chance = np.random.default_rng(5)
    rows = world(chance, 10_000, 0.0)
    score = rows["score"].to_numpy()
    treated = rows["group"].to_numpy() == "treatment"
    # Only the upper half can be won back.
    outcome = chance.random(len(score)) < score - 0.3 * (treated & (score > np.median(score)))
    rows = rows.set_column(2, "outcome", pa.array(outcome.astype(float)))
    effects = measure_effects(rows, DECLARED)
    deciles = [effect for effect in effects if effect.slice != ALL]
    assert [effect.slice for effect in deciles] == [f"decile={n + 1}" for n in range(DECILES)]
    assert {e.hold_out_rows + e.treatment_rows for e in deciles} == {1_000}
    for n, effect in enumerate(deciles):
        assert effect.effect == pytest.approx(-0.3 if n >= 5 else 0.0, abs=0.13)
    picture = draw(effects, "Who comes back")
    assert picture == draw(effects, "Who comes back") and b"<svg" in picture


def test_too_few_say_nothing() -> None:
    for entities in (1, 12):
        for effect in measure_effects(world(np.random.default_rng(6), entities, 0.0), DECLARED):
            assert effect.effect is effect.lower is effect.upper is None


def test_a_night_is_a_row_of_each_slice() -> None:
    effects = measure_effects(world(np.random.default_rng(7), 1_000, 0.0), DECLARED)
    table = effects_table(date(2026, 3, 1), DECLARED, effects)
    assert table.num_rows == 2 + DECILES
    assert [Effect.from_dict(row) for row in table.to_pylist()] == effects
