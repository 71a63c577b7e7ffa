import numpy as np
import pyarrow as pa
import pytest

from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.training.frame import label_rows


def test_row_order_does_not_reach_the_frames(rows, labelled, plan, use_case):
    shuffled = rows.take(np.random.default_rng(1).permutation(rows.num_rows))
    other = label_rows(shuffled, plan, use_case).frame(plan.final)
    mine = labelled.frame(plan.final)
    assert (mine.digest, mine.keys) == (other.digest, other.keys)


def test_each_day_gives_its_own_rows(labelled, plan, use_case, rows):
    per_day = rows.num_rows // len(plan.days)
    for days in plan.parts.values():
        assert labelled.frame(days).rows == per_day * len(days)
    earlier = rows.slice(0, rows.num_rows - per_day)
    with pytest.raises(NotReadyError, match=str(plan.holdout)):
        label_rows(earlier, plan, use_case)


def test_bad_training_sets_are_refused(rows, plan, use_case):
    with pytest.raises(ValidationError, match="different pairs"):
        label_rows(pa.concat_tables([rows, rows.slice(0, 1)]), plan, use_case)
    with pytest.raises(ConfigError, match="lacks the column label"):
        label_rows(rows.drop_columns(["label"]), plan, use_case)
    labels = rows.schema.get_field_index("label")
    for values, message in (
        ([None], "null in 1"),
        ([2], "1 labels such as 2; expected true or false"),
    ):
        column = pa.array(values + [1] * (rows.num_rows - 1))
        with pytest.raises(ValidationError, match=message):
            label_rows(rows.set_column(labels, "label", column), plan, use_case).frame(plan.days)
