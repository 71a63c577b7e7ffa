import json
import time
from datetime import date
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, false_discovery_control, ks_2samp, kstwo

from evergreen.contract import Monitoring
from evergreen.errors import ConfigError, NotReadyError
from evergreen.monitoring.drift import (
    DRIFT,
    drift_table,
    measure_drift,
    psi_of,
)
from evergreen.monitoring.reference import Reference, build_reference

MONITORING = Monitoring()


def compare(reference, current, monitoring=MONITORING, importance=None):
    """Drift row of one column `x`, after a trip of the reference through JSON."""
    frozen = build_reference(pa.table({"x": reference}), ["x"])
    stored = Reference.from_dict(json.loads(json.dumps(frozen.to_dict(), allow_nan=False)))
    assert stored == frozen
    return measure_drift(stored, pa.table({"x": current}), monitoring, importance or {})[0]


def normal(seed, rows, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1.0, rows)


@pytest.mark.parametrize("rows", [1, 7, 500, 5_000])
def test_identical_columns_have_distance_zero(rows):
    values = normal(1, rows)
    row = compare(values, values[::-1])
    assert (row.statistic, row.psi, row.psi_band, row.drifted) == (0.0, 0.0, "stable", False)
    assert row.p_adjusted == 1.0


@pytest.mark.parametrize("shift", [-1_000.0, 1_000.0])
@pytest.mark.parametrize("rows", [500, 5_000])
def test_disjoint_columns_have_distance_one(rows, shift):
    row = compare(normal(1, rows), normal(2, rows, shift))
    assert row.statistic == 1.0
    assert row.p_value < 1e-100
    assert row.drifted
    assert row.psi_band == "major"


def test_psi_by_hand():
    # Bins of the reference 1..4, a quarter each; the current column has 40/30/20/10 %.
    row = compare([1, 2, 3, 4] * 25, [1] * 40 + [2] * 30 + [3] * 20 + [4] * 10)
    by_hand = sum((found - 0.25) * np.log(found / 0.25) for found in (0.4, 0.3, 0.2, 0.1))
    assert row.psi == pytest.approx(by_hand, abs=1e-12)
    assert row.psi == pytest.approx(0.2282, abs=1e-4)
    assert row.psi_band == "moderate"
    assert row.statistic == pytest.approx(0.2)


def test_psi_bins_are_deciles_with_open_ends():
    reference = build_reference(pa.table({"x": np.arange(1, 101)}), ["x"]).columns[0]
    assert reference.edges == (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    assert reference.proportions == (0.0, *[0.1] * 10, 0.0, 0.0)
    # A tenth of the rows falls below the least value ever seen, a tenth above, a tenth is missing.
    current = [0.5] * 10 + [101] * 10 + [None] * 10 + list(range(31, 101))
    row = compare(np.arange(1, 101), current)
    shares = [0.1, 0, 0, 0, *[0.1] * 7, 0.1, 0.1]
    assert row.psi == pytest.approx(psi_of(reference.proportions, shares, 100, 100), abs=1e-12)


def test_one_outlier_leaves_bins_and_distance_alone():
    values, shifted = normal(1, 5_000), normal(2, 5_000, 0.5)
    plain = compare(values, shifted)
    outlier = compare(values, np.append(shifted, 1e12))
    assert outlier.psi == pytest.approx(plain.psi, abs=0.002)
    assert outlier.psi > 0.2
    # Nor does one in the reference.
    tainted = compare(np.append(values, 1e12), shifted)
    assert tainted.psi == pytest.approx(plain.psi, abs=0.01)
    assert tainted.statistic == pytest.approx(plain.statistic, abs=0.002)


def test_a_tiny_shift_of_a_million_rows_is_significant_but_no_drift():
    row = compare(normal(1, 1_000_000), normal(2, 1_000_000, 0.02))
    assert row.p_adjusted < 1e-6
    assert 0.004 < row.statistic < 0.012
    assert not row.drifted
    assert "< 0.1" in row.reason


def test_twenty_calm_columns_hardly_ever_raise_an_alarm():
    names = [f"x{n}" for n in range(20)]
    calm = MONITORING.model_copy(update={"min_ks": 0.0})
    nights = with_floor = without_floor = unadjusted = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        frame = partial(lambda g, n: pa.table({x: g.normal(size=n) for x in names}), generator)
        reference, current = build_reference(frame(3_000), names), frame(500)
        rows = measure_drift(reference, current, MONITORING, {})
        with_floor += any(row.drifted for row in rows)
        rows = measure_drift(reference, current, calm, {})
        without_floor += any(row.drifted for row in rows)
        unadjusted += any(row.p_value < 0.05 for row in rows)
        nights += 1
    # One test at 5 % per column would cry wolf on most nights.
    assert unadjusted > 0.5 * nights
    # By design about 1 % (alpha); persistence over nights comes on top.
    assert with_floor <= 0.03 * nights
    assert without_floor <= 0.05 * nights


def test_a_catastrophe_in_nine_of_twenty_columns_is_drift():
    generator = np.random.default_rng(5)
    names = [f"x{n}" for n in range(20)]
    reference = build_reference(pa.table({x: generator.normal(size=2_000) for x in names}), names)
    current = pa.table(
        {x: generator.normal(50.0 if n < 9 else 0.0, 1.0, 1_000) for n, x in enumerate(names)}
    )
    rows = measure_drift(reference, current, MONITORING, dict.fromkeys(names, 0.05))
    assert [row.feature for row in rows if row.drifted] == names[:9]
    assert all(row.statistic == 1.0 for row in rows[:9])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-3, 6) | st.floats(-3, 6), min_size=2, max_size=80),
    st.lists(st.integers(-3, 6) | st.floats(-3, 6), min_size=2, max_size=80),
)
def test_small_columns_agree_with_scipy_also_with_ties(reference, current):
    reference, current = [float(x) for x in reference], [float(x) for x in current]
    row = compare(reference, current)
    expected = ks_2samp(reference, current, method="asymp")
    assert row.statistic == pytest.approx(expected.statistic, abs=1e-12)
    assert row.p_value == pytest.approx(expected.pvalue, abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3, 2.0])
