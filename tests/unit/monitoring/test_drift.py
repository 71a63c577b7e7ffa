import json
from datetime import date
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, ks_2samp, wasserstein_distance

from evergreen.contract import Monitoring
from evergreen.errors import ConfigError, NotReadyError
from evergreen.monitoring.drift import DRIFT, drift_table, measure_drift, psi_of
from evergreen.monitoring.expected import WEEKS
from evergreen.monitoring.reference import Reference, build_reference

MONITORING = Monitoring()
NIGHTS = 33
FEW = st.lists(st.integers(-3, 6) | st.floats(-3, 6), min_size=2, max_size=80)


def measure(nights, training=None, columns=("x",), **options):
    """Drift rows, after a trip of the reference through JSON; columns given alone are `x`."""
    nights = [n if n is None or isinstance(n, pa.Table) else pa.table({"x": n}) for n in nights]
    held = training if training is not None else next(n for n in nights[1:] if n)
    held = held if isinstance(held, pa.Table) else pa.table({"x": held})
    frozen = build_reference(held, list(columns))
    stored = Reference.from_dict(json.loads(json.dumps(frozen.to_dict(), allow_nan=False)))
    assert stored == frozen
    options = {"monitoring": MONITORING, "importance": {}} | options
    return measure_drift(stored, nights, **options)


def by_test(rows, feature="x", name="all"):
    """Rows against the expected, by test."""
    return {
        row.test: row
        for row in rows
        if (row.reference, row.feature, row.slice) == ("expected", feature, name)
    }


def against_training(training, tonight):
    """The row against training, of a night without any before it."""
    (row,) = [r for r in measure([tonight], training) if r.reference == "training"]
    return row


def normal(seed, rows, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1.0, rows)


def calm(seed=0, rows=1_000, nights=NIGHTS, draw=normal):
    return [draw(1_000 * seed + n, rows) for n in range(nights)]


# --- against what was expected ------------------------------------------------------------------


def test_nights_like_others_hardly_ever_raise_an_alarm():
    names = [f"x{n}" for n in range(20)]
    some = MONITORING.model_copy(update={"min_ks": 0.0, "psi_bands": (0.0, 0.0)})
    alarms = without_floor = stock = 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        nights = [pa.table({x: generator.normal(size=500) for x in names}) for _ in range(34)]
        rows = measure(nights, columns=names)
        alarms += any(row.drifted for row in rows)
        rows = measure(nights, columns=names, monitoring=some)
        without_floor += any(row.drifted for row in rows)
        stock += any(
            ks_2samp(nights[0][x].to_numpy(), nights[1][x].to_numpy()).pvalue < 0.05 for x in names
        )
    # One test at 5 % per column would cry wolf on most nights.
    assert stock >= 4
    assert alarms == 0
    assert without_floor <= 1


def test_a_shift_is_drift_and_a_tiny_one_of_many_rows_is_not():
    found = by_test(measure([normal(99, 1_000, 0.5), *calm()]))["ks"]
    assert found.drifted
    assert not found.extreme
    assert found.statistic == pytest.approx(0.2, abs=0.04)
    assert found.usual < 0.05
    assert found.p_adjusted < 1e-3
    assert found.psi_band in ("moderate", "major")
    tiny = by_test(measure([normal(99, 200_000, 0.05), *calm(rows=200_000, nights=20)]))["ks"]
    assert tiny.p_adjusted < 0.01
    assert not tiny.drifted
    assert "< 0.1" in tiny.reason


def test_what_has_moved_steadily_before_goes_on_and_is_no_drift():
    moving = [normal(n, 2_000, -0.05 * n) for n in range(34)]
    found = by_test(measure(moving, moving[-1]))["ks"]
    assert found.p_value > 0.01
    assert not found.drifted
    # Against what the champion was trained on it lies far away.
    (training,) = [r for r in measure(moving, moving[-1]) if r.reference == "training"]
    assert training.statistic > 0.5
    assert training.psi_band == "major"
    assert not training.drifted


