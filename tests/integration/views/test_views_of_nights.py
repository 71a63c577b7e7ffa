"""What pages show of a champion's nights, held against the tables, the receipts and the ledger."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from evergreen import lake, steps
from evergreen.contract import UseCase
from evergreen.contract.masking import MASK
from evergreen.databases import ledger_engine
from evergreen.errors import ConfigError, NotReadyError
from evergreen.provenance import receipts
from evergreen.release import ledger
from evergreen.training.tracking import describe_version
from evergreen.views.calendar import calendar
from evergreen.views.drift import drift, feature_night
from evergreen.views.entity import entity, suggest
from evergreen.views.lineage import lineage
from evergreen.views.overview import overview
from evergreen.views.performance import performance
from evergreen.views.quality import quality, samples
from evergreen.views.releases import releases
from evergreen.views.runs import run_receipts
from watched_shop import (
    ADDRESS,
    DAYS,
    HORIZON,
    NAME,
    NEXT,
    NIGHTS,
    SPOILT,
    TRAINED,
    read_delivery,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TONIGHT = NIGHTS[-1]
TABLES = ("orders", "features", "labels", "predictions", "drift", "performance")
Row = dict[str, Any]


def rows(table: str, day: date | None = None) -> list[Row]:
    found = lake.read(NAME, table) if day is None else lake.read_day(NAME, table, day)
    return sorted(found.to_pylist(), key=lambda row: row["day"])


def entries() -> list[ledger.Entry]:
    return list(ledger.entries(ledger.engine(), NAME))


def judged(version: int) -> tuple[Row, Row]:
    """Return the row of the gate's decision on a version, and the evidence in it."""
    (row,) = [r for r in rows("decisions") if (r["kind"], r["version"]) == ("gate", version)]
    return row, json.loads(row["evidence"])["evidence"]


def test_the_overview_says_who_is_in_charge_and_what_they_are_worth(shop: UseCase) -> None:
    champion = overview(shop).champion
    (entry,) = entries()
    assert champion is not None
    assert (champion.version, champion.since, champion.action, champion.actor, champion.reason) == (
        *(entry.version, entry.recorded_at, entry.action),
        *("ann", "a test"),
    )
    _, evidence = judged(1)
    assert len(evidence["challenger"]) > 5
    assert {m.metric: (m.value, [m.lower, m.upper]) for m in champion.holdout} == {
        metric: (value, evidence["intervals"][metric])
        for metric, value in evidence["challenger"].items()
    }
    # Labels of the last two nights are not known.
    newest = TONIGHT - HORIZON
    measured = [r for r in rows("performance", newest) if r["slice"] == "all"]
    assert champion.realised is not None
    assert (champion.realised.day, champion.realised.rows) == (newest, measured[0]["rows"])
    assert {m.metric: (m.value, m.lower, m.upper) for m in champion.realised.metrics} == {
        r["metric"]: (r["value"], r["lower"], r["upper"]) for r in measured
    }
    assert [m.metric for m in (*champion.holdout[:1], *champion.realised.metrics[:1])] == [
        overview(shop).main_metric
    ] * 2


def test_the_overview_says_what_the_last_night_decided(shop: UseCase) -> None:
    found = overview(shop)
    (row,) = [r for r in rows("decisions", TONIGHT) if r["kind"] == "governor"]
    assert found.night is not None
    assert (found.night.day, found.night.decision) == (TONIGHT, "retrain")
    assert found.night.reasons == row["reasons"]
    assert (found.night.triggers, found.night.incidents) == (["schedule"], [])
    assert found.night.drifted == [
        r["feature"] for r in rows("drift", TONIGHT) if r["drifted"] and r["slice"] == "all"
    ]
    asked = [r["day"] for r in rows("decisions") if r["decision"] == "retrain"]
    assert asked == [TONIGHT]
    assert found.budget is not None
    assert (found.budget.asked, found.budget.allowed) == (1, 3)
    # After a cooldown of two days.
    assert found.budget.next_day == TONIGHT + timedelta(days=2)
    waiting, _ = judged(2)
    assert found.pending is not None
    assert (found.pending.version, found.pending.day, found.pending.mode) == (2, TONIGHT, "approve")
    assert found.pending.reasons == waiting["reasons"]
    # Pages are written after all tables, and are there at once.
    assert not found.night.has_report
    steps.report_night(NAME, str(TONIGHT))
    told = overview(shop).night
    assert told is not None
    assert told.has_report


