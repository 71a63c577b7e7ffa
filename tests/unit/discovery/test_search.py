"""A search finds what decides the label, proposes nothing where nothing does, and can be pasted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from numpy.typing import NDArray

import odd_buyers
from evergreen.contract import UseCase, load_use_case_file
from evergreen.discovery.candidates import Candidate, propose_candidates
from evergreen.discovery.report import tell_outcome
from evergreen.discovery.rows import (
    iter_candidates,
    join_candidates,
    number_parts,
    plan_search,
    sampled,
)
from evergreen.discovery.search import ALPHA, Outcome, search
from evergreen.errors import NotReadyError
from evergreen.features.compute.past import Given
from evergreen.features.compute.run import compute_features
from evergreen.ops.check import find_problems
from evergreen.training.fit import Fitter
from evergreen.training.frame import RowsInMemory, label_rows
from evergreen.training.split import SplitPlan, plan_training

REGULAR = "orders_gap_spread_days"


@dataclass(frozen=True)
class Club:
    """Buyers with features and candidates, still without labels."""

    use_case: UseCase
    given: dict[str, Given]
    plan: SplitPlan
    candidates: list[Candidate]
    found: pa.Table
    features: pa.Table

    def search(self, chances: Callable[[str], float], seed: int = 1) -> Outcome:
        """Search with labels drawn with these chances of each buyer."""
        rows, fitter = self.labelled(chances, seed)
        return search(rows, self.plan, self.use_case.feature_names, fitter, lambda text: None)

    def labelled(self, chances: Callable[[str], float], seed: int) -> tuple[RowsInMemory, Fitter]:
        keys = self.features["customer_id"].to_pylist()
        drawn = np.random.default_rng(seed).random(len(keys))
        label = pa.array(drawn < [chances(key) for key in keys])
        rows, declared = join_candidates(
            self.use_case,
            self.features.drop_columns(["day"]).append_column("label", label),
            self.found,
            self.candidates,
        )
        return label_rows(rows, self.plan, declared), Fitter(declared, 1, seed)


def _some(use_case: UseCase) -> list[Candidate]:
    kept = re.compile("_30d|_week_2|newest|oldest")
    found, _ = propose_candidates(use_case)
    return [one for one in found if one.part != "windows" or kept.search(one.name)]


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Club:
    root = tmp_path_factory.mktemp("club")
    use_case, given = odd_buyers.declare(root), odd_buyers.write(root, odd_buyers.history(400))
    candidates = _some(use_case)
    plan = plan_search(use_case, odd_buyers.DAY)
    ((_, found),) = iter_candidates(use_case, candidates, given, plan.days)
    features = compute_features(use_case, given, plan.days)
    return Club(use_case, given, plan, candidates, found, features)


def _by_rhythm(customer: str) -> float:
    return 0.15 if odd_buyers.is_regular(customer) else 0.7


@pytest.fixture(scope="module")
def planted(club: Club) -> Outcome:
    return club.search(_by_rhythm)


def test_what_decides_the_label_is_found(planted: Outcome):
    assert planted.proposed
    assert planted.proposed[0] in (REGULAR, "orders_gap_spread_ratio", "orders_overdue_ratio")
    best = planted.judged[0]
    assert best.name == planted.proposed[0]
    assert best.helps_in == planted.test_days == 3
    assert 0 < best.lower < best.gain < best.upper
    assert best.corrected < 0.001
    assert planted.together is not None
    assert planted.together[0] >= best.gain
    # What says the same is told, and not proposed.
    also = [one for one in planted.judged if one.passes and one.name not in planted.proposed]
    assert also
    assert {one.beside for one in also} == {planted.proposed}
    gains = [one.gain for one in planted.judged]
    assert gains == sorted(gains, reverse=True)


def test_the_same_seed_finds_the_same(club: Club, planted: Outcome):
    assert club.search(_by_rhythm) == planted


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_proposed_where_there_is_nothing(club: Club, seed: int):
    """The label differs from buyer to buyer, for no reason that any column knows."""
    chance = np.random.default_rng(seed)
    chances = {f"C{number:04}": chance.beta(1, 1) for number in range(400)}
    outcome = club.search(chances.__getitem__, seed)
    assert outcome.judged
    assert outcome.proposed == ()
    assert all(one.corrected > ALPHA and one.beside == () for one in outcome.judged)
    assert "Nothing is proposed: no candidate has p up to 0.05." in tell_outcome(
        club.use_case, club.candidates, outcome
    )


def test_the_holdout_is_not_among_the_days(club: Club):
    whole = plan_training(club.use_case, odd_buyers.DAY)
    assert whole.holdout not in club.plan.days
    assert club.plan.days[-1] < whole.holdout
    assert club.plan.folds == whole.folds[:-1]
    with pytest.raises(NotReadyError, match=r"has one test day, .* from 2025-06-29 on; load later"):
        plan_search(club.use_case, date(2025, 6, 28))
    assert len(plan_search(club.use_case, date(2025, 6, 29)).folds) == 1


def test_too_few_to_judge_by_are_refused(club: Club):
    rows, fitter = club.labelled(_by_rhythm, 1)
    few = rows.rows.filter(pc.less(rows.rows["customer_id"], "C0060"))
    with pytest.raises(NotReadyError, match=r"They are too few: found \d+ rows"):
        search(
            replace(rows, rows=few), club.plan, club.use_case.feature_names, fitter, lambda _: None
        )


def test_parts_are_of_whole_entities_and_a_sample_is_what_the_sql_takes(club: Club):
    keys = club.found["customer_id"]
    parts: NDArray[np.intp] = number_parts(keys, 4, 7)
    by_key = {(key, part) for key, part in zip(keys.to_pylist(), parts.tolist(), strict=True)}
    assert len(by_key) == len(set(keys.to_pylist()))
    assert np.bincount(parts).min() > 0.15 * len(parts)
    days = [club.plan.days[-1]]
    ((_, few),) = iter_candidates(club.use_case, club.candidates, club.given, days, share=3)
    last = club.found.filter(pc.equal(club.found["day"], pa.scalar(days[0])))
    # Popularity is among all, sampled or not.
    assert few.equals(last.filter(sampled(last["customer_id"], 3)))
    assert 0.2 < few.num_rows / last.num_rows < 0.45


def _paste(use_case: UseCase, report: str, root: Path, daily: bool) -> UseCase:
    """Do what the report says, in a copy of the folder."""
    folder = shutil.copytree(use_case.folder, root / "pasted" / use_case.name)
    path = folder / "use_case.yaml"
    declared = yaml.safe_load(path.read_text())
    (features,) = re.findall(r"below features\.columns:\n((?:    .+\n)+)", report)
    declared["features"]["columns"] |= yaml.safe_load(features)
    days = re.findall(r"below events\.orders\.daily\.columns:\n((?:        .+\n)+)", report)
    assert bool(days) == daily
    for lines in days:
        declared["events"]["orders"]["daily"]["columns"] |= yaml.safe_load(lines)
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    (sql,) = re.findall(r"instead of what is there:\n(.+?)\n\nThen `evergreen", report, re.S)
    (folder / "features.sql").write_text(sql)
    return load_use_case_file(path)


@pytest.mark.parametrize("daily", [False, True])
def test_what_is_pasted_passes_check_and_gives_the_values_that_were_tried(
    daily: bool, club: Club, planted: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use_case = odd_buyers.declare(tmp_path, daily=daily)
    # Of every kind, and all of them as if they were proposed.
    candidates = _some(use_case)
    adopted = tuple(one.name for one in candidates)
    report = tell_outcome(
        use_case, candidates, replace(planted, proposed=adopted, together=(0.1, 0.05, 0.15))
    )
    pasted = _paste(use_case, report, tmp_path, daily)
    monkeypatch.setenv("EVERGREEN_USE_CASES", str(pasted.folder.parent))
    assert find_problems("club") == []
    days = club.plan.days[-2:]
    features = compute_features(pasted, club.given, days)
    assert pasted.feature_names == [*use_case.feature_names, *adopted]
    ((_, found),) = iter_candidates(use_case, candidates, club.given, days)
    assert features.select(["customer_id", "as_of", *adopted]).equals(found.drop_columns(["day"]))
    present = compute_features(use_case, club.given, days)
    assert features.select(present.column_names).equals(present)


def test_the_report_is_a_table_and_says_what_to_do(club: Club, planted: Outcome):
    report = tell_outcome(club.use_case, club.candidates, planted)
    (line,) = re.findall(rf"^{planted.proposed[0]} +.*$", report, re.M)
    assert re.search(r"\+0\.\d{5}  \+0\.\d{5} to \+0\.\d{5}    3/3  .* proposed$", line)
    assert f"-- {club.use_case.folder / 'features.sql'}, instead of what is there:" in report
    assert report.endswith("the gate judges the model that reads them.\n")
