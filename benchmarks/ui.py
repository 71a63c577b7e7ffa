"""How fast pages and their API answer on two years of days of 100,000 customers.

    .venv/bin/python -m benchmarks.ui [--customers 100000] [--days 730] [--versions 20]

The first weeks are computed, trained, scored and monitored by the real steps. Each later day is a
copy of the newest of these, moved to its own date, so that every table has all its days, files,
snapshots and receipts without months of computing. Then a real Airflow serves them, and every call
is made by a browser's rules: logged in, over HTTP, one at a time.

`first` is the first call of a new server; `cold` is the first after something was published, which
is worked out anew; `warm` is what everybody else waits for.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from playwright.sync_api import Page, sync_playwright

from benchmarks.bench import report, workspace
from evergreen import lake, steps
from evergreen.databases import ledger_engine
from evergreen.ops import deploy
from evergreen.ops.local import airflow
from evergreen.provenance import receipts
from evergreen.provenance.receipts import Receipt
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.release import ledger
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from evergreen.training.tracking.client import connect

NAME = "shop"
FIRST = date(2024, 1, 1)
HORIZON = 7
TRAINED, NIGHT = FIRST + timedelta(days=35), FIRST + timedelta(days=43)
ORDERS_PER_DAY = 6_000
# Further windows of churn's features: 20 columns in all.
WINDOWS = (7, 60, 180)
# So many days are committed one by one, as nights do; older ones are many to a commit, as
# maintenance leaves them.
DAY_BY_DAY = 60
AT_ONCE = 30
CALLS = 40
PAINTS = 5
# What is a step of a night, of the day itself or of the day whose labels it completes.
STEPS = (
    *("publish_orders_quarantine", "publish_orders", "publish_features", "publish_labels"),
    *("publish_predictions", "measure_drift", "measure_performance", "measure_estimates"),
    *("measure_freshness", "measure_skew", "decide_retraining"),
)
_ONE_DAY = timedelta(days=1)
_ISO_DAY = re.compile(r"\b\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class Size:
    """How much there is."""

    customers: int
    days: int
    versions: int

    @property
    def last(self) -> date:
        """Return the newest day."""
        return FIRST + timedelta(days=self.days - 1)

    def version_on(self, day: date) -> int:
        """Return the version in charge: each for as many days."""
        return 1 + (day - FIRST).days * self.versions // self.days


def main() -> None:
    """Build the tables, serve them, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=730)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    size = Size(arguments.customers, arguments.days, arguments.versions)
    with workspace("ui") as settings:
        _tell("the first weeks")
        _live(settings, size)
        _tell("the days after them")
        _copy_days(size)
        _tell("versions")
        _copy_versions(size)
        _tell("Airflow")
        instance = airflow.start(load_settings(), tell=_tell)
        try:
            with httpx.Client(base_url=instance.url, timeout=120) as client:
                login = {"username": instance.username, "password": instance.password}
                token = client.post("/auth/token", json=login).json()["access_token"]
                client.headers["Authorization"] = f"Bearer {token}"
                key = _get(client, f"use-cases/{NAME}/entities?like=").json()[0]
                calls = list(_measure_calls(client, size, key))
            paints = list(_measure_paints(instance.url, login, size, key, arguments.browser))
        finally:
            airflow.stop(settings)
        counted = _count()
    facts = ", ".join(f"{rows:,} {table}" for table, rows in counted.items())
    report(
        "ui",
        f"Calls of the pages' API: {size.days} days, {size.customers:,} customers, "
        f"{size.versions} versions ({facts})",
        ("call", "first ms", "cold ms", "warm median ms", "warm p95 ms", "kB"),
        [
            tuple(c[name] for name in ("call", "first", "cold", "median", "p95", "kb"))
            for c in calls
        ],
        part="calls",
        calls=calls,
        tables=counted,
    )
    report(
        "ui",
        f"First paint and first data of a page in chromium, median of {PAINTS}",
        ("page", "first paint ms", "data shown ms"),
        [(p["page"], p["paint"], p["shown"]) for p in paints],
        part="paints",
        paints=paints,
    )


def _tell(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}  {text}")


# --- what was lived ------------------------------------------------------------------------------


