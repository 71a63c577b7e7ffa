from __future__ import annotations

import gc
import json
import multiprocessing
import re
import shutil
import sys
import weakref
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from quality_shop import DAY, order, orders, raw_rows, shop

from evergreen.contract import Events, as_of
from evergreen.errors import ConfigError, ValidationError
from evergreen.quality import docs, validate
from evergreen.quality.schemas import counts_schema
from evergreen.quality.split import Split, split_rows

INSTANT = pa.timestamp("us", tz="UTC")


def split_of(table: Events, rows: list[dict[str, str | None]]) -> Split:
    return split_rows(table, raw_rows(rows), DAY, DAY + timedelta(days=1))


def orders_report(
    quality: Path,
    rows: list[dict[str, str | None]],
    recent: dict[date, int] | None = None,
    **batch: Any,
) -> validate.Report:
    table = orders(orders={"batch": batch}, first_day=str(min(recent or {DAY: 0})))
    found = split_of(table, rows)
    return validate.validate_rows(
        table, found.accepted, found.counts, recent or {}, run_name=f"{DAY}", quality=quality
    )


def features_of(days: list[date], customers: int = 3) -> pa.Table:
    n = customers * len(days)
    return pa.table(
        {
            "customer_id": [f"C{i % customers}" for i in range(n)],
            "as_of": pa.array([as_of(days[i // customers]) for i in range(n)], INSTANT),
            "days_since": pa.array([1.5] * n),
            "orders": pa.array([2] * n, pa.int64()),
            "gap": pa.array([None, 3] * n, pa.int64()).slice(0, n),
            "day": pa.array([days[i // customers] for i in range(n)]),
        }
    )


def predictions_of(scores: list[float], day: date = DAY, **changes: Any) -> pa.Table:
    n = len(scores)
    bands = ["high" if s >= 0.7 else "medium" if s >= 0.4 else "low" for s in scores]
    columns = {
        "customer_id": [f"C{i}" for i in range(n)],
        "as_of": pa.array([as_of(day)] * n, INSTANT),
        "score": pa.array(scores, pa.float64()),
        "rank": pa.array(range(1, n + 1), pa.int64()),
        "band": bands,
        "model_version": pa.array([3] * n, pa.int64()),
    }
    return pa.table({**columns, **changes})


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    column = (
        values if isinstance(values, pa.Array) else pa.array(values, table.schema.field(name).type)
    )
    return table.set_column(table.column_names.index(name), name, column)


@pytest.fixture
def quality(tmp_path: Path) -> Path:
    return tmp_path / "quality"


# --- orders ------------------------------------------------------------------------------------


def test_good_batch_passes_and_is_kept(quality):
    report = orders_report(quality, [order(1), order(2)])
    report.require()
    assert report.success
    assert report.failures == ()
    assert report.statistics["evaluated_expectations"] > 15
    assert report.results_path == quality / "shop/validations/orders/2024-03-10.json"
    assert json.loads(report.results_path.read_text())["success"] is True
    assert report.docs_path == quality / "shop/data_docs/orders/2024-03-10.html"


def test_empty_day_fails_unless_allowed(quality):
    report = orders_report(quality, [])
    assert not report.success
    with pytest.raises(ValidationError, match="the source delivered no rows"):
        report.require()
    assert orders_report(quality, [], allow_empty=True).success


def test_day_without_accepted_rows_fails(quality):
    report = orders_report(quality, [order(1, amount="x")], max_quarantined_ratio=1)
    assert list(report.refused[DAY]) == ["batch_none_accepted"]


def test_share_of_quarantined_rows(quality):
    rows = [order(1), order(2), order(3, amount="x")]

    def judged(ratio: float, least: int) -> validate.Report:
        rules = {"max_quarantined_ratio": ratio, "quarantined_min_rows": least}
        return orders_report(quality, rows, **rules)

    assert judged(0.34, least=3).success
    assert judged(0.33, least=4).success
    report = judged(0.33, least=3)
    assert report.failures == ()
    assert "1 of 3 rows are quarantined" in report.refused[DAY]["batch_quarantined_ratio"]


def test_row_count_against_the_days_before(quality):
    recent = {DAY - timedelta(days=n): 40 for n in range(1, 15)}
    for rows, passes in ((3, False), (36, True), (300, False)):
        batch = [order(n) for n in range(rows)]
        report = orders_report(quality, batch, recent)
        assert report.success is passes
        assert passes or "batch_row_count" in report.refused[DAY]
        assert orders_report(quality, batch, recent, unusual_days=[DAY]).success


def test_row_count_of_many_days_is_judged_day_by_day(quality):
    table = orders(orders={"batch": {"row_count_min_days": 3}}, first_day=str(DAY))
    days = [DAY + timedelta(days=n) for n in range(6)]
    sizes = [10, 10, 10, 10, 60, 10]
    rows = [
        order(f"{d}-{i}", at=f"{day} 10:00") for d, day in enumerate(days) for i in range(sizes[d])
    ]
    found = split_rows(table, raw_rows(rows, day=None), DAY, days[-1] + timedelta(days=1))
    backwards = found.counts.take(pa.array([5, 4, 3, 2, 1, 0]))
    for counts in (found.counts, backwards):
        report = validate.validate_rows(
            table, found.accepted, counts, {}, run_name="a..b", quality=quality
        )
        assert list(report.refused) == [days[4]]
        with pytest.raises(ValidationError, match="2024-03-14: 60 rows in, 6 of the usual 10"):
            report.require()


@pytest.mark.parametrize(("hours", "passes"), [(14.0, True), (13.9, False)])
def test_freshness(quality, hours, passes):
    assert orders_report(quality, [order(1)], max_age_hours=hours).success is passes


def test_accepted_rows_are_held_to_the_contract(quality):
    table = orders()
    found = split_of(table, [order(1), order(2)])
    other_day = pa.array([DAY, DAY + timedelta(days=1)])
    for name, values, says in [
        ("amount", [1.0, 0.0], "amount: expect_column_values_to_be_between"),
        ("amount", [1.0, None], "amount: expect_column_values_to_not_be_null"),
        ("amount", pa.array(["1", "2"]), "amount: expect_column_values_to_be_of_type"),
        ("order_id", ["O1", "O1"], "day, order_id: expect_compound_columns_to_be_unique"),
        ("day", other_day, "event_day, day: expect_column_pair_values_to_be_equal"),
    ]:
        report = validate.validate_rows(
            table,
            replaced(found.accepted, name, values),
            found.counts,
            {},
            run_name="x",
            quality=quality,
        )
        assert [f for f in report.failures if f.startswith(says)], (says, report.failures)


def test_batch_without_days_fails(quality):
    table = orders(orders={"batch": {"allow_empty": True}})
    empty = split_of(table, []).accepted
    report = validate.validate_rows(
        table, empty, counts_schema().empty_table(), {}, run_name="x", quality=quality
    )
    assert not report.success


# --- features ----------------------------------------------------------------------------------


def test_good_features_pass(quality):
    days = [DAY, DAY + timedelta(days=1)]
    report = validate.validate_features(
        shop(), features_of(days), days, run_name="x", quality=quality
    )
    report.require()


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("days_since", [1.0, -1.0, 1.0], "days_since: expect_column_values_to_be_between"),
        ("days_since", [1.0, float("inf"), 1.0], "days_since: expect_column_values_to_be_between"),
        ("days_since", [1.0, None, 1.0], "days_since: expect_column_values_to_not_be_null"),
        ("days_since", [1.0, float("nan"), 1.0], "days_since: expect_column_values_to_not_be_null"),
        ("orders", pa.array([1.0, 2.0, 3.0]), "orders: expect_column_values_to_be_of_type"),
        ("gap", pa.array([1.0, None, 3.0]), "gap: expect_column_values_to_be_of_type"),
        ("customer_id", ["C0", "C0", "C1"], "customer_id, as_of: expect_compound_columns"),
        ("as_of", [as_of(DAY), None, as_of(DAY)], "as_of: expect_column_values_to_not_be_null"),
        ("as_of", [as_of(date(2024, 3, 1))] * 3, "asked_for: expect_column_values_to_be_in_set"),
    ],
)
def test_bad_features_fail(quality, name, values, says):
    features = replaced(features_of([DAY]), name, values)
    report = validate.validate_features(shop(), features, [DAY], run_name="x", quality=quality)
    assert [f for f in report.failures if f.startswith(says)], report.failures


def test_day_without_features_fails_unless_allowed(quality):
    days = [DAY, DAY + timedelta(days=1)]
    for features in (features_of([DAY]), features_of([DAY]).slice(0, 0)):
        for allow_empty in (False, True):
            report = validate.validate_features(
                shop(), features, days, run_name="x", quality=quality, allow_empty=allow_empty
            )
            assert report.success is allow_empty


def test_missing_column_is_said_plainly(quality):
    features = features_of([DAY]).drop_columns("orders")
    with pytest.raises(ValidationError, match="features have no column orders"):
        validate.validate_features(shop(), features, [DAY], run_name="x", quality=quality)


# --- predictions -------------------------------------------------------------------------------


def test_good_predictions_pass(quality):
    predictions = predictions_of([0.9, 0.5, 0.1])
    for population in (3, {DAY: 3}):
        validate.validate_predictions(
            shop(), predictions, population, run_name=f"{DAY}", quality=quality
        ).require()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"score": pa.array([0.9, 0.5, -0.1])}, "score: expect_column_values_to_be_between"),
        ({"score": pa.array([0.9, 0.5, None])}, "score: expect_column_values_to_not_be_null"),
        ({"rank": pa.array([1, 2, 4])}, "highest_rank, rows: expect_column_pair"),
        ({"rank": pa.array([0, 1, 2])}, "lowest_rank: expect_column_values_to_be_in_set"),
        ({"rank": pa.array([1, 3, 3])}, "as_of, rank: expect_compound_columns_to_be_unique"),
        ({"band": ["high", "medium", "soso"]}, "band: expect_column_values_to_be_in_set"),
        ({"band": ["high", "high", "low"]}, "misplaced_bands: expect_column_values"),
        ({"model_version": pa.array([3, 3, 4])}, "model_versions: expect_column_values"),
        ({"customer_id": ["C1", "C1", "C2"]}, "customer_id, as_of: expect_compound_columns"),
    ],
)
def test_bad_predictions_fail(quality, changes, says):
    predictions = predictions_of([0.9, 0.5, 0.1], **changes)
    report = validate.validate_predictions(
        shop(), predictions, 3, run_name=f"{DAY}", quality=quality
    )
    assert [f for f in report.failures if f.startswith(says)], report.failures


QUANTILES = {
    "kind": "number",
    "name": "spent",
    "description": "Spent.",
    "horizon_days": 90,
    "distribution": "quantile",
    "quantiles": [0.1, 0.5, 0.9],
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"score": pa.array([9.0, -5.0, -9.0])}, "q90, score: expect_column_pair"),
        ({"q10": pa.array([6.0, -5.0, -7.0])}, "score, q10: expect_column_pair"),
        ({"q10": pa.array([4.0, None, -7.0])}, "q10: expect_column_values_to_not_be_null"),
        ({"q90": pa.array([7.0, 2.0, float("inf")])}, "q90: expect_column_values_to_be_between"),
        ({"band": ["low", "low", "high"]}, "misplaced_bands: expect_column_values"),
    ],
)
def test_quantiles_are_whole_and_never_cross(quality, changes, says):
    spend = shop(target=QUANTILES, scoring={"bands": {"high": 2.0, "low": 0.0}})
    found = {
        "score": pa.array([5.0, 1.0, -6.0]),
        "q10": pa.array([4.0, -5.0, -7.0]),
        "q90": pa.array([7.0, 2.0, -5.0]),
        "band": ["high", "low", "low"],
    }
    predictions = predictions_of([0.0, 0.0, 0.0], **found | changes)
    report = validate.validate_predictions(
        spend, predictions, 3, run_name=f"{DAY}", quality=quality
    )
    if says is None:
        report.require()
    assert [f for f in report.failures if f.startswith(says or "-")] or says is None


