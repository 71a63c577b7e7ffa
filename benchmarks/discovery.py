"""How often `evergreen discover` proposes anything where there is nothing, and what it is worth.

    .venv/bin/python -m benchmarks.discovery [--searches 60]

Where there is nothing: real features and candidates of generated customers, and labels drawn from a
model of the present features alone, plus what is peculiar to each customer and stays so. Where
`EVERGREEN_ONLINE_RETAIL` names its folder, Online Retail is searched, too: what is proposed is
adopted, and measured on the holdout, which the search has not seen.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import yaml
from scipy import special, stats

from benchmarks.bench import report, workspace
from benchmarks.models import RETAIL, RETAIL_DAY, Case, load_history
from evergreen.contract import UseCase
from evergreen.discovery.candidates import Candidate, propose_candidates
from evergreen.discovery.report import tell_outcome
from evergreen.discovery.rows import (
    iter_candidates,
    join_candidates,
    plan_given,
    plan_search,
    read_rows,
)
from evergreen.discovery.search import Outcome, search
from evergreen.ops import deploy
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from evergreen.training.assemble import assemble, choose_inputs
from evergreen.training.evaluate import Holdout
from evergreen.training.fit import Fitter
from evergreen.training.frame import RowsInMemory, label_rows
from evergreen.training.refit import fit_pair
from evergreen.training.split import plan_training
from evergreen.training.tune import declare_recipe

QUIET_DAY = date(2024, 12, 31)
# Log-odds by which customers differ for no reason that any column knows.
_PECULIAR = 1.0


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=60, help="with labels that say nothing")
    arguments = parser.parse_args()
    retail = os.environ.get(RETAIL)
    with workspace("discovery") as settings:
        quiet = list(_search_quiet(settings, arguments.searches))
        adopted = _adopt_retail(Path(retail)) if retail else None
    false = [outcome.proposed for outcome in quiet if outcome.proposed]
    bound = stats.binomtest(len(false), len(quiet)).proportion_ci(0.95, method="exact")
    lowest = [min((one.p for one in outcome.judged), default=1.0) for outcome in quiet]
    report(
        "discovery",
        f"{len(quiet)} searches where no candidate says anything",
        ("proposed something", "share", "95 % interval", "lowest p below 5 %"),
        [
            (
                len(false),
                f"{len(false) / len(quiet):.1%}",
                f"{bound.low:.1%} to {bound.high:.1%}",
                f"{np.mean(np.array(lowest) < 0.05):.1%}",
            )
        ],
        part="nothing to find",
        proposed=false,
        lowest_p=lowest,
        rows=quiet[0].rows,
        entities=quiet[0].entities,
    )
    if adopted:
        report(
            "discovery",
            "Online Retail, adopted and measured on the holdout",
            ("metric", "change", "lower", "upper"),
            [(name, g["estimate"], g["lower"], g["upper"]) for name, g in adopted["gains"].items()],
            part="online_retail",
            **adopted,
        )


def _search_quiet(settings: Settings, searches: int) -> Iterator[Outcome]:
    folder = settings.home / "use_cases" / "quiet"
    folder.mkdir(parents=True)
    shipped = PROJECT_ROOT / "include" / "use_cases" / "churn"
    declared = yaml.safe_load((shipped / "use_case.yaml").read_text())
    declared |= {"name": "quiet", "last_day": QUIET_DAY}
    source = declared["events"]["orders"]["source"]
    source |= {"customers": 900, "acquisition_days": 100}
    del source["regime_change"]
    declared["target"]["horizon_days"] = 45
    declared["training"] |= {"cutoff_every_days": 21, "max_cutoffs": 4}
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    for sql in shipped.glob("*.sql"):
        (folder / sql.name).write_text(sql.read_text())
    os.environ["EVERGREEN_USE_CASES"] = str(folder.parent)
    list(deploy.initialise(settings))
    use_case = load_history("quiet", "quiet", QUIET_DAY).use_case
    plan = plan_search(use_case, QUIET_DAY)
    candidates, _ = propose_candidates(use_case)
    rows = read_rows(use_case, QUIET_DAY, plan, candidates, click.echo)
    del os.environ["EVERGREEN_USE_CASES"]
    fitter = Fitter(rows.use_case, settings.threads, 0)
    recipe = replace(
        declare_recipe("trees", rows.use_case), left_out=tuple(one.name for one in candidates)
    )
    frame = rows.frame(plan.days)
    model = fitter.fit(recipe, frame, "fit")
    known = frame.without(recipe.left_out).matrix
    told = special.logit(model.predict(known, use_case.target, threads=settings.threads)["score"])
    entities = np.asarray(frame.keys.dictionary_encode().indices)
    place = rows.rows.column_names.index("label")
    for number in range(searches):
        chance = np.random.default_rng(number)
        peculiar = _PECULIAR * chance.standard_normal(entities.max() + 1)[entities]
        labels = chance.random(frame.rows) < special.expit(told + peculiar)
        drawn = RowsInMemory(rows.rows.set_column(place, "label", pa.array(labels)), rows.use_case)
        outcome = search(
            drawn, plan, use_case.feature_names, replace(fitter, seed=number), lambda text: None
        )
        shown = ", ".join(f"{one.p:.3f}" for one in outcome.judged)
        click.echo(f"{number}: {outcome.proposed or 'nothing'} (p {shown})")
        yield outcome


def _adopt_retail(folder: Path) -> dict[str, Any]:
    """Search, adopt what is proposed, and measure both models on the holdout."""
    os.environ[RETAIL] = str(folder)
    list(deploy.initialise(load_settings()))
    case = load_history("retail", "online_retail", RETAIL_DAY)
    use_case = case.use_case
    plan = plan_search(use_case, case.day)
    candidates, _ = propose_candidates(use_case)
    rows = read_rows(use_case, case.day, plan, candidates, click.echo)
    fitter = Fitter(rows.use_case, load_settings().threads, use_case.training.seed)
    outcome = search(rows, plan, use_case.feature_names, fitter, click.echo)
    click.echo(tell_outcome(use_case, candidates, outcome))
    named = {
        "proposed": list(outcome.proposed),
        "best, whether proposed or not": [one.name for one in outcome.judged[:1]],
    }
    gains = {}
    for what, names in named.items():
        adopted = [one for one in candidates if one.name in names]
        for metric, gain in _measure(case, adopted).items() if adopted else ():
            gains[f"{metric}, {what}"] = gain
    return {"judged": [asdict(one) for one in outcome.judged], "gains": gains, **named}


def _measure(case: Case, adopted: Sequence[Candidate]) -> dict[str, Any]:
    """Fit trees with and without, as they would be measured by the gate."""
    plan = plan_training(case.use_case, case.day)
    inputs = choose_inputs(case.use_case, case.day, plan.days, corrected=False)
    present = assemble(case.use_case, plan, inputs).rows
    joined, declared = join_candidates(
        case.use_case, present, _values(case.use_case, adopted, plan.days), adopted
    )
    rows = label_rows(joined, plan, declared)
    fitter = Fitter(declared, load_settings().threads, declared.training.seed)
    holdout = Holdout.of(rows, plan, fitter)
    recipe = declare_recipe("trees", declared)
    without = replace(recipe, left_out=tuple(one.name for one in adopted))
    scores = [
        holdout.score(fit_pair(rows, plan, made, fitter).measured) for made in (recipe, without)
    ]
    return {metric: asdict(gain) for metric, gain in holdout.compare(*scores).items()}


def _values(use_case: UseCase, adopted: Sequence[Candidate], days: Sequence[date]) -> pa.Table:
    given = plan_given(use_case, days[-1] + timedelta(days=1))
    return pa.concat_tables(found for _, found in iter_candidates(use_case, adopted, given, days))


if __name__ == "__main__":
    main()