def test_the_overview_says_what_every_table_holds(shop: UseCase) -> None:
    found = overview(shop)
    fresh = {row["table"]: row for row in rows("freshness", TONIGHT)}
    assert [standing.table for standing in found.tables] == list(TABLES)
    assert {"orders", "features", "predictions"} <= set(fresh)
    for standing in found.tables:
        held = lake.partitions(NAME, standing.table)
        assert (standing.days, standing.rows) == (len(held), sum(held.values()))
        assert (standing.first_day, standing.newest_day) == (min(held), max(held))
        if row := fresh.get(standing.table):
            assert (standing.newest_day, standing.lag_days) == (row["newest_day"], row["lag_days"])
            assert (standing.allowed_days, standing.owed_days) == (row["allowed_days"], 0)
            assert (standing.stale, standing.reason) == (False, row["reason"])
    assert (found.stale, found.mend) == ([], [])


def test_the_calendar_says_what_every_day_holds(shop: UseCase, folder: Path) -> None:
    found = calendar(shop)
    assert found.days == DAYS[: DAYS.index(NEXT)]
    assert (found.first_day, found.newest_day) == (DAYS[0], TONIGHT)
    assert [cells.table for cells in found.tables] == list(TABLES)
    for cells in found.tables:
        held = lake.partitions(NAME, cells.table)
        assert cells.rows == [held.get(day) for day in found.days]
        assert cells.states == ["present" if day in held else "none" for day in found.days]
        assert cells.reasons == {}
    orders, *_, predictions, _, _ = found.tables
    rejected = lake.partitions(NAME, "quarantine")
    assert orders.quarantined == [
        rejected[day] / len(read_delivery(folder, day)) for day in found.days
    ]
    scored = {row["day"]: row["model_version"] for row in rows("predictions")}
    assert set(scored) == {TRAINED, *NIGHTS}
    assert predictions.versions == [scored.get(day) for day in found.days]
    # A stretch is what it was asked for, and nothing of it is forgotten.
    some = calendar(shop, NIGHTS[0], NEXT)
    assert some.days == [*NIGHTS, NEXT]
    assert [cells.states for cells in some.tables[:2]] == [["present"] * 3 + ["none"]] * 2
    assert calendar(shop, NEXT, TONIGHT).days == []


@pytest.mark.parametrize("metric", [None, "logloss", "mean_label"])
def test_performance_is_what_was_measured_and_estimated(shop: UseCase, metric: str | None) -> None:
    found = performance(shop, metric)
    of = metric or "auc"
    assert found.metric == of
    by_slice: dict[str, list[Row]] = {}
    for row in rows("performance"):
        if row["metric"] == of:
            by_slice.setdefault(row["slice"], []).append(row)
    assert {"all", "band=high"} <= set(by_slice)
    assert {series.slice: [vars(p) for p in series.points] for series in found.series} == {
        name: [
            {
                "version": row["model_version"],
                **{n: row[n] for n in ("day", "value", "lower", "upper")},
                **{n: row[n] for n in ("rows", "holdout", "degraded")},
            }
            for row in measured
        ]
        for name, measured in by_slice.items()
    }
    assert [p.day for p in found.series[0].points] == [TRAINED, NIGHTS[0]]
    estimated = [r for r in rows("estimates") if r["metric"] == of and r["model_version"]]
    assert [(e.day, e.method, e.value, e.lower, e.upper, e.version) for e in found.estimates] == [
        (r["day"], r["method"], r["value"], r["lower"], r["upper"], 1) for r in estimated
    ]
    if of != "mean_label":
        assert {e.day for e in found.estimates} == set(NIGHTS)