def test_a_missing_quantile_is_said_plainly(quality):
    with pytest.raises(ValidationError, match="no column"):
        validate.validate_predictions(
            shop(target=QUANTILES), predictions_of([1.0]), 1, run_name=f"{DAY}", quality=quality
        )


def test_everybody_is_scored(quality):
    for population in (2, 4, {DAY: 3, DAY + timedelta(days=1): 1}):
        report = validate.validate_predictions(
            shop(), predictions_of([0.9, 0.5, 0.1]), population, run_name=f"{DAY}", quality=quality
        )
        assert report.failures[0].startswith("rows, population: ")
    empty = validate.validate_predictions(
        shop(), predictions_of([]), 0, run_name=f"{DAY}", quality=quality
    )
    assert not empty.success


def test_population_of_a_range_is_given_per_day(quality):
    with pytest.raises(ConfigError, match="per day"):
        validate.validate_predictions(
            shop(), predictions_of([0.9]), 1, run_name="a..b", quality=quality
        )


# --- what is kept ------------------------------------------------------------------------------


def test_result_is_the_same_for_the_same_data(quality):
    dirty = [order(1, amount="x"), order(2)]
    report = orders_report(quality, dirty, max_quarantined_ratio=0, quarantined_min_rows=1)
    assert not report.success
    first = report.results_path.read_bytes()
    orders_report(quality, dirty, max_quarantined_ratio=0, quarantined_min_rows=1)
    assert report.results_path.read_bytes() == first


