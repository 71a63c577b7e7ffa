"""The online store: ours against the stock one, on the same rows, server and machine.

    .venv/bin/python -m benchmarks.online

Both read the same lake table through the same offline store and write to the same Postgres. The
stock side is Feast's own: `FeatureStore.materialize` into its `PostgreSQLOnlineStore`. Every load
runs in a process of its own, so that its peak memory is its own; the contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psycopg
from feast import FeatureStore
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStoreConfig
from feast.repo_config import RepoConfig
from psycopg import sql

from benchmarks.bench import peak_mib, report, workspace
from benchmarks.contracts import FEATURES, draw_features, entity_key, write_use_case
from evergreen import lake
from evergreen.contract import UseCase, as_of, load_use_case_file
from evergreen.features import store
from evergreen.features.store.definitions import definitions, service_name, view_name
from evergreen.settings import Settings, load_settings

FIRST_DAY, NEXT_DAY = date(2026, 1, 5), date(2026, 1, 6)
CONTENDERS = ("stock", "evergreen")


def main() -> None:
    """Measure, print the table and write `online.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--reads", type=int, default=2_000)
    parser.add_argument("--skip-large", action="store_true", help="leave out four times the rows")
    parser.add_argument("--worker", nargs=4, metavar=("CONTENDER", "TASK", "FOLDER", "ARGUMENT"))
    arguments = parser.parse_args()
    if arguments.worker:
        sys.stdout.write(json.dumps(_work(*arguments.worker)) + "\n")
        return
    with workspace("online") as settings:
        rows, measured = _compare(settings, arguments)
    report(
        "online",
        f"Online store, best of {arguments.repetitions}; memory: peak (and above the imports)",
        ("work", "stock", "evergreen", "ratio (of medians)", "stock memory", "evergreen memory"),
        rows,
        entities=arguments.entities,
        features=len(FEATURES),
        measurements=measured,
    )


def _compare(
    settings: Settings, arguments: argparse.Namespace
) -> tuple[list[Sequence[str]], dict[str, list[dict[str, float]]]]:
    folder = _declare(settings.home / "use_cases", arguments.entities)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(arguments.repetitions):
        for contender in CONTENDERS:
            _empty(settings, contender, folder)
            for load, day in (("first load", FIRST_DAY), ("update", NEXT_DAY)):
                _checkpoint(settings)
                measured = _in_process(contender, "load", folder, day)
                found.setdefault((load, contender), []).append(measured)
    for contender in CONTENDERS:
        found["read", contender] = [_in_process(contender, "read", folder, arguments.reads)]
    rows = [
        _load_row(f"{load}, {arguments.entities:,} x {len(FEATURES)}", found, load)
        for load in ("first load", "update")
    ]
    if not arguments.skip_large:
        entities = 4 * arguments.entities
        large = _declare(settings.home / "use_cases", entities)
        for contender in CONTENDERS:
            _empty(settings, contender, large)
            _checkpoint(settings)
            found["large", contender] = [_in_process(contender, "load", large, FIRST_DAY)]
        rows.append(_load_row(f"first load, {entities:,} x {len(FEATURES)}", found, "large"))
    for quantile in ("p50", "p99"):
        stock, ours = (found["read", contender][0][f"{quantile}_ms"] for contender in CONTENDERS)
        label = f"read 1 x {len(FEATURES)}, {quantile} of {arguments.reads:,}"
        rows.append((label, f"{stock:.2f} ms", f"{ours:.2f} ms", f"{stock / ours:.2f}", "", ""))
    return rows, {f"{work}, {contender}": runs for (work, contender), runs in found.items()}


def _load_row(
    label: str, found: dict[tuple[str, str], list[dict[str, float]]], load: str
) -> Sequence[str]:
    times = {c: [run["seconds"] for run in found[load, c]] for c in CONTENDERS}
    best = min(times["stock"]) / min(times["evergreen"])
    middle = median(times["stock"]) / median(times["evergreen"])
    memory = [
        f"{max(run['peak_mib'] for run in found[load, contender]):.0f} MiB "
        f"(+{max(run['peak_mib'] - run['before_mib'] for run in found[load, contender]):.0f})"
        for contender in CONTENDERS
    ]
    seconds = [f"{min(times[contender]):.2f} s" for contender in CONTENDERS]
    return (label, *seconds, f"{best:.2f} ({middle:.2f})", *memory)


# --- the work, in a process of its own -----------------------------------------------------------


def _in_process(contender: str, task: str, folder: Path, argument: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.online"]
    command += ["--worker", contender, task, str(folder), str(argument)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _work(contender: str, task: str, folder: str, argument: str) -> dict[str, float]:
    use_case = load_use_case_file(Path(folder) / "use_case.yaml")
    if task == "read":
        return _reads(contender, use_case, int(argument))
    # What is imported on first use is no part of the work.
    lake.scan(use_case.name, "features")
    before = peak_mib()
    start = time.perf_counter()
    if contender == "stock":
        instant = as_of(date.fromisoformat(argument))
        _stock_store().materialize(instant, instant, feature_views=[view_name(use_case)])
    else:
        store.materialize(use_case, date.fromisoformat(argument))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "before_mib": before, "peak_mib": peak_mib()}


def _reads(contender: str, use_case: UseCase, count: int) -> dict[str, float]:
    entities = _entities(use_case)
    keys = [entity_key(int(n)) for n in np.random.default_rng(1).integers(0, entities, count + 50)]
    seconds = []
    if contender == "stock":
        feast = _stock_store()
        service = feast.get_feature_service(service_name(use_case))

        def read(key: str) -> Any:
            rows = [{"customer_id": key}]
            return feast.get_online_features(features=service, entity_rows=rows).to_dict()

        for key in keys:
            start = time.perf_counter()
            answer = read(key)
            seconds.append(time.perf_counter() - start)
            assert answer["total_orders"][0] is not None
    else:
        with store.OnlineReader(use_case) as reader:
            for key in keys:
                start = time.perf_counter()
                rows = reader.read([key])
                seconds.append(time.perf_counter() - start)
                assert rows["total_orders"][0].is_valid
    # The first ones open connections and caches.
    p50, p99, worst = np.quantile(np.array(seconds[50:]) * 1000, [0.5, 0.99, 1.0])
    first = seconds[0] * 1000
    return {"p50_ms": p50, "p99_ms": p99, "max_ms": worst, "first_ms": first}


# --- what is measured on -------------------------------------------------------------------------


def _stock_store(schema_mode: str = "skip") -> FeatureStore:
    """Ours in everything but the online store, in a project of its own."""
    ours = store.repo_config(load_settings(), schema_mode=schema_mode)
    connection = ours.online_store.model_dump(exclude={"type", "write_batch_values"})
    return FeatureStore(
        config=RepoConfig(
            project="stock",
            provider="local",
            registry=ours.registry.model_dump(exclude_none=True),
            offline_store=ours.offline_store,
            online_store=PostgreSQLOnlineStoreConfig(**connection),
            entity_key_serialization_version=ours.entity_key_serialization_version,
        )
    )


def _declare(root: Path, entities: int) -> Path:
    """Write a use case, apply it to both stores, and publish two days of its features."""
    folder = root / f"online{entities}"
    use_case = write_use_case(folder, FEATURES)
    store.apply([use_case])
    _stock_store("auto").apply(list(definitions(use_case)))
    for number, day in enumerate((FIRST_DAY, NEXT_DAY)):
        rows = draw_features(use_case, day, entities, number)
        lake.publish(use_case.name, "features", rows, [day])
    return folder


def _entities(use_case: UseCase) -> int:
    return int(use_case.name.removeprefix("online"))


def _empty(settings: Settings, contender: str, folder: Path) -> None:
    project = "stock" if contender == "stock" else store.PROJECT
    table = sql.Identifier(f"{project}_{folder.name}_features")
    with _connection(settings) as connection:
        connection.execute(sql.SQL("TRUNCATE {}").format(table))


def _checkpoint(settings: Settings) -> None:
    """Write out what the load before left behind, so that it is not charged to the next one."""
    with _connection(settings) as connection:
        connection.execute("CHECKPOINT")


def _connection(settings: Settings) -> psycopg.Connection[Any]:
    url = settings.database_url("feast").replace("+psycopg2", "")
    return psycopg.connect(url, autocommit=True)


if __name__ == "__main__":
    main()