def test_performance_stands_beside_what_was_decided(shop: UseCase) -> None:
    found = performance(shop)
    (entry,) = entries()
    told = [(event.day, event.kind, event.version) for event in found.events]
    assert told == [
        (TONIGHT, "alarm", 1),
        (TONIGHT, "retraining", 1),
        (entry.recorded_at.date(), "promotion", 1),
    ]
    # Of the newest day whose labels are known, the best tenth first.
    day = TONIGHT - HORIZON
    label = {row["customer_id"]: row["label"] for row in rows("labels", day)}
    scored = sorted(rows("predictions", day), key=lambda row: (-row["score"], row["customer_id"]))
    happened = [float(label[row["customer_id"]]) for row in scored]
    seen = found.reliability
    assert seen is not None
    assert (seen.day, seen.version, seen.rows) == (day, 1, len(scored))
    assert seen.mean_label == pytest.approx(sum(happened) / len(happened))
    assert [one.rows for one in seen.bins] == [len(scored) // 10] * 10
    best = seen.bins[0].rows
    assert seen.bins[0].mean_label == pytest.approx(sum(happened[:best]) / best)
    assert seen.bins[0].mean_score == pytest.approx(sum(r["score"] for r in scored[:best]) / best)
    assert seen.bins[0].lift == pytest.approx(seen.bins[0].mean_label / seen.mean_label)
    assert seen.bins[-1].lift == pytest.approx(1)
    with pytest.raises(ConfigError, match="no metric 'gini'"):
        performance(shop, "gini")


def test_drift_is_every_column_on_every_night(shop: UseCase) -> None:
    found = drift(shop)
    assert (found.nights, found.versions) == (list(NIGHTS), [1] * 3)
    governor = {r["day"]: r["decision"] for r in rows("decisions") if r["kind"] == "governor"}
    assert found.decisions == [governor[night] for night in NIGHTS]
    assert found.alarmed == [False] * 3
    expected = [r for r in rows("drift") if (r["slice"], r["reference"]) == ("all", "expected")]
    assert {f.feature for f in found.features} == {r["feature"] for r in expected}
    assert [f.feature for f in found.features[:3]] == [
        *("score", "last_amount", "days_since_last_order"),
    ]
    for column in found.features:
        of = [r for r in expected if r["feature"] == column.feature]
        whole = [r for r in of if r["test"] in ("ks", "chi2", "classifier")]
        assert column.effects == [r["statistic"] for r in whole]
        assert column.drifted == [
            any(r["drifted"] for r in of if r["day"] == night) for night in NIGHTS
        ]
        assert column.importance == of[-1]["importance"]
    assert None not in found.features[1].effects
    assert [drift(shop, NIGHTS[1], NIGHTS[1]).nights] == [[NIGHTS[1]]]


def test_a_column_of_a_night_is_all_its_tests_and_its_distribution(shop: UseCase) -> None:
    found = feature_night(shop, TONIGHT, "last_amount")
    measured = [r for r in rows("drift", TONIGHT) if r["feature"] == "last_amount"]
    assert {r["reference"] for r in measured} == {"expected", "training"}
    assert [vars(test) for test in found.tests] == [
        {name: row[name] for name in vars(test)}
        for test, row in zip(found.tests, measured, strict=True)
    ]
    shown = found.distribution
    assert shown is not None
    amounts = [row["last_amount"] for row in rows("features", TONIGHT)]
    assert shown.rows == len(amounts)
    assert sum(shown.tonight) == pytest.approx(1)
    bound = float(shown.bins[0].removeprefix("≤ "))
    assert shown.tonight[0] == pytest.approx(
        sum(amount <= bound for amount in amounts) / len(amounts)
    )
    # Told of, and none of the features: the label and all columns at once.
    assert feature_night(shop, TONIGHT, "label").distribution is None
    for night, feature in ((TONIGHT, "nonsense"), (NEXT, "last_amount")):
        with pytest.raises(NotReadyError, match="was not measured"):
            feature_night(shop, night, feature)


def test_releases_are_the_ledger_and_what_versions_had_to_show(shop: UseCase) -> None:
    found = releases(shop)
    (entry,) = entries()
    (term,) = found.entries
    assert {**vars(term), "until": None} == {
        name: getattr(entry, name, None) for name in vars(term)
    }
    assert (found.damage, found.mode, found.release_dag) == ([], "approve", "shop_release")
    assert [(v.version, v.state) for v in found.versions] == [(2, "challenger"), (1, "champion")]
    started = {r["day"]: r["reasons"] for r in rows("decisions") if r["kind"] == "request"}
    for version in found.versions:
        row, evidence = judged(version.version)
        assert (version.trained_on, version.decision) == (row["day"], row["decision"])
        assert version.reasons == row["reasons"]
        assert [version.asked_by] == started[row["day"]]
        assert version.rows == evidence["counts"]
        assert {m.metric: (m.value, [m.lower, m.upper]) for m in version.metrics} == {
            name: (value, evidence["intervals"][name])
            for name, value in evidence["challenger"].items()
        }
        assert {
            name: {m.metric: m.value for m in of} for name, of in version.baselines.items()
        } == evidence["baselines"]
        checks = json.loads(row["verdict"])["checks"]
        assert [(c.name, c.passed, c.reason) for c in version.checks] == [
            (c["name"], c["passed"], c["reason"]) for c in checks
        ]
    # The second is compared with the first on the same rows, and with the baselines.
    newest, first = found.versions
    _, evidence = judged(2)
    beside = {a.metric: a for a in newest.against if a.other == "champion 1"}
    assert {
        name: {"estimate": a.estimate, "lower": a.lower, "upper": a.upper}
        for name, a in beside.items()
    } == {
        name: {n: of[n] for n in ("estimate", "lower", "upper")}
        for name, of in evidence["champion"]["differences"].items()
    }
    assert "auc" in beside
    assert {a.other for a in first.against} == {
        f"baseline {name}" for name in judged(1)[1]["over_baselines"]
    }


def test_no_row_is_lost_and_every_rejected_one_has_its_rules(shop: UseCase, folder: Path) -> None:
    found = quality(shop)
    days = DAYS[: DAYS.index(NEXT)]
    assert [counted.day for counted in found.days] == days[::-1]
    for counted in found.days:
        assert counted.rows_in == len(read_delivery(folder, counted.day))
        assert counted.published == lake.partitions(NAME, "orders")[counted.day]
        assert counted.quarantined == lake.partitions(NAME, "quarantine")[counted.day]
        assert counted.duplicates == SPOILT["duplicates"]
        assert counted.rows_in == counted.accepted + counted.quarantined + counted.duplicates
        assert (counted.accepted, counted.conserved) == (counted.published, True)
    broken = Counter(rule for row in rows("quarantine") for rule in row["rules"])
    assert broken == {
        rule: count * len(days) for rule, count in SPOILT.items() if rule != "duplicates"
    }
    assert [(r.table, r.rule, r.rows, r.days, r.newest_day) for r in found.rules] == [
        ("orders", rule, count, len(days), TONIGHT) for rule, count in broken.most_common()
    ]
    (because,) = [r.because for r in found.rules if r.rule == "not_a_test"]
    assert because == "The till is tested with 13."
    shown = samples(shop, "orders", "not_a_test", NIGHTS[1], TONIGHT)
    delivered = [
        r for day in NIGHTS[1:] for r in rows("quarantine", day) if r["rules"] == ["not_a_test"]
    ]
    assert shown.rows == len(delivered) == 4
    assert {(s.day, s.row, s.source) for s in shown.samples} == {
        (r["day"], r["row"], r["source"]) for r in delivered
    }
    assert {s.raw["id"] for s in shown.samples} == {json.loads(r["raw"])["id"] for r in delivered}
    with pytest.raises(ConfigError, match="no table 'visits'"):
        samples(shop, "visits", "not_a_test")


def of_customer(table: str, customer: str) -> list[Row]:
    return [row for row in rows(table) if row["customer_id"] == customer]


def test_a_customer_is_scores_labels_features_and_events(shop: UseCase) -> None:
    labels = {(row["day"], row["customer_id"]): row for row in rows("labels")}
    # Whoever is still scored tonight, and was in some other band before.
    ranked = sorted(rows("predictions", TONIGHT), key=lambda row: row["rank"])
    customer = ranked[0]["customer_id"]
    found = entity(shop, customer)
    scored = of_customer("predictions", customer)
    assert [s.day for s in found.scores] == [row["day"] for row in scored[::-1]]
    counted = lake.partitions(NAME, "predictions")
    for shown, row in zip(found.scores, scored[::-1], strict=True):
        assert (shown.score, shown.rank, shown.band) == (row["score"], row["rank"], row["band"])
        assert (shown.reasons, shown.version) == (row["reasons"] or [], row["model_version"])
        assert shown.of == counted[row["day"]]
        known = labels.get((row["day"], customer))
        assert shown.label == (known["label"] if known else None)
        assert (shown.known_on is None) == (known is None)
        if known:
            assert shown.known_on == row["day"] + HORIZON
    assert found.scores[0].reasons
    (computed,) = [r for r in of_customer("features", customer) if r["day"] == TONIGHT]
    assert found.features_day == TONIGHT
    assert {f.feature: f.value for f in found.features} == {
        name: computed[name] for name in ("days_since_last_order", "last_amount")
    }
    assert all(f.same and f.online == f.value for f in found.features)
    assert found.online_as_of == shop.as_of(TONIGHT)
    bought = of_customer("orders", customer)
    assert [(e.day, e.values["order_id"], e.values["amount"]) for e in found.events] == [
        (row["day"], row["order_id"], row["amount"]) for row in bought[::-1]
    ]
    assert {e.values["email"] for e in found.events} == {MASK}
    assert all(row["email"].endswith(ADDRESS) for row in bought)
    assert found.problems == []
    assert suggest(shop)[:3] == [row["customer_id"] for row in ranked[:3]]
    assert customer in suggest(shop, customer[:3])
    assert all(key.startswith("c1") for key in suggest(shop, "c1"))
    # An earlier day knows nothing of what came later.
    earlier = entity(shop, customer, TONIGHT - timedelta(days=1))
    assert [s.day for s in earlier.scores] == [row["day"] for row in scored[:-1][::-1]]
    assert earlier.features_day == TONIGHT - timedelta(days=1)


def test_a_score_is_led_back_to_what_was_delivered(shop: UseCase) -> None:
    row = rows("predictions", TONIGHT)[0]
    customer = row["customer_id"]
    found = lineage(shop, TONIGHT, customer)
    assert found.score == row["score"]
    assert [link.kind for link in found.links] == [
        *("prediction", "scoring", "release", "training", "training_data", "features", "delivery"),
    ]
    facts = {link.kind: {fact.label: fact.value for fact in link.facts} for link in found.links}
    commands = {link.kind: link.command for link in found.links}

    def receipt_of(step: str) -> receipts.Receipt:
        return receipts.latest(NAME, step)[TONIGHT]

    for kind, step in (
        ("scoring", "publish_predictions"),
        ("features", "publish_features"),
        ("delivery", "publish_orders"),
    ):
        receipt = receipt_of(step)
        assert facts[kind]["receipt"] == str(receipt.sequence)
        assert facts[kind][f"snapshot of {receipt.output_table}"] == str(receipt.output_snapshot)
        assert facts[kind]["content"] == receipt.content
        assert commands[kind] == f"evergreen replay {receipt.sequence}"
    # Each link reads what the next one wrote.
    assert (
        facts["scoring"]["snapshot of features"] == facts["features"]["snapshot of shop.features"]
    )
    assert facts["features"]["snapshot of orders"] == facts["delivery"]["snapshot of shop.orders"]
    assert facts["scoring"]["model_version"] == "1"
    (entry,) = entries()
    assert (facts["release"]["hash"], facts["release"]["by"]) == (entry.hash, "ann")
    run = describe_version(shop, 1).run_id
    assert (facts["training"]["MLflow run"], facts["training"]["because"]) == (run, "by hand")
    assert facts["training"]["trained for"] == str(TRAINED)
    assert commands["training"] == "evergreen replay shop/1"
    gate = receipts.latest(NAME, "judge_challenger")[TRAINED]
    for table in ("features", "labels"):
        assert facts["training_data"][f"snapshot of {table}"] == str(gate.inputs[table])
    assert [link.notes for link in found.links if link.notes] == []
    for day, key in ((NEXT, customer), (TONIGHT, "nobody")):
        with pytest.raises(NotReadyError, match="was not scored"):
            lineage(shop, day, key)


STAGES = ("ingest", "features", "score", "monitor", "train")


def run_of(shop: UseCase, stage: str, day: date, **bounds: datetime) -> list[int]:
    found = run_receipts(shop, f"shop_{stage}", "a_run", str(day), **bounds)
    return [receipt.sequence for receipt in found.receipts]


def test_what_runs_of_a_day_have_left_are_all_its_receipts(shop: UseCase) -> None:
    with ledger_engine().connect() as connection:
        left = connection.execute(
            sa.text(
                "SELECT step, sequence, day FROM receipts WHERE sequence > "
                "(SELECT max(sequence) FROM receipts WHERE run = :before)"
            ),
            {"before": str(NIGHTS[1])},
        ).all()
    # A day's run completes the labels of an earlier one.
    assert [day for step, _, day in left if step == "publish_labels"] == [TONIGHT - HORIZON]
    shown = [run_of(shop, stage, TONIGHT) for stage in STAGES]
    assert sorted(
        (receipts.by_sequence(sequence).step, sequence) for of_run in shown for sequence in of_run
    ) == sorted((step, sequence) for step, sequence, _ in left)
    assert all(shown)
    ingest, features, *_ = shown
    begun = receipts.by_sequence(features[-1]).recorded_at
    assert begun is not None
    # What others have left for the same day, before or after it, is not a run's own.
    assert run_of(shop, "ingest", TONIGHT, begun=begun) == []
    assert run_of(shop, "ingest", TONIGHT, ended=begun) == ingest
    assert run_of(shop, "features", TONIGHT, ended=begun - timedelta(days=1)) == []
    assert run_of(shop, "score", NEXT) == []
    note = run_receipts(shop, "shop_train", "by_hand", "").note
    assert "for no day" in note
    one = run_receipts(shop, "shop_score", "a_run", str(TONIGHT), ended=datetime.now(UTC))
    (receipt,) = one.receipts
    assert receipt.replay == f"evergreen replay {receipt.sequence}"
    assert receipt.output_snapshot == str(receipts.by_sequence(receipt.sequence).output_snapshot)
