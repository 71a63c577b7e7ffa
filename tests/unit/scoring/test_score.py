from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xgboost as xgb

from evergreen.contract import UseCase, as_of
from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.scoring.score import predictions_schema, score
from evergreen.training.inputs import Inputs
from evergreen.training.model import LoadedModel, Model

MOMENT = datetime(2025, 3, 2, tzinfo=UTC)
NAMES = ["orders", "idle_days", "gap_days", "vip"]


def declare(key_dtype="string", **changes):
    dtypes = {"order_id": "string", "buyer": key_dtype, "at": "timestamp"}
    columns = {
        name: {"source": name, "dtype": dtype, "description": name}
        for name, dtype in dtypes.items()
    }
    return UseCase.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "first_day": "2024-01-01",
            "entity": {"name": "buyer", "key": "buyer"},
            "events": {
                "orders": {
                    "source": {"kind": "files", "path": "orders.csv"},
                    "key": "order_id",
                    "timestamp": "at",
                    "columns": columns,
                }
            },
            "features": {
                "columns": {name: {"dtype": "float64", "description": name} for name in NAMES},
            },
            "target": {"name": "gone", "description": "No order.", "horizon_days": 60},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def use_case():
    return declare()


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(4)
    count = 700
    orders = rng.poisson(4.0, count) + 1
    return pa.table(
        {
            "buyer": [f"B{number:04d}" for number in range(count)],
            "as_of": pa.array([MOMENT] * count, pa.timestamp("us", "UTC")),
            "orders": orders,
            "idle_days": rng.exponential(40.0, count),
            "gap_days": pa.array(rng.exponential(20.0, count), mask=orders < 3),
            "vip": rng.random(count) < 0.3,
        }
    )


@pytest.fixture(scope="module")
def model(features):
    matrix = np.column_stack(
        [np.asarray(features[name].to_numpy(), dtype=np.float32) for name in NAMES]
    )
    target = (matrix[:, 1] + 10 * matrix[:, 3] > 40).astype(np.float32)
    booster = xgb.train(
        {"objective": "binary:logistic", "eta": 0.15, "max_depth": 3, "nthread": 1, "seed": 1},
        xgb.DMatrix(matrix, target, feature_names=NAMES),
        12,
    )
    return loaded(booster)


def loaded(booster):
    return LoadedModel(
        model=Model(booster, Inputs.of(booster)),
        measured=Model(booster, Inputs.of(booster)),
        version=7,
        run_id="run",
        importances={},
        reference={},
        tags={},
        reads={},
    )


def test_everybody_is_scored_once_and_ranked(model, features, use_case):
    predictions = score(model, features, use_case, threads=1)
    assert predictions.schema == predictions_schema(use_case)
    assert set(predictions["buyer"].to_pylist()) == set(features["buyer"].to_pylist())
    assert predictions["rank"].to_pylist() == list(range(1, features.num_rows + 1))
    scores = predictions["score"].to_numpy()
    assert (np.diff(scores) <= 0).all()
    assert 0 <= scores.min() < scores.max() <= 1
    assert set(predictions["day"].to_pylist()) == {date(2025, 3, 1)}
    assert set(predictions["as_of"].to_pylist()) == {MOMENT}
    assert set(predictions["model_version"].to_pylist()) == {7}
    assert set(predictions["variant"].to_pylist()) == {"champion"}


def test_score_belongs_to_its_own_row(model, features, use_case):
    predictions = score(model, features, use_case, threads=1)
    best = predictions["buyer"][0].as_py()
    alone = features.filter(pc.equal(features["buyer"], best))
    assert score(model, alone, use_case, threads=1)["score"][0] == predictions["score"][0]


def test_order_of_rows_columns_and_chunks_changes_nothing(model, features, use_case):
    predictions = score(model, features, use_case, threads=1)
    permutation = np.random.default_rng(9).permutation(features.num_rows)
    shuffled = features.take(permutation).select(features.column_names[::-1])
    assert score(model, shuffled, use_case, threads=2, chunk_rows=97).equals(predictions)


def test_ties_are_ranked_by_key(model, features, use_case):
    same = pa.concat_tables([features.slice(0, 1)] * 5)
    keys = pa.array(["d", "b", "e", "a", "c"])
    tied = score(model, same.set_column(0, "buyer", keys), use_case, threads=1)
    assert tied["buyer"].to_pylist() == ["a", "b", "c", "d", "e"]