def test_a_catastrophe_in_nine_of_twenty_columns_is_extreme_on_the_first_night():
    names = [f"x{n}" for n in range(20)]
    generator = np.random.default_rng(5)
    nights = [pa.table({x: generator.normal(size=500) for x in names}) for _ in range(33)]
    tonight = pa.table(
        {x: generator.normal(50.0 if n < 9 else 0.0, 1.0, 500) for n, x in enumerate(names)}
    )
    rows = measure([tonight, *nights], columns=names)
    assert [row.feature for row in rows if row.drifted] == names[:9]
    assert all(row.extreme and row.statistic == 1.0 for row in rows if row.drifted)
    # Where it is not known what is usual, nothing is drift, and that is said.
    rows = measure([tonight, *nights[:10]], columns=names)
    assert not any(row.drifted for row in rows)
    assert "D 1.000 >= 0.1; too few nights" in rows[0].reason


def test_one_outlier_changes_nothing():
    nights = [normal(99, 1_000, 0.3), *calm()]
    plain = by_test(measure(nights))["ks"]
    nights[0] = np.append(nights[0], 1e12)
    outlier = by_test(measure(nights))["ks"]
    assert outlier.psi == pytest.approx(plain.psi, abs=0.005)
    assert outlier.statistic == pytest.approx(plain.statistic, abs=0.002)
    nights[0], nights[1] = nights[0][:-1], np.append(nights[1], -1e12)
    tainted = by_test(measure(nights))["ks"]
    assert tainted.psi == pytest.approx(plain.psi, abs=0.005)
    assert tainted.drifted == plain.drifted


def missing(share, seed, rows=1_000):
    values = normal(seed, rows)
    values[np.random.default_rng(seed + 7).random(rows) < share] = np.nan
    return values


@pytest.mark.parametrize(("share", "drifted"), [(0.02, False), (0.15, True), (0.7, True)])
def test_values_gone_missing_are_drift_by_their_share_alone(share, drifted):
    nights = [missing(share, 99), *(missing(0.01, n) for n in range(33))]
    found = by_test(measure(nights))
    assert found["missing"].statistic == pytest.approx(share - 0.01, abs=0.03)
    assert found["missing"].drifted == drifted
    assert found["missing"].extreme == (share > 0.5)
    assert not found["ks"].drifted
    # Nulls and NaN are the same.
    nulls = pa.table({"x": pa.array(nights[0], from_pandas=True)})
    assert by_test(measure([nulls, *nights[1:]])) == found


def test_a_column_without_values_is_missing_altogether():
    gone = pa.array([None] * 400, pa.float64())
    found = by_test(measure([gone, *calm()]))
    assert found["ks"].statistic is None
    assert "not measurable" in found["ks"].reason
    assert found["missing"].extreme
    back = by_test(measure([normal(1, 400), *[gone] * 33], gone))
    assert back["missing"].extreme
    still = by_test(measure([gone] * 34))
    assert not any(row.drifted for row in still.values())


def test_constant_columns():
    same = by_test(measure([[5.0] * 500] * 34))["ks"]
    assert (same.statistic, same.psi, same.drifted) == (0.0, 0.0, False)
    other = by_test(measure([[5.1] * 500, *[[5.0] * 500] * 33]))["ks"]
    assert (other.statistic, other.extreme, other.psi_band) == (1.0, True, "major")
    assert other.wasserstein == pytest.approx(0.1)


def test_infinite_values_are_extreme_and_storable():
    tonight = normal(1, 1_000)
    tonight[::3] = np.inf
    found = by_test(measure([tonight, *calm()]))["ks"]
    assert found.statistic == pytest.approx(1 / 3, abs=0.05)
    assert found.wasserstein is None
    json.dumps(found.to_dict(), allow_nan=False)


@settings(max_examples=50)
@given(FEW, FEW)
def test_small_columns_agree_with_scipy_also_with_ties(before, tonight):
    before, tonight = [float(x) for x in before], [float(x) for x in tonight]
    found = by_test(measure([tonight, *[before] * WEEKS]))["ks"]
    assert found.statistic == pytest.approx(
        ks_2samp(before, tonight, method="asymp").statistic, abs=1e-12
    )
    expected = wasserstein_distance(before, tonight)
    assert found.wasserstein == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3, 2.0])
def test_large_columns_are_at_most_a_few_thousandths_below_scipy(shift):
    before, tonight = calm(rows=8_000, nights=WEEKS), normal(99, 15_000, shift)
    found = by_test(measure([tonight, *before]))["ks"]
    expected = ks_2samp(np.concatenate(before), tonight).statistic
    assert expected - 0.002 <= found.statistic <= expected + 1e-12
    moved = wasserstein_distance(np.concatenate(before), tonight)
    assert found.wasserstein == pytest.approx(moved, abs=0.01)


