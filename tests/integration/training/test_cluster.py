"""Fits that workers of a Dask cluster share: as good, the same bytes again, and never for ever."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from dask_processes import LONG_SECONDS, DaskProcesses, dask_processes, wait_for
from evergreen import steps
from evergreen.contract import Period, UseCase, load_use_case
from evergreen.errors import (
    BusyError,
    ConfigError,
    PermanentError,
    ServiceDownError,
    StagingError,
    ValidationError,
)
from evergreen.provenance.replay import replay
from evergreen.provenance.staging import Staged
from evergreen.settings import PROJECT_ROOT, Settings
from evergreen.training import cluster
from evergreen.training.evaluate import Holdout
from evergreen.training.external import Shared, StagedRows, StoredRows, store_rows
from evergreen.training.fit import Fitter, Recipe
from evergreen.training.folds import prepare_folds
from evergreen.training.refit import fit_pair
from evergreen.training.split import plan_training
from evergreen.training.tracking import describe_run, describe_version
from evergreen.training.tune import declare_recipe, try_recipe
from tiny_people import DAY, FEATURES, declare, population
from tiny_shop import DAYS, NAME, compute, label, open_shop

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

SHOP = declare({"name": "gone"}, {**FEATURES, "town": {"dtype": "category", "nullable": True}})
PLAN = plan_training(SHOP, DAY)
FITTER = Fitter(SHOP, threads=2, seed=3)
# So many that nobody ever sees the last.
ENDLESS = replace(declare_recipe("trees", SHOP), rounds=10_000_000)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    with dask_processes(tmp_path_factory.mktemp("dask"), 3) as found:
        yield found


@pytest.fixture
def url(processes: DaskProcesses, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EVERGREEN_DASK_URL", processes.url)
    return processes.url


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    found = population(PLAN.days, entities=2_000)
    towns = pc.utf8_slice_codeunits(found["customer_id"], 4)
    return found.append_column("town", pc.if_else(found["vip"], towns, None))


@pytest.fixture
def shared(rows: pa.Table, tmp_path: Path) -> StoredRows:
    return share(rows, tmp_path)


def share(rows: pa.Table, folder: Path, workers: int = 2, shop: UseCase = SHOP) -> StoredRows:
    """What `open_rows` gives of a staged training set."""
    shuffled = rows.take(np.random.default_rng(2).permutation(rows.num_rows))
    period = Period.parse(str(DAY))
    staged = Staged(shop.name, period.label, str(folder), chunks=(period.label,))
    staged.write("training_set", period, shuffled)
    stored = store_rows(ds.dataset(shuffled), PLAN, shop, folder)
    return replace(stored, shared=Shared(StagedRows(staged, shop), workers))


# --- what comes out ------------------------------------------------------------------------------


def test_models_are_as_good_as_one_machine_s_and_the_same_again(
    url: str, shared: StoredRows, tmp_path: Path
) -> None:
    alone = replace(shared, shared=None)
    recipe = declare_recipe("trees", SHOP)
    pairs = [fit_pair(rows, PLAN, recipe, FITTER) for rows in (alone, shared, shared)]
    assert pairs[1].measured.ubj == pairs[2].measured.ubj
    assert pairs[1].final.ubj == pairs[2].final.ubj
    # Other sums of gradients: not the same trees.
    assert pairs[0].final.ubj != pairs[1].final.ubj
    assert pairs[0].final.inputs == pairs[1].final.inputs
    assert len(pairs[1].final.inputs.categories["town"]) == 100
    holdout = Holdout.of(alone, PLAN, FITTER)
    measured = [
        holdout.target.measure(holdout.labels, holdout.score(pair.measured)) for pair in pairs
    ]
    assert measured[1]["auc"] == pytest.approx(measured[0]["auc"], abs=0.01)
    assert measured[1]["logloss"] == pytest.approx(measured[0]["logloss"], abs=0.01)
    assert pairs[1].calibration_losses == pytest.approx(pairs[0].calibration_losses, abs=0.01)


def test_another_number_of_workers_is_another_model_a_little(
    url: str, rows: pa.Table, tmp_path: Path
) -> None:
    recipe, scores = declare_recipe("trees", SHOP), []
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        shared = share(rows, folder, workers)
        model = FITTER.fit(recipe, shared.to_fit(PLAN.final), "fit")
        tested = shared.frame([PLAN.holdout], model.inputs)
        scores.append(model.predict(tested.matrix, SHOP.target, threads=1)["score"])
    for others in scores[1:]:
        assert not np.array_equal(others, scores[0])
        assert np.abs(others - scores[0]).mean() < 0.02


def test_rounds_are_searched_alike(url: str, shared: StoredRows) -> None:
    recipe = declare_recipe("trees", SHOP)
    here, there = (
        try_recipe("trees", recipe, prepare_folds(found, PLAN), FITTER)
        for found in (replace(shared, shared=None), shared)
    )
    assert there.loss == pytest.approx(here.loss, abs=0.005)
    assert there.recipe.rounds == pytest.approx(here.recipe.rounds, rel=0.5)
    linear = declare_recipe("linear", SHOP)
    assert (
        FITTER.fit(linear, shared.to_fit(PLAN.final), "fit").ubj
        == FITTER.fit(linear, replace(shared, shared=None).to_fit(PLAN.final), "fit").ubj
    )


@pytest.mark.parametrize(
    "target",
    [
        {"name": "bought", "kind": "number", "distribution": "quantile", "quantiles": [0.1, 0.5]},
        {"name": "bought", "kind": "number", "distribution": "poisson"},
    ],
    ids=["quantile", "poisson"],
)  # fmt: skip
def test_numbers_too(url: str, rows: pa.Table, tmp_path: Path, target: dict[str, Any]) -> None:
    shop = declare(target, FEATURES)
    place = rows.column_names.index("label")
    amount = pc.add(rows["orders"], pc.cast(rows["label"], pa.int64())).cast(pa.float64())
    shared = share(rows.set_column(place, "label", amount), tmp_path, shop=shop)
    fitter, recipe = Fitter(shop, threads=2, seed=3), declare_recipe("trees", shop)
    holdout = Holdout.of(replace(shared, shared=None), PLAN, fitter)
    here, there = (
        holdout.target.measure(
            holdout.labels,
            holdout.score(fitter.fit(recipe, found.to_fit(PLAN.evaluation.fit), "fit")),
        )
        for found in (replace(shared, shared=None), shared)
    )
    main = shop.target.main_metric
    assert there[main] == pytest.approx(here[main], abs=0.05)


def test_some_rows_of_some_days_are_shared_evenly(shared: StoredRows) -> None:
    frame = shared.to_fit(PLAN.final)
    some = frame.filter(np.random.default_rng(3).random(frame.rows) < 0.3)
    first, second = some.pieces()
    counts = [sum(len(batch) for batch in piece.batches()) for piece in (first, second)]
    assert sum(counts) == some.rows
    assert abs(counts[0] - counts[1]) <= 1
    assert first.days[0] == PLAN.final[0]
    assert second.days[-1] == PLAN.final[-1]
    together = np.concatenate([*first.batches(), *second.batches()])
    np.testing.assert_array_equal(together, np.concatenate([*some.batches()]))
    with pytest.raises(PermanentError, match="1 rows cannot be shared"):
        frame.filter(np.arange(frame.rows) == 0).pieces()


# --- what goes wrong -----------------------------------------------------------------------------


@contextmanager
def fitting(processes: DaskProcesses, shared: StoredRows, recipe: Recipe) -> Iterator[Future[Any]]:
    """Fit beside the test, which goes on once trees are made."""
    with ThreadPoolExecutor(1) as beside, processes.client() as client:
        ended = beside.submit(FITTER.fit, recipe, shared.to_fit(PLAN.final), "fit")

        def boosting() -> bool:
            assert not ended.done(), ended.exception()
            told = str(client.call_stack()) if any(client.processing().values()) else ""
            return told.count("bst.update") == 2

        wait_for(boosting)
        yield ended


@pytest.mark.parametrize("victim", ["w0", "w1"])
def test_a_worker_that_is_killed_ends_the_fit_and_the_next_is_as_ever(
    processes: DaskProcesses, url: str, shared: StoredRows, victim: str
) -> None:
    recipe = declare_recipe("trees", SHOP)
    before = FITTER.fit(recipe, shared.to_fit(PLAN.final), "fit")
    with fitting(processes, shared, ENDLESS) as ended, processes.client() as client:
        os.kill(processes.pids(client)[victim], signal.SIGKILL)
        with pytest.raises(ServiceDownError, match="during a fit") as failed:
            ended.result(LONG_SECONDS)
        assert url in str(failed.value)
        wait_for(lambda: len(processes.pids(client)) == 3)
        # Nothing half-done remains.
        assert not any(client.processing().values())
        assert not any(client.has_what().values())
    assert FITTER.fit(recipe, shared.to_fit(PLAN.final), "fit").ubj == before.ubj


def test_a_worker_that_stands_still_ends_the_fit_too(
    processes: DaskProcesses, url: str, shared: StoredRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SILENCE_SECONDS", 5)
    monkeypatch.setattr(cluster, "_END_SECONDS", 10)
    with fitting(processes, shared, ENDLESS) as ended, processes.client() as client:
        pid = processes.pids(client)["w1"]
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ServiceDownError, match="failed during a fit"):
            ended.result(LONG_SECONDS)
        # Its nanny has ended it.
        wait_for(
            lambda: pid not in processes.pids(client).values() and len(processes.pids(client)) == 3
        )
    FITTER.fit(declare_recipe("trees", SHOP), shared.to_fit(PLAN.final), "fit")


def test_a_scheduler_that_is_killed_ends_the_fit(
    shared: StoredRows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 5)
    with dask_processes(tmp_path, 2) as processes:
        monkeypatch.setenv("EVERGREEN_DASK_URL", processes.url)
        with fitting(processes, shared, ENDLESS) as ended:
            processes.scheduler.kill()
            with pytest.raises(ServiceDownError, match="was lost during the fit"):
                ended.result(LONG_SECONDS)
        with pytest.raises(ServiceDownError, match=f"No Dask scheduler answers at {processes.url}"):
            FITTER.fit(ENDLESS, shared.to_fit(PLAN.final), "fit")


def test_a_cluster_that_is_not_there_is_named(
    processes: DaskProcesses, shared: StoredRows, rows: pa.Table, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 2)

    def fit(shared: StoredRows = shared) -> None:
        FITTER.fit(ENDLESS, shared.to_fit(PLAN.final), "fit")

    with pytest.raises(ConfigError, match="EVERGREEN_DASK_URL is not set"):
        fit()
    monkeypatch.setenv("EVERGREEN_DASK_URL", "tcp://127.0.0.1:1")
    with pytest.raises(
        ServiceDownError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1 "
    ):
        fit()
    for wrong in ("http://127.0.0.1", "tcp://127.0.0.1:many"):
        monkeypatch.setenv("EVERGREEN_DASK_URL", wrong)
        with pytest.raises(ConfigError, match=f"EVERGREEN_DASK_URL is '{wrong}'"):
            fit()
    monkeypatch.setenv("EVERGREEN_DASK_URL", processes.url)
    (more := tmp_path / "more").mkdir()
    with pytest.raises(ServiceDownError, match="has 3 workers; expected 4"):
        fit(share(rows, more, workers=4))
    monkeypatch.setattr(cluster, "TURN_SECONDS", 1)
    with processes.client() as client, cluster._alone(client), pytest.raises(BusyError):
        fit()


def test_what_a_worker_cannot_read_is_told(
    url: str, shared: StoredRows, rows: pa.Table, tmp_path: Path
) -> None:
    """A folder that only this machine has looks like one that is not there."""
    frame = shared.to_fit(PLAN.final)
    (tmp_path / f"training_set-{DAY}.parquet").rename(tmp_path / "elsewhere")
    with pytest.raises(StagingError, match="Workers must see the staging"):
        FITTER.fit(ENDLESS, frame, "fit")
    newest = pc.equal(rows["as_of"], pa.scalar(SHOP.as_of(PLAN.final[-1])))
    place = rows.column_names.index("idle_days")
    infinite = rows.set_column(place, "idle_days", pc.if_else(newest, np.inf, rows["idle_days"]))
    (broken := tmp_path / "broken").mkdir()
    with pytest.raises(ValidationError, match="infinite values"):
        FITTER.fit(ENDLESS, share(infinite, broken).to_fit(PLAN.final), "fit")


def test_workers_with_other_code_are_refused(
    shared: StoredRows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(PROJECT_ROOT / "include" / "evergreen", other / "include" / "evergreen")
    shutil.copy(PROJECT_ROOT / "requirements.txt", other)
    with (other / "include" / "evergreen" / "errors.py").open("a") as file:
        file.write("\n# Another release.\n")
    with dask_processes(tmp_path, 1) as processes:
        processes.add_worker("w1", other / "include")
        monkeypatch.setenv("EVERGREEN_DASK_URL", processes.url)
        with pytest.raises(ConfigError, match="has another package"):
            FITTER.fit(ENDLESS, shared.to_fit(PLAN.final), "fit")


# --- through the steps ---------------------------------------------------------------------------


def test_a_training_says_what_it_rests_on_and_is_replayed_there_only(
    home: Settings, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_shop(tmp_path, monkeypatch)
    label(compute())
    monkeypatch.setenv("EVERGREEN_TRAINING_MB", "0")
    request = steps.accept_request(NAME, str(DAYS[-1]), "by hand")
    staged = steps.choose_recipe(steps.assemble_training_set(request))
    challenger = steps.train_challenger(staged)
    assert steps.judge_challenger(challenger)["decision"] == "promote"
    version = f"{NAME}/{challenger['version']}"
    found = describe_version(load_use_case(NAME), challenger["version"])
    run = describe_run(found.run_id)
    assert run.parameters["dask_workers"] == "2"
    assert (
        "2 workers or more, whose workers fit with 2 threads each: xgboost"
        in run.tags["replay_needs"]
    )
    assert run.tags["family"] == "trees"
    assert replay(version).equal
    assert not [*(home.home / "staging").rglob("training_set*")]
    monkeypatch.delenv("EVERGREEN_DASK_URL")
    with pytest.raises(PermanentError, match="one machine alone would make another model"):
        replay(version)