def test_pages_need_no_network_and_no_script(quality):
    table = orders()
    found = split_of(table, [order(1)])
    evil = replaced(found.accepted, "source", [None])
    evil = replaced(evil, "order_id", ["<script>alert(1)</script>"])
    report = validate.validate_rows(table, evil, found.counts, {}, run_name="x", quality=quality)
    for page in (report.docs_path, quality / "shop/data_docs/index.html"):
        text = page.read_text()
        assert not re.search(r"<script|<link|<img|src=|@import|url\(", text)
    assert "never be null" in report.docs_path.read_text()


def test_index_lists_every_run_once_newest_first(quality):
    orders_report(quality, [order(1)])
    features = features_of([DAY])
    for run in ("2024-03-09", "2024-03-11", "2024-03-11"):
        validate.validate_features(shop(), features, [DAY], run_name=run, quality=quality)
    index = quality / "shop/data_docs/index.html"
    text = index.read_text()
    assert re.findall(r"<tr><td>([^<]+)<", text) == ["2024-03-11", "2024-03-10", "2024-03-09"]
    # A lost index is rebuilt from the results.
    shutil.rmtree(quality / "shop/index")
    validate.validate_features(shop(), features, [DAY], run_name="2024-03-09", quality=quality)
    assert index.read_text() == text