def test_nights_that_are_not_there_are_passed_over():
    nights = [normal(99, 1_000, 0.5), *calm()]
    for gap in (1, 3, 7, 20):
        nights[gap] = None
    nights[9] = pa.table({"x": pa.array([], pa.float64())})
    assert by_test(measure(nights))["ks"].drifted
    few = by_test(measure([nights[0], None, nights[2], None, None, *nights[5:]]))["ks"]
    assert few.statistic is None
    assert not few.drifted


def test_few_rows_have_no_index():
    found = by_test(measure([normal(1, 50, 9.0), *calm(rows=50, nights=5)]))["ks"]
    assert (found.psi, found.psi_band, found.drifted) == (None, None, False)
    assert by_test(measure([normal(1, 50, 9.0), *calm(rows=50)]))["ks"].extreme


def test_slices_are_measured_where_they_have_enough_rows():
    def night(seed, shift=0.0):
        generator = np.random.default_rng(seed)
        land = generator.choice(["de", "fr", "it"], 2_000, p=[0.6, 0.35, 0.05])
        return pa.table({"x": generator.normal(shift * (land == "fr"), 1, 2_000), "land": land})

    def slices(rows):
        land = rows["land"].to_numpy(zero_copy_only=False)
        return {f"land={name}": land == name for name in ("de", "fr", "it")}

    rows = measure([night(99, 0.8), *(night(n) for n in range(33))], slices=slices)
    expected = [row for row in rows if row.reference == "expected"]
    assert [row.slice for row in expected] == ["all", "land=de", "land=fr"]
    assert [row.drifted for row in expected] == [True, False, True]
    tested = [row for row in rows if row.p_value is not None]
    adjusted = false_discovery_control([row.p_value for row in tested])
    assert [row.p_adjusted for row in tested] == pytest.approx(list(adjusted))


def test_no_rows_are_an_incident_and_never_drift():
    reference = build_reference(pa.table({"x": [1.0, 2.0]}), ["x"])
    held = partial(measure_drift, monitoring=MONITORING, importance={})
    for nothing in (None, pa.table({"x": pa.array([], pa.float64())})):
        with pytest.raises(NotReadyError, match="incident"):
            held(reference, [nothing])
    with pytest.raises(NotReadyError, match="Column x is absent"):
        held(reference, [pa.table({"y": [1.0]})])
    with pytest.raises(NotReadyError, match="no rows"):
        build_reference(pa.table({"x": pa.array([], pa.float64())}), ["x"])
    with pytest.raises(NotReadyError, match="no columns"):
        held(Reference(()), [pa.table({"y": [1.0]})])
    with pytest.raises(ConfigError, match="expected a number"):
        build_reference(pa.table({"x": [date(2026, 3, 1)]}), ["x"])


def test_the_table_has_the_declared_schema():
    rows = measure([normal(99, 300, 1.0), *calm(rows=300)], importance={"x": 0.4})
    table = drift_table(date(2026, 3, 1), 3, rows)
    assert table.schema == DRIFT
    assert {*table["reference"].to_pylist()} == {"expected", "training"}
    found = table.to_pylist()[0]
    assert (found["feature"], found["model_version"], found["importance"]) == ("x", 3, 0.4)
    assert (found["reference_rows"], found["current_rows"], found["drifted"]) == (1_200, 300, True)
    assert drift_table(date(2026, 3, 1), 3, []).schema == DRIFT


# --- against training ---------------------------------------------------------------------------


def test_psi_by_hand():
    # Bins of the reference 1..4, a quarter each; the night has 40/30/20/10 %.
    row = against_training([1, 2, 3, 4] * 50, [1] * 80 + [2] * 60 + [3] * 40 + [4] * 20)
    by_hand = sum((found - 0.25) * np.log(found / 0.25) for found in (0.4, 0.3, 0.2, 0.1))
    assert row.psi == pytest.approx(by_hand, abs=1e-12)
    assert row.psi == pytest.approx(0.2282, abs=1e-4)
    assert row.psi_band == "moderate"
    assert row.statistic == pytest.approx(0.2)


