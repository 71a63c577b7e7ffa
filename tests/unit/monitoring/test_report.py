"""A night is told in a sentence, and with what it rests on, whatever the columns hold."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evergreen.contract import Monitoring
from evergreen.decisions.alarm import summarise_nights
from evergreen.decisions.governor import (
    Champion,
    RetrainingEvidence,
    decide_retraining,
)
from evergreen.monitoring.drift import drift_table, measure_drift
from evergreen.monitoring.freshness import freshness_table, measure_freshness
from evergreen.monitoring.performance import performance_table, realised_performance
from evergreen.monitoring.reference import build_reference
from evergreen.monitoring.report import NightFacts, render_night
from evergreen.monitoring.report.distributions import distribution_of
from evergreen.monitoring.report.page import rank_columns
from tiny_people import declare

DAY = date(2026, 3, 20)
MONITORING = Monitoring(persistence=(1, 1))
HOSTILE = "<script>alert('x')</script>"
NAMES = ["calm", "moved", "empty", "constant", "endless", "kind", "score"]
WEEKS = 33


def night_of(generator: np.random.Generator, shift: float = 0.0, rows: int = 800) -> pa.Table:
    kinds = [HOSTILE, "$5 to $10", "日本", "a | b *c*", "x" * 90]
    return pa.table(
        {
            "calm": generator.normal(size=rows),
            "moved": generator.normal(shift, 1, rows),
            "empty": pa.nulls(rows, pa.float64()),
            "constant": np.ones(rows),
            "endless": np.where(generator.random(rows) < 0.1, np.inf, generator.normal(size=rows)),
            "kind": generator.choice(kinds, rows, p=[0.4, 0.3, 0.1, 0.1, 0.1]),
            "score": generator.normal(size=rows),
        }
    )


def use_case() -> Any:
    features = {name: {"dtype": "float64"} for name in NAMES if name not in ("kind", "score")}
    return declare({"name": "gone"}, features | {"kind": {"dtype": "category"}})


def drift_of(nights: list[pa.Table], names: list[str] = NAMES) -> tuple[Any, list[dict[str, Any]]]:
    reference = build_reference(nights[-1], names)
    importance = dict.fromkeys((name for name in names if name != "score"), 0.1)
    rows = measure_drift(reference, nights, MONITORING, importance)
    return reference, drift_table(DAY, 3, rows).to_pylist()


def performance_of(day: date, generator: np.random.Generator) -> list[dict[str, Any]]:
    keys = [str(n) for n in range(400)]
    scores = generator.random(400)
    predictions = {"customer_id": keys, "score": scores, "model_version": [3] * 400}
    rows = realised_performance(
        pa.table(predictions | {"band": np.where(scores >= 0.5, "high", "low")}),
        pa.table({"customer_id": keys, "label": generator.integers(0, 2, 400)}),
        use_case(),
        {3: {"all": {"auc": 0.9}}},
    )
    return performance_table(day, rows).to_pylist()


@pytest.fixture(scope="module")
def facts() -> NightFacts:
    generator = np.random.default_rng(1)
    tonight = night_of(generator, shift=1)
    nights = [tonight, *(night_of(generator) for _ in range(WEEKS))]
    reference, drift = drift_of(nights)
    summaries = summarise_nights(drift, MONITORING)
    evidence = RetrainingEvidence(
        "tiny", DAY, DAY, nights=summaries, champion=Champion(3, date(2026, 3, 1))
    )
    days = [DAY - timedelta(days=n) for n in range(59, -1, -1)]
    earlier = {
        day: [row | {"day": day, "drifted": row["drifted"] and day > days[50]} for row in drift]
        for day in days
    }
    return NightFacts(
        use_case(),
        DAY,
        evidence,
        decide_retraining(evidence, MONITORING),
        drift,
        earlier,
        dict.fromkeys(days, "wait") | {DAY: "retrain"},
        {day: performance_of(day, generator) for day in (days[0], days[1], days[4])},
        freshness_table(
            DAY, measure_freshness({"features": DAY, "predictions": None}, DAY, 1)
        ).to_pylist(),
        [
            {
                "table": "features",
                "first_day": DAY,
                "last_day": DAY,
                "reason": "orders of 2026-03-19 changed",
                "mend": ["evergreen backfill tiny 2026-03-20 2026-03-20"],
            }
        ],
        distributions={
            column.name: distribution_of(column, nights[:5]) for column in reference.columns
        },
    )


class Page(HTMLParser):
    """Fails on an end tag that does not close what was opened last."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.seen: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        assert len(self.ids) == len({*self.ids})

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_night_as_text(facts: NightFacts) -> None:
    lines = render_night(facts).splitlines()
    assert lines[0] == "# tiny, night of 2026-03-20"
    assert lines[2].startswith("**Retraining is asked for because of drift: 1 of the last 1 nights")
    assert any(line.startswith("1 of 7 columns drifted") for line in lines)
    # What drifted comes first, then what matters most.
    table = [line for line in lines if line.startswith("| ") and " | all | " in line]
    assert table[0].startswith("| **moved** | all | ks | ")
    assert table[0].endswith(" | 0.100 | **drifted** |")
    assert table[1].startswith("| score | all | ks | ")
    (stale,) = (line for line in lines if line.startswith("| predictions | none |  | "))
    assert stale.endswith(" | **stale** | predictions holds no day at all |")
    metrics = "auc | logloss | brier | pr auc | recall 10 | lift 10 | ece | mean label | mean score"
    assert f"| version | slice | rows | {metrics} |" in lines
    assert any(re.match(r"\| 3 \| all \| 400 \| \*\*0.\d+ degraded\*\* \|", line) for line in lines)
    assert any(
        line.startswith("Version 3, all: auc 0.") and "is surely below 0.8" in line
        for line in lines
    )
    assert any(line.startswith("| 3 | band=high | ") for line in lines)
    assert "    evergreen backfill tiny 2026-03-20 2026-03-20" in lines


