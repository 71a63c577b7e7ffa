"""How good the models are, and what tuning and calibration add: on a holdout nobody chose on.

    .venv/bin/python -m benchmarks.models [--trials 40] [--customers 72000]

The generator's customers, beside the best that anyone could know from their orders; and where
`EVERGREEN_ONLINE_RETAIL` names its folder, Online Retail: one year, and two if the earlier one
(`year_2009_2010.parquet`) lies there. Differences are paired, on the same rows, with 95 % bounds.
With `--customers`, so many of the generator's alone: figures that a few thousand rows leave to
chance.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import yaml

from benchmarks.bench import report, workspace
from evergreen import steps
from evergreen.contract import UseCase, load_use_case
from evergreen.ops import deploy
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from evergreen.sources.bounds import posterior_no_purchase
from evergreen.training.assemble import assemble, choose_inputs
from evergreen.training.calibrate import Calibration
from evergreen.training.evaluate import Holdout
from evergreen.training.fit import Fitter
from evergreen.training.frame import LabelledRows, label_rows
from evergreen.training.refit import fit_pair
from evergreen.training.split import SplitPlan, plan_training
from evergreen.training.tune import choose_recipe, declare_recipe

RETAIL, EARLIER = "EVERGREEN_ONLINE_RETAIL", "year_2009_2010.parquet"
CHURN_DAY, RETAIL_DAY = date(2025, 12, 31), date(2011, 12, 8)


@dataclass(frozen=True)
class Case:
    """A history and the day to train on."""

    name: str
    use_case: UseCase
    day: date


def main() -> None:
    """Measure every history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40, help="of the search per family")
    parser.add_argument("--customers", type=int, help="of the generator, instead of all histories")
    arguments = parser.parse_args()
    retail = os.environ.get(RETAIL)
    with workspace("models") as settings:
        found = {
            case.name: _measure(case, arguments.trials)
            for case in (
                [_many(settings, arguments.customers)]
                if arguments.customers
                else _cases(settings, Path(retail) if retail else None)
            )
        }
    for name, measured in found.items():
        report(
            "models",
            f"{name}, holdout of {measured['rows']:,} rows, {arguments.trials} trials",
            (
                *("model", "AUC", "log loss", "ECE", "AUC beyond chosen"),
                *("log loss beyond chosen", "best AUC", "ECE against the best", "seconds"),
            ),
            list(_shown(measured)),
            part=name,
            measured=measured,
        )


def _cases(settings: Settings, retail: Path | None) -> Iterator[Case]:
    list(deploy.initialise(settings))
    yield load_history("churn", "churn", CHURN_DAY)
    if retail is None:
        return
    os.environ[RETAIL] = str(retail)
    yield load_history("one year of Online Retail", "online_retail", RETAIL_DAY)
    if (retail / EARLIER).exists():
        join_years(retail, settings.home / "two_years")
        list(deploy.initialise(load_settings()))
        yield load_history("two years of Online Retail", "two_years", RETAIL_DAY)


def _many(settings: Settings, customers: int) -> Case:
    """Load the generator's use case with another number of customers."""
    folder = settings.home / "many" / "churn"
    shutil.copytree(PROJECT_ROOT / "include" / "use_cases" / "churn", folder)
    declared = yaml.safe_load((folder / "use_case.yaml").read_text())
    declared["events"]["orders"]["source"]["customers"] = customers
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    os.environ["EVERGREEN_USE_CASES"] = str(folder.parent)
    list(deploy.initialise(load_settings()))
    return load_history(f"churn of {customers:,} customers", "churn", CHURN_DAY)


