import numpy as np
import pyarrow as pa

from evergreen.training.slices import find_slices


def sliced(use_case, slices, table):
    training = use_case.training.model_copy(update={"slices": slices})
    found = find_slices(use_case.model_copy(update={"training": training}), table)
    return {name: np.flatnonzero(mask).tolist() for name, mask in found}


def test_values_bounds_and_missing_ones_are_slices_of_their_own(use_case):
    table = pa.table(
        {
            "vip": [True, False, None, True],
            "country": pa.array(["DE", "FR", "DE", None]),
            "idle_days": [0.0, 30.0, 99.0, None],
        }
    )
    assert sliced(use_case, {"vip": (), "country": ()}, table) == {
        "vip=true": [0, 3],
        "vip=false": [1],
        "vip missing": [2],
        "country=DE": [0, 2],
        "country=FR": [1],
        "country missing": [3],
    }
    assert sliced(use_case, {"idle_days": (30.0, 200.0)}, table) == {
        "idle_days<30": [0],
        "30<=idle_days<200": [1, 2],
        "idle_days missing": [3],
    }
    assert sliced(use_case, {}, table) == {}
