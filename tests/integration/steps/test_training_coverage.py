"""Days and entities that have labels but no features are no part of a training set."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.errors import NotReadyError, ValidationError
from evergreen.provenance.replay import replay
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.settings import Settings
from evergreen.training.split import plan_training
from evergreen.training.tracking import describe_version
from tiny_shop import DAYS, NAME, compute, label, open_shop, train

pytestmark = pytest.mark.timeout(300)

LAST = DAYS[-1]
# A day that the final model is fitted on.
FITTED = DAYS[4]


@pytest.fixture
def shop(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Orders of all days, features from the third day on, labels from the first on."""
    folder = open_shop(tmp_path, monkeypatch)
    label(compute(f"{DAYS[2]}..{LAST}"))
    return folder


def republish(day: date, rows: pa.Table) -> None:
    publish_chunk(Staged(NAME, str(day), ""), "publish_features", "features", rows, [day])


def assembled() -> tuple[Staged, pa.Table]:
    request = steps.accept_request(NAME, str(LAST), "by hand", "as_corrected")
    staged = Staged.from_dict(steps.assemble_training_set(request))
    (period,) = staged.periods()
    return staged, staged.read("training_set", period)


def test_what_has_labels_but_no_features(shop: Path) -> None:
    assert lake.partitions(NAME, "labels")[DAYS[0]]
    assert DAYS[0] not in lake.partitions(NAME, "features")
    with pytest.raises(NotReadyError) as refused:
        train()
    for part in (
        f"no features ({DAYS[0]}, {DAYS[1]})",
        f"evergreen backfill shop {DAYS[0]} {DAYS[1]} --reprocess completed",
    ):
        assert part in str(refused.value)
    compute(f"{DAYS[0]}..{DAYS[1]}")
    staged, whole = assembled()
    assert staged.facts["left_out"] == {}
    labelled = lake.partitions(NAME, "labels")
    plan = plan_training(load_use_case(NAME), LAST)
    assert whole.num_rows == sum(labelled[day] for day in plan.days)

    # Late orders made two customers known after the day's features were computed.
    features = lake.read_day(NAME, "features", FITTED)
    late = features["customer_id"].slice(0, 2)
    republish(FITTED, features.slice(2))
    staged, rows = assembled()
    assert staged.facts["left_out"] == {str(FITTED): 2}
    gone = pc.and_(
        pc.is_in(whole["customer_id"], value_set=late.combine_chunks()),
        pc.equal(whole["as_of"], features["as_of"][0]),
    )
    assert rows.equals(whole.filter(pc.invert(gone)))
    trained = steps.train_challenger(steps.choose_recipe(staged.to_dict()))
    facts = describe_version(load_use_case(NAME), trained["version"])
    assert facts.metrics["left_out_rows"] == 2
    assert replay(f"shop/{trained['version']}").equal

    # labels.sql asks about others than features.sql.
    republish(FITTED, features.slice(features.num_rows // 5))
    with pytest.raises(ValidationError) as unlike:
        assembled()
    for part in (
        f"Of {features.num_rows} labelled entities of {FITTED}",
        f"{features.num_rows // 5} have no features (such as {late[0]}, ",
        "at least 90%",
        "same population",
    ):
        assert part in str(unlike.value)

    # The features of a day know an hour less than its labels suppose.
    column = features.schema.get_field_index("as_of")
    older = pc.subtract(features["as_of"], pa.scalar(timedelta(hours=1)))
    republish(FITTED, features.set_column(column, "as_of", older))
    with pytest.raises(ValidationError, match=f"{features.num_rows} have no features"):
        assembled()

    # A feature that may not be null is, on one row of one day.
    column = features.schema.get_field_index("last_amount")
    holes = pc.if_else(pc.equal(features["customer_id"], late[0]), None, features["last_amount"])
    republish(FITTED, features.set_column(column, "last_amount", holes))
    with pytest.raises(NotReadyError) as empty:
        assembled()
    assert f"features of {FITTED} lack last_amount (1 of {features.num_rows} rows" in str(
        empty.value
    )