def test_psi_bins_are_deciles_with_open_ends():
    values = np.repeat(np.arange(1, 101), 3)
    reference = build_reference(pa.table({"x": values}), ["x"]).columns[0]
    assert reference.edges == (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    assert reference.proportions == (0.0, *[0.1] * 10, 0.0, 0.0)
    # A tenth of the rows falls below the least value ever seen, a tenth above, a tenth is missing.
    current = ([0.5] * 10 + [101] * 10 + [None] * 10 + list(range(31, 101))) * 3
    row = against_training(values, current)
    shares = [0.1, 0, 0, 0, *[0.1] * 7, 0.1, 0.1]
    assert row.psi == pytest.approx(psi_of(reference.proportions, shares, 300, 300), abs=1e-12)


@settings(max_examples=40)
@given(FEW, FEW)
def test_distances_from_training_agree_with_scipy(training, tonight):
    training, tonight = [float(x) for x in training], [float(x) for x in tonight]
    row = against_training(training, tonight)
    assert row.statistic == pytest.approx(
        ks_2samp(training, tonight, method="asymp").statistic, abs=1e-12
    )


@pytest.mark.parametrize("kind", [pa.int64(), pa.float32(), pa.int16(), pa.uint8()])
def test_number_types_are_measured_alike(kind):
    values = np.arange(200) % 50
    assert against_training(values, pa.array(values).cast(kind)).statistic == 0.0


def test_bools_move_by_their_share():
    training = [True] * 300 + [False] * 9_700
    assert against_training(training, training[::-1]).statistic == 0.0
    row = against_training(training, [True] * 3_000 + [False] * 7_000)
    assert row.statistic == pytest.approx(0.27)


def test_integers_beyond_the_precision_of_floats_do_not_fail():
    row = against_training([2**60, 2**60 + 1, 5], [2**60 + 1, 5, 7])
    assert row.statistic == pytest.approx(1 / 3)


def test_the_reference_is_small_and_does_not_depend_on_row_order():
    values = normal(1, 200_000)
    frozen = build_reference(pa.table({"x": values}), ["x"])
    assert len(json.dumps(frozen.to_dict())) < 60_000
    shuffled = np.random.default_rng(9).permutation(values)
    assert build_reference(pa.table({"x": shuffled}), ["x"]) == frozen


# --- categories ---------------------------------------------------------------------------------


def drawn(seed, rows=1_000, shares=(0.5, 0.3, 0.15, 0.05)):
    names = [f"v{n}" for n in range(len(shares))]
    return np.random.default_rng(seed).choice(names, rows, p=shares)


def zipf(values):
    shares = 1 / np.arange(1, values + 1)
    return shares / shares.sum()


@pytest.mark.parametrize("values", [2, 8, 100])
def test_calm_categories_hardly_ever_drift(values):
    draw = partial(drawn, shares=zipf(values))
    unusual = drifted = 0
    for seed in range(30):
        found = by_test(measure(calm(seed, 400, 34, draw)))["chi2"]
        unusual += found.p_value < 0.05
        drifted += found.drifted
    assert unusual <= 6
    assert drifted == 0


def test_shares_that_move_are_drift():
    shares = zipf(8)
    nights = calm(draw=partial(drawn, shares=shares))
    found = by_test(measure([drawn(99, shares=np.roll(shares, 1)), *nights]))["chi2"]
    assert found.drifted
    assert found.statistic == pytest.approx(np.abs(shares - np.roll(shares, 1)).sum() / 2, abs=0.07)
    few = by_test(measure([drawn(99, shares=shares[::-1]), *nights]))["chi2"]
    assert few.p_value < found.p_value


def test_values_that_training_did_not_have_are_told_by_their_share():
    nights = calm(draw=drawn)
    tonight = np.append(drawn(99, 800), [f"new{n}" for n in range(200)])
    found = by_test(measure([tonight, *nights]))
    assert found["unseen"].statistic == pytest.approx(0.2)
    assert found["unseen"].drifted
    assert found["chi2"].drifted
    # What the model does not know has been there for long: it is unseen, and not unusual.
    old = [np.append(night, ["later"] * 200) for night in calm(draw=drawn, nights=34)]
    found = by_test(measure(old, drawn(5)))
    assert found["unseen"].statistic < 0.01
    assert not any(row.drifted for row in found.values())


def test_categories_gone_missing_are_drift():
    words = np.array(drawn(99), object)
    words[::4] = None
    found = by_test(measure([words, *calm(draw=drawn)]))
    assert found["missing"].drifted
    assert not found["chi2"].drifted
    gone = by_test(measure([pa.nulls(300, pa.string()), *calm(draw=drawn)]))
    assert gone["missing"].extreme
    assert gone["chi2"].statistic is None