def test_bands_hold_their_lower_bound(model, features, use_case):
    predictions = score(model, features, use_case, threads=1)
    expected = [
        next(name for name, bound in use_case.bands.items() if value >= bound)
        for value in predictions["score"].to_pylist()
    ]
    assert predictions["band"].to_pylist() == expected
    assert set(expected) == set(use_case.bands)
    bounds = {"top": float(predictions["score"][10].as_py()), "rest": 0.0}
    scoring = use_case.scoring.model_copy(update={"bands": bounds})
    bands = score(model, features, use_case.model_copy(update={"scoring": scoring}), threads=1)
    assert bands["band"][10].as_py() == "top"


def test_reasons_add_up_to_what_the_trees_say(model, features, use_case):
    scoring = use_case.scoring.model_copy(update={"reasons": 10})
    wide = use_case.model_copy(update={"scoring": scoring})
    predictions = score(model, features, wide, threads=1).slice(0, 20).to_pylist()
    values = {row["buyer"]: row for row in features.to_pylist()}
    bias = model.model.booster.predict(
        xgb.DMatrix(np.zeros((1, 4), np.float32), feature_names=NAMES), pred_contribs=True
    )[0, -1]
    for row in predictions:
        moved = bias
        sizes = []
        for reason in row["reasons"]:
            named, direction, size = reason.split(" ")
            name, _, value = named.partition("=")
            expected = values[row["buyer"]][name]
            if expected is None:
                assert value == "missing"
            else:
                assert float(value) == pytest.approx(float(expected), rel=1e-3)
            sizes.append(float(size))
            moved += {"raises": 1, "lowers": -1}[direction] * float(size)
        assert sizes == sorted(sizes, reverse=True)
        assert 1 / (1 + np.exp(-moved)) == pytest.approx(row["score"], abs=0.01)


def test_reasons_are_capped_and_may_be_turned_off(model, features, use_case):
    def reasons(count):
        scoring = use_case.scoring.model_copy(update={"reasons": count})
        capped = use_case.model_copy(update={"scoring": scoring})
        predictions = score(model, features, capped, threads=1)
        assert predictions.schema == predictions_schema(use_case)
        return predictions["reasons"].to_pylist()

    assert max(map(len, reasons(3))) > 1
    assert reasons(1) == [found[:1] for found in reasons(3)]
    assert reasons(0) == [[]] * features.num_rows


def asked_for(use_case, *bands, **changes):
    scoring = use_case.scoring.model_copy(update={"reasons_for": bands, **changes})
    return use_case.model_copy(update={"scoring": scoring})


def test_reasons_are_given_to_the_bands_that_are_asked_for(model, features, use_case):
    everybody = score(model, features, asked_for(use_case, *use_case.bands), threads=1)
    assert min(map(len, everybody["reasons"].to_pylist())) > 0
    for bands in ([], ["low"], ["high", "low"]):
        told = score(model, features, asked_for(use_case, *bands), threads=1, chunk_rows=97)
        assert told["reasons"].to_pylist() == [
            row["reasons"] if row["band"] in bands else [] for row in everybody.to_pylist()
        ]
        assert told.drop_columns("reasons").equals(everybody.drop_columns("reasons"))
    assert score(model, features, use_case, threads=1).equals(
        score(model, features, asked_for(use_case, "high"), threads=1)
    )


def test_a_band_without_rows_and_a_band_of_all_rows(model, features, use_case):
    bounds = {"never": 2.0, "all": 0.25, "low": 0.0}
    few = features.filter(pc.equal(features["idle_days"], pc.max(features["idle_days"])))
    told = score(model, few, asked_for(use_case, "never", bands=bounds), threads=1)
    assert (told["band"].to_pylist(), told["reasons"].to_pylist()) == (["all"], [[]])
    told = score(model, few, asked_for(use_case, "all", bands=bounds), threads=1)
    assert len(told["reasons"][0]) > 1


def test_integer_keys_stay_integers(model, features, use_case):
    numbered = features.set_column(0, "buyer", pa.array(range(features.num_rows), pa.int64()))
    predictions = score(model, numbered, declare("int64"), threads=1)
    assert predictions.schema.field("buyer").type == pa.int64()


