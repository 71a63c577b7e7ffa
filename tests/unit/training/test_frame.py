import numpy as np
import pyarrow as pa
import pytest

from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.training.frame import label_split


def test_row_order_does_not_reach_the_frames(rows, split, plan, use_case):
    shuffled = rows.take(np.random.default_rng(1).permutation(rows.num_rows))
    other = label_split(shuffled, plan, use_case)
    assert split.refit.digest == other.refit.digest
    assert split.refit.keys == other.refit.keys
    assert split.holdout_features.equals(other.holdout_features)


def test_split_gives_each_day_to_its_parts(split, plan, use_case, rows):
    per_day = rows.num_rows // len(plan.days)
    assert split.fit.rows == per_day * len(plan.fit)
    assert split.refit.rows == per_day * len(plan.refit)
    assert split.holdout.rows == per_day
    earlier = rows.slice(0, rows.num_rows - per_day)
    with pytest.raises(NotReadyError, match=str(plan.holdout[0])):
        label_split(earlier, plan, use_case)


def test_bad_training_sets_are_refused(rows, plan, use_case):
    with pytest.raises(ValidationError, match="different pairs"):
        label_split(pa.concat_tables([rows, rows.slice(0, 1)]), plan, use_case)
    with pytest.raises(ConfigError, match="lacks the column label"):
        label_split(rows.drop_columns(["label"]), plan, use_case)
    labels = rows.schema.get_field_index("label")
    for values, message in (
        ([None], "null in 1"),
        ([2], "1 labels such as 2; expected true or false"),
    ):
        column = pa.array(values + [1] * (rows.num_rows - 1))
        with pytest.raises(ValidationError, match=message):
            label_split(rows.set_column(labels, "label", column), plan, use_case)