def test_the_page_is_one_file_that_loads_nothing(facts: NightFacts) -> None:
    page = render_night(facts, "html")
    seen = Page(page).seen
    # Distribution and history of six columns, the score among them; nights; performance.
    assert seen.count("svg") == 2 * 6 + 2
    assert not {"script", "link", "img", "iframe"} & {*seen}
    for loads in ("http:", "https:", "url(http", "@import", "src="):
        assert loads not in page
    assert "prefers-color-scheme: dark" in page
    assert page.index("<h3>moved: drifted</h3>") < page.index("<h3>score</h3>")
    assert len(page) < 250_000
    assert page == render_night(facts, "html")


def test_texts_are_texts_and_nothing_else(facts: NightFacts) -> None:
    page = render_night(facts, "html")
    assert "<script" not in page
    for text in ("&lt;script&gt;alert('x')&lt;/s…</text>", "$5 to $10</text>", "日本"):
        assert text in page
    assert "a | b *c*</text>" in page
    incident = replace(facts.evidence, incidents=(f"orders hold {HOSTILE}",))
    verdict = decide_retraining(incident, MONITORING)
    told = replace(facts, evidence=incident, verdict=verdict)
    page, text = render_night(told, "html"), render_night(told)
    assert "<script" not in page
    assert "Wait, and mend the data: orders hold &lt;script&gt;" in page
    assert "mend the data: orders hold \\<script\\>" in text


def test_sixty_columns_fit_into_a_mail(facts: NightFacts) -> None:
    generator = np.random.default_rng(2)
    names = [f"feature_{n:02}" for n in range(60)]
    sliced = [f"plan={n}" for n in range(5)]
    row = next(row for row in facts.drift if row["feature"] == "moved")
    drift = [
        row | {"feature": name, "slice": slice_, "statistic": float(generator.random())}
        for name in names
        for slice_ in ("all", *sliced)
    ]
    for row in drift:
        row["drifted"] = row["slice"] == "all" or row["slice"] == "plan=3"
    earlier = {
        day: [row | {"day": day} for row in drift if row["slice"] == "all"] for day in facts.earlier
    }
    shown = dict.fromkeys(names, facts.distributions["kind"])
    wide = replace(facts, drift=drift, earlier=earlier, distributions=shown)
    page = render_night(wide, "html")
    assert len(rank_columns(wide)) == 6
    assert len(page) < 500_000
    Page(page)
    # Calm slices are counted, not listed.
    assert "240 rows of slices that did not drift" in page


def test_parts_that_were_not_measured_say_so() -> None:
    evidence = RetrainingEvidence("tiny", DAY, None, incidents=("a | b",))
    empty = NightFacts(use_case(), DAY, evidence, decide_retraining(evidence, MONITORING))
    text = render_night(empty)
    assert "**Wait, and mend the data: a \\| b.**" in text
    assert text.count("Not measured.") == 2
    assert "No labels have matured." in text
    assert "- blocked, incident: a \\| b" in text
    assert "| champion | - |" in text
    Page(render_night(empty, "html"))


@pytest.mark.parametrize(
    ("changes", "lead"),
    [
        ({"champion": None}, "Wait: there is no champion yet"),
        ({"nights": ()}, "Wait: nothing calls for retraining. Drifted: moved."),
        (
            {"newest_day": DAY + timedelta(days=1)},
            "Wait, though drift calls for retraining: 2026-03-20 is not the newest day",
        ),
    ],
)
def test_the_first_sentence_says_what_happened(
    facts: NightFacts, changes: dict[str, Any], lead: str
) -> None:
    evidence = replace(facts.evidence, **changes)
    told = replace(facts, evidence=evidence, verdict=decide_retraining(evidence, MONITORING))
    assert render_night(told).splitlines()[2].startswith(f"**{lead}")


def test_a_night_without_a_decision_shows_what_was_measured(facts: NightFacts) -> None:
    page = render_night(replace(facts, evidence=None, verdict=None), "html")
    assert 'class="lead alert">Nothing was decided on this night' in page
    assert "<h2>Decision</h2>" not in page
    assert "<h2>Drift</h2>" in page