def test_large_columns_are_at_most_a_thousandth_below_scipy(shift):
    reference, current = normal(1, 20_000), normal(2, 15_000, shift)
    row = compare(reference, current)
    expected = ks_2samp(reference, current, method="asymp").statistic
    assert expected - 0.001 <= row.statistic <= expected + 1e-12


@pytest.mark.parametrize("scaled", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("rows", [20_500, 200_000])
def test_p_values_of_large_columns_agree_with_the_exact_ones(rows, scaled):
    # Two grids of which one is moved by whole steps: D is known without sampling.
    steps = round(scaled * np.sqrt(2 / rows) * rows)
    row = compare(np.arange(rows), np.arange(rows) + steps)
    assert row.statistic == pytest.approx(steps / rows, abs=1e-3)
    assert row.p_value == pytest.approx(kstwo.sf(row.statistic, rows // 2), rel=0.03)


def test_p_values_are_adjusted_over_all_columns():
    generator = np.random.default_rng(3)
    names = [f"x{n}" for n in range(6)]
    reference = build_reference(pa.table({x: generator.normal(size=400) for x in names}), names)
    current = pa.table({x: generator.normal(0.05 * n, 1, 400) for n, x in enumerate(names)})
    rows = measure_drift(reference, current, MONITORING, {})
    expected = false_discovery_control([row.p_value for row in rows])
    assert [row.p_adjusted for row in rows] == pytest.approx(list(expected))
    assert any(row.p_adjusted > row.p_value for row in rows)


def test_zero_inflated_counts():
    generator = np.random.default_rng(4)

    def counts(share, rows=4_000):
        return np.where(generator.random(rows) < share, 0, generator.poisson(4, rows) + 1)

    reference = counts(0.7)
    calm = compare(reference, counts(0.7))
    assert not calm.drifted
    assert calm.psi < 0.02
    moved = compare(reference, counts(0.35))
    assert moved.drifted
    assert moved.statistic == pytest.approx(0.35, abs=0.03)
    assert moved.psi_band == "major"


def test_bools_move_by_their_share():
    reference = [True] * 300 + [False] * 9_700
    assert not compare(reference, reference[::-1]).drifted
    row = compare(reference, [True] * 3_000 + [False] * 7_000)
    assert row.statistic == pytest.approx(0.27)
    assert row.drifted


def test_constant_columns():
    same = compare([5.0] * 500, [5.0] * 300)
    assert (same.statistic, same.psi, same.drifted) == (0.0, 0.0, False)
    other = compare([5.0] * 500, [5.1] * 300)
    assert (other.statistic, other.drifted, other.psi_band) == (1.0, True, "major")


def test_values_gone_missing_are_drift_by_psi_alone():
    values = normal(1, 4_000)
    gone = [None if n % 5 == 0 else value for n, value in enumerate(values.tolist())]
    row = compare(values, gone)
    assert row.statistic < 0.05
    assert row.drifted
    assert row.psi_band == "major"
    nan = np.where(np.arange(4_000) % 5 == 0, np.nan, values)
    assert compare(values, nan) == row
    assert not compare(gone, gone).drifted


def test_a_column_without_values_has_no_ks_but_a_psi():
    empty = pa.array([None] * 400, pa.float64())
    row = compare(normal(1, 500), empty)
    assert (row.statistic, row.p_value, row.p_adjusted) == (None, None, None)
    assert row.drifted
    back = compare(empty, normal(1, 500))
    assert back.statistic is None
    assert back.drifted
    calm = compare(empty, pa.nulls(300))
    assert (calm.psi, calm.drifted) == (0.0, False)


def test_infinite_values_are_extreme_and_storable():
    reference = [1.0, 2.0, 3.0, np.inf]
    assert compare(reference, reference).statistic == 0.0
    assert compare(reference, [np.inf, -np.inf] * 200).statistic == 0.5


def test_few_rows_are_no_drift_by_chance_of_bins():
    rows = [compare(normal(1, 5_000), normal(seed + 10, 15)) for seed in range(60)]
    # By design about 1 % (alpha), that is at most one or two of 60.
    assert sum(row.drifted for row in rows) <= 2
    # The band alone would have called most of them drift.
    assert sum(row.psi >= 0.25 for row in rows) > 30
    assert any("chance alone" in row.reason for row in rows)
    # Fifteen rows far away are drift all the same.
    assert compare(normal(1, 5_000), normal(3, 15, 50.0)).drifted


@pytest.mark.parametrize("kind", [pa.int64(), pa.float32(), pa.int16(), pa.uint8()])
def test_number_types_are_measured_alike(kind):
    values = np.arange(200) % 50
    assert compare(values, pa.array(values).cast(kind)).statistic == 0.0


def test_integers_beyond_the_precision_of_floats_do_not_fail():
    row = compare([2**60, 2**60 + 1, 5], [2**60 + 1, 5, 7])
    assert row.statistic == pytest.approx(1 / 3)


def test_no_rows_are_an_incident_and_never_drift():
    reference = build_reference(pa.table({"x": [1.0, 2.0]}), ["x"])
    with pytest.raises(NotReadyError, match="incident"):
        measure_drift(reference, pa.table({"x": pa.array([], pa.float64())}), MONITORING, {})
    with pytest.raises(NotReadyError, match="Column x is absent"):
        measure_drift(reference, pa.table({"y": [1.0]}), MONITORING, {})
    with pytest.raises(NotReadyError, match="no rows"):
        build_reference(pa.table({"x": pa.array([], pa.float64())}), ["x"])
    with pytest.raises(NotReadyError, match="no columns"):
        measure_drift(Reference(()), pa.table({"y": [1.0]}), MONITORING, {})
    with pytest.raises(ConfigError, match="expected a number"):
        build_reference(pa.table({"x": [date(2026, 3, 1)]}), ["x"])


def test_the_table_has_the_declared_schema():
    row = compare(normal(1, 300), normal(2, 300, 1.0), importance={"x": 0.4})
    table = drift_table(date(2026, 3, 1), 3, [row])
    assert table.schema == DRIFT
    found = table.to_pylist()[0]
    assert (found["feature"], found["model_version"], found["importance"]) == ("x", 3, 0.4)
    assert (found["reference_rows"], found["current_rows"], found["drifted"]) == (300, 300, True)
    assert drift_table(date(2026, 3, 1), 3, []).schema == DRIFT


def test_the_reference_is_small_and_does_not_depend_on_row_order():
    values = normal(1, 200_000)
    frozen = build_reference(pa.table({"x": values}), ["x"])
    assert len(json.dumps(frozen.to_dict())) < 60_000
    shuffled = np.random.default_rng(9).permutation(values)
    assert build_reference(pa.table({"x": shuffled}), ["x"]) == frozen


def test_twenty_columns_of_many_rows_are_measured_quickly():
    names = [f"x{n}" for n in range(20)]
    generator = np.random.default_rng(1)
    frame = pa.table({x: generator.normal(size=200_000) for x in names})
    reference = build_reference(frame, names)
    started = time.process_time()
    rows = measure_drift(reference, frame, MONITORING, {})
    # About 0.3 s; scipy's own function needs three times as long.
    assert time.process_time() - started < 3
    assert not any(row.drifted for row in rows)


# --- categories --------------------------------------------------------------------------------


def drawn(generator, shares, rows):
    return generator.choice([f"v{n}" for n in range(len(shares))], rows, p=shares)


def zipf(values):
    shares = 1 / np.arange(1, values + 1)
    return shares / shares.sum()


def test_identical_categories_have_distance_zero():
    words = drawn(np.random.default_rng(1), zipf(6), 2_000).tolist()
    row = compare(words, words[::-1])
    assert (row.test, row.statistic, row.psi, row.drifted) == ("chi2", 0.0, 0.0, False)
    assert row.p_value == pytest.approx(1.0)


def test_distance_and_chi_square_by_hand():
    row = compare(["a"] * 50 + ["b"] * 50, ["a"] * 70 + ["b"] * 30)
    assert row.statistic == pytest.approx(0.2)
    expected = chi2_contingency([[50, 50], [70, 30]], correction=False)
    assert row.p_value == pytest.approx(expected.pvalue)
    assert row.psi == pytest.approx(psi_of([0.5, 0.5, 0, 0], [0.7, 0.3, 0, 0], 100, 100))
    assert row.reason.startswith("distance 0.200 >= 0.155, adjusted p 0.0039 < 0.01")
    # Of two values, it is what KS says of the same column as a flag.
    flags = compare([True] * 50 + [False] * 50, [True] * 70 + [False] * 30)
    assert flags.statistic == pytest.approx(row.statistic)


@pytest.mark.parametrize("values", [2, 5, 40, 300])
@pytest.mark.parametrize(("reference_rows", "current_rows"), [(3_000, 400), (500, 5_000)])
def test_p_values_of_calm_categories_are_uniform(values, reference_rows, current_rows):
    p_values, alarms = [], 0
    for seed in range(200):
        generator = np.random.default_rng([seed, values, current_rows])
        row = compare(
            drawn(generator, zipf(values), reference_rows),
            drawn(generator, zipf(values), current_rows),
        )
        p_values.append(row.p_value)
        alarms += row.drifted
    # The floor spares nearly all of those that `alpha` would have let pass.
    assert alarms <= 2
    # Too many small ones would be false alarms; two values take few different p-values.
    for level in (0.01, 0.05, 0.2, 0.5):
        share = np.mean(np.array(p_values) < level)
        assert share <= level + 3 * np.sqrt(level * (1 - level) / len(p_values))
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_shares_that_move_are_drift():
    generator = np.random.default_rng(7)
    calm, moved = zipf(8), np.roll(zipf(8), 1)
    row = compare(drawn(generator, calm, 5_000), drawn(generator, moved, 800))
    assert row.drifted
    assert row.statistic == pytest.approx(np.abs(calm - moved).sum() / 2, abs=0.05)


def test_a_small_move_of_many_rows_is_significant_but_no_drift():
    row = compare(["a"] * 500_000 + ["b"] * 500_000, ["a"] * 510_000 + ["b"] * 490_000)
    assert row.p_adjusted < 1e-20
    assert row.statistic == pytest.approx(0.01)
    assert not row.drifted


def test_unseen_values_are_drift_and_one_bin():
    words = ["a", "b"] * 500
    one = compare(words, words + ["new"] * 400)
    many = compare(words, words + [f"new{n}" for n in range(400)])
    for row in (one, many):
        assert row.drifted
        assert row.statistic == pytest.approx(400 / 1_400)
        assert row.psi_band == "major"
    assert many.psi == one.psi
    assert not compare(words, [*words, "new"]).drifted


def test_categories_gone_missing_are_drift_by_psi_alone():
    words = ["a", "b"] * 500
    gone = [None if n % 4 == 0 else ("a", "b")[n % 3 % 2] for n in range(1_000)]
    row = compare(words, gone)
    assert row.psi_band == "major"
    assert row.drifted
    alike = [None if n % 8 in (0, 1) else word for n, word in enumerate(words)]
    row = compare(words, alike)
    assert row.statistic == 0.0
    assert row.drifted
    empty = compare(words, pa.nulls(300, pa.string()))
    assert (empty.statistic, empty.p_value, empty.drifted) == (None, None, True)


def test_few_rows_of_rare_values_are_no_drift_by_chance():
    generator = np.random.default_rng(11)
    reference = drawn(generator, zipf(100), 5_000)
    rows = [compare(reference, drawn(generator, zipf(100), 30)) for _ in range(60)]
    assert sum(row.drifted for row in rows) <= 2
    one = compare(["a"] * 100, ["a"] * 3)
    assert (one.statistic, one.p_value, one.drifted) == (0.0, 1.0, False)


def test_numbers_and_categories_share_one_adjustment():
    generator = np.random.default_rng(12)

    def frame(shift, shares):
        words = drawn(generator, shares, 800)
        return pa.table({"n": generator.normal(shift, 1, 800), "c": words})

    reference = build_reference(frame(0.0, zipf(4)), ["n", "c"])
    rows = measure_drift(reference, frame(0.2, zipf(4)[::-1]), MONITORING, {})
    assert [row.test for row in rows] == ["ks", "chi2"]
    expected = false_discovery_control([row.p_value for row in rows])
    assert [row.p_adjusted for row in rows] == pytest.approx(list(expected))
    assert drift_table(date(2026, 3, 1), 3, rows)["test"].to_pylist() == ["ks", "chi2"]
