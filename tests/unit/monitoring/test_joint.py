from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from evergreen.contract import Monitoring
from evergreen.decisions.alarm import summarise_nights
from evergreen.monitoring.drift import measure_drift, measure_labels, measure_together
from evergreen.monitoring.joint import measure_joint
from evergreen.monitoring.reference import build_reference

COLUMNS = ["first", "second", "kind"]
NIGHTS = 33
DAY = date(2026, 3, 1)


def night(seed, correlation=0.0, rows=1_200, entities=4_000):
    """Two numbers and a category of entities that are partly the same every night."""
    lasting = np.random.default_rng(0)
    first, noise = lasting.normal(size=entities), lasting.normal(size=entities)
    random = np.random.default_rng(seed)
    chosen = random.choice(entities, rows, replace=False)
    # What does not change of an entity would betray it, if it were met on both sides.
    x = first[chosen] + random.normal(0, 0.3, rows)
    y = noise[chosen] + random.normal(0, 0.3, rows)
    together = correlation * x + np.sqrt(1 - correlation**2) * y
    return pa.table(
        {
            "who": [f"c{n}" for n in chosen],
            "first": x,
            "second": pa.array(np.where(random.random(rows) < 0.05, np.nan, together)),
            "kind": random.choice(["a", "b", None], rows),
        }
    )


def history(seed, correlation=0.0):
    before = [night(1_000 * seed + week) for week in range(1, NIGHTS + 1)]
    return [night(1_000 * seed, correlation), *before]


def measure(nights, columns=COLUMNS):
    return measure_joint(nights, columns, "who", seed=1)


def test_columns_that_do_not_belong_together_any_more_are_told():
    nights = history(1, correlation=0.8)
    found = measure(nights)
    assert found.value > 0.15
    assert found.p_value < 0.01
    assert found.value > 2 * found.usual
    # Each of the columns is as ever.
    reference = build_reference(nights[-1], COLUMNS)
    alone = measure_drift(reference, nights, Monitoring(), {})
    assert not any(row.drifted for row in alone)
    row = measure_together(reference, nights, "who", Monitoring(), seed=1)
    assert row.drifted
    assert (row.feature, row.test, row.slice) == ("all columns", "classifier", "all")
    assert "told apart by D" in row.reason
    # It is told, and nothing follows from it.
    rows = [{"day": DAY, "model_version": 1, **one.to_dict()} for one in (*alone, row)]
    (summary,) = summarise_nights(rows, Monitoring())
    assert not summary.is_drift
    assert summary.tested == len(COLUMNS)


@pytest.mark.slow
def test_a_night_like_any_other_is_hardly_ever_unusual():
    found = [measure(history(seed)).p_value for seed in range(2, 22)]
    assert sum(p < 0.05 for p in found) <= 4
    assert not any(p < 0.002 for p in found)


def test_too_few_nights_or_rows_say_nothing():
    nights = history(3)
    found = measure(nights[:10])
    assert found.value is not None
    assert found.p_value is None
    assert measure([nights[0], *[None] * NIGHTS]).value is None
    assert measure([nights[0].slice(0, 150), *nights[1:]]).value is None
    assert measure([None, *nights[1:]]).value is None


def test_it_is_the_same_again_and_survives_odd_values():
    nights = history(4)
    odd = pa.array(np.r_[np.inf, -np.inf, np.full(1_198, 3.0)])
    nights[0] = nights[0].set_column(1, "first", odd)
    nights[2] = nights[2].set_column(2, "second", pa.nulls(1_200, pa.float64()))
    assert measure(nights) == measure(nights)
    assert measure(nights).p_value < 0.01


@pytest.mark.parametrize(("share", "drifted"), [(0.3, False), (0.6, True)])
def test_the_rate_of_labels_is_held_against_that_of_weeks_before(share, drifted):
    def labels(seed, share=0.3):
        return pa.table({"label": np.random.default_rng(seed).random(2_000) < share})

    nights = [labels(0, share), *(labels(week) for week in range(1, NIGHTS + 1))]
    (row,) = measure_labels(nights, Monitoring())
    assert (row.feature, row.test, row.drifted) == ("label", "ks", drifted)
    assert row.statistic == pytest.approx(share - 0.3, abs=0.03)
    assert measure_labels([None, *nights[1:]], Monitoring()) == []
    assert measure_labels([nights[0].slice(0, 0), *nights[1:]], Monitoring()) == []
    numbers = [
        pa.table({"label": np.random.default_rng(n).gamma(2.0, 1.0, 500)}) for n in range(34)
    ]
    (row,) = measure_labels(numbers, Monitoring())
    assert not row.drifted