def test_one_night_has_no_history(facts: NightFacts) -> None:
    alone = replace(
        facts,
        earlier={DAY: facts.earlier[DAY]},
        decided={DAY: "retrain"},
        performance=dict([*facts.performance.items()][:1]),
    )
    seen = Page(render_night(alone, "html")).seen
    assert seen.count("svg") == 6


def test_without_the_model_the_rest_is_told(facts: NightFacts) -> None:
    page = render_night(replace(facts, distributions={}, missing="version 3 is gone"), "html")
    assert "Distributions cannot be shown: version 3 is gone" in page
    assert Page(page).seen.count("svg") == 6 + 2


def test_what_nights_begin_to_measure_appears_by_itself(facts: NightFacts) -> None:
    joint = facts.drift[0] | {
        "feature": "all columns",
        "test": "classifier",
        "statistic": 0.77,
        "drifted": True,
        "importance": None,
        "reason": "told apart",
        "surprise": 1,
    }
    estimated = {
        day: [*rows, rows[0] | {"metric": "estimated_auc", "value": 0.8125, "lower": 0.75}]
        for day, rows in facts.performance.items()
    }
    more = replace(
        facts,
        drift=[*facts.drift, joint],
        earlier={day: [*rows, joint] for day, rows in facts.earlier.items()},
        performance=estimated,
        freshness=[row | {"owed": [DAY], "surprise": 1234.5} for row in facts.freshness],
        others={"online_skew": [{"day": DAY, "feature": "<b>", "keys": ["a", "b"], "none": None}]},
    )
    page, text = render_night(more, "html"), render_night(more)
    assert "<h3>all columns: drifted</h3>" in page
    assert "told apart" in page
    assert "estimated_auc by scored day" in page
    assert "| **all columns** | all | classifier | 0.770" in text
    assert "| estimated_auc | 2026-01-24 | 0.8125 | 0.9 | 0.75 |" in text
    assert "| 3 | all | 400 |" in text
    (header,) = (line for line in text.splitlines() if line.startswith("| table | newest day | "))
    assert " | owed | " in header
    assert header.endswith(" | surprise |  | why |")
    start = "| features | 2026-03-20 | 0 "
    (fresh,) = (line for line in text.splitlines() if line.startswith(start))
    assert " | 2026-03-20 | " in fresh.removeprefix(start)
    assert " | 1,234 | " in fresh
    assert "## Online skew" in text
    assert "| \\<b\\> | a, b |" in text
    assert "<td>&lt;b&gt;</td>" in page


# --- distributions -------------------------------------------------------------------------------


def shares_of(name: str, nights: list[pa.Table | None]) -> Any:
    training = next(night for night in reversed(nights) if night)
    (column,) = build_reference(training, [name]).columns
    return distribution_of(column, nights)


def test_shares_are_of_all_rows_and_add_up() -> None:
    generator = np.random.default_rng(3)
    nights = [night_of(generator, shift=1), *(night_of(generator) for _ in range(4))]
    for name in NAMES:
        found = shares_of(name, nights)
        for shares in (found.tonight, found.expected, found.training):
            assert len(shares) == len(found.bins)
            assert sum(shares) == pytest.approx(1)
    moved = shares_of("moved", nights)
    # Deciles of the training hold a tenth each; what moved up lies above.
    assert moved.training[1:-1] == pytest.approx([0.1] * 10, abs=0.002)
    assert sum(moved.tonight[-3:]) > 0.5 > 0.25 > sum(moved.expected[-3:])


def test_bins_say_what_is_in_them() -> None:
    values = pa.table({"v": [1.0, 2.0, None, 2.0], "k": ["a", "b", None, "b"]})
    tonight = pa.table({"v": [0.5, 2.0, 9.0, np.inf], "k": ["c", "b", "b", "a"]})
    numbers = shares_of("v", [tonight, values, values, None, values])
    assert numbers.bins == ("< 1", "≤ 1", "≤ 2", "> 2", "missing")
    assert numbers.tonight == (0.25, 0, 0.25, 0.5, 0)
    assert numbers.expected == numbers.training == (0, 0.25, 0.5, 0, 0.25)
    kinds = shares_of("k", [tonight, None, None, None, values])
    assert kinds.bins == ("b", "a", "c", "missing")
    assert kinds.tonight == (0.5, 0.25, 0.25, 0)
    assert kinds.training == (0.5, 0.25, 0, 0.25)
    # One night of four is chance.
    assert kinds.expected is None


def test_many_categories_become_others() -> None:
    night = pa.table({"k": [f"k{n:02}" for n in range(30)] + ["k07"] * 5})
    found = shares_of("k", [night, night, night])
    assert found.bins[0] == "k07"
    assert found.bins[-1] == "20 others"
    assert found.tonight[-1] == pytest.approx(20 / 35)