def join_years(retail: Path, folder: Path) -> None:
    """Write both years as a file per day, and a use case that begins with the first."""
    days = folder / "by-day"
    days.mkdir(parents=True)
    rows = pd.read_parquet(retail / EARLIER)
    for day, invoiced in rows.groupby(rows["InvoiceDate"].dt.date):
        invoiced.to_csv(days / f"{day}.csv", index=False)
    for path in (retail / "by-day").glob("*.csv"):
        # Where the years overlap, the later file is the one whole days are in.
        (days / path.name).unlink(missing_ok=True)
        (days / path.name).symlink_to(path)
    shipped = PROJECT_ROOT / "include" / "use_cases" / "online_retail"
    mine = folder / "use_cases" / "two_years"
    mine.mkdir(parents=True)
    declared = yaml.safe_load((shipped / "use_case.yaml").read_text())
    declared |= {"name": "two_years", "first_day": rows["InvoiceDate"].min().date()}
    (mine / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    for sql in shipped.glob("*.sql"):
        (mine / sql.name).write_text(sql.read_text())
    os.environ[RETAIL], os.environ["EVERGREEN_USE_CASES"] = str(folder), str(mine.parent)


def load_history(name: str, use_case: str, day: date) -> Case:
    """Ingest the orders of a use case up to a day, and compute their features and labels."""
    declared = load_use_case(use_case)
    period = f"{declared.first_day}..{day}"
    for table in declared.events:
        steps.publish_rows(steps.validate_rows(steps.stage_rows(use_case, period, table)))
    features = steps.validate_features(steps.compute_features(use_case, period))
    steps.publish_labels(steps.publish_features(features))
    return Case(name, declared, day)


def _measure(case: Case, trials: int) -> dict[str, Any]:
    """Fit as declared and as tuned; measure both, and the declared without calibration."""
    use_case = case.use_case
    plan = plan_training(use_case, case.day)
    inputs = choose_inputs(use_case, case.day, plan.days, corrected=False)
    rows = label_rows(assemble(use_case, plan, inputs).rows, plan, use_case)
    fitter = Fitter(use_case, load_settings().threads, use_case.training.seed)
    holdout = Holdout.of(rows, plan, fitter)
    best = _best(case, rows, plan)
    scores, found = {}, {}
    for family in use_case.training.models:
        recipe = declare_recipe(family, use_case)
        found[f"{family} as declared"] = _fit(recipe, rows, plan, fitter)
    for name, budget in (("chosen, no search", 0), ("chosen, with search", trials)):
        found[name] = _search(rows, plan, fitter, budget)
    plain = replace(found["chosen, no search"]["model"], calibration=Calibration())
    found["the same, not calibrated"] = {"model": plain, "reason": "", "seconds": 0.0}
    for name, made in found.items():
        scores[name] = holdout.score(made.pop("model"))
    result: dict[str, Any] = {"rows": len(holdout.labels), "days": len(plan.days)}
    for name, made in found.items():
        gains = holdout.compare(scores[name], scores["chosen, no search"])
        result[name] = {
            **made,
            "metrics": dict(use_case.target.measure(holdout.labels, scores[name])),
            "gains": {metric: asdict(gain) for metric, gain in gains.items()},
            "ece_against_best": _bin_error(scores[name], best) if best is not None else None,
        }
    if best is not None:
        result["best"] = dict(use_case.target.measure(holdout.labels, best))
    return result


def _fit(recipe: Any, rows: LabelledRows, plan: SplitPlan, fitter: Fitter) -> dict[str, Any]:
    begun = time.perf_counter()
    model = fit_pair(rows, plan, recipe, fitter).measured
    return {"model": model, "reason": "", "seconds": time.perf_counter() - begun}


def _search(rows: LabelledRows, plan: SplitPlan, fitter: Fitter, trials: int) -> dict[str, Any]:
    begun = time.perf_counter()
    tuning = fitter.use_case.training.tuning.model_copy(update={"trials": trials})
    training = fitter.use_case.training.model_copy(update={"tuning": tuning})
    asked = fitter.use_case.model_copy(update={"training": training})
    choice = choose_recipe(rows, plan, replace(fitter, use_case=asked))
    made = _fit(choice.recipe, rows, plan, fitter)
    return {**made, "reason": choice.reason, "seconds": time.perf_counter() - begun}


def _best(case: Case, rows: LabelledRows, plan: SplitPlan) -> Any:
    """Probabilities that a perfect model would give, in the holdout's order; None if unknown."""
    (table, *_) = case.use_case.events.values()
    if table.source.kind != "generator":
        return None
    as_of = case.use_case.as_of(plan.holdout)
    known = posterior_no_purchase(table, as_of, case.use_case.target.horizon_days)
    key = case.use_case.entity.key
    places = pc.index_in(rows.of([plan.holdout])[key].combine_chunks(), known[key].combine_chunks())
    return known["probability"].take(places).to_numpy()


def _bin_error(scores: Any, best: Any) -> float:
    """ECE with the attainable probability in place of what happened, hence without its chance."""
    parts = np.array_split(np.argsort(scores, kind="stable"), 10)
    return float(np.mean([abs(scores[part].mean() - best[part].mean()) for part in parts]))


def _shown(measured: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    best = measured.get("best", {}).get("auc", "")
    for name, made in measured.items():
        if isinstance(made, dict) and "gains" in made:
            metrics, gains = made["metrics"], made["gains"]
            yield (
                name,
                *(f"{metrics[metric]:.4f}" for metric in ("auc", "logloss", "ece")),
                *(_difference(gains[metric]) for metric in ("auc", "logloss")),
                best and f"{best:.4f}",
                "" if made["ece_against_best"] is None else f"{made['ece_against_best']:.4f}",
                made["seconds"],
            )


def _difference(gain: dict[str, Any]) -> str:
    return f"{gain['estimate']:+.4f} ({gain['lower']:+.4f} to {gain['upper']:+.4f})"


if __name__ == "__main__":
    main()
