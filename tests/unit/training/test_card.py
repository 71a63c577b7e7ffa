"""A card says what a version is, with the numbers that were measured."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from evergreen.decisions.gate import (
    Agreement,
    Difference,
    MeasuredChampion,
    PromotionDemands,
    PromotionEvidence,
    decide_promotion,
)
from evergreen.training.card import (
    CardFacts,
    Decision,
    gather_card,
    render_card,
    render_essence,
)
from evergreen.training.card.facts import Dependence
from tiny_people import DAY, FEATURES

SECTIONS = [
    "What it is for",
    "Decision",
    "Data",
    "Split",
    "Recipe",
    "Holdout",
    "Beside the champion",
    "Slices",
    "Calibration",
    "Features",
    "The model that serves",
    "Limits",
    "How it was made",
]


@pytest.fixture(scope="module")
def gathered(record):
    return gather_card(record)


@pytest.fixture(scope="module")
def facts(gathered, evaluation, use_case):
    evidence = PromotionEvidence(
        day=DAY,
        use_case=use_case.name,
        version=3,
        holdout_as_of=datetime(2024, 11, 2, tzinfo=UTC),
        counts=dict(evaluation.counts),
        challenger=dict(evaluation.metrics),
        over_baselines=dict(evaluation.over_baselines),
        champion=MeasuredChampion(
            2, {"auc": 0.5}, {"auc": Difference(0.125, 0.0625, 0.1875)}, age_days=41
        ),
        ledger_sequence=2,
        refit=Agreement(0.9875, 0.0321),
    )
    verdict = decide_promotion(evidence, PromotionDemands.of(use_case))
    return replace(gathered, decision=Decision("approve", evidence, verdict))


def section(page: str, title: str) -> str:
    _, _, rest = page.partition(f"## {title}\n")
    return rest.partition("\n## ")[0]


def test_facts_are_json_and_come_back_the_same(gathered, facts):
    for one in (gathered, facts):
        text = json.dumps(one.to_dict(), allow_nan=False)
        assert CardFacts.from_dict(json.loads(text)) == one


def test_facts_are_what_was_measured(gathered, record, evaluation):
    assert gathered.evaluation["metrics"] == evaluation.metrics
    holdout = gathered.parts["holdout"]
    assert (holdout.rows, holdout.mean_label) == (500, pytest.approx(evaluation.mean_label))
    assert gathered.parts["final"].days == record.plan.final
    # Everybody is in every day of this population.
    assert gathered.known_entities == 1.0
    by_name = {one.name: one for one in gathered.features}
    assert set(by_name) == set(FEATURES)
    assert by_name["idle_days"].direction > 0.9
    assert by_name["orders"].direction < -0.9
    assert by_name["gap_days"].missing > by_name["idle_days"].missing == 0
    assert gathered.features[0].explained == max(one.explained for one in gathered.features)
    idle = next(one for one in gathered.dependences if one.feature == "idle_days")
    assert list(idle.scores) == sorted(idle.scores)
    assert idle.scores[-1] - idle.scores[0] > 0.1


def test_every_section_is_there_with_its_numbers(facts, evaluation, record):
    page = render_card(facts)
    titles = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert titles == SECTIONS
    assert all(section(page, title).strip() for title in SECTIONS)
    assert page.startswith("# tiny, version 3\n")
    assert "60 days after an as-of" in section(page, "What it is for")
    assert "because: drift of idle_days" in section(page, "What it is for")
    assert "said refuse" in section(page, "Decision")
    data = section(page, "Data")
    assert "| features | 123 |" in data
    assert f"| holdout | {record.plan.holdout} | 500 | {evaluation.mean_label:.4g} |" in data
    assert "Left out: 3 labelled rows" in data
    assert section(page, "Split").count("| tuning |") == len(record.plan.tuning)
    assert record.choice.reason in section(page, "Recipe")
    auc, (low, high) = evaluation.metrics["auc"], evaluation.intervals["auc"]
    naive = evaluation.baselines["naive"]["auc"]
    assert f"| auc | {auc:.4g} | {low:.4g} to {high:.4g} | {naive:.4g} |" in section(
        page, "Holdout"
    )
    assert "| auc | 0.5 | 0.125 (0.0625 to 0.1875) |" in section(page, "Beside the champion")
    bins = evaluation.calibration
    assert f"| {bins[0].rows} | {bins[0].mean_score:.4g} |" in section(page, "Calibration")
    for one in record.importances:
        assert f"| {one.feature} | {one.loss:.4g} ± {one.error:.4g} |" in section(page, "Features")
    assert "0.9875" in section(page, "The model that serves")
    assert "100% of the holdout's rows" in section(page, "Limits")
    assert "evergreen replay tiny/3" in section(page, "How it was made")
    assert record.pair.final.digest in page


def test_a_card_without_a_verdict_says_so(gathered):
    page = render_card(gathered)
    assert "has not judged it yet" in section(page, "Decision")
    assert "Nobody was in charge" in section(page, "Beside the champion")


def test_measurements_that_come_later_appear_by_themselves(facts):
    more = facts.evaluation | {
        "leakage_gap": 0.01234,
        "lift": {"10": 2.345, "20": 1.5},
        "fairness": {"vip=true": {"gap": 0.0777}, "vip=false": {"gap": None, "odds": 3}},
        "bins": [{"from": 1, "to": 2}],
        "nothing": {},
    }
    more["metrics"] = more["metrics"] | {"value_eur": 4321.0}
    holdout = section(render_card(replace(facts, evaluation=more)), "Holdout")
    for row in (
        "| leakage_gap | 0.01234 |",
        "| 10 | 2.345 |",
        "| fairness | gap | odds |",
        "| vip=true | 0.0777 | - |",
        "| 1 | 1 | 2 |",
        "| value_eur | 4,321 |",
    ):
        assert row in holdout


class WellFormed(HTMLParser):
    """Fails on an end tag that does not close what was opened last."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_loads_nothing(facts):
    page = render_card(facts, "html")
    parser = WellFormed()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len({*parser.ids}) > 0
    assert parser.seen.count("svg") >= 3
    assert not {"script", "link", "img", "iframe"} & {*parser.seen}
    for loads in ("http:", "https:", "url(http", "@import", "src="):
        assert loads not in page
    assert "prefers-color-scheme: dark" in page
    assert page == render_card(facts, "html")


def test_names_are_texts_and_nothing_else(facts):
    hostile = replace(
        facts,
        title="<script>alert(1)</script>",
        reason="a|b *c* <img src=x>\n# not a heading",
    )
    page = render_card(hostile, "html")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    text = render_card(hostile)
    assert "a\\|b \\*c\\* \\<img src=x\\> # not a heading" in text
    assert "\n# not a heading" not in text


def test_any_text_may_be_a_category(facts):
    values = ("$5 to $10", "a" * 90, "a" * 91, "<b>&", "$\\frac{")
    dependence = Dependence("plan", values, (0.1, 0.2, 0.3, 0.4, 0.5))
    parser = WellFormed()
    page = render_card(replace(facts, dependences=(dependence,)), "html")
    parser.feed(page)
    assert parser.open == []
    assert ">$5 to $10</text>" in page
    assert "&lt;b&gt;&amp;</text>" in page


def test_the_essence_fits_an_approval(facts, evaluation):
    essence = render_essence(facts)
    assert len(essence) < 3_000
    assert f"| auc | {evaluation.metrics['auc']:.4g} |" in essence
    assert "idle_days" in essence
    assert "evergreen card tiny --version 3" in essence
