"""Rows 1 to 7: features, online and as of a time, through Feast and through ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from benchmarks import pains, stock_feast, training_set
from benchmarks.pains import MONDAY, SOON, TUESDAY
from benchmarks.scoreboard.finding import FEAST, OURS, Seen, compare, text
from evergreen.contract import as_of
from evergreen.features import store

_LABELS, _ENTITIES, _DAYS, _LABEL_DAYS = 50_000, 10_000, 27, 5
_MOST_TIMES = 5.0
_ONE_WINDOW = {"windows that read it": 1}


def of_scenario(scenario: Callable[[Path], pains.Finding]) -> Callable[[Path], Iterable[Seen]]:
    """Make a row of a scenario of `benchmarks.pains`."""

    def run(folder: Path) -> Iterable[Seen]:
        found = scenario(folder)
        for contender, ways in ((FEAST, found.stock), (OURS, found.ours)):
            for way, value in ways.items():
                asked = way in found.on_request
                passed = value == (found.on_request[way] if asked else found.expected)
                yield Seen(contender, text({way: value}), passed, on_request=asked)

    return run


older_day = of_scenario(pains.backfill_of_an_older_day)
correction = of_scenario(pains.correction_of_the_same_day)
late_row = of_scenario(pains.late_row)
known_later = of_scenario(pains.correction_known_later)
entity_rows = of_scenario(pains.repeated_entity_rows)


def borders(folder: Path) -> Iterable[Seen]:
    """Look at a row at the border of two windows, at the end of its time to live, and at no row."""
    rows, alive = [("a", MONDAY, 1, SOON)], timedelta(days=10)
    days, at = (MONDAY, TUESDAY), as_of(MONDAY) + alive
    reading = 0
    for day in days:
        with stock_feast.opened(folder, rows) as feast, stock_feast.silent():
            feast.materialize(as_of(day) - timedelta(days=1), as_of(day))
            reading += stock_feast.read(feast, "a") is not None
    yield compare(FEAST, {"windows that read it": reading}, _ONE_WINDOW)
    for engine in pains.OFFLINE:
        joined = []
        with stock_feast.opened(folder, rows, offline=engine, ttl=alive) as feast:
            for keys in (["a"], []):
                frame = pd.DataFrame({"customer_id": pd.Series(keys, dtype=str)})
                frame["event_timestamp"] = pd.to_datetime([at] * len(keys), utc=True)
                joined.append(stock_feast.history(feast, frame)["total_orders"].tolist())
        found = _at_borders(*joined)
        yield Seen(FEAST, f"{engine}, {text(found)}", found == _at_borders([], []))
    reading = 0
    for day in days:
        use_case = pains.published(folder, [*rows, ("b", TUESDAY, 2, SOON)])
        store.materialize(use_case, day)
        reading += pains.online_value(use_case, "a") is not None
    yield compare(OURS, {"windows that read it": reading}, _ONE_WINDOW)
    joined = []
    for keys in (["a"], []):
        asked = pa.array([at] * len(keys), pa.timestamp("us", "UTC"))
        frame = pa.table({"customer_id": pa.array(keys, pa.string()), "as_of": asked})
        joined.append(store.training_set(use_case, frame)["total_orders"].to_pylist())
    yield compare(OURS, _at_borders(*joined), _at_borders([], []))


def _at_borders(at_end: list[Any], of_nobody: list[Any]) -> dict[str, Any]:
    return {
        "values at the end of its life": sum(value is not None for value in at_end),
        "rows of an empty frame": len(of_nobody),
    }


def training_sets(folder: Path) -> Iterable[Seen]:
    """Join labels with features by every engine, each in a process of its own."""
    training_set.declare(folder / "small", entities=10, days=1, label_days=1, labels=11)
    full = folder / "full"
    sizes = {"entities": _ENTITIES, "days": _DAYS, "label_days": _LABEL_DAYS, "labels": _LABELS}
    training_set.declare(full, **sizes)
    case, *_ = training_set.CASES
    measured = {
        contender: training_set.in_process(contender, case, full)
        for contender in training_set.CONTENDERS
    }
    fastest = min(run["seconds"] for run in measured.values())
    for contender, run in measured.items():
        times, more = run["seconds"] / fastest, run["peak_mib"] - run["before_mib"]
        yield Seen(
            OURS if contender == "evergreen" else FEAST,
            f"{contender}: {run['seconds']:.2f} s, {times:.1f} times the fastest, {more:.0f} MiB",
            times <= _MOST_TIMES,
            on_request=contender == "duckdb",
        )