def _live(settings: Settings, size: Size) -> None:
    os.environ["EVERGREEN_USE_CASES"] = str(settings.home / "use_cases")
    _declare(settings)
    _write_orders(settings.home / "orders", size)
    list(deploy.initialise(load_settings()))
    _load(f"{FIRST}..{NIGHT}")
    for day in (TRAINED, NIGHT):
        request = steps.accept_request(NAME, str(day), "a benchmark")
        assembled = steps.choose_recipe(steps.assemble_training_set(request))
        judged = steps.judge_challenger(steps.train_challenger(assembled))
        if day == TRAINED:
            steps.release_version(NAME, "promote", str(judged["version"]), "a benchmark", "ann")
            for scored in (NIGHT - timedelta(days=HORIZON), NIGHT):
                rows = steps.score_customers(steps.resolve_model(NAME, str(scored)))
                steps.publish_predictions(steps.validate_predictions(rows))
    measured = [
        steps.measure_drift(NAME, str(NIGHT)),
        steps.measure_performance(NAME, str(NIGHT)),
        steps.measure_freshness(NAME, str(NIGHT)),
        steps.measure_skew(NAME, str(NIGHT)),
    ]
    steps.measure_estimates(NAME, str(NIGHT))
    steps.decide_retraining(NAME, str(NIGHT), measured)


def _declare(settings: Settings) -> None:
    churn = PROJECT_ROOT / "include" / "use_cases" / "churn"
    declared = yaml.safe_load((churn / "use_case.yaml").read_text())
    orders = declared["events"]["orders"]
    path = f"{settings.home}/orders/{{day}}.parquet"
    orders["source"] = {"kind": "files", "path": path, "format": "parquet"}
    orders["batch"] = {"allow_empty": True, "row_count_ratio": [0, 1000]}
    declared |= {"name": NAME, "first_day": FIRST, "last_day": None}
    declared["target"]["horizon_days"] = HORIZON
    declared["training"] |= {"cutoff_every_days": 7, "max_cutoffs": 4, "min_history_days": 7}
    lines = []
    for days in WINDOWS:
        for column, unit in (("orders", "orders"), ("spent", "eur")):
            declared["features"]["columns"][f"{column}_{days}d"] = {
                "dtype": "int64" if column == "orders" else "float64",
                "unit": unit,
                "description": f"Of the last {days} days.",
            }
            lines.append(
                f"coalesce(sum(c.{column}) FILTER (c.day >= d.as_of - INTERVAL {days} DAY), 0) "
                f"AS {column}_{days}d,"
            )
    folder = settings.home / "use_cases" / NAME
    folder.mkdir(parents=True)
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    (folder / "labels.sql").write_text((churn / "labels.sql").read_text())
    sql = (churn / "features.sql").read_text()
    (folder / "features.sql").write_text(
        sql.replace("d.as_of,\n", "\n    ".join(["d.as_of,", *lines, ""]), 1)
    )


