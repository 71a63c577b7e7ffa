"""Rows 10 to 13: what backfills start, which day a run is for, what made it, and running twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa

from benchmarks import pains
from benchmarks.pains import MONDAY, SOON, TUESDAY, WEDNESDAY
from benchmarks.scoreboard import scheduling
from benchmarks.scoreboard.finding import OURS, PLAIN, Seen, compare
from evergreen import lake
from evergreen.contract import Monitoring
from evergreen.decisions.alarm import Night
from evergreen.decisions.governor import Champion, RetrainingEvidence, decide_retraining
from evergreen.provenance import receipts

_NIGHTS, _NEWEST = 30, date(2026, 3, 1)


def retraining(folder: Path) -> Iterable[Seen]:
    """Backfill four days; and 30 nights, all of which drifted, the newest among them."""
    runs = scheduling.backfill(folder.parent / "airflow").backfill
    for contender, name in ((PLAIN, "stock"), (OURS, "churn")):
        started = [run["dag"] for run in runs if run["dag"] == f"{name}_train"]
        found = {"trainings of 4 days": len(started)}
        yield compare(contender, found, {"trainings of 4 days": 0})
    days = [_NEWEST - timedelta(days=n) for n in range(_NIGHTS)]
    nights = tuple(Night(day, 1, 5, ("spent",), (), False, 0.4, True) for day in days)
    champion = Champion(1, days[-1] - timedelta(days=7))
    asked = [
        day
        for day in days
        for evidence in [RetrainingEvidence("churn", day, _NEWEST, nights, None, champion)]
        if decide_retraining(evidence, Monitoring()).decision == "retrain"
    ]
    name = f"requests of {_NIGHTS} nights, {_NEWEST} the newest"
    yield compare(OURS, {name: ", ".join(map(str, asked))}, {name: str(_NEWEST)})


def days_of_runs(folder: Path) -> Iterable[Seen]:
    """Ingest four days before the scheduler looks, then see which runs compute features."""
    runs = scheduling.backfill(folder.parent / "airflow").backfill
    expected = {"runs": 4, "days they know of": 4, "days they are keyed by": 4}
    for contender, name in ((PLAIN, "stock"), (OURS, "churn")):
        made = [run for run in runs if run["dag"] == f"{name}_features"]
        found = {
            "runs": len(made),
            "days they know of": len({day for run in made for day in run["days"]}),
            "days they are keyed by": len({run["key"] or run["date"] for run in made} - {None}),
        }
        yield compare(contender, found, expected)


def code_of_a_day(folder: Path) -> Iterable[Seen]:
    """Change what a day is computed by, but no DAG, and ask which code made which day."""
    scheduled = scheduling.backfill(folder.parent / "airflow")
    before, after = (
        {tuple(run["code"]) for run in runs if run["dag"] == "stock_train"}
        for runs in (scheduled.backfill, scheduled.changed[len(scheduled.backfill) :])
    )
    expected = {"codes that ran": 2, "told apart": 2}
    # Versions of the DAG and its bundle, which is all that a run keeps.
    yield compare(PLAIN, {"codes that ran": 2, "told apart": len(before | after)}, expected)
    use_case = pains.published(folder, [("a", MONDAY, 1, SOON)])
    (use_case.folder / "features.sql").write_text("SELECT 2\n")
    pains.publish(use_case, [("a", TUESDAY, 1, SOON)])
    told = receipts.latest(use_case.name, "publish_features", MONDAY, WEDNESDAY)
    codes = {receipt.code_digest for receipt in told.values() if receipt.code_digest}
    yield compare(OURS, {"codes that ran": len(told), "told apart": len(codes)}, expected)


def run_twice(folder: Path) -> Iterable[Seen]:
    """Run what writes a day of three rows twice; ours, at once."""
    rows = pa.table({"customer_id": ["a", "b", "c"], "day": [MONDAY] * 3})
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "rows.db")) as database:
        for _ in range(2):
            rows.to_pandas().to_sql("rows", database, if_exists="append")
        ((count,),) = database.execute("SELECT count(*) FROM rows")
    yield compare(PLAIN, {"rows": count}, {"rows": rows.num_rows})

    # As the set-up does: of two that make the catalog's own tables at once, one fails.
    lake.catalog().create_tables()

    def publish(_: int) -> None:
        lake.publish("scoreboard", "rows", rows, [MONDAY])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(publish, range(2)))
    found = {"rows": lake.read("scoreboard", "rows").num_rows}
    yield compare(OURS, found, {"rows": rows.num_rows})
