import numpy as np
import pyarrow as pa
import pytest

from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.training.frame import label_frame, label_split, prepare


def test_prepare_reads_columns_by_name_and_keeps_nulls_as_nan():
    table = pa.table({"b": pa.array([True, False]), "x": ["u", "v"], "a": pa.array([1, None])})
    matrix = prepare(table, ["a", "b"])
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[1, 1], [np.nan, 0]])
    np.testing.assert_array_equal(prepare(table.select(["a", "b"]), ["b", "a"]), matrix[:, ::-1])


def test_prepare_refuses_what_a_model_cannot_read():
    with pytest.raises(ConfigError, match=r"lack \['c'\]"):
        prepare(pa.table({"a": [1.0]}), ["a", "c"])
    with pytest.raises(ConfigError, match="type string"):
        prepare(pa.table({"a": ["1"]}), ["a"])
    for value in (np.inf, 1e300):
        with pytest.raises(ValidationError, match="1 infinite"):
            prepare(pa.table({"a": [1.0, value]}), ["a"])


def test_row_order_does_not_reach_the_frame(rows, use_case):
    shuffled = rows.take(np.random.default_rng(1).permutation(rows.num_rows))
    frame, other = label_frame(rows, use_case), label_frame(shuffled, use_case)
    assert frame.digest == other.digest
    assert frame.keys == other.keys


def test_split_gives_each_day_to_its_parts(split, plan, use_case, rows):
    per_day = rows.num_rows // len(plan.days)
    assert split.fit.rows == per_day * len(plan.fit)
    assert split.refit.rows == per_day * len(plan.refit)
    assert split.holdout.rows == per_day
    earlier = rows.slice(0, rows.num_rows - per_day)
    with pytest.raises(NotReadyError, match=str(plan.holdout[0])):
        label_split(earlier, plan, use_case)


def test_bad_training_sets_are_refused(rows, use_case):
    with pytest.raises(ValidationError, match="different pairs"):
        label_frame(pa.concat_tables([rows, rows.slice(0, 1)]), use_case)
    with pytest.raises(ConfigError, match="lacks the column label"):
        label_frame(rows.drop_columns(["label"]), use_case)
    labels = rows.schema.get_field_index("label")
    for values, message in (([None], "null in 1"), ([2], "takes the values")):
        column = pa.array(values + [1] * (rows.num_rows - 1))
        with pytest.raises(ValidationError, match=message):
            label_frame(rows.set_column(labels, "label", column), use_case)
