"""How fast scores are served by key, beside MLflow's server and Feast's; and what else could score.

    .venv/bin/python -m benchmarks.serve [--customers 20000]

1. Requests for one customer each, another every time, come at fixed times, whether the one before
   was answered or not; a request is as slow as its answer is late. All three servers run in turn,
   with the same customers, and the load comes from a process of its own on the same two cores.
   MLflow is given the features with the request; Feast returns features and scores nothing.
2. Ways to compute a version's scores: speed of one row and of a thousand, size of the file, and the
   largest difference to what a day's batch publishes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import yaml

from benchmarks.bench import report, workspace
from evergreen import lake, steps
from evergreen.contract import load_use_case
from evergreen.ops import deploy
from evergreen.serving.access import make_token, secret_of
from evergreen.settings import PROJECT_ROOT, Settings, load_settings
from evergreen.training.inputs import Matrix
from evergreen.training.model import LoadedModel
from evergreen.training.tracking import load_version

NAME = "churn"
DAYS = 270
RATES, SECONDS, WARM_SECONDS = (20, 200), 10, 5
KEYS_AT_ONCE = 1_000
REPEATS = 2
_START_SECONDS = 120


def main() -> None:
    """Build a shop with a champion, measure servers and ways to score, write `serve.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--load", nargs=2, metavar=("ASKED", "URL"))
    arguments = parser.parse_args()
    if arguments.load:
        asked, url = arguments.load
        # A pause of whoever asks is none of the server's.
        gc.disable()
        found = asyncio.run(_load(json.loads(Path(asked).read_text()), url))
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with workspace("serve") as settings:
        today = _build(settings, arguments.customers)
        servers, ways = _servers(settings, today), _ways(today)
    _report_servers(*servers)
    _report_ways(ways)


def _build(settings: Settings, customers: int) -> date:
    folder = settings.home / "use_cases" / NAME
    folder.mkdir(parents=True)
    shipped = PROJECT_ROOT / "include" / "use_cases" / NAME
    for file in shipped.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    declared = yaml.safe_load((folder / "use_case.yaml").read_text())
    declared["events"]["orders"]["source"]["customers"] = customers
    (folder / "use_case.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    os.environ["EVERGREEN_USE_CASES"] = str(folder.parent)
    for _ in deploy.initialise(load_settings()):
        pass
    first = load_use_case(NAME).first_day
    today = first + timedelta(days=DAYS - 1)
    period = f"{first}..{today}"
    steps.publish_rows(steps.validate_rows(steps.stage_rows(NAME, period, "orders")))
    computed = steps.validate_features(steps.compute_features(NAME, period))
    published = steps.publish_features(computed)
    steps.materialize_online(published)
    steps.publish_labels(published)
    request = steps.accept_request(NAME, str(today), "a benchmark")
    trained = steps.train_challenger(steps.choose_recipe(steps.assemble_training_set(request)))
    steps.release_version(NAME, "promote", str(trained["version"]), "a benchmark", "nobody")
    scored = steps.score_customers(steps.resolve_model(NAME, str(today)))
    steps.publish_predictions(steps.validate_predictions(scored))
    return today


# --- servers -------------------------------------------------------------------------------------


Turns = dict[str, list[dict[str, float]]]


def _servers(settings: Settings, today: date) -> tuple[Turns, int]:
    """Return what every server did in each turn, by name and rate, and of how many customers."""
    features = lake.read_day(NAME, "features", today)
    use_case = load_use_case(NAME)
    names, key = use_case.feature_names, use_case.entity.key
    chance = random.Random(7)
    rows = chance.sample(
        range(features.num_rows), min(max(RATES) * (WARM_SECONDS + SECONDS), features.num_rows)
    )
    chosen = features.take(rows)
    keys = chosen[key].to_pylist()
    values = chosen.select(names).to_pylist()
    bearer = {"Authorization": f"Bearer {make_token(secret_of(settings), 'bench', 1)}"}
    version = load_version(use_case, 1).version
    ours = [{"path": "/v1/scores", "body": {"keys": [k]}} for k in keys]
    mlflow = [
        {
            "path": "/invocations",
            "body": {"dataframe_split": {"columns": names, "data": [[*row.values()]]}},
        }
        for row in values
    ]
    feast = [
        {
            "path": "/get-online-features",
            "body": {"feature_service": NAME, "entities": {key: [k]}},
        }
        for k in keys
    ]
    many = [{"path": "/v1/scores", "body": {"keys": keys[:KEYS_AT_ONCE]}}]
    python, environment = sys.executable, {**os.environ, "MLFLOW_TRACKING_URI": _tracking(settings)}
    servers: dict[str, tuple[list[str], str, list[dict[str, Any]], dict[str, str]]] = {
        "evergreen serve: features and score": (
            [str(Path(python).with_name("evergreen")), "serve", NAME, "--port", "{port}"],
            "/ready",
            ours,
            bearer,
        ),
        "mlflow models serve: score of given features": (
            [
                *(python, "-m", "mlflow", "models", "serve", "--model-uri"),
                *(f"models:/{NAME}/{version}", "--port", "{port}", "--env-manager", "local"),
            ],
            "/ping",
            mlflow,
            {},
        ),
        "feast serve: features only": (
            [
                *(python, "-m", "evergreen.features.store.feast_cli", "serve"),
                *("--port", "{port}", "--no-access-log"),
            ],
            "/health",
            feast,
            {},
        ),
    }
    found: Turns = {}
    for _ in range(REPEATS):
        for name, (command, ready, asked, headers) in servers.items():
            with _running(command, ready, environment) as (url, server):
                for rate in RATES:
                    turns = found.setdefault(f"{name}, {rate} a second", [])
                    turns.append(_measure(url, server, asked, headers, rate))
                if asked is ours:
                    turns = found.setdefault(
                        f"evergreen serve: {KEYS_AT_ONCE} at once, 2 a second", []
                    )
                    turns.append(_measure(url, server, many, headers, 2))
    return found, len(keys)


def _report_servers(found: Turns, customers: int) -> None:
    report(
        "serve",
        f"Requests for one customer each, of {customers:,}, for {SECONDS} s on {os.cpu_count()} "
        f"cores; means of {REPEATS} turns",
        ("server", "p50 ms", "p99 ms", "slowest ms", "errors", "CPU s of the server", "MiB"),
        [
            (
                name,
                *(
                    f"{_mean(turns, figure):.1f}"
                    for figure in ("p50_ms", "p99_ms", "max_ms", "errors", "cpu_seconds", "mib")
                ),
            )
            for name, turns in sorted(found.items())
        ],
        part="servers",
        turns=found,
    )


def _mean(turns: list[dict[str, float]], figure: str) -> float:
    return float(np.mean([turn[figure] for turn in turns]))


def _tracking(settings: Settings) -> str:
    return settings.tracking_url or settings.database_url("mlflow")


@contextmanager
def _running(
    command: list[str], ready: str, environment: dict[str, str]
) -> Iterator[tuple[str, psutil.Process]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word.replace("{port}", str(port)) for word in command]
    log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
    process = subprocess.Popen(
        words, env=environment, cwd=PROJECT_ROOT, stdout=log, stderr=log, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(_wait(f"{url}{ready}", process, log.name))
        yield url, psutil.Process(process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)
        log.close()


async def _wait(url: str, process: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
    raise SystemExit(f"{url} did not answer:\n{Path(log).read_text()[-3000:]}")


def _measure(
    url: str,
    server: psutil.Process,
    asked: list[dict[str, Any]],
    headers: dict[str, str],
    rate: int,
) -> dict[str, float]:
    """Send requests from a process of its own; also tell what they cost the server."""
    before = _cpu_seconds(server)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"asked": asked, "headers": headers, "rate": rate}, file)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.serve", "--load", file.name, url]
        ran = subprocess.run(
            command, cwd=PROJECT_ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    memory = sum(one.memory_full_info().uss for one in _family(server))
    return {**found, "cpu_seconds": _cpu_seconds(server) - before, "mib": memory / 1024**2}


def _family(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def _cpu_seconds(server: psutil.Process) -> float:
    # Of children that have ended the parent tells.
    return sum(sum(one.cpu_times()[:4]) for one in _family(server))


async def _load(given: dict[str, Any], url: str) -> dict[str, float]:
    """Ask at fixed times; the clock of a request begins when it is due."""
    asked, rate = given["asked"], given["rate"]
    took: list[float] = []
    errors = 0
    async with aiohttp.ClientSession(
        headers=given["headers"], connector=aiohttp.TCPConnector(limit=64)
    ) as session:

        async def ask(number: int, due: float, *, counts: bool) -> None:
            nonlocal errors
            one = asked[number % len(asked)]
            try:
                async with session.post(f"{url}{one['path']}", json=one["body"]) as answer:
                    await answer.read()
                    is_wrong = answer.status != 200
            except aiohttp.ClientError:
                is_wrong = True
            if counts:
                errors += is_wrong
                took.append(time.perf_counter() - due)

        began = time.perf_counter()
        tasks = []
        for number in range(rate * (WARM_SECONDS + SECONDS)):
            due = began + number / rate
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            counts = number >= rate * WARM_SECONDS
            tasks.append(asyncio.create_task(ask(number, due, counts=counts)))
        await asyncio.gather(*tasks)
    p50, p99 = (1000 * float(np.quantile(took, q)) for q in (0.5, 0.99))
    return {
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": 1000 * max(took),
        "errors": errors,
    }


# --- ways to score -------------------------------------------------------------------------------


def _ways(today: date) -> list[dict[str, Any]]:
    """Return what each way to score takes, and how far its scores are from the published ones."""
    use_case = load_use_case(NAME)
    model = load_version(use_case, 1)
    features = lake.read_day(NAME, "features", today)
    matrix = model.inputs.prepare(features)
    published = lake.read_day(NAME, "predictions", today).sort_by(use_case.entity.key)
    exact = model.model.predict(matrix, use_case.target, threads=1)["score"]
    order = np.argsort(features[use_case.entity.key].to_numpy())
    assert np.array_equal(exact[order], published["score"].to_numpy())
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in _WAYS.items():
            size, predict = make(model, matrix, Path(folder))
            raw = predict(matrix)
            scores = model.model.calibration.apply(use_case.target.to_columns(raw)["score"])
            figures = {
                "bytes": size,
                "one_row_us": 1e6 * _best(lambda p=predict: p(matrix[:1]), 300),
                "thousand_rows_us": 1e6 * _best(lambda p=predict: p(matrix[:1000]), 50),
                "largest_difference": float(np.abs(scores - exact).max()),
                "equal": float((scores == exact).mean()),
            }
            kept.append({"way": name, **figures})
    return kept


def _report_ways(ways: list[dict[str, Any]]) -> None:
    report(
        "serve",
        "Ways to score by one version of trees, one thread, calibrated alike",
        ("way", "KiB", "one row µs", "1,000 rows µs", "largest difference", "rows equal"),
        [
            (
                way["way"],
                f"{way['bytes'] / 1024:.0f}",
                f"{way['one_row_us']:.0f}",
                f"{way['thousand_rows_us']:.0f}",
                f"{way['largest_difference']:.2g}",
                f"{way['equal']:.1%}",
            )
            for way in ways
        ],
        part="ways",
        ways=ways,
    )


Predict = Callable[[Matrix], Any]
Way = Callable[[LoadedModel, Matrix, Path], tuple[int, Predict]]


def _best(call: Callable[[], Any], times: int) -> float:
    call()
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def _native(model: LoadedModel, _: Matrix, folder: Path) -> tuple[int, Predict]:
    booster = model.model.booster
    booster.set_param({"nthread": 1})
    return len(model.model.ubj), lambda rows: np.asarray(
        booster.inplace_predict(rows, missing=np.nan), np.float64
    )


def _native_matrix(model: LoadedModel, _: Matrix, folder: Path) -> tuple[int, Predict]:
    import xgboost as xgb

    booster = model.model.booster
    named = {"feature_names": booster.feature_names, "feature_types": booster.feature_types}
    return len(model.model.ubj), lambda rows: np.asarray(
        booster.predict(xgb.DMatrix(rows, missing=np.nan, nthread=1, **named)), np.float64
    )


def _treelite(model: LoadedModel, _: Matrix, folder: Path) -> tuple[int, Predict]:
    import treelite

    loaded = treelite.frontend.from_xgboost(model.model.booster)
    file = folder / "model.tl"
    loaded.serialize(file)
    return file.stat().st_size, lambda rows: np.asarray(
        treelite.gtil.predict(loaded, rows, nthread=1), np.float64
    ).reshape(len(rows))


def _onnx(model: LoadedModel, matrix: Matrix, folder: Path) -> tuple[int, Predict]:
    import onnxruntime
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    booster = model.model.booster.copy()
    booster.feature_names = [f"f{n}" for n in range(matrix.shape[1])]
    booster.feature_types = None
    proto = convert_xgboost(
        booster, initial_types=[("rows", FloatTensorType([None, matrix.shape[1]]))]
    )
    content = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(rows: Matrix) -> Any:
        *_, found = session.run(None, {"rows": rows})
        found = np.asarray(found, np.float64)
        return found[:, -1] if found.ndim == 2 else found

    return len(content), predict


def _half(model: LoadedModel, matrix: Matrix, folder: Path) -> tuple[int, Predict]:
    """XGBoost's model whose leaves and thresholds are numbers of 16 bits."""
    import xgboost as xgb

    declared = json.loads(bytes(model.model.booster.save_raw("json")))
    for tree in declared["learner"]["gradient_booster"]["model"]["trees"]:
        for name in ("split_conditions", "base_weights"):
            with np.errstate(over="ignore"):
                tree[name] = np.asarray(tree[name], np.float16).astype(float).tolist()
    booster = xgb.Booster()
    booster.load_model(bytearray(json.dumps(declared).encode()))
    booster.set_param({"nthread": 1})
    numbers = sum(
        len(tree["split_conditions"])
        for tree in declared["learner"]["gradient_booster"]["model"]["trees"]
    )
    # Two numbers a node were four bytes each.
    size = len(model.model.ubj) - 4 * numbers
    return size, lambda rows: np.asarray(booster.inplace_predict(rows, missing=np.nan), np.float64)


_WAYS: dict[str, Way] = {
    "XGBoost, in place": _native,
    "XGBoost, DMatrix": _native_matrix,
    "treelite (GTIL)": _treelite,
    "ONNX Runtime": _onnx,
    "XGBoost, numbers of 16 bits": _half,
}


if __name__ == "__main__":
    main()