def test_bad_partitions_are_refused(model, features, use_case):
    def refused(table, error, message):
        with pytest.raises(error, match=message):
            score(model, table, use_case, threads=1)

    refused(features.slice(0, 0), NotReadyError, "no features to score")
    refused(features.drop_columns(["vip"]), ConfigError, "lack vip")
    refused(features.drop_columns(["buyer"]), ConfigError, "lack buyer")
    refused(pa.concat_tables([features, features.slice(0, 1)]), ValidationError, "701 rows for 700")
    nobody = pa.array([None, *features["buyer"].to_pylist()[1:]])
    refused(features.set_column(0, "buyer", nobody), ValidationError, "1 rows of features have no")
    later = pa.array([MOMENT.replace(day=3)] + [MOMENT] * 699, pa.timestamp("us", "UTC"))
    refused(features.set_column(1, "as_of", later), ValidationError, "2 values of as_of")
    noon = pa.array([MOMENT.replace(hour=12)] * 700, pa.timestamp("us", "UTC"))
    refused(features.set_column(1, "as_of", noon), ValidationError, "end of a day in UTC")


def test_the_day_is_the_one_that_ends_in_the_use_cases_zone(model, features):
    berlin = declare(zone="Europe/Berlin")
    # Clocks go forward on 30 March; the day has 23 hours.
    for day in (date(2025, 3, 29), date(2025, 3, 30)):
        ends = pa.array([as_of(day, "Europe/Berlin")] * 700, pa.timestamp("us", "UTC"))
        scored = score(model, features.set_column(1, "as_of", ends), berlin, threads=1)
        assert set(scored["day"].to_pylist()) == {day}
    with pytest.raises(ValidationError, match="end of a day in Europe/Berlin"):
        score(model, features, berlin, threads=1)


def test_a_category_is_a_reason_by_its_name(use_case):
    use_case = asked_for(use_case, *use_case.bands)
    names, rng = ["country", "idle_days"], np.random.default_rng(2)
    matrix = np.column_stack([rng.integers(0, 2, 900), rng.normal(size=900)]).astype(np.float32)
    inputs = Inputs(tuple(names), {"country": ("DE", "FR")})
    data = xgb.QuantileDMatrix(
        matrix,
        matrix[:, 0],
        feature_names=names,
        feature_types=inputs.types,
        enable_categorical=True,
    )
    booster = xgb.train({"objective": "binary:logistic", "nthread": 1}, data, 5)
    inputs.keep_in(booster)
    features = pa.table(
        {
            "buyer": ["a", "b", "c", "d"],
            "as_of": pa.array([MOMENT] * 4, pa.timestamp("us", "UTC")),
            "country": ["DE", "FR", None, "XX"],
            "idle_days": [0.5, 0.5, 0.5, 0.5],
        }
    )
    rows = score(loaded(booster), features, use_case, threads=1).to_pylist()
    found = {row["buyer"]: row["reasons"][0].rsplit(" ", 1)[0] for row in rows}
    unknown = found.pop("d")
    assert found == {"a": "country=DE lowers", "b": "country=FR raises", "c": unknown}
    assert unknown.startswith("country=missing ")


def test_quantiles_are_columns_and_the_median_is_explained(features):
    wide = {"kind": "number", "distribution": "quantile", "quantiles": [0.1, 0.5, 0.9]}
    spent = declare(
        target={"name": "spent", "description": "Spent.", "horizon_days": 60, **wide},
        scoring={"bands": {"much": 60.0, "some": 20.0}, "reasons": 4},
    )
    matrix = np.column_stack(
        [np.asarray(features[name].to_numpy(), dtype=np.float32) for name in NAMES]
    )
    noise = np.random.default_rng(1).exponential(10.0, len(matrix))
    booster = xgb.train(
        {**spent.target.booster_parameters(), "nthread": 1, "max_depth": 3},
        xgb.DMatrix(matrix, matrix[:, 1] + noise, feature_names=NAMES),
        30,
    )
    predictions = score(loaded(booster), features, spent, threads=1)
    assert predictions.schema == predictions_schema(spent)
    assert predictions.column_names[:5] == ["buyer", "as_of", "q10", "score", "q90"]
    rows = predictions.to_pylist()
    assert all(row["q10"] <= row["score"] <= row["q90"] for row in rows)
    # The lowest band takes all that is lower.
    assert {row["band"] for row in rows if row["score"] < 20} == {"some"}
    assert {row["band"] for row in rows if row["score"] >= 60} == {"much"}
    given = xgb.DMatrix(matrix, feature_names=NAMES)
    bias = booster.predict(given, pred_contribs=True)[0, 1, -1]
    for row in rows[:20]:
        signs = {"raises": 1, "lowers": -1}
        parts = [reason.split(" ") for reason in row["reasons"]]
        moved = sum(signs[direction] * float(size) for _, direction, size in parts)
        assert bias + moved == pytest.approx(row["score"], abs=0.03)