def test_run_name_cannot_leave_the_folder(quality):
    with pytest.raises(ConfigError, match="names files"):
        validate.validate_features(
            shop(), features_of([DAY]), [DAY], run_name="../x", quality=quality
        )


def _index_entry(folder: Path, number: int) -> None:
    # Only the shared part: forked children of a threaded process should do little.
    docs.update_index(folder, "orders", f"run-{number}", [1, 1])


def test_processes_share_one_index(quality):
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    folder = quality / "shop"
    (folder / "data_docs").mkdir(parents=True)
    workers = [context.Process(target=_index_entry, args=(folder, n)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    shown = re.findall(r"<tr><td>([^<]+)<", (folder / "data_docs/index.html").read_text())
    assert sorted(shown) == [f"run-{n}" for n in range(8)]


def test_frames_are_let_go(quality, monkeypatch):
    frames: list[weakref.ref[pd.DataFrame]] = []
    convert = validate._frame

    def watched(rows: pa.Table) -> pd.DataFrame:
        frame = convert(rows)
        frames.append(weakref.ref(frame))
        return frame

    monkeypatch.setattr(validate, "_frame", watched)
    validate.validate_features(shop(), features_of([DAY]), [DAY], run_name="x", quality=quality)
    gc.collect()
    assert frames
    assert all(frame() is None for frame in frames)