def _write_orders(folder: Path, size: Size) -> None:
    """Write orders of every customer on the first day, then of those who are used to ordering."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(7)
    habit = chance.gamma(0.5, 1.0, size.customers)
    for n in range((NIGHT - FIRST).days + 1):
        day = FIRST + timedelta(days=n)
        who = (
            np.arange(size.customers)
            if n == 0
            else chance.choice(size.customers, ORDERS_PER_DAY, p=habit / habit.sum())
        )
        seconds = np.sort(chance.integers(0, 86_400, len(who)))
        rows = {
            "order_id": [f"O{day:%Y%m%d}-{k}" for k in range(len(who))],
            "customer_id": [f"C{k:06}" for k in who],
            "ordered_at": [f"{at}Z" for at in np.datetime64(day, "s") + seconds],
            "amount_eur": [f"{x:.2f}" for x in chance.gamma(6, 8, len(who)) + 0.01],
            "status": np.where(chance.random(len(who)) < 0.01, "cancelled", "completed"),
        }
        pq.write_table(pa.table(rows), folder / f"{day}.parquet")


def _load(period: str) -> None:
    steps.publish_rows(steps.validate_rows(steps.stage_rows(NAME, period, "orders")))
    features = steps.validate_features(steps.compute_features(NAME, period))
    published = steps.publish_features(features)
    steps.materialize_online(published)
    steps.publish_labels(published)


# --- what is copied ------------------------------------------------------------------------------


def _copy_days(size: Size) -> None:
    """Give every day after the night the tables that the night had."""
    for step in STEPS:
        begun, of = time.monotonic(), NIGHT
        if step in ("publish_labels", "measure_performance"):
            of = NIGHT - timedelta(days=HORIZON)
        (receipt,) = receipts.latest(NAME, step, of, of + _ONE_DAY).values()
        table = receipt.output_table.rpartition(".")[2]
        rows = lake.read_day(NAME, table, of)
        for name, value in receipt.part.items():
            rows = rows.filter(pc.equal(rows[name], value))
        # As many days as the night's own lie behind it stay without.
        days = [NIGHT + timedelta(days=n) for n in range(1, (size.last - NIGHT).days + 1)]
        for some in _commits([day - (NIGHT - of) for day in days], size):
            _publish(receipt, table, rows, some, size)
        _tell(f"  {step}: {rows.num_rows:,} rows a day, {time.monotonic() - begun:.0f} s")


def _commits(days: Sequence[date], size: Size) -> Iterator[Sequence[date]]:
    old = [day for day in days if day <= size.last - timedelta(days=DAY_BY_DAY)]
    yield from (old[at : at + AT_ONCE] for at in range(0, len(old), AT_ONCE))
    yield from ([day] for day in days[len(old) :])


def _publish(
    receipt: Receipt, table: str, rows: pa.Table, days: Sequence[date], size: Size
) -> None:
    version = size.version_on(days[0])
    inputs = dict(receipt.inputs)
    if "model_version" in inputs:
        inputs["model_version"] = version
    batch = Staged(
        NAME,
        str(days[0]) if len(days) == 1 else f"{days[0]}..{days[-1]}",
        "",
        inputs=inputs,
        counts={str(day): receipt.counts for day in days},
        seconds=receipt.seconds,
        basis=receipts.newest_sequence(),
    )
    parts = [_moved(rows, day - receipt.day, version) for day in days]
    publish_chunk(batch, receipt.step, table, pa.concat_tables(parts), days, receipt.part or None)


def _moved(rows: pa.Table, by: timedelta, version: int) -> pa.Table:
    """Return rows at another time: days, instants, and both in texts."""
    for at, column in enumerate(rows.schema):
        values = rows[column.name]
        if pa.types.is_date(column.type):
            values = pc.add(values.cast(pa.int32()), pa.scalar(by.days, pa.int32())).cast(
                pa.date32()
            )
        elif pa.types.is_timestamp(column.type):
            values = pc.add(values, pa.scalar(by, pa.duration("us"))).cast(column.type)
        elif column.name in ("evidence", "verdict"):
            values = pa.array([_later(text, by) for text in values.to_pylist()], column.type)
        elif column.name in ("model_version", "version"):
            values = pa.array([version] * rows.num_rows, column.type)
        rows = rows.set_column(at, column, values)
    return rows


def _later(text: str | None, by: timedelta) -> str | None:
    def moved(found: re.Match[str]) -> str:
        return str(date.fromisoformat(found[0]) + by)

    return None if text is None else _ISO_DAY.sub(moved, text)


def _copy_versions(size: Size) -> None:
    """Register, judge and promote further versions, all like the second one."""
    client = connect(load_settings())
    second = client.get_model_version(NAME, "2")
    (receipt,) = receipts.latest(NAME, "judge_challenger", NIGHT, NIGHT + _ONE_DAY).values()
    judged = lake.read_day(NAME, "decisions", NIGHT)
    judged = judged.filter(pc.equal(judged["kind"], "gate"))
    for version in range(2, size.versions + 1):
        day = FIRST + timedelta(days=-(-(version - 1) * size.days // size.versions))
        if version > 2:
            client.create_model_version(NAME, second.source, second.run_id, tags=second.tags)
            rows = _moved(judged, day - NIGHT, version)
            evidence = rows["evidence"][0].as_py().replace('"version": 2', f'"version": {version}')
            at = rows.schema.get_field_index("evidence")
            rows = rows.set_column(at, rows.schema.field(at), pa.array([evidence], pa.string()))
            part = {"kind": "gate", "version": version}
            batch = Staged(NAME, str(day), "", inputs=receipt.inputs)
            publish_chunk(batch, "judge_challenger", "decisions", rows, [day], part)
        ledger.append(
            ledger_engine(), NAME, "promote", version, actor="ann", reason="better by the gate"
        )


def _count() -> dict[str, int]:
    found = {}
    for table in lake.tables(NAME):
        newest = lake.load(NAME, table)
        snapshot = newest.current_snapshot() if newest else None
        if snapshot and snapshot.summary:
            found[table] = int(snapshot.summary["total-records"] or 0)
    return found


# --- what is measured ----------------------------------------------------------------------------


def _measure_calls(client: httpx.Client, size: Size, key: str) -> Iterator[Mapping[str, Any]]:
    since = size.last - timedelta(days=size.days - 1)
    drifting = _get(client, f"use-cases/{NAME}/drift").json()
    night, feature = drifting["nights"][-1], drifting["features"][1]["feature"]
    rule = "not_cancelled"
    for call in (
        "use-cases",
        f"use-cases/{NAME}/overview",
        f"use-cases/{NAME}/calendar",
        f"use-cases/{NAME}/calendar?from={since}&to={size.last}",
        f"use-cases/{NAME}/runs?from={since}&to={size.last}",
        f"use-cases/{NAME}/plan?dag_id={NAME}_ingest&from={since}&to={size.last}",
        f"use-cases/{NAME}/drift",
        f"use-cases/{NAME}/drift?from={since}&to={size.last}",
        f"use-cases/{NAME}/drift/{night}/{feature}",
        f"use-cases/{NAME}/performance",
        f"use-cases/{NAME}/performance?from={since}&to={size.last}",
        f"use-cases/{NAME}/releases",
        f"use-cases/{NAME}/quality",
        f"use-cases/{NAME}/quality?from={since}&to={size.last}",
        f"use-cases/{NAME}/quarantine?table=orders&rule={rule}&from={since}&to={size.last}",
        f"use-cases/{NAME}/entities?like=C0",
        f"use-cases/{NAME}/entities/{key}",
        f"use-cases/{NAME}/lineage/{size.last}/{key}",
    ):
        first, _ = _timed(client, call)
        _publish_something()
        cold, answer = _timed(client, call)
        warm = sorted(_timed(client, call)[0] for _ in range(CALLS))
        found = {
            "call": call.removeprefix(f"use-cases/{NAME}/"),
            "first": first,
            "cold": cold,
            "median": statistics.median(warm),
            "p95": warm[int(0.95 * CALLS) - 1],
            "kb": len(answer.content) / 1000,
        }
        _tell(f"  {found}")
        yield found


def _publish_something() -> None:
    """Publish a decision again: a receipt more, and so every view is to be worked out again."""
    (receipt,) = receipts.latest(NAME, "decide_retraining", NIGHT, NIGHT + _ONE_DAY).values()
    rows = lake.read_day(NAME, "decisions", NIGHT)
    rows = rows.filter(pc.equal(rows["kind"], "governor"))
    batch = Staged(NAME, str(NIGHT), "", inputs=receipt.inputs, basis=receipts.newest_sequence())
    publish_chunk(batch, receipt.step, "decisions", rows, [NIGHT], receipt.part)


def _timed(client: httpx.Client, call: str) -> tuple[float, httpx.Response]:
    begun = time.perf_counter()
    answer = _get(client, call)
    return 1000 * (time.perf_counter() - begun), answer


def _get(client: httpx.Client, call: str) -> httpx.Response:
    answer = client.get(f"/evergreen/api/{call}")
    if answer.status_code != 200:
        raise SystemExit(f"{call}: {answer.status_code} {answer.text}")
    return answer


def _measure_paints(
    url: str, login: Mapping[str, str], size: Size, key: str, browser: str
) -> Iterator[Mapping[str, Any]]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_context().new_page()
        page.goto(f"{url}/auth/login")
        page.get_by_label("Username").fill(login["username"])
        page.get_by_label("Password").fill(login["password"])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda address: "/auth/login" not in address)
        for name in (
            *("overview", "calendar", "drift", "performance", "releases"),
            *("quality", f"entity?key={key}", f"lineage?key={key}&day={size.last}"),
        ):
            runs = [_paint(page, f"{url}/evergreen/use-cases/{NAME}/{name}") for _ in range(PAINTS)]
            yield {
                "page": name.partition("?")[0],
                "paint": statistics.median(run[0] for run in runs),
                "shown": statistics.median(run[1] for run in runs),
            }
        chromium.close()


def _paint(page: Page, address: str) -> tuple[float, float]:
    """Return milliseconds until something was painted, and until no data were waited for."""
    page.goto(address)
    page.wait_for_selector("main [aria-busy=false]")
    page.wait_for_function("() => !document.querySelector('.skeleton, [aria-busy=true]')")
    shown = page.evaluate("() => performance.now()")
    paints = page.evaluate(
        "() => performance.getEntriesByName('first-contentful-paint').map(x => x.startTime)"
    )
    return paints[0], shown


if __name__ == "__main__":
    main()
